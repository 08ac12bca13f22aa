//! The contract of a backend: a `Backend` opens `Model`s, a `Model` makes `Instance`s, an `Instance` runs batches.
//!
//! An instance receives requests unpacked, each owning its end: it answers all of them at once with
//! [`Batch::complete`], or takes the batch apart and answers over time, from any thread, any number of times
//! ([`Batch::into_pending`], [`crate::completion::Completion`]).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use server_proto::inference::ModelConfig;

pub use crate::health::Health;
use crate::{
    batch::{Batch, Pending},
    batching::strategy::BatchStrategy,
    config::Machine,
    custom_metrics::CustomMetrics,
    error::{Error, Result},
    footprint::Footprint,
    input_memory::InputMemory,
    interface::ModelId,
    request::{InferRequest, VersionChoice},
    response::InferResponse,
    stats::CustomCounter,
};

/// Settings of `--backend-config=NAME,KEY=VALUE`, global ones already merged in.
pub type Settings = BTreeMap<String, String>;

/// A model's answer to the question whether it can serve.
pub type Readiness = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Where backends are found: those built in, and libraries that lie somewhere on disk.
pub trait Backends: Send + Sync {
    /// The backend of that name, for a model that lies there: a model may bring its own. `runtime` is the file that its
    /// configuration asks for, or empty.
    ///
    /// Errors: `InvalidArgument` naming what there is, if there is none of that name.
    fn find(&self, name: &str, runtime: &str, source: &ModelSource) -> Result<Arc<dyn Backend>>;
}

/// A kind of runtime: ONNX Runtime, Python, ...
pub trait Backend: Send + Sync {
    /// The name used in configurations, e.g. `onnxruntime`.
    fn name(&self) -> &str;

    /// The file that Triton would open for it: what `runtime` of a configuration names.
    fn library(&self) -> String {
        format!("libtriton_{}.so", self.name())
    }

    /// Fields of a configuration that this backend acts on and the server itself does not, as paths of the schema, e.g.
    /// `batch_input`. Others of that kind are named in a warning when a model sets them.
    fn supported_fields(&self) -> &[&str] {
        &[]
    }

    /// Writes into a configuration what the backend would like where it is left open, and the defaults of the server if the
    /// backend wants to see them, before [`Backend::open`] completes it.
    fn prepare(&self, _config: &mut ModelConfig, _machine: &Machine) {}

    /// The same backend with the code that lies in that folder, under that name: a backend that is written for this one.
    /// `None` if the folder has no code for it.
    fn with_code(&self, _name: &str, _folder: &Path) -> Option<Arc<dyn Backend>> {
        None
    }

    /// This backend with code of its own for models of the backend `name` that ask for that `runtime`; `None` if it has none.
    fn with_runtime(&self, _name: &str, _runtime: &str) -> Option<Arc<dyn Backend>> {
        None
    }

    /// Opens one version of a model, once. With `may_complete` it fills in what the configuration leaves open and the
    /// model knows: inputs, outputs, batching. The configuration is normalised and verified after that, and the model
    /// gets it back through [`Model::configure`]. `host` is held weakly, or engine and model would keep each other.
    ///
    /// Errors: the model cannot be read, or contradicts the configuration.
    fn open(
        &self,
        source: &ModelSource,
        config: &mut ModelConfig,
        may_complete: bool,
        host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>>;
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

/// One opened model version, shared by its instances.
pub trait Model: Send + Sync {
    /// Takes the configuration as it will be served: completed, normalised and verified. Called once, before the first
    /// instance is made.
    ///
    /// Errors: the model and its configuration contradict each other.
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()>;

    /// Inputs that are taken in any shape, for neither the model nor its configuration says one: `dims` is then only what
    /// metadata shows.
    fn inputs_of_any_shape(&self) -> &[String] {
        &[]
    }

    /// Memory that its inputs are read from without a copy, if requests are received there. Asked for large requests.
    fn input_memory(&self) -> Option<Arc<dyn InputMemory>> {
        None
    }

    /// What it counts by itself, for the metrics page. Asked for each page, from any thread.
    fn counters(&self) -> Vec<CustomCounter> {
        Vec::new()
    }

    /// Memory that its instances hold now, as far as the backend can tell: their own, without what models share. Asked up to once a
    /// second, from any thread.
    fn memory(&self) -> Vec<MemoryUse> {
        Vec::new()
    }

    /// Whether it can serve in its own word, beside the health of its instances; `None`: nobody need ask it. Asked when
    /// somebody probes. Nothing happens before the answer is polled, which may be dropped at any time, and is after five
    /// seconds: the model is not ready then.
    fn readiness(&self) -> Option<Readiness> {
        None
    }

    /// Its own say in which requests run together, beside the rules of the dynamic batcher. Asked once, when it is configured.
    fn batch_strategy(&self) -> Option<Arc<dyn BatchStrategy<Pending>>> {
        None
    }

    /// How long an execution may take that the thread of a caller runs, if instances allow that
    /// ([`Instance::runs_on_any_thread`]).
    fn longest_inline_run(&self) -> Duration {
        Duration::from_micros(50)
    }

    /// Whether its instances write to the log that they are made, as libraries of Triton's do.
    fn logs_its_instances(&self) -> bool {
        false
    }

    /// Makes one instance. Called on the thread that will own it; several may be made at the same time, and more when
    /// an instance group grows. `health` is the instance's to change.
    fn instance(&self, placement: &Placement, health: &Health) -> Result<Box<dyn Instance>>;
}

/// Memory that is held on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Which device; one without a memory of its own counts as [`Device::Cpu`].
    pub device: Device,
    /// How much.
    pub bytes: u64,
}

/// Where one instance runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// `GROUP_N`, as in Triton's logs.
    pub instance_name: String,
    /// Which device.
    pub device: Device,
    /// Processors by number that its host policy binds it to. The thread that makes it is bound already, and so are threads
    /// and processes that begin there; a process that is there already is the backend's to bind.
    pub cores: Option<Arc<[usize]>>,
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

/// What is left of an execution.
pub type Rest = Box<dyn FnOnce() + Send>;

/// One execution context. `execute` blocks its thread until it may be given the next batch, which may be before the
/// requests of this one have ended.
pub trait Instance: Send {
    /// Runs one batch. Every request must get its end, through the batch or through its own completion.
    fn execute(&mut self, batch: Batch);

    /// Runs a batch, and may ask for further ones while it does: an instance that pays for every hand-over keeps several
    /// under way, so that it need not wait between them. `more` gives one that can be formed at once and that no other
    /// instance would run sooner. Each is an execution of its own.
    fn execute_with_more(&mut self, batch: Batch, more: &mut dyn FnMut() -> Option<Batch>) {
        let _ = more;
        self.execute(batch);
    }

    /// Whether `execute` may run on a thread other than the one that made the instance, one at a time. Only then may a
    /// quick model be run by the thread that brings the request.
    fn runs_on_any_thread(&self) -> bool {
        false
    }

    /// Runs a batch on a thread that brings requests, and is to be back with them soon. What is left of it when it takes too
    /// long is returned, to be done on a thread that has nothing else to do; the instance gets nothing before it has been.
    fn execute_inline(&mut self, batch: Batch) -> Option<Rest> {
        self.execute(batch);
        None
    }

    /// What an execution touches of its memory.
    fn footprint(&self, footprint: &mut Footprint) {
        footprint.add(self);
    }
}

/// The way back into the server, for models that ask other models and have them loaded.
pub trait Host: Send + Sync {
    /// Runs a request on the model it names, as a caller's request would be.
    ///
    /// Errors: those found before it was queued; later ones come through the responses.
    fn infer(&self, request: InferRequest) -> Result<Box<dyn Responses>>;

    /// Loads or reloads a model, as a client's load request does; returns when it serves or has failed. `asked_by` is the
    /// model that asks, which may be loading itself; the other arguments are those of the request: JSON text of a
    /// configuration, and files that make up the model, by their path inside it (`1/model.onnx`).
    ///
    /// Blocks: call it from a thread of the model's own.
    ///
    /// Errors: those of a client's request; or the model is being loaded or unloaded by somebody who waits for `asked_by`.
    fn load_model(&self, asked_by: &str, name: &str, config: Option<String>, files: Vec<(String, Bytes)>)
    -> Result<()>;

    /// Takes a model out of service, as a client's unload request does; returns before its last request has ended. With
    /// `unload_dependents`, the models that an ensemble is made of go as well, unless others use them.
    ///
    /// Blocks: call it from a thread of the model's own.
    ///
    /// Errors: as those of [`Host::load_model`].
    fn unload_model(&self, asked_by: &str, name: &str, unload_dependents: bool) -> Result<()>;

    /// What a model has to know of another that it asks.
    ///
    /// Errors: there is no such model or version.
    fn find_model(&self, name: &str, version: VersionChoice) -> Result<FoundModel>;

    /// Whether a model can serve, also in its own word; one that is unknown cannot.
    ///
    /// Blocks while that model is asked: call it from a thread of the asking model's own.
    ///
    /// Errors: the server is exiting.
    fn is_model_ready(&self, name: &str, version: VersionChoice) -> Result<bool>;

    /// Whether traffic should come, as a client hears it: models are asked that have a word of their own.
    ///
    /// Blocks while they are asked: call it from a thread of the asking model's own.
    ///
    /// Errors: the server is exiting.
    fn is_server_ready(&self) -> Result<bool> {
        Err(Error::unsupported("this server does not say whether it is ready"))
    }

    /// The metrics that models define.
    fn custom_metrics(&self) -> &CustomMetrics;

    /// What the server says of itself and its models, as clients read it: JSON, and for metrics the text of the page.
    ///
    /// Errors: there is no such model or version; or the server is exiting.
    fn describe(&self, subject: Subject<'_>) -> Result<String> {
        Err(Error::unsupported(format!("this server does not describe {subject:?}")))
    }
}

/// What [`Host::describe`] may be asked for.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// Name, version and extensions of the server.
    Server,
    /// The models of the repositories, or those that are ready.
    Index {
        /// Only those that are ready.
        ready_only: bool,
    },
    /// Versions, inputs and outputs of a model.
    Metadata(ModelId<'a>),
    /// The completed configuration of a model.
    Config(ModelId<'a>),
    /// The counters of a model's ready versions, of one version, or of all models.
    Statistics(Option<ModelId<'a>>),
    /// The metrics page.
    Metrics,
}

/// A model as [`Host::find_model`] finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundModel {
    /// It answers a request any number of times.
    pub is_decoupled: bool,
}

/// The responses of a request sent through [`Host`]. Dropping it cancels the request.
pub trait Responses: Send {
    /// The next response; `None` after the last one.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<InferResponse>>>;

    /// Whether nothing more comes. After a response that tells a last one from one that is followed by the end alone.
    fn is_finished(&self) -> bool;
}
