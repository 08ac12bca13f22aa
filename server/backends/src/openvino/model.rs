//! One loaded model version: its file, its checked settings, the compiled model that its instances share, and the making of
//! instances. Each has a request of OpenVINO of its own.

use std::{path::PathBuf, sync::Arc};

use server_core::{
    backend::{Device, Health, Instance, Model, ModelSource, Placement},
    config::ModelConfig,
    error::{Error, Result},
};

use super::{
    library::{self, Runtime},
    prepare::{self, Fitted, Rows},
    raw::{self, Compiled, Core},
    runner::Runner,
    settings::ModelSettings,
};
use crate::native::{BatchInstance, Signature, Tensors, loading};

const DEFAULT_FILE: &str = "model.xml";
/// Devices that stand for others.
const VIRTUAL_DEVICES: [&str; 4] = ["AUTO", "BATCH", "HETERO", "MULTI"];

/// One opened model version.
pub(super) struct OpenVinoModel {
    runtime: &'static Runtime,
    source: ModelSource,
    /// The file, read to complete the configuration.
    read: Option<Read>,
    configured: Option<Configured>,
}

struct Read {
    model: raw::Model,
    /// What has read it, if the model has extensions of its own.
    core: Option<Core>,
}

/// What instances are made from.
struct Configured {
    config: Arc<ModelConfig>,
    signature: Signature,
    rows: Rows,
    pads_batches: bool,
    compiled: Arc<Compiled>,
    /// After the compiled model.
    _core: Option<Core>,
}

impl OpenVinoModel {
    pub(super) fn new(runtime: &'static Runtime, source: &ModelSource) -> Self {
        Self { runtime, source: source.clone(), read: None, configured: None }
    }

    /// Reads the file: what the model takes and gives, for a configuration that leaves that open.
    ///
    /// Errors: it is not there, or OpenVINO cannot read it.
    pub(super) fn read(&mut self, config: &ModelConfig) -> Result<Signature> {
        let settings = ModelSettings::read(config, library::threads())?;
        let read = self.read_file(config, &settings)?;
        let signature = prepare::signature(&read.model, &self.runtime.elements, config)?;
        self.read = Some(read);
        Ok(if config.max_batch_size > 0 { prepare::with_open_rows(signature) } else { signature })
    }

    fn read_file(&self, config: &ModelConfig, settings: &ModelSettings) -> Result<Read> {
        let core = match &settings.extension {
            None => None,
            Some(library) => {
                let core = library::core(self.runtime.api, library::threads())?;
                core.add_extension(library)?;
                Some(core)
            }
        };
        let model = core.as_ref().unwrap_or(&self.runtime.core).read(&self.file(config)?)?;
        if settings.reshapes_inputs {
            let signature = prepare::signature(&model, &self.runtime.elements, config)?;
            prepare::reshape_inputs(&model, config, &signature, true)?;
        }
        Ok(Read { model, core })
    }

    /// The file to read. Some forms that OpenVINO reads are folders; the weights of its own lie beside the file.
    fn file(&self, config: &ModelConfig) -> Result<PathBuf> {
        let folder = self.source.version_dir.join(&config.default_model_filename);
        let is_folder_model =
            folder != self.source.version_dir && folder.is_dir() && !folder.join(DEFAULT_FILE).exists();
        if is_folder_model {
            return Ok(folder);
        }
        let file = loading::file(&self.source, config, DEFAULT_FILE, Device::Cpu)?;
        let weights = file.with_extension("bin");
        let has_weights = file.extension().is_some_and(|kind| kind == "xml");
        if has_weights && weights.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(loading::not_regular(&self.source, &weights));
        }
        Ok(file)
    }

    fn check_device(&self, config: &ModelConfig, settings: &ModelSettings) -> Result<()> {
        let kind = |device: &str| device.split(['.', ':', '(']).next().unwrap_or_default().to_owned();
        let devices = self.runtime.core.devices()?;
        let wanted = kind(&settings.device);
        if VIRTUAL_DEVICES.contains(&wanted.as_str()) || devices.iter().any(|device| kind(device) == wanted) {
            return Ok(());
        }
        Err(Error::invalid_argument(format!(
            "unable to load model '{}', TARGET_DEVICE '{}' is not a device that OpenVINO has here: {}",
            config.name,
            settings.device,
            devices.join(", ")
        )))
    }

    fn compile(&mut self, config: &Arc<ModelConfig>) -> Result<Configured> {
        let settings = ModelSettings::read(config, library::threads())?;
        self.check_device(config, &settings)?;
        let Read { model, core } = match self.read.take() {
            Some(read) => read,
            None => self.read_file(config, &settings)?,
        };
        let Fitted { model, signature, rows } = prepare::fit(model, &self.runtime.elements, config, &settings)?;
        let used = core.as_ref().unwrap_or(&self.runtime.core);
        let compiled = used.compile(&model, &settings.device, &known(used, config, &settings)?)?;
        let pads_batches = settings.pads_batches;
        Ok(Configured {
            config: config.clone(),
            signature,
            rows,
            pads_batches,
            compiled: Arc::new(compiled),
            _core: core,
        })
    }
}

/// The properties that the device knows: which there are differs from version to version. One that stands for others, such as
/// `AUTO:CPU`, is asked by its own name alone.
pub(super) fn known(
    core: &Core,
    config: &ModelConfig,
    settings: &ModelSettings,
) -> Result<Vec<(&'static str, String)>> {
    let names = core.properties(settings.device.split([':', '(']).next().unwrap_or("CPU"))?;
    let is_known = |key: &str| names.iter().any(|name| name == key);
    let (known, unknown): (Vec<_>, Vec<_>) = settings.properties.iter().cloned().partition(|(key, _)| is_known(key));
    for (key, value) in unknown {
        let (model, device) = (&config.name, &settings.device);
        tracing::warn!(%model, "'{key}' ({value}) is ignored: device {device} does not know it");
    }
    Ok(known)
}

impl Model for OpenVinoModel {
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        let name = self.source.name.clone();
        self.configured = Some(guarded(&name, || self.compile(config))?);
        Ok(())
    }

    fn instance(&self, placement: &Placement, _health: &Health) -> Result<Box<dyn Instance>> {
        let missing =
            || Error::internal(format!("model '{}' was not configured before its instances", self.source.name));
        let Configured { config, signature, rows, pads_batches, compiled, .. } =
            self.configured.as_ref().ok_or_else(missing)?;
        if placement.device != Device::Cpu {
            return Err(Error::invalid_argument(format!(
                "unable to load model '{}', Triton OpenVINO backend supports only Kind CPU and AUTO",
                config.name
            )));
        }
        guarded(&config.name, || {
            let tensors = Tensors::of(config, signature)?;
            let runner = Runner::new(self.runtime, compiled.request()?, signature, &tensors, *rows, *pads_batches)?;
            let (name, has_rows) = (placement.instance_name.clone(), config.max_batch_size > 0);
            Ok(Box::new(BatchInstance::new(name, runner, tensors, has_rows)) as Box<dyn Instance>)
        })
    }
}

/// Runs a step of loading so that a mistake in it costs this model and nothing else.
pub(super) fn guarded<T>(model: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    loading::guarded("openvino", model, step)
}
