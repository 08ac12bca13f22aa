//! The engine: models loaded from repositories, requests run on them. [`Engine`] is all there is to know from outside.

#![forbid(unsafe_code)]

mod access_log;
mod aside;
mod asks;
mod blocking_pool;
mod cache;
mod described;
mod drain;
mod ensemble;
mod executing;
mod fingerprint;
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
mod polling;
mod pool;
mod processors;
mod rate_limiter;
mod readiness;
mod registry;
mod repository;
mod repository_agents;
mod response_order;
mod runner;
mod scheduler;
mod scheduling;
mod series;
mod shadow;
mod shared_memory;
mod stats;
mod sync;
mod version_router;
mod warm_up;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub use access_log::{Access, AccessLog, Protocol};
use parking_lot::Mutex;
use server_core::{
    backend::{Backends, Host, MemoryUse},
    config::{self, ModelConfig},
    custom_metrics::CustomMetrics,
    error::{Code, Error, Result},
    interface::{ModelId, ModelMetadata},
    log_settings::LogSettings,
    metrics::Page,
    request::{InferRequest, VersionChoice},
    stats::ModelSnapshot,
    tensor::Name,
    trace::Tracer,
};
pub use server_repositories::{Location, LocationError};
use tokio::{runtime::Handle, sync::watch, task::JoinSet};

use self::{
    aside::aside,
    asks::Asks,
    drain::Drain,
    lifecycle::Lifecycle,
    load_session::LoadSession,
    loader::Loader,
    machine::Machine,
    polling::Poller,
    rate_limiter::RateLimiter,
    registry::{Entry, Registry},
    repository::{Found, Repositories},
};
pub use self::{
    blocking_pool::BlockingPool,
    cache::{CacheConfig, ResponseCache},
    drain::{DRAIN_LEASE_MAX, DrainState},
    executing::executing,
    fingerprint::Override,
    infer::{Inference, ModelHandle},
    options::{Agents, ControlMode, LoadParameters, Options, Startup},
    registry::{IndexEntry, VersionState},
    shared_memory::{MemoryKind, RegionPart, RegionStatus, SharedMemory, SharedMemoryOptions},
};

const STARTING: u8 = 0;
const RUNNING: u8 = 1;
const EXITING: u8 = 2;
/// About to exit: everything is served, but nobody should send more.
const LEAVING: u8 = 3;
/// A repository could not be read at start, or the start-up list was wrong: there is nothing to serve.
const FAILED: u8 = 4;
/// As [`LEAVING`], and ready for callers that have nowhere else to go.
const LEAVING_READY: u8 = 5;

/// How far the server is on its way to its exit, while it still serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It stays.
    No,
    /// Callers should go elsewhere, if they can: it is ready all the same.
    WhileReady,
    /// Callers should go elsewhere: it is not ready any more.
    Unready,
}

/// Models loaded, requests run. Shared by all front ends.
pub struct Engine {
    options: Options,
    registry: Arc<Registry>,
    lifecycle: Arc<Lifecycle>,
    machine: Arc<Machine>,
    custom_metrics: CustomMetrics,
    /// What models ask each other.
    asks: Arc<Asks>,
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
                asks: Arc::default(),
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

    /// Whether the process serves, or may come to. Errors: `Unavailable` while it exits.
    pub fn is_live(&self) -> Result<bool> {
        self.not_exiting("Server exiting").map(|()| self.phase.load(Ordering::SeqCst) != FAILED)
    }

    /// Whether traffic should come: the start-up set is there, and its models say that they can serve. A model that is added
    /// later, or fails to be, never changes this. Errors: `Unavailable` while it exits.
    pub async fn is_ready(&self) -> Result<bool> {
        match self.readiness_questions()? {
            Some(questions) => Ok(all_say_yes(questions).await),
            None => Ok(false),
        }
    }

    /// Asks the models of the start-up set that have a word of their own; `None`: the server is not ready whatever they say. Runs on
    /// the runtime.
    fn readiness_questions(&self) -> Result<Option<JoinSet<bool>>> {
        self.not_exiting("Server exiting")?;
        if !matches!(self.phase.load(Ordering::SeqCst), RUNNING | LEAVING_READY) || self.drain.lasts() {
            return Ok(None);
        }
        let mut questions = JoinSet::new();
        if !self.options.strict_readiness {
            return Ok(Some(questions));
        }
        for name in self.required.lock().iter() {
            let Some(entry) = self.registry.entry(name).filter(|entry| entry.is_settled()) else { return Ok(None) };
            let models = entry.versions.values().filter_map(|version| version.model.as_ref());
            for question in models.filter_map(|model| model.runner().readiness()) {
                questions.spawn(question);
            }
        }
        Ok(Some(questions))
    }

    /// Whether that model can serve, also in its own word. Errors: it is unknown.
    pub async fn is_model_ready(&self, model: ModelId<'_>) -> Result<bool> {
        self.not_exiting("Server not ready")?;
        let question = match self.registry.find(model.name, model.version) {
            Ok(model) if model.is_healthy() => model.runner().readiness(),
            Ok(_) => return Ok(false),
            Err(error) if error.code == Code::Unavailable || self.options.namespaces => return Ok(false),
            Err(error) => return Err(self.while_starting(error)),
        };
        match question {
            Some(question) => Ok(question.await),
            None => Ok(true),
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
        self.find(model).map(ModelHandle)
    }

    /// Counters of all ready versions, of one model's, or of one version. Errors: it is unknown.
    pub fn statistics(&self, model: Option<ModelId<'_>>) -> Result<Vec<ModelSnapshot>> {
        self.not_exiting("Server not ready")?;
        let Some(model) = model else { return Ok(self.snapshots()) };
        let name = model.name;
        let unknown = || Error::invalid_argument(format!("requested model '{name}' is not available"));
        let key = self.registry.key_of(name).map_err(|_| unknown())?;
        let entry = self.registry.entry(&key).ok_or_else(unknown)?;
        let ready = entry.versions.iter().filter_map(|(number, version)| Some((*number, version.model.as_ref()?)));
        let snapshots: Vec<_> = match model.version {
            VersionChoice::Latest => ready.map(|(_, model)| model.snapshot()).collect(),
            VersionChoice::Exact(wanted) => {
                ready.filter(|(number, _)| *number == wanted).map(|(_, model)| model.snapshot()).collect()
            }
        };
        match (snapshots.is_empty(), model.version) {
            (false, _) => Ok(snapshots),
            (true, VersionChoice::Latest) => Err(unknown()),
            (true, VersionChoice::Exact(_)) => {
                Err(Error::invalid_argument(format!("requested model version is not available for model '{name}'")))
            }
        }
    }

    /// The same as [`Engine::index`], after a look at the repositories on object stores.
    ///
    /// Errors: one of them cannot be read; that takes about ten seconds at most.
    pub async fn current_index(&self, ready_only: bool) -> Result<Vec<IndexEntry>> {
        self.not_exiting("Server not ready")?;
        self.lifecycle.look_at_remote().await;
        self.index(ready_only)
    }

    /// Every model of every repository with its versions' states; only ready ones on request. Repositories on object stores
    /// are as they were seen last.
    ///
    /// Errors: a repository cannot be read.
    pub fn index(&self, ready_only: bool) -> Result<Vec<IndexEntry>> {
        self.not_exiting("Server not ready")?;
        let known = self.registry.entries();
        let found = self.lifecycle.repositories().list()?;
        let mut names: std::collections::BTreeSet<&str> = known.keys().map(|name| &**name).collect();
        names.extend(found.keys().map(String::as_str));
        let mut index = Vec::new();
        for name in names {
            let (entry, found) = (known.get(name), found.get(name));
            if found.is_none() && entry.is_none_or(|entry| entry.is_unloaded()) {
                continue; // it was loaded once, and lies nowhere
            }
            let is_ambiguous = matches!(found, Some(Found::Ambiguous(_)));
            let (_, name) = self.lifecycle.repositories().namespaces().split(name);
            let lines =
                entry.map_or_else(|| Entry::default().index(name, is_ambiguous), |it| it.index(name, is_ambiguous));
            index.extend(lines.into_iter().filter(|line| !ready_only || line.state == Some(VersionState::Ready)));
        }
        Ok(index)
    }

    /// The models, by their names, that do not serve what their folder says: what of them came with a load request instead.
    pub fn overrides(&self) -> BTreeMap<String, Override> {
        let given = |(key, entry): (Name, Arc<Entry>)| {
            let (_, name) = self.lifecycle.repositories().namespaces().split(&key);
            Some((name.to_owned(), entry.given()?))
        };
        self.registry.entries().into_iter().filter_map(given).collect()
    }

    /// Memory that versions of models hold, as far as their backends know; by name and version.
    pub fn memory(&self) -> BTreeMap<(String, u64), Vec<MemoryUse>> {
        let mut memory = BTreeMap::new();
        for (key, entry) in self.registry.entries() {
            let (_, name) = self.lifecycle.repositories().namespaces().split(&key);
            for (version, of_version) in &entry.versions {
                let used = of_version.model.as_ref().map(|model| model.runner().memory()).unwrap_or_default();
                if !used.is_empty() {
                    memory.insert((name.to_owned(), *version), used);
                }
            }
        }
        memory
    }

    /// Loads or reloads a model, and before it those that it is made of; returns when it serves or has failed.
    pub async fn load(self: &Arc<Self>, name: &str, parameters: LoadParameters) -> Result<()> {
        self.may_control(name)?;
        self.runtime.get_or_init(Handle::current);
        let session = LoadSession::new(self.lifecycle.clone(), None);
        self.lifecycle.load_all(session, name, parameters).await
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
        let mut inference = aside(shared_memory::is_long(&request), || infer::infer(&self.registry, model, request))?;
        inference.deliver_by(delivery);
        Ok(inference)
    }

    /// Memory that clients share with the server.
    pub fn shared_memory(&self) -> &SharedMemory {
        &self.shared_memory
    }

    /// The metrics page.
    pub fn metrics(&self) -> Page {
        let interval = self.options.machine_metrics_interval;
        let machine = self.options.machine_metrics.then(|| self.machine.snapshot(Instant::now(), interval));
        let entries = self.registry.entries();
        let versions = entries.values().flat_map(|entry| entry.versions.values());
        let models: Vec<_> = versions.filter_map(|version| Some(version.model.as_ref()?.metrics())).collect();
        let routers = entries.values().filter_map(|entry| entry.router.as_ref());
        let shadows: Vec<_> = routers.flat_map(|router| router.shadow_snapshots()).collect();
        let mut page = Page::default();
        let frozen: Vec<ModelSnapshot>;
        let counted = if self.options.latency.counters {
            &models
        } else {
            frozen = models.iter().map(ModelSnapshot::without_counts).collect();
            &frozen
        };
        page.add_models(counted);
        page.add_pinned_memory();
        self.options.gpus.iter().for_each(|gpus| page.add_gpus(&gpus.read()));
        machine.iter().for_each(|machine| page.add_machine(machine));
        page.add_shadow_copies(&shadows);
        self.options.access_log.iter().for_each(|log| page.add_access_log(log.dropped()));
        if let Some(cache) = self.options.response_cache.as_ref().and_then(ResponseCache::snapshot) {
            page.add_local_cache(&cache);
        }
        page.add_counters(&self.options.tracer.metrics());
        page.add_latencies(models);
        self.custom_metrics.add_to(&mut page);
        page
    }

    /// From here on the server asks callers to go elsewhere; whatever comes all the same is served. It is no longer ready, unless
    /// it was and `stays_ready`: then it serves those that have nowhere else to go. May be called again without.
    pub fn begin_leaving(&self, stays_ready: bool) {
        let next = |phase| match phase {
            EXITING => None, // who exits has left already
            RUNNING | LEAVING_READY if stays_ready => Some(LEAVING_READY),
            _ => Some(LEAVING),
        };
        let _ = self.phase.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        self.is_leaving.send_replace(());
    }

    /// Whether callers should go elsewhere, and whether the server is ready all the same.
    pub fn leaves(&self) -> Leaving {
        match self.phase.load(Ordering::Relaxed) {
            LEAVING => Leaving::Unready,
            LEAVING_READY => Leaving::WhileReady,
            _ if self.drain.lasts() => Leaving::Unready,
            _ => Leaving::No,
        }
    }

    /// How many inference requests came since the server began to leave.
    pub fn late_requests(&self) -> u64 {
        self.late_requests.load(Ordering::Relaxed)
    }

    /// Asks callers to go elsewhere for as long as `lease`, of [`DRAIN_LEASE_MAX`] at most, or goes on with that: the server is not
    /// ready meanwhile, and serves whatever comes all the same.
    pub fn drain(&self, lease: Duration) -> DrainState {
        let state = self.drain.renew(Instant::now(), lease);
        self.is_leaving.send_replace(());
        state
    }

    /// The server is ready again, if it is not leaving for good.
    pub fn end_drain(&self) {
        self.drain.end();
    }

    /// Becomes ready once callers should go elsewhere, though requests are still served.
    pub fn leaving(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static + use<> {
        let (mut is_leaving, engine) = (self.is_leaving.subscribe(), Arc::downgrade(self));
        async move {
            let leaves = || engine.upgrade().is_some_and(|engine| engine.leaves() != Leaving::No);
            while !leaves() {
                if is_leaving.changed().await.is_err() {
                    std::future::pending().await // an engine that is gone asks nobody for anything
                }
            }
        }
    }

    /// From here on the server says that it exits and takes no new work. Requests already inside go on.
    pub fn close_admission(&self) {
        self.phase.store(EXITING, Ordering::SeqCst);
    }

    /// Closes admission, lets what runs finish, unloads. `true` if all ended within the limit.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        self.close_admission();
        let is_complete = self.lifecycle.drain(limit).await;
        self.lifecycle.close_repositories();
        is_complete
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

    fn not_exiting(&self, message: &'static str) -> Result<()> {
        if self.phase.load(Ordering::Relaxed) == EXITING { Err(Error::unavailable(message)) } else { Ok(()) }
    }

    fn find(&self, model: ModelId<'_>) -> Result<Arc<model::LoadedModel>> {
        self.not_exiting("Server not ready")?;
        self.registry.find(model.name, model.version).map_err(|error| self.while_starting(error))
    }

    /// What is not there while the start-up set is loaded may be about to come: not yet is not unknown.
    fn while_starting(&self, error: Error) -> Error {
        let is_starting = self.phase.load(Ordering::Relaxed) == STARTING;
        if is_starting && error.code == Code::NotFound { Error::unavailable("Server not ready") } else { error }
    }

    fn ready_versions(&self, name: &str) -> Vec<u64> {
        let Some(entry) = self.registry.entry(name) else { return Vec::new() };
        entry.versions.iter().filter(|(_, version)| version.model.is_some()).map(|(&number, _)| number).collect()
    }

    fn snapshots(&self) -> Vec<ModelSnapshot> {
        let entries = self.registry.entries();
        let versions = entries.values().flat_map(|entry| entry.versions.values());
        versions.filter_map(|version| version.model.as_ref()).map(|model| model.snapshot()).collect()
    }
}

/// Whether all models that were asked can serve.
async fn all_say_yes(mut questions: JoinSet<bool>) -> bool {
    while let Some(answer) = questions.join_next().await {
        if !answer.unwrap_or(false) {
            return false;
        }
    }
    true
}
