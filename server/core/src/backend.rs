//! The contract of a backend: `Backend` makes `Model`s, a `Model` makes `Instance`s, an `Instance` runs batches.
//!
//! An instance is owned by one thread. It receives requests unpacked, each with its own responder, and answers them
//! at once with [`Batch::complete`], or takes them apart and answers over time ([`Batch::into_pending`]).

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Instant};

use server_proto::inference::ModelConfig;

use crate::{
    error::{Error, Result},
    request::InferRequest,
    responder::{Reply, Responder},
};

/// Settings of `--backend-config=NAME,KEY=VALUE`, global ones already merged in.
pub type Settings = BTreeMap<String, String>;

/// A kind of runtime: ONNX Runtime, Python, ...
pub trait Backend: Send + Sync {
    /// The name used in configurations, e.g. `onnxruntime`.
    fn name(&self) -> &'static str;

    /// Fills in what the configuration leaves open and the model file knows: inputs, outputs, batching.
    ///
    /// Errors: the model cannot be read, or contradicts the configuration.
    fn complete(&self, source: &ModelSource, config: &mut ModelConfig) -> Result<()>;

    /// Opens one version of a model.
    fn load(&self, source: &ModelSource, config: &Arc<ModelConfig>) -> Result<Arc<dyn Model>>;
}

/// Where a model version lies.
#[derive(Debug, Clone)]
pub struct ModelSource {
    /// Folder with `config.pbtxt` and the versions.
    pub model_dir: PathBuf,
    /// Folder of this version.
    pub version_dir: PathBuf,
    /// Name on the wire.
    pub name: String,
    /// Version number.
    pub version: u64,
}

/// One loaded model version, shared by its instances.
pub trait Model: Send + Sync {
    /// Makes one instance. Called on the thread that will own it.
    fn instance(&self, placement: &Placement) -> Result<Box<dyn Instance>>;
}

/// Where one instance runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// `GROUP_N`, as in Triton's logs.
    pub instance_name: String,
    /// Which device.
    pub device: Device,
}

/// A kind of device, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// Host processors.
    Cpu,
    /// The GPU of that number.
    Gpu(u32),
    /// The model decides for itself.
    Model,
}

/// One execution context. `execute` blocks its thread until it may be given the next batch.
pub trait Instance: Send {
    /// Runs one batch. Every request must get its end, through the batch or through its own responder.
    fn execute(&mut self, batch: Batch);

    /// Whether it can still serve; `false` takes the model out of readiness.
    fn is_healthy(&self) -> bool {
        true
    }
}

/// A checked request with the way back to its caller.
pub struct Pending {
    /// Validated against the model; shapes are full, sizes match.
    pub request: InferRequest,
    /// Rows it contributes: the batch dimension, or 1 for models without one.
    pub batch_size: u32,
    /// When it entered the queue.
    pub queued_at: Instant,
    /// The way back.
    pub responder: Responder,
}

/// Moments of one execution, for the statistics.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// The batch was handed to the backend.
    pub start: Instant,
    /// Inputs lay where the runtime wants them.
    pub input_end: Instant,
    /// The runtime had computed.
    pub output_start: Instant,
    /// Outputs were taken apart.
    pub end: Instant,
}

/// Told about ends before the callers are, so that a caller who asks for statistics finds itself counted.
pub trait Observer: Send + Sync {
    /// One execution of `pending` ended; `replies` holds their ends in the same order.
    fn executed(&self, pending: &[Pending], replies: &[Reply], marks: &Marks);

    /// Hands the replies to their callers: at once, unless the model promises an order.
    fn deliver(&self, pending: Vec<Pending>, replies: Vec<Reply>) {
        deliver(pending, replies);
    }
}

/// Ends every request with its reply.
pub fn deliver(pending: Vec<Pending>, replies: Vec<Reply>) {
    for (pending, reply) in pending.into_iter().zip(replies) {
        pending.responder.finish(reply);
    }
}

/// Requests that run together. The sum of their batch sizes fits the model.
pub struct Batch {
    pending: Vec<Pending>,
    observer: Arc<dyn Observer>,
    start: Instant,
}

impl Batch {
    /// Made by the instance thread: the requests, and the moment it hands them over.
    pub fn new(pending: Vec<Pending>, observer: Arc<dyn Observer>, start: Instant) -> Self {
        Self { pending, observer, start }
    }

    /// The requests, in queue order.
    pub fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// Rows of all requests together.
    pub fn batch_size(&self) -> u32 {
        self.pending.iter().map(|pending| pending.batch_size).sum()
    }

    /// When it was handed over: `Marks::start`.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Answers every request, in order. Statistics first, callers after.
    pub fn complete(mut self, replies: Vec<Reply>, marks: &Marks) {
        debug_assert_eq!(replies.len(), self.pending.len(), "one reply per request");
        let pending = std::mem::take(&mut self.pending);
        self.observer.executed(&pending, &replies, marks);
        self.observer.deliver(pending, replies);
    }

    /// Gives up the batch for its requests: a model that answers over time keeps each responder for itself.
    pub fn into_pending(self) -> Vec<Pending> {
        self.pending
    }

    /// Answers every request with the same error.
    pub fn fail(self, error: &Error, now: Instant) {
        let replies = self.pending.iter().map(|_| Err(error.clone())).collect();
        let marks = Marks { start: self.start, input_end: now, output_start: now, end: now };
        self.complete(replies, &marks);
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("requests", &self.pending.len()).field("batch_size", &self.batch_size()).finish()
    }
}
