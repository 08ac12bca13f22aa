//! One version of a model: its engine on each GPU, shared by the instances there, and the instances.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use server_core::{
    backend::{Device, Health, Instance, MemoryUse, Model, ModelSource, Placement},
    config::ModelConfig,
    error::{Error, Result},
};
use server_proto::inference::model_instance_group::Kind;

use super::{
    complete,
    plan::{self, Loaded},
    profiles,
    raw::{Api, Major},
    settings::{self, Execution, Policy},
    setup::Setup,
    verify,
};
use crate::{
    cuda::Gpu,
    native::{OverlappedInstance, Tensors, loading::guarded},
};

/// One opened model version.
pub(super) struct TensorRtModel {
    api: &'static Api,
    policy: Policy,
    source: ModelSource,
    configured: Option<Configured>,
    /// By GPU and accelerator.
    engines: Mutex<Engines>,
    /// Memory held on each GPU.
    held: Mutex<BTreeMap<u32, Arc<AtomicU64>>>,
}

/// By number of the GPU and of the accelerator.
type Engines = BTreeMap<(u32, Option<i32>), Arc<Loaded>>;

struct Configured {
    config: Arc<ModelConfig>,
    execution: Execution,
}

impl TensorRtModel {
    /// Opens a model. With `may_complete` the configuration is completed from the engine, for which that is made.
    ///
    /// Errors: the plan cannot be used here, or contradicts the configuration.
    pub(super) fn open(
        api: &'static Api,
        policy: Policy,
        source: &ModelSource,
        config: &mut ModelConfig,
        may_complete: bool,
    ) -> Result<Self> {
        let model = Self {
            api,
            policy,
            source: source.clone(),
            configured: None,
            engines: Mutex::default(),
            held: Mutex::default(),
        };
        // What can be told without a GPU is told first.
        if config.cc_model_filenames.is_empty() {
            plan::check(&model.file(config, None)?, api, policy)?;
        }
        let group = config.instance_group.first();
        let number = match group.map(|group| group.kind()) {
            Some(Kind::Gpu) => group.and_then(|group| group.gpus.first()).copied().unwrap_or(0),
            _ => return Err(not_on_gpu(&config.name)),
        };
        if may_complete {
            let number = u32::try_from(number).map_err(|_| not_on_gpu(&config.name))?;
            let loaded = model.engine(config, number, settings::dla_core(group))?;
            complete::complete(config, &loaded.description)?;
        }
        Ok(model)
    }

    /// The file of the plan for a GPU of that compute capability.
    fn file(&self, config: &ModelConfig, compute_capability: Option<&str>) -> Result<PathBuf> {
        plan::find(&self.source, settings::file_name(config, compute_capability))
    }

    fn sum(&self, gpu: u32) -> Arc<AtomicU64> {
        self.held.lock().entry(gpu).or_default().clone()
    }

    /// The engine on a GPU. Instances there share it, except where an engine's profiles are for one context each.
    fn engine(&self, config: &ModelConfig, number: u32, dla_core: Option<i32>) -> Result<Arc<Loaded>> {
        let mut engines = self.engines.lock();
        if let Some(known) = engines.get(&(number, dla_core)) {
            let is_taken = self.api.major == Major::Eight && known.description.is_dynamic();
            let loaded = known.clone();
            if is_taken {
                engines.remove(&(number, dla_core)); // the next instance makes one of its own
            }
            return Ok(loaded);
        }
        let gpu = Gpu::open(number)?;
        let capability = gpu.compute_capability();
        let capability =
            capability.map_err(|error| Error::unavailable(format!("GPU {number} cannot be used: {error}")))?;
        let path = self.file(config, Some(&capability))?;
        let loaded = Arc::new(plan::load(self.api, &gpu, dla_core, &path, self.policy, &self.sum(number))?);
        if self.api.major == Major::Ten || !loaded.description.is_dynamic() || self.configured.is_none() {
            engines.insert((number, dla_core), loaded.clone());
        }
        Ok(loaded)
    }

    fn configured(&self) -> Result<&Configured> {
        let missing =
            || Error::internal(format!("model '{}' was not configured before its instances", self.source.name));
        self.configured.as_ref().ok_or_else(missing)
    }
}

impl Model for TensorRtModel {
    /// Checks everything that can be checked without an engine.
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        if config.instance_group.iter().any(|group| group.kind() != Kind::Gpu) {
            return Err(not_on_gpu(&config.name));
        }
        self.configured = Some(Configured { config: config.clone(), execution: Execution::of(config)? });
        Ok(())
    }

    fn memory(&self) -> Vec<MemoryUse> {
        let held = self.held.lock();
        held.iter()
            .map(|(gpu, sum)| MemoryUse { device: Device::Gpu(*gpu), bytes: sum.load(Ordering::Relaxed) })
            .collect()
    }

    fn instance(&self, placement: &Placement, health: &Health) -> Result<Box<dyn Instance>> {
        let Configured { config, execution } = self.configured()?;
        let Device::Gpu(number) = placement.device else { return Err(not_on_gpu(&config.name)) };
        let name = &placement.instance_name;
        guarded("tensorrt", &config.name, || {
            let group = profiles::group(config, name);
            let loaded = self.engine(config, number, settings::dla_core(group))?;
            verify::verify(config, &loaded.description)?;
            let tensors = Tensors::of(config, &verify::signature(&loaded.description))?;
            let profiles = profiles::of_group(group, name, loaded.description.profiles.len())?;
            let setup = Setup {
                name,
                config,
                execution,
                profiles: &profiles,
                tensors: &tensors,
                loaded,
                device: self.policy.blocks_device.then(|| device_lock(number)),
                health,
                sum: &self.sum(number),
            };
            let runner = setup.runner()?;
            tracing::info!("Created instance {name} on GPU {number} with optimization profiles {profiles:?}");
            let instance = OverlappedInstance::new(name.clone(), runner, tensors, config.max_batch_size > 0);
            Ok(Box::new(instance) as Box<dyn Instance>)
        })
    }
}

/// What the instances of all models on a GPU hold while they start a run.
fn device_lock(gpu: u32) -> Arc<Mutex<()>> {
    static LOCKS: Mutex<BTreeMap<u32, Arc<Mutex<()>>>> = Mutex::new(BTreeMap::new());
    LOCKS.lock().entry(gpu).or_default().clone()
}

fn not_on_gpu(model: &str) -> Error {
    Error::invalid_argument(format!(
        "unable to load model '{model}', TensorRT backend supports only GPU device: run the server where it can see an NVIDIA GPU, and \
         leave 'kind' of the instance group out or set it to KIND_GPU"
    ))
}
