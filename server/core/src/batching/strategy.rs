//! A model's own say in which requests run together, beside the rules of the dynamic batcher.

/// What a model says of its batches.
pub trait BatchStrategy<T>: Send + Sync {
    /// A batch is about to be formed; `None` if the model says nothing of it. Called under the lock of the queue.
    fn begin(&self) -> Option<Box<dyn OpenBatch<T> + '_>>;
}

/// A batch that is being formed. It may be given up, and formed anew when more requests have come.
pub trait OpenBatch<T> {
    /// Whether the request runs with those before it; else the batch leaves without it. The first one always runs.
    fn includes(&mut self, item: &T) -> bool;
}
