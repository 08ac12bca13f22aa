//! One loaded model version: its file, its checked options, and the making of instances. Each instance has a module of its own, made on
//! the thread that will run it, unless the configuration lets them share one for each device.

use std::{
    collections::BTreeMap,
    env,
    sync::{Arc, Once, Weak},
};

use parking_lot::Mutex;
use server_core::{
    backend::{Device, Health, Instance, MemoryUse, Model, ModelSource, Placement},
    config::ModelConfig,
    error::{Error, Result},
};

use super::{
    library::{NAME, Runtime},
    options::Options,
    package,
    places::{Argument, Places},
    raw::Module,
    runner::TorchRunner,
};
use crate::native::{BatchInstance, Signature, Tensors, loading, operations};

/// What kind of file a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Script,
    Package,
}

impl Format {
    fn of(config: &ModelConfig) -> Self {
        if config.platform == "torch_aoti" { Self::Package } else { Self::Script }
    }

    const fn default_file(self) -> &'static str {
        match self {
            Self::Script => "model.pt",
            Self::Package => "model.pt2",
        }
    }
}

/// One opened model version.
pub(super) struct TorchModel {
    runtime: &'static Runtime,
    source: ModelSource,
    configured: Option<Configured>,
    /// Every module that is in use, and where it runs.
    modules: Mutex<Vec<(Weak<Module>, Device)>>,
    /// Held while a module is loaded that instances share.
    shared: Mutex<BTreeMap<i64, Weak<Module>>>,
}

/// What modules are made from.
struct Configured {
    format: Format,
    config: Arc<ModelConfig>,
    options: Options,
}

impl TorchModel {
    /// Opens nothing yet.
    pub(super) fn new(runtime: &'static Runtime, source: &ModelSource) -> Self {
        let source = source.clone();
        Self { runtime, source, configured: None, modules: Mutex::default(), shared: Mutex::default() }
    }

    fn configured(&self) -> Result<&Configured> {
        let missing =
            || Error::internal(format!("model '{}' was not configured before its instances", self.source.name));
        self.configured.as_ref().ok_or_else(missing)
    }

    /// The module of an instance: loaded for it, or that of another instance on the same device.
    fn module(&self, placement: &Placement) -> Result<Arc<Module>> {
        if !self.configured()?.options.shares_weights {
            return self.load(placement);
        }
        let mut shared = self.shared.lock(); // others wait: they will have what is loaded now
        let device = match placement.device {
            Device::Cpu => -1,
            Device::Model => -2,
            Device::Gpu(id) => i64::from(id),
        };
        if let Some(module) = shared.get(&device).and_then(Weak::upgrade) {
            tracing::info!("Reusing TorchScript model for instance '{}'", placement.instance_name);
            return Ok(module);
        }
        let module = self.load(placement)?;
        shared.insert(device, Arc::downgrade(&module));
        Ok(module)
    }

    fn load(&self, placement: &Placement) -> Result<Arc<Module>> {
        let Configured { format, config, options } = self.configured()?;
        let shim = &self.runtime.shim;
        let file = &loading::file(&self.source, config, format.default_file(), placement.device)?;
        let loaded = match format {
            Format::Script => shim.load_script(file, placement.device, &options.modes),
            Format::Package => {
                warn_of_unchecked_inputs();
                shim.load_package(file, placement.device, &options.modes)
            }
        };
        let failed = |failure| Error::internal(format!("failed to load model '{}': {failure}", self.source.name));
        let module = Arc::new(loaded.map_err(failed)?);
        let mut modules = self.modules.lock();
        modules.retain(|(module, _)| module.strong_count() > 0);
        modules.push((Arc::downgrade(&module), placement.device));
        Ok(module)
    }

    fn places(&self, module: &Module) -> Result<Places> {
        let Configured { format, config, .. } = self.configured()?;
        match format {
            Format::Script => {
                let arguments = module.arguments().into_iter().map(|(name, word)| Argument { name, word });
                Places::of_script(config, &arguments.collect::<Vec<_>>(), self.runtime.numbers)
            }
            Format::Package => {
                let (inputs, outputs) = module.call_spec();
                package::places(config, &inputs, &outputs, self.runtime.numbers)
            }
        }
    }

    /// libtorch's words for a GPU that is not there are many, and name no instance.
    fn check_device(&self, placement: &Placement) -> Result<()> {
        let Runtime { gpus, version, .. } = self.runtime;
        match placement.device {
            Device::Gpu(id) if id >= *gpus => Err(Error::invalid_argument(format!(
                "unable to use GPU {id} for instance '{}': libtorch {version} sees {gpus} GPUs; use KIND_CPU, or a libtorch \
                 with CUDA on a machine that has them",
                placement.instance_name
            ))),
            _ => Ok(()),
        }
    }
}

/// Packages look for this variable themselves. Said once.
fn warn_of_unchecked_inputs() {
    const VARIABLE: &str = "AOTI_RUNTIME_CHECK_INPUTS";
    static SAID: Once = Once::new();
    if env::var_os(VARIABLE).is_none_or(|value| value != "1") {
        SAID.call_once(|| {
            tracing::warn!(
                "{VARIABLE} is not 1: packages of AOTInductor do not compare inputs with the shapes and types that they were compiled \
                 for, and answer wrongly where these differ"
            );
        });
    }
}

impl Model for TorchModel {
    /// Checks everything that can be checked without opening the file; that is done by each instance.
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        let format = Format::of(config);
        let options = Options::read(config)?;
        loading::file(&self.source, config, format.default_file(), loading::first_device(config))?;
        if format == Format::Package && !self.runtime.shim.has_packages() {
            return Err(Error::unsupported(format!(
                "model '{}' has platform torch_aoti, which libtorch has since 2.8, and this is {}: install a newer one, and build \
                 its shim with deploy/shims/build torch",
                config.name, self.runtime.version
            )));
        }
        self.runtime.load_operations(&operations::libraries(config, &self.source.model_dir))?;
        self.runtime.decide_threads(&config.name, &options);
        self.configured = Some(Configured { format, config: config.clone(), options });
        Ok(())
    }

    /// The parameters and buffers of scripts; what runs take besides is libtorch's.
    fn memory(&self) -> Vec<MemoryUse> {
        let mut modules = self.modules.lock();
        modules.retain(|(module, _)| module.strong_count() > 0);
        let running: Vec<_> =
            modules.iter().filter_map(|(module, device)| Some((module.upgrade()?, *device))).collect();
        drop(modules);
        let held = |(module, device): &(Arc<Module>, Device)| {
            let device = if *device == Device::Model { Device::Cpu } else { *device };
            MemoryUse { device, bytes: module.weight_bytes(device) }
        };
        running.iter().map(held).filter(|held| held.bytes > 0).collect()
    }

    fn instance(&self, placement: &Placement, _health: &Health) -> Result<Box<dyn Instance>> {
        let config = &self.configured()?.config;
        loading::guarded(NAME, &config.name, || {
            self.check_device(placement)?;
            let module = self.module(placement)?;
            let places = self.places(&module)?;
            // A script does not say what shapes it takes, so tensors are as the configuration says.
            let tensors = Tensors::of(config, &Signature::default())?;
            let runner = TorchRunner::new(module, config, &tensors, &places, self.runtime.has_one_thread())?;
            let name = placement.instance_name.clone();
            Ok(Box::new(BatchInstance::new(name, runner, tensors, config.max_batch_size > 0)) as Box<dyn Instance>)
        })
    }
}
