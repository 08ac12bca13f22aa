//! The engine: models loaded from repositories, requests run on them. [`Engine`] is all there is to know from outside.

#![forbid(unsafe_code)]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, task::Poll, time::Duration};

use server_core::{
    backend::{Backend, Settings},
    config::ModelConfig,
    error::Result,
    interface::{Interface, ModelId, ModelMetadata},
    request::InferRequest,
    response::InferResponse,
    stats::ModelSnapshot,
};

/// Who decides which models are loaded: `--model-control-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ControlMode {
    /// Everything in the repositories, once, at start.
    #[default]
    None,
    /// The start-up list, then whoever calls load and unload.
    Explicit,
}

/// How to run. Filled by the command line; the defaults are Triton's.
#[derive(Debug, Clone)]
pub struct Options {
    /// Server name in metadata.
    pub id: String,
    /// Folders with models, searched in order of name.
    pub repositories: Vec<PathBuf>,
    /// Who decides which models are loaded.
    pub control_mode: ControlMode,
    /// `--load-model`; a single `*` means all.
    pub startup_models: Vec<String>,
    /// `--strict-readiness`.
    pub strict_readiness: bool,
    /// Complete configurations from model files.
    pub auto_complete: bool,
    /// `--model-config-name`.
    pub config_name: Option<String>,
    /// Models loaded at the same time.
    pub load_threads: usize,
    /// Tries after a failed load.
    pub load_retries: u32,
    /// Settings per backend name, global ones already merged in.
    pub backend_settings: BTreeMap<String, Settings>,
}

/// What the start-up set came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup {
    /// Every model of the set is ready.
    AllReady,
    /// Some are not; each reason is in the index and in the log.
    SomeFailed,
}

/// State of a model version in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionState {
    /// Nothing is known yet.
    Unknown,
    /// Being loaded.
    Loading,
    /// Serving.
    Ready,
    /// Finishing what it runs.
    Unloading,
    /// Failed to load, or was unloaded: see the reason.
    Unavailable,
}

impl VersionState {
    /// The word of the index: `READY`, `UNAVAILABLE`, ...
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Loading => "LOADING",
            Self::Ready => "READY",
            Self::Unloading => "UNLOADING",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

/// One line of the repository index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Folder name, which is the model's name.
    pub name: String,
    /// `None` for a model that was never loaded, or has no version to load.
    pub version: Option<u64>,
    /// `None` for a model that was never loaded.
    pub state: Option<VersionState>,
    /// Why it is not ready; empty if it is, or if nothing is known.
    pub reason: String,
}

/// What a load request carries besides the name.
#[derive(Debug, Clone, Default)]
pub struct LoadParameters {
    /// JSON text of a configuration that replaces `config.pbtxt` for this load.
    pub config: Option<String>,
    /// Files that make up the model instead of its folder: path inside it (`1/model.onnx`), content.
    pub files: Vec<(String, Vec<u8>)>,
}

/// A running request: poll it for its responses. Dropping it cancels the request.
pub struct Inference {
    _private: (),
}

impl Inference {
    /// The next response; `None` after the last one. Output order is the caller's, names nobody asked for are gone.
    pub fn poll_next(&mut self, _context: &mut std::task::Context<'_>) -> Poll<Option<Result<InferResponse>>> {
        unimplemented!()
    }

    /// The only response.
    ///
    /// Errors: the request's own, or `Internal` if there was none or more than one.
    pub async fn response(self) -> Result<InferResponse> {
        unimplemented!()
    }
}

/// Models loaded, requests run. Shared by all front ends.
pub struct Engine {
    _private: (),
}

impl Engine {
    /// An engine with nothing loaded: alive at once, ready after [`Engine::start`].
    pub fn new(_options: Options, _backends: Vec<Arc<dyn Backend>>) -> Arc<Self> {
        unimplemented!()
    }

    /// Loads the start-up set, beside serving.
    ///
    /// Errors: a repository cannot be read, or a start-up name is wrong. Models that fail are in the report instead.
    pub async fn start(self: &Arc<Self>) -> Result<Startup> {
        unimplemented!()
    }

    /// Server name for metadata.
    pub fn id(&self) -> &str {
        unimplemented!()
    }

    /// Whether the process serves. Errors: `Unavailable` `Server exiting` while it stops.
    pub fn is_live(&self) -> Result<bool> {
        unimplemented!()
    }

    /// Whether traffic should come. Errors: `Unavailable` `Server exiting` while it stops.
    pub fn is_ready(&self) -> Result<bool> {
        unimplemented!()
    }

    /// Whether that model can serve. Errors: it is unknown.
    pub fn is_model_ready(&self, _model: ModelId<'_>) -> Result<bool> {
        unimplemented!()
    }

    /// Names, versions, platform, tensors of a ready model.
    pub fn metadata(&self, _model: ModelId<'_>) -> Result<ModelMetadata> {
        unimplemented!()
    }

    /// The completed configuration of a ready model.
    pub fn config(&self, _model: ModelId<'_>) -> Result<Arc<ModelConfig>> {
        unimplemented!()
    }

    /// What a ready model takes and gives: for raw requests and for choosing an endpoint.
    pub fn interface(&self, _model: ModelId<'_>) -> Result<Arc<Interface>> {
        unimplemented!()
    }

    /// Counters of all ready versions, of one model's, or of one version (Triton's errors for unknown ones).
    pub fn statistics(&self, _model: Option<ModelId<'_>>) -> Result<Vec<ModelSnapshot>> {
        unimplemented!()
    }

    /// Every model of every repository with its versions' states; only ready ones on request.
    pub fn index(&self, _ready_only: bool) -> Result<Vec<IndexEntry>> {
        unimplemented!()
    }

    /// Loads or reloads a model; returns when it serves or has failed.
    pub async fn load(self: &Arc<Self>, _name: &str, _parameters: LoadParameters) -> Result<()> {
        unimplemented!()
    }

    /// Takes a model out of service; returns before its last request has ended.
    pub async fn unload(self: &Arc<Self>, _name: &str, _unload_dependents: bool) -> Result<()> {
        unimplemented!()
    }

    /// Checks, queues and runs a request. Call it on a runtime thread: it does not block.
    ///
    /// Errors: those found before it was queued; later ones come through the [`Inference`].
    pub fn infer(&self, _request: InferRequest) -> Result<Inference> {
        unimplemented!()
    }

    /// The metrics page, Prometheus text format 0.0.4.
    pub fn metrics(&self) -> String {
        unimplemented!()
    }

    /// Closes admission, lets what runs finish, unloads. `true` if all ended within the limit.
    pub async fn shutdown(&self, _limit: Duration) -> bool {
        unimplemented!()
    }
}
