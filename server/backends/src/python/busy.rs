//! How many batches are with workers, beside how many processors the server may use: whoever looks for a message instead of sleeping takes a
//! processor, and only one that nobody else needs.

use std::sync::{
    LazyLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::native::settings::usable_threads;

/// Batches that are with a worker.
static BATCHES: AtomicUsize = AtomicUsize::new(0);

/// A batch that is with a worker.
pub(super) struct Busy(());

impl Busy {
    pub(super) fn begin() -> Self {
        BATCHES.fetch_add(1, Relaxed);
        Self(())
    }

    /// Whether there is a processor for each of them and one more.
    pub(super) fn has_spare_processor() -> bool {
        static PROCESSORS: LazyLock<usize> = LazyLock::new(usable_threads);
        BATCHES.load(Relaxed) < *PROCESSORS
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BATCHES.fetch_sub(1, Relaxed);
    }
}
