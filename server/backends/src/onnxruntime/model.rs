//! One loaded model version: its file, its checked options, and the making of instances. Each instance has a session of
//! its own, made on the thread that will run it.

use std::{
    ffi::CString,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use ort::session::{Session, SharedSessionInner, builder::SessionBuilder};
use parking_lot::Mutex;
use server_core::{
    backend::{Device, Health, Instance, MemoryUse, Model, ModelSource, Placement, Settings},
    config::ModelConfig,
    error::{Code, Error, Result},
};

use super::{
    captured::Captured,
    describe, device_copy, element,
    library::Runtime,
    options::SessionOptions,
    providers::{self, Provider},
    raw::Failure,
    runner::Runner,
    session::NamedSession,
};
use crate::native::{BatchInstance, Signature, Tensors, loading, verify};

const DEFAULT_FILE: &str = "model.onnx";

/// The file to open for an instance on that device.
///
/// Errors: it is not there.
pub(super) fn file(source: &ModelSource, config: &ModelConfig, device: Device) -> Result<PathBuf> {
    loading::file(source, config, DEFAULT_FILE, device)
}

/// What a model file takes and gives, without making it ready to run. A file that only an execution provider understands is
/// opened with those its first instance will have.
pub(super) fn inspect(runtime: &Runtime, file: &Path, config: &ModelConfig, model_dir: &Path) -> Result<Signature> {
    let builder = || super::options::inspection_builder(&runtime.environment, config, model_dir);
    let session = match builder()?.commit_from_file(file) {
        Ok(session) => session,
        Err(error) => {
            let failure = Failure::from(error);
            let providers = providers::plan(config, loading::first_device(config), |name| runtime.plugins.has(name))?;
            if providers.is_empty() || providers::check_available(&providers, runtime).is_err() {
                return Err(failure.into());
            }
            open(providers::register(builder()?, &providers, runtime)?, file, &providers)?
        }
    };
    Ok(describe::signature(&session, file))
}

/// Makes the session.
fn open(builder: SessionBuilder, file: &Path, providers: &[Provider]) -> Result<Session> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = providers.iter().any(Provider::makes_sessions_in_turn).then(|| TURN.lock());
    let mut builder = builder;
    Ok(builder.commit_from_file(file).map_err(Failure::from)?)
}

/// One opened model version.
pub(super) struct OnnxModel {
    runtime: &'static Runtime,
    settings: Settings,
    source: ModelSource,
    of_any_shape: Vec<String>,
    configured: Option<Configured>,
    /// The sessions of its instances, and where they run.
    sessions: Mutex<Vec<(Weak<SharedSessionInner>, Device)>>,
}

/// What sessions are made from.
struct Configured {
    config: Arc<ModelConfig>,
    options: SessionOptions,
}

impl OnnxModel {
    /// `of_any_shape`: inputs whose shape neither file nor configuration says.
    pub(super) fn new(
        runtime: &'static Runtime,
        settings: &Settings,
        source: &ModelSource,
        of_any_shape: Vec<String>,
    ) -> Self {
        Self {
            runtime,
            settings: settings.clone(),
            source: source.clone(),
            of_any_shape,
            configured: None,
            sessions: Mutex::default(),
        }
    }

    fn configured(&self) -> Result<&Configured> {
        let missing =
            || Error::internal(format!("model '{}' was not configured before its instances", self.source.name));
        self.configured.as_ref().ok_or_else(missing)
    }

    fn session(&self, placement: &Placement) -> Result<(Session, Signature, Option<Captured>)> {
        let Configured { config, options } = self.configured()?;
        let file = &file(&self.source, config, placement.device)?;
        let providers = providers::plan(config, placement.device, |name| self.runtime.plugins.has(name))?;
        let builder = options.builder(self.runtime)?;
        let session = open(providers::register(builder, &providers, self.runtime)?, file, &providers)?;
        let signature = describe::signature(&session, file);
        verify(config, &signature, element::name)?;
        let captured = match placement.device {
            Device::Gpu(id) if providers.iter().any(Provider::captures_runs) => {
                let (options, placement_device) = (options.clone(), placement.device);
                Some(Captured::new(device_copy::Device::gpu(id)?, move || options.some_run_options(placement_device))?)
            }
            _ => None,
        };
        Ok((session, signature, captured))
    }
}

impl Model for OnnxModel {
    /// Checks everything that can be checked without opening the file; that is done by each instance.
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        let options = SessionOptions::read(config, &self.settings, &self.source.model_dir)?;
        file(&self.source, config, loading::first_device(config))?;
        self.configured = Some(Configured { config: config.clone(), options });
        Ok(())
    }

    fn inputs_of_any_shape(&self) -> &[String] {
        &self.of_any_shape
    }

    fn memory(&self) -> Vec<MemoryUse> {
        let Some(arenas) = &self.runtime.arenas else { return Vec::new() };
        let mut sessions = self.sessions.lock();
        sessions.retain(|(session, _)| session.strong_count() > 0);
        let running: Vec<_> =
            sessions.iter().filter_map(|(session, device)| Some((session.upgrade()?, *device))).collect();
        drop(sessions);
        let of_session = |(session, device): &(Arc<SharedSessionInner>, Device)| {
            let on_gpu = match device {
                Device::Gpu(id) => arenas.held(session, Some(*id)).map(|bytes| MemoryUse { device: *device, bytes }),
                Device::Cpu | Device::Model => None,
            };
            // What many have together is no single one's.
            let own = (!self.runtime.has_shared_arena).then(|| arenas.held(session, None)).flatten();
            let on_host = own.map(|bytes| MemoryUse { device: Device::Cpu, bytes });
            [on_gpu, on_host].into_iter().flatten()
        };
        running.iter().flat_map(of_session).collect()
    }

    fn instance(&self, placement: &Placement, _health: &Health) -> Result<Box<dyn Instance>> {
        let config = &self.configured()?.config;
        guarded(&config.name, || {
            let (session, signature, captured) =
                self.session(placement).map_err(|error| on_device(error, placement))?;
            let tensors = Tensors::of(config, &signature)?;
            let input_names = tensors.input_names().map(terminated).collect::<Result<_>>()?;
            let output_names = tensors.output_names().map(terminated).collect::<Result<_>>()?;
            self.sessions.lock().push((Arc::downgrade(&session.inner()), placement.device));
            let options = self.configured()?.options.run_options(placement.device)?;
            let session = NamedSession::new(session.inner(), input_names, output_names, options, captured);
            let (name, has_rows) = (placement.instance_name.clone(), config.max_batch_size > 0);
            Ok(Box::new(BatchInstance::new(name, Runner(session), tensors, has_rows)) as Box<dyn Instance>)
        })
    }
}

/// Says which GPU, for the runtime's own words do not.
fn on_device(error: Error, placement: &Placement) -> Error {
    match placement.device {
        Device::Gpu(id) if error.code != Code::InvalidArgument => {
            let name = &placement.instance_name;
            Error::new(error.code, format!("unable to use GPU {id} for instance '{name}': {}", error.message))
        }
        _ => error,
    }
}

fn terminated(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| Error::invalid_argument(format!("tensor name {name:?} contains a zero byte")))
}

/// Runs a step of loading so that a mistake in it costs this model and nothing else.
pub(super) fn guarded<T>(model: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    loading::guarded("onnxruntime", model, step)
}
