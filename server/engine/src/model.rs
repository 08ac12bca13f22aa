//! One loaded model version: what it takes and gives, its configuration, and what runs it. A change that concerns neither
//! files nor requests (labels, instance counts, version policy, routing between versions) makes a new one of these on the
//! same runner.

use std::{
    cell::Cell,
    ptr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use server_core::{
    backend::Model,
    config::{self, ModelConfig},
    error::Result,
    footprint::Footprint,
    input_memory::InputMemory,
    interface::Interface,
    latency::{Latencies, LatencySettings},
    request::{InferRequest, Parameter},
    stats::{ModelCounters, ModelSnapshot},
    tensor::Name,
    version_routing::VersionRouting,
};
use server_scheduler::RateLimiter;

use crate::{
    cache::{self, Caching, ResponseCache},
    fingerprint::Fingerprint,
    instance_plan::InstancePlan,
    pool::InstancePool,
    repository_agents::Held,
    runner::Runner,
    scheduling::Scheduling,
    warm_up::WarmUp,
};

thread_local! {
    /// The address of the model that this thread has found last.
    static LAST: Cell<usize> = const { Cell::new(0) };
}

/// A model version that serves.
pub(crate) struct LoadedModel {
    /// Its name in the registry.
    pub(crate) key: Name,
    pub(crate) interface: Arc<Interface>,
    pub(crate) config: Arc<ModelConfig>,
    /// What it was made from.
    pub(crate) fingerprint: Fingerprint,
    /// How requests that name no version are routed; the same for all versions of a model.
    pub(crate) routing: Option<Arc<VersionRouting>>,
    runner: Runner,
    /// Where the server has a response cache.
    pub(crate) caching: Option<Caching>,
    /// Requests of ensembles that have steps here: it serves until they have ended.
    holds: Arc<AtomicUsize>,
    /// Files given with the load request, kept as long as any version of them.
    files: Option<Arc<Held>>,
    /// What a request touches of it, once it has had some.
    footprint: OnceLock<Footprint>,
}

/// What a version is, whatever runs it.
pub(crate) struct Description {
    pub(crate) key: Name,
    pub(crate) interface: Arc<Interface>,
    pub(crate) config: Arc<ModelConfig>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) caching: Option<Caching>,
    pub(crate) files: Option<Arc<Held>>,
}

/// What the instances of a version are made of.
pub(crate) struct Parts {
    pub(crate) namespace: Option<String>,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) scheduling: Scheduling,
    pub(crate) gpu_uuid: Option<String>,
    pub(crate) rate_limiter: Option<Arc<RateLimiter>>,
    pub(crate) warm_up: Option<WarmUp>,
    pub(crate) latency: LatencySettings,
}

impl LoadedModel {
    /// A version on a runner that is there.
    pub(crate) fn new(description: Description, runner: Runner) -> Self {
        Self::held_by(Arc::default(), description, runner)
    }

    fn held_by(holds: Arc<AtomicUsize>, description: Description, runner: Runner) -> Self {
        let Description { key, interface, config, fingerprint, caching, files } = description;
        let (routing, footprint) = (routing_of(&config), OnceLock::new());
        Self { key, interface, config, fingerprint, routing, runner, caching, holds, files, footprint }
    }

    /// Starts the instances, each on its own thread, all at once, and waits until every one is there.
    ///
    /// Errors: the first instance's that could not be made; the others are taken down again.
    pub(crate) fn start(
        description: Description,
        parts: Parts,
        plans: &[InstancePlan],
        began: Instant,
    ) -> Result<Self> {
        let Parts { namespace, model, scheduling, gpu_uuid, rate_limiter, warm_up, latency } = parts;
        let interface = &description.interface;
        let counters = counters(interface, &description.config, gpu_uuid, namespace, &latency);
        let pool = InstancePool::new(model, scheduling, rate_limiter, warm_up, interface.is_decoupled, counters);
        pool.resize(plans)?;
        pool.loaded(began.elapsed());
        Ok(Self::new(description, Runner::Instances(Arc::new(pool))))
    }

    /// The same version with another configuration that needs no other model: its instances grow and retire, and
    /// requests see the new labels.
    ///
    /// Errors: a new instance cannot be made; this one serves on as it is.
    pub(crate) fn refresh(
        &self,
        interface: Interface,
        config: Arc<ModelConfig>,
        plans: &[InstancePlan],
        fingerprint: Fingerprint,
    ) -> Result<Self> {
        if let Runner::Instances(pool) = &self.runner {
            pool.resize(plans)?;
        }
        let description = Description {
            key: self.key.clone(),
            interface: Arc::new(interface),
            caching: self.caching.as_ref().map(|caching| caching.refresh(&config)),
            config,
            fingerprint,
            files: self.files.clone(),
        };
        Ok(Self::held_by(self.holds.clone(), description, self.runner.clone()))
    }

    /// Whether it can serve.
    pub(crate) fn is_healthy(&self) -> bool {
        self.runner.is_healthy()
    }

    /// Its counters now.
    pub(crate) fn snapshot(&self) -> ModelSnapshot {
        self.runner.snapshot()
    }

    /// Its counters now, with those of the versions it has replaced.
    pub(crate) fn metrics(&self) -> ModelSnapshot {
        self.runner.metrics()
    }

    /// A request for it is about to follow: what it will touch is fetched meanwhile, unless this thread has just touched it.
    pub(crate) fn prefetch(&self) {
        let this = ptr::from_ref(self).addr();
        if LAST.replace(this) == this {
            return;
        }
        match (self.footprint.get(), &self.runner) {
            (Some(footprint), _) => server_shm::prefetch(footprint.lines()),
            (None, Runner::Instances(pool)) if pool.has_run() => _ = self.footprint.set(self.measure(pool)),
            (None, _) => {}
        }
    }

    fn measure(&self, pool: &InstancePool) -> Footprint {
        let mut footprint = Footprint::default();
        footprint.add(self);
        self.interface.footprint(&mut footprint);
        pool.footprint(&mut footprint);
        footprint
    }

    /// What runs it.
    pub(crate) fn runner(&self) -> &Runner {
        &self.runner
    }

    /// Whether both are run by the same.
    pub(crate) fn shares_runner(&self, other: &Self) -> bool {
        self.runner.is(&other.runner)
    }

    /// Has it serve until the hold is dropped, whatever is loaded or unloaded meanwhile.
    pub(crate) fn hold(self: Arc<Self>) -> Hold {
        self.holds.fetch_add(1, Ordering::Relaxed);
        Hold(ModelHandle(self))
    }

    /// The cache that answers its requests, if any does.
    pub(crate) fn response_cache(&self) -> Option<&ResponseCache> {
        self.caching.as_ref()?.enabled()
    }

    /// Whether anybody holds it.
    pub(crate) fn is_held(&self) -> bool {
        self.holds.load(Ordering::Acquire) > 0
    }
}

/// A ready model version as a request found it. It stays what it is, whatever is loaded meanwhile.
#[derive(Clone)]
pub struct ModelHandle(pub(crate) Arc<LoadedModel>);

impl ModelHandle {
    /// What it takes and gives.
    pub fn interface(&self) -> &Arc<Interface> {
        &self.0.interface
    }

    /// Memory that the model reads its inputs from without a copy: a large request is best received there.
    pub fn input_memory(&self) -> Option<Arc<dyn InputMemory>> {
        self.0.runner().input_memory()
    }

    /// Takes over the mark that sends a request to the canary version, where the model has one and the caller gave it beside the
    /// request: `find` looks the name of the mark up in HTTP headers or gRPC metadata. A parameter of the request counts more.
    pub fn mark_canary<'a>(&self, request: &mut InferRequest, find: impl FnOnce(&str) -> Option<&'a [u8]>) {
        let Some(canary) = self.0.routing.as_ref().and_then(|routing| routing.canary.as_ref()) else { return };
        if request.parameters.iter().any(|(key, _)| *key == canary.key) {
            return;
        }
        if let Some(value) = find(&canary.key).and_then(|value| std::str::from_utf8(value).ok()) {
            request.parameters.push((canary.key.clone(), Parameter::String(value.to_owned())));
        }
    }
}

/// A model that goes on serving for whoever has this.
pub(crate) struct Hold(ModelHandle);

impl Hold {
    /// The model.
    pub(crate) fn model(&self) -> &ModelHandle {
        &self.0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.0.holds.fetch_sub(1, Ordering::Release);
    }
}

/// Counters at nothing, with the labels of the model's metrics, and the distributions that are kept beside them.
pub(crate) fn counters(
    interface: &Interface,
    config: &ModelConfig,
    gpu_uuid: Option<String>,
    namespace: Option<String>,
    latency: &LatencySettings,
) -> ModelCounters {
    let tags = config.metric_tags.iter().map(|(key, value)| (key.clone(), value.clone()));
    let has_response_cache = cache::is_enabled(config);
    let limits = config::first_response_limits(config);
    let latencies = Latencies::new(latency, limits, has_response_cache);
    let counts = ModelSnapshot {
        name: interface.model_name.to_string(),
        namespace,
        version: interface.version,
        gpu_uuid,
        metric_tags: tags.collect(),
        has_response_cache,
        ..ModelSnapshot::default()
    };
    ModelCounters::new(counts, latencies)
}

/// How a verified configuration routes requests between versions.
fn routing_of(config: &ModelConfig) -> Option<Arc<VersionRouting>> {
    VersionRouting::of(config).ok().flatten().map(Arc::new)
}
