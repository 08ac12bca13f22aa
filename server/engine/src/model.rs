//! One loaded model version: what it takes and gives, its configuration, and the pool of instances that runs it. A
//! change that concerns neither files nor requests (labels, instance counts, version policy, routing between versions) makes a new one of these on
//! the same pool.

use std::{sync::Arc, time::Instant};

use server_core::{
    backend::{Device, Model, Placement},
    config::{self, ModelConfig},
    error::{Error, Result},
    interface::Interface,
    request::InferRequest,
    responder::Replies,
    stats::ModelSnapshot,
    version_routing::VersionRouting,
};

use crate::{
    fingerprint::Fingerprint,
    pool::{InstancePool, Refused},
    scheduling::Scheduling,
};

/// A model version that serves.
pub(crate) struct LoadedModel {
    pub(crate) interface: Arc<Interface>,
    pub(crate) config: Arc<ModelConfig>,
    /// What it was made from.
    pub(crate) fingerprint: Fingerprint,
    /// How requests that name no version are routed; the same for all versions of a model.
    pub(crate) routing: Option<Arc<VersionRouting>>,
    pool: Arc<InstancePool>,
    /// Files given with the load request, kept as long as any version of them.
    files: Option<Arc<tempfile::TempDir>>,
}

/// What a version is made of.
pub(crate) struct Parts {
    pub(crate) interface: Interface,
    pub(crate) config: Arc<ModelConfig>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) gpu_uuid: Option<String>,
    pub(crate) files: Option<Arc<tempfile::TempDir>>,
}

impl LoadedModel {
    /// Starts the instances, each on its own thread, all at once, and waits until every one is there.
    ///
    /// Errors: the first instance's that could not be made; the others are taken down again.
    pub(crate) fn start(parts: Parts, began: Instant) -> Result<Self> {
        let Parts { interface, config, fingerprint, model, gpu_uuid, files } = parts;
        let tags = config.metric_tags.iter().map(|(key, value)| (key.clone(), value.clone()));
        let counters = ModelSnapshot {
            name: interface.model_name.to_string(),
            version: interface.version,
            gpu_uuid,
            metric_tags: tags.collect(),
            ..ModelSnapshot::default()
        };
        let pool = InstancePool::new(model, Scheduling::of(&config), interface.is_decoupled, counters);
        pool.resize(&placements(&config))?;
        pool.loaded(began.elapsed());
        let routing = routing_of(&config);
        Ok(Self { interface: Arc::new(interface), config, fingerprint, routing, pool: Arc::new(pool), files })
    }

    /// The same version with another configuration that needs no other model: its instances grow and retire, and
    /// requests see the new labels.
    ///
    /// Errors: a new instance cannot be made; this one serves on as it is.
    pub(crate) fn refresh(
        &self,
        interface: Interface,
        config: Arc<ModelConfig>,
        fingerprint: Fingerprint,
    ) -> Result<Self> {
        self.pool.resize(&placements(&config))?;
        let (pool, files) = (self.pool.clone(), self.files.clone());
        let routing = routing_of(&config);
        Ok(Self { interface: Arc::new(interface), config, fingerprint, routing, pool, files })
    }

    /// Queues a checked request. Returns the way back, and when it has waited too long.
    ///
    /// Errors: it comes back when the queue is full or closed.
    pub(crate) fn submit(
        &self,
        request: InferRequest,
        batch_size: u32,
    ) -> Result<(Replies, Option<Instant>), Box<Refused>> {
        self.pool.submit(request, batch_size)
    }

    /// Counts a refused request, and says why it was.
    pub(crate) fn reject(&self, refused: &Refused) -> Error {
        self.pool.reject(refused)
    }

    /// Answers the requests that have waited too long, however busy the instances are.
    pub(crate) fn expire(&self) {
        self.pool.expire();
    }

    /// A caller left without its answer.
    pub(crate) fn note_cancelled(&self) {
        self.pool.note_cancelled();
    }

    /// Whether any instance can serve.
    pub(crate) fn is_healthy(&self) -> bool {
        self.pool.is_healthy()
    }

    /// Its counters now.
    pub(crate) fn snapshot(&self) -> ModelSnapshot {
        self.pool.snapshot()
    }

    /// Its counters now, with those of the versions it has replaced.
    pub(crate) fn metrics(&self) -> ModelSnapshot {
        self.pool.metrics()
    }

    /// The instances that run it.
    pub(crate) fn pool(&self) -> &Arc<InstancePool> {
        &self.pool
    }

    /// Whether both run on the same instances.
    pub(crate) fn shares_pool(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pool, &other.pool)
    }
}

/// How a verified configuration routes requests between versions.
fn routing_of(config: &ModelConfig) -> Option<Arc<VersionRouting>> {
    VersionRouting::of(config).ok().flatten().map(Arc::new)
}

/// One placement per instance of the normalised configuration's groups, in the order of the configuration.
pub(crate) fn placements(model: &ModelConfig) -> Vec<Placement> {
    let mut placements = Vec::new();
    for group in &model.instance_group {
        let devices = match config::InstanceKind::try_from(group.kind) {
            Ok(config::InstanceKind::Gpu) => {
                group.gpus.iter().map(|&gpu| Device::Gpu(u32::try_from(gpu).unwrap_or(0))).collect()
            }
            Ok(config::InstanceKind::Model) => vec![Device::Model],
            _ => vec![Device::Cpu],
        };
        let mut number = 0;
        for device in devices {
            for _ in 0..group.count.max(1) {
                placements.push(Placement { instance_name: format!("{}_{number}", group.name), device });
                number += 1;
            }
        }
    }
    placements
}
