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
    tensor::{DataType, Name, Shape},
};

use server_proto::inference::model_instance_group::Kind;

use super::{
    captured::Captured,
    computed::ComputedInput,
    convert::{Input, Output, Restore},
    device_copy, guarded,
    instance::OnnxInstance,
    library::Runtime,
    options::SessionOptions,
    providers::{self, Provider},
    raw::{Failure, Runner},
    sequence,
    signature::{Offered, Signature},
    verify,
};

const DEFAULT_FILE: &str = "model.onnx";

/// The file to open: `default_model_filename` or `model.onnx` in the version's folder, or `model.onnx` in the folder of
/// that name.
///
/// Errors: `Unavailable` if it is not there, or is no file: reading a pipe or a device would never end.
pub(super) fn file(source: &ModelSource, config: &ModelConfig) -> Result<PathBuf> {
    let name = Some(config.default_model_filename.as_str()).filter(|name| !name.is_empty()).unwrap_or(DEFAULT_FILE);
    let path = source.version_dir.join(name);
    let path = if path.is_dir() { path.join(DEFAULT_FILE) } else { path };
    match path.metadata() {
        Ok(found) if found.is_file() => Ok(path),
        Ok(_) => {
            Err(Error::unavailable(format!("'{}' for model '{}' is not a regular file", path.display(), source.name)))
        }
        Err(_) => {
            let text = format!("unable to find '{}' for model instance '{}'", path.display(), source.name);
            Err(Error::unavailable(text))
        }
    }
}

/// What a model file takes and gives, without making it ready to run. A file that only an execution provider understands is
/// opened with those its first instance will have.
pub(super) fn inspect(runtime: &Runtime, file: &Path, config: &ModelConfig, model_dir: &Path) -> Result<Signature> {
    let builder = || super::options::inspection_builder(&runtime.environment, config, model_dir);
    let session = match builder()?.commit_from_file(file) {
        Ok(session) => session,
        Err(error) => {
            let failure = Failure::from(error);
            let providers = providers::plan(config, first_device(config), |name| runtime.plugins.has(name))?;
            if providers.is_empty() || providers::check_available(&providers, runtime).is_err() {
                return Err(failure.into());
            }
            open(providers::register(builder()?, &providers, runtime)?, file, &providers)?
        }
    };
    Ok(Signature::of(&session, file))
}

/// Where the first instance of a configuration runs.
fn first_device(config: &ModelConfig) -> Device {
    let on_gpu = config.instance_group.iter().find(|group| group.kind() == Kind::Gpu);
    on_gpu.map_or(Device::Cpu, |group| {
        Device::Gpu(group.gpus.first().and_then(|gpu| u32::try_from(*gpu).ok()).unwrap_or(0))
    })
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
    file: PathBuf,
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
        let Configured { file, config, options } = self.configured()?;
        let providers = providers::plan(config, placement.device, |name| self.runtime.plugins.has(name))?;
        let builder = options.builder(self.runtime)?;
        let session = open(providers::register(builder, &providers, self.runtime)?, file, &providers)?;
        let signature = Signature::of(&session, file);
        verify::verify(config, &signature)?;
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
        let file = file(&self.source, config)?;
        self.configured = Some(Configured { file, config: config.clone(), options });
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
            let inputs = inputs(config, &signature)?;
            let outputs = outputs(config, &signature)?;
            let computed = ComputedInput::all(config)?;
            let targets = computed.iter().flat_map(|input| &input.targets).map(String::as_str);
            let input_names = inputs.iter().map(|input| &*input.name).chain(targets).map(terminated);
            let input_names = input_names.collect::<Result<_>>()?;
            let output_names = outputs.iter().map(|output| terminated(&output.name)).collect::<Result<_>>()?;
            self.sessions.lock().push((Arc::downgrade(&session.inner()), placement.device));
            let options = self.configured()?.options.run_options(placement.device)?;
            let runner = Runner::new(session.inner(), input_names, output_names, options, captured);
            let has_rows = config.max_batch_size > 0;
            let name = placement.instance_name.clone();
            Ok(Box::new(OnnxInstance::new(name, runner, inputs, computed, outputs, has_rows)) as Box<dyn Instance>)
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

fn inputs(config: &ModelConfig, signature: &Signature) -> Result<Vec<Input>> {
    let batches = config.max_batch_size > 0;
    let input = |input: &server_proto::inference::ModelInput| {
        let rank = signature.input(&input.name).and_then(Offered::rank);
        Ok(Input {
            name: Name::from(input.name.as_str()),
            data_type: data_type(&input.name, input.data_type)?,
            is_scalar: rank == Some(0),
            is_optional: input.optional,
            is_ragged: batches && input.allow_ragged_batch,
        })
    };
    let mut inputs: Vec<Input> = config.input.iter().map(input).collect::<Result<_>>()?;
    let by_server = |name: &str, data_type| Input {
        name: Name::from(name),
        data_type,
        is_scalar: signature.input(name).and_then(Offered::rank) == Some(0),
        is_optional: false,
        is_ragged: false,
    };
    inputs.extend(sequence::controls(config).map(|control| by_server(control.name, control.data_type)));
    for state in sequence::states(config) {
        if inputs.iter().all(|input| *input.name != *state.input_name) {
            inputs.push(by_server(&state.input_name, sequence::data_type(state)?));
        }
    }
    Ok(inputs)
}

fn outputs(config: &ModelConfig, signature: &Signature) -> Result<Vec<Output>> {
    let output = |output: &server_proto::inference::ModelOutput| {
        let rank = signature.output(&output.name).and_then(Offered::rank);
        let by_input = config.batch_output.iter().find(|batch| batch.target_name.contains(&output.name));
        if let Some(source) = by_input.and_then(|batch| batch.source_input.first()) {
            let (name, dims) = (Name::from(output.name.as_str()), Shape::from_slice(&output.dims));
            let restore = Restore::ByInput { source: source.as_str().into(), dims };
            let data_type = data_type(&output.name, output.data_type)?;
            return Ok(Output { name, data_type, restore, is_answered: true, renews_state: false });
        }
        let restore = match &output.reshape {
            Some(reshape) if rank != Some(0) => {
                Restore::Reshape { reshape: Shape::from_slice(&reshape.shape), dims: Shape::from_slice(&output.dims) }
            }
            _ if rank.is_some_and(|rank| rank > 0) => Restore::Same,
            // What has any rank may turn out a scalar.
            _ => Restore::Scalar { dims: Shape::from_slice(&output.dims), is_declared: rank == Some(0) },
        };
        let name = Name::from(output.name.as_str());
        let renews_state = sequence::renews(config, &output.name);
        let data_type = data_type(&output.name, output.data_type)?;
        Ok(Output { name, data_type, restore, is_answered: true, renews_state })
    };
    let mut outputs: Vec<Output> = config.output.iter().map(output).collect::<Result<_>>()?;
    for state in sequence::states(config) {
        if outputs.iter().all(|output| *output.name != *state.output_name) {
            let (name, data_type) = (Name::from(state.output_name.as_str()), sequence::data_type(state)?);
            let restore = Restore::Same;
            outputs.push(Output { name, data_type, restore, is_answered: false, renews_state: true });
        }
    }
    Ok(outputs)
}

fn data_type(name: &str, number: i32) -> Result<DataType> {
    DataType::from_config(number).ok_or_else(|| Error::invalid_argument(format!("'{name}' must specify 'data_type'")))
}

fn terminated(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| Error::invalid_argument(format!("tensor name {name:?} contains a zero byte")))
}
