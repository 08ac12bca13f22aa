//! The engine: models loaded from repositories, requests run on them. [`Engine`] is all there is to know from outside.

#![forbid(unsafe_code)]

mod access_log;
mod aside;
mod asks;
mod background;
mod blocking_pool;
mod cache;
mod described;
mod drain;
mod ensemble;
mod executing;
pub mod failures;
mod fingerprint;
mod folder_digest;
mod host;
mod infer;
mod inline_policy;
mod instance;
mod instance_plan;
mod lifecycle;
mod load_session;
mod load_waits;
mod loader;
mod machine;
mod model;
mod model_files;
mod namespaces;
mod options;
mod passive;
mod phase;
mod polling;
mod pool;
mod processors;
mod readiness;
mod registry;
mod report;
mod repository;
mod repository_agents;
mod response_order;
mod runner;
mod scheduling;
mod series;
mod shadow;
mod shared_memory;
mod stamp;
mod stats;
mod version_router;
mod version_to_load;
mod warm_up;

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Instant,
};

pub use access_log::{Access, AccessLog, Protocol};
use parking_lot::Mutex;
use server_core::{
    backend::{Backends, Host},
    config::{self, ModelConfig},
    custom_metrics::CustomMetrics,
    error::{Error, Result},
    interface::{ModelId, ModelMetadata},
    log_settings::LogSettings,
    request::{InferRequest, VersionChoice},
    tensor::Name,
    trace::Tracer,
};
pub use server_repositories::{Location, LocationError};
use server_scheduler::RateLimiter;
use tokio::{runtime::Handle, sync::watch, task::JoinSet};

use self::{
    aside::aside,
    drain::Drain,
    lifecycle::Lifecycle,
    load_session::LoadSession,
    loader::Loader,
    machine::Machine,
    phase::{EXITING, FAILED, LEAVING, LEAVING_READY, RUNNING, STARTING},
    polling::Poller,
    registry::Registry,
    repository::Repositories,
};
pub use self::{
    blocking_pool::BlockingPool,
    cache::{CacheConfig, ResponseCache},
    drain::{DRAIN_LEASE_MAX, DrainState},
    executing::executing,
    fingerprint::Override,
    infer::Inference,
    model::ModelHandle,
    options::{Agents, ControlMode, LoadParameters, Options, Startup},
    phase::Leaving,
    registry::{IndexEntry, VersionState},
    shared_memory::{MemoryKind, RegionPart, RegionStatus, SharedMemory, SharedMemoryOptions},
};

/// Models loaded, requests run. Shared by all front ends.
pub struct Engine {
    options: Options,
    registry: Arc<Registry>,
    lifecycle: Arc<Lifecycle>,
    machine: Arc<Machine>,
    custom_metrics: CustomMetrics,
    shared_memory: SharedMemory,
    phase: AtomicU8,
    /// Sent to when callers are asked to go elsewhere.
    is_leaving: watch::Sender<()>,
    /// Inference requests that came since the server has been leaving.
    late_requests: AtomicU64,
    drain: Drain,
    /// Models that readiness waits for, besides the phase.
    required: Mutex<Vec<String>>,
    /// In poll mode, who follows the repositories. Set by the start.
    poller: Mutex<Option<Poller>>,
    /// For models that ask other models from threads of their own. Set by the first load.
    runtime: OnceLock<Handle>,
}

impl Engine {
    /// An engine with nothing loaded: alive at once, ready after [`Engine::start`].
    pub fn new(options: Options, backends: Arc<dyn Backends>) -> Arc<Self> {
        Arc::new_cyclic(|engine: &Weak<Self>| {
            let mut repositories = Repositories::new(&options.repositories).with_remote(&options.remote_repositories);
            if options.namespaces {
                repositories = repositories.with_namespaces();
            }
            let registry = Arc::new(Registry::new(repositories.namespaces().clone()));
            let machine = Arc::new(Machine::detect());
            let host: Weak<dyn Host> = engine.clone();
            let loader = Loader {
                backends,
                host,
                machine: machine.clone(),
                registry: registry.clone(),
                auto_complete: options.auto_complete,
                gpu_fallback: options.gpu_fallback,
                rate_limiter: options.rate_limit.clone().map(RateLimiter::new),
                host_policies: options.host_policies.clone(),
                response_cache: options.response_cache.clone(),
                latency: options.latency.clone(),
            };
            let shared_memory = SharedMemory::new(options.shared_memory.clone());
            let lifecycle = Arc::new(Lifecycle::new(&options, repositories, loader, registry.clone()));
            let phase = AtomicU8::new(STARTING);
            let is_leaving = watch::Sender::new(());
            let custom_metrics = options.custom_metrics.clone();
            Self {
                options,
                registry,
                lifecycle,
                machine,
                custom_metrics,
                shared_memory,
                phase,
                is_leaving,
                late_requests: AtomicU64::new(0),
                drain: Drain::new(Instant::now()),
                required: Mutex::default(),
                poller: Mutex::default(),
                runtime: OnceLock::new(),
            }
        })
    }

    /// Loads the start-up set, beside serving.
    ///
    /// Errors: a repository cannot be read, or the start-up list is wrong; the server is not live then. Models that fail
    /// are in the report instead.
    pub async fn start(self: &Arc<Self>) -> Result<Startup> {
        self.runtime.get_or_init(Handle::current);
        self.lifecycle.look_at_remote().await;
        let (mut poller, names) = self.startup_models().await.inspect_err(|_| {
            let _ = self.phase.compare_exchange(STARTING, FAILED, Ordering::SeqCst, Ordering::SeqCst);
        })?;
        *self.required.lock() = names.clone();
        let mut loads = JoinSet::new();
        let session = LoadSession::new(self.lifecycle.clone(), None);
        for name in names {
            let (session, lifecycle) = (session.clone(), self.lifecycle.clone());
            loads.spawn(async move {
                let result = session.load(name.clone(), LoadParameters::default()).await;
                lifecycle.note_requested(&name);
                (name, result.is_ok())
            });
        }
        let mut startup = Startup::AllReady;
        while let Some(ended) = loads.join_next().await {
            if !matches!(ended, Ok((_, true))) {
                startup = Startup::SomeFailed;
            }
            if let (Ok((name, is_good)), Some(poller)) = (ended, &mut poller) {
                poller.ended(&name, is_good);
            }
        }
        *self.poller.lock() = poller;
        // Exiting may have begun meanwhile; it stays.
        let _ = self.phase.compare_exchange(STARTING, RUNNING, Ordering::SeqCst, Ordering::SeqCst);
        Ok(startup)
    }

    /// Server name for metadata.
    pub fn id(&self) -> &str {
        &self.options.id
    }

    /// Which requests are traced.
    pub fn tracer(&self) -> &Tracer {
        &self.options.tracer
    }

    /// What is logged, and how.
    pub fn log_settings(&self) -> &LogSettings {
        &self.options.log_settings
    }

    /// The name of a model whose trace settings are asked for or changed.
    ///
    /// Errors: it is unknown, or known and not ready.
    pub fn traced_model(&self, name: &str) -> Result<Name> {
        match self.find(ModelId { name, version: VersionChoice::Latest }) {
            Ok(model) => Ok(model.interface.model_name.clone()),
            Err(error) => {
                let is_known = self.registry.key_of(name).is_ok_and(|key| self.registry.entry(&key).is_some());
                let not_ready = || Error::invalid_argument(format!("Request for unknown model : {name}"));
                Err(if is_known { not_ready() } else { error })
            }
        }
    }

    /// Names, versions, platform, tensors of a ready model.
    pub fn metadata(&self, model: ModelId<'_>) -> Result<ModelMetadata> {
        let loaded = self.find(model)?;
        let versions = match model.version {
            VersionChoice::Exact(version) => vec![version],
            VersionChoice::Latest => self.ready_versions(&loaded.key),
        };
        let platform = match &loaded.config.platform {
            platform if platform.is_empty() => config::backend_name(&loaded.config).to_owned(),
            platform => platform.clone(),
        };
        Ok(loaded.interface.metadata(platform, versions))
    }

    /// The completed configuration of a ready model.
    pub fn config(&self, model: ModelId<'_>) -> Result<Arc<ModelConfig>> {
        Ok(self.find(model)?.config.clone())
    }

    /// A ready model: what it takes and gives, and the way to ask it.
    pub fn model(&self, model: ModelId<'_>) -> Result<ModelHandle> {
        let found = self.find(model)?;
        found.prefetch();
        Ok(ModelHandle(found))
    }

    /// Loads or reloads a model, and before it those that it is made of; returns when it serves or has failed.
    pub async fn load(self: &Arc<Self>, name: &str, parameters: LoadParameters) -> Result<()> {
        self.may_control(name)?;
        self.runtime.get_or_init(Handle::current);
        let session = LoadSession::new(self.lifecycle.clone(), None);
        session.load_all(name, parameters).await
    }

    /// Takes a model out of service; returns before its last request has ended. Ensembles that it is a part of leave with it.
    /// With `unload_dependents`, the models that it is made of go as well, unless they were asked for or others use them.
    pub async fn unload(self: &Arc<Self>, name: &str, unload_dependents: bool) -> Result<()> {
        self.may_control(name)?;
        for key in self.registry.keys_of(name) {
            self.no_longer_required(&key);
            self.lifecycle.unload_all(None, &key, unload_dependents).await?;
        }
        Ok(())
    }

    /// Checks, queues and runs a request on a model that was found. Call it on a runtime thread: it does not block.
    ///
    /// Errors: those found before it was queued; later ones come through the [`Inference`].
    pub fn infer(&self, model: &ModelHandle, request: InferRequest) -> Result<Inference> {
        match self.phase.load(Ordering::Relaxed) {
            EXITING => return Err(Error::unavailable("Server not ready")),
            LEAVING | LEAVING_READY => drop(self.late_requests.fetch_add(1, Ordering::Relaxed)),
            _ => self.drain.count(),
        }
        let delivery = self.shared_memory.delivery_of(&request);
        let logged_id = failures::logged_id(&request.id);
        let outcome = aside(shared_memory::is_long(&request), || infer::infer(&self.registry, model, request));
        let mut inference = failures::log(logged_id, outcome)?;
        inference.deliver_by(delivery);
        Ok(inference)
    }

    /// Memory that clients share with the server.
    pub fn shared_memory(&self) -> &SharedMemory {
        &self.shared_memory
    }

    /// The models to load at start, and who follows them from there.
    async fn startup_models(&self) -> Result<(Option<Poller>, Vec<String>)> {
        if self.options.control_mode == ControlMode::Poll {
            let (poller, names) = Poller::start(&self.lifecycle).await?;
            return Ok((Some(poller), names));
        }
        Ok((None, self.startup_names()?))
    }

    fn startup_names(&self) -> Result<Vec<String>> {
        let startup = &self.options.startup_models;
        match self.options.control_mode {
            ControlMode::None | ControlMode::Poll => self.lifecycle.folders(),
            ControlMode::Explicit if startup.iter().any(|name| name == "*") => {
                if startup.len() > 1 {
                    return Err(Error::invalid_argument(
                        "Wildcard model name '*' must be the ONLY startup model if specified at all.",
                    ));
                }
                self.lifecycle.folders()
            }
            ControlMode::Explicit => {
                let mut names = startup.clone();
                names.sort();
                names.dedup();
                Ok(names)
            }
        }
    }

    fn may_control(&self, name: &str) -> Result<()> {
        self.not_exiting("Server not ready")?;
        if self.options.control_mode != ControlMode::Explicit {
            return Err(Error::unavailable("explicit model load / unload is not allowed if polling is enabled"));
        }
        server_core::repository::check_model_name(name)
    }

    /// Somebody wants the model gone: readiness does not wait for it any more, nor for what cannot serve without it.
    fn no_longer_required(&self, name: &str) {
        let gone = self.lifecycle.with_dependents(name);
        self.required.lock().retain(|required| !gone.contains(required));
    }

    fn find(&self, model: ModelId<'_>) -> Result<Arc<model::LoadedModel>> {
        self.not_exiting("Server not ready")?;
        self.registry.find(model.name, model.version).map_err(|error| self.while_starting(error))
    }

    fn ready_versions(&self, name: &str) -> Vec<u64> {
        let Some(entry) = self.registry.entry(name) else { return Vec::new() };
        entry.versions.iter().filter(|(_, version)| version.model.is_some()).map(|(&number, _)| number).collect()
    }
}
