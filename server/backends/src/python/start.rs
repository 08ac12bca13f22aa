//! How workers of one model are started: the process, the import, `auto_complete_config`, `initialize`.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use server_core::{
    backend::{Device, Health, Host, ModelSource, Placement},
    config::{self, ModelConfig},
    error::{Error, Result},
};
use server_proto::inference::model_config::SchedulingChoice;

use super::{
    PythonBackend,
    decode::KnownOutput,
    exchange::Failure,
    interpreter::Interpreter,
    marshal::{Value, Writer},
    process::Process,
    processors,
    reload::Sources,
    shared::OfInstance,
    supervise::Workers,
    time_limits::Stage,
    wire::kind,
    worker::{Start, Worker},
};

/// Starts the workers of one model.
pub(super) struct Starter {
    pub(super) backend: Arc<PythonBackend>,
    pub(super) source: ModelSource,
    host: Weak<dyn Host>,
    code: Code,
    interpreter: Interpreter,
    config: Arc<ModelConfig>,
    outputs: Arc<[KnownOutput]>,
    /// The worker that completed the configuration: it becomes that of the first instance.
    first: Mutex<Option<Worker>>,
    pub(super) workers: Workers,
}

/// Where the class `TritonPythonModel` is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Code {
    /// Name of the module, e.g. `1.model`.
    pub(super) module: String,
    /// Folders that modules are looked for in, after the interpreter's own.
    pub(super) path: Vec<PathBuf>,
}

impl Starter {
    pub(super) fn new(
        backend: Arc<PythonBackend>,
        source: &ModelSource,
        host: &Weak<dyn Host>,
        code: Code,
        interpreter: Interpreter,
    ) -> Self {
        Self {
            backend,
            source: source.clone(),
            host: host.clone(),
            code,
            interpreter,
            config: Arc::default(),
            outputs: Arc::new([]),
            first: Mutex::default(),
            workers: Workers::default(),
        }
    }

    /// Takes the configuration as it will be served.
    pub(super) fn configure(&mut self, config: &Arc<ModelConfig>) {
        self.config = config.clone();
        self.outputs = KnownOutput::all_of(config);
    }

    /// Asks `auto_complete_config` of the model, if it has one.
    ///
    /// Errors: the model cannot be imported, or the function fails.
    pub(super) fn complete(&self, config: &mut ModelConfig) -> Result<()> {
        let mut worker = self.loaded_worker(&Abort::default())?;
        let mut message = Writer::default();
        message.tuple(3);
        message.int(kind::COMPLETE);
        message.str(&config::to_json(config).to_string());
        let mut normal = config.clone();
        config::normalize(&mut normal, &config::Machine::default());
        message.str(&config::to_json(&normal).to_string());
        let completed = worker.tell(Stage::AutoComplete, message, |value| match value {
            Value::Str(text) => config::from_json(text).map(Some).map_err(|error| {
                Error::internal(format!(
                    "auto_complete_config of '{}' made no valid configuration: {error}",
                    config.name
                ))
            }),
            _ => Ok(None),
        });
        if let Some(completed) = completed.map_err(load_error)? {
            *config = completed;
        }
        *self.first.lock() = Some(worker);
        Ok(())
    }

    /// Whether the model may answer a request any number of times.
    pub(super) fn is_decoupled(&self) -> bool {
        self.config.model_transaction_policy.is_some_and(|policy| policy.decoupled)
    }

    /// Whether a request gets another turn when the model asks for it.
    fn is_iterative(&self) -> bool {
        let Some(SchedulingChoice::SequenceBatching(batching)) = &self.config.scheduling_choice else { return false };
        batching.iterative_sequence
    }

    /// A worker that has imported the model.
    fn loaded_worker(&self, abort: &Abort) -> Result<Worker> {
        let stub = self.backend.stub_folder()?;
        let mut worker = Worker::start(&Start {
            interpreter: &self.interpreter,
            stub: &stub,
            source: &self.source,
            host: &self.host,
            memory: &self.backend.memory,
            pool: &self.backend.pool,
            time_limits: self.backend.time_limits,
            memory_limit: self.backend.memory_limit,
            has_extension: self.backend.has_extension,
        })?;
        abort.watch(worker.process());
        worker.begin().map_err(load_error)?;
        let mut message = Writer::default();
        message.tuple(2);
        message.int(kind::LOAD);
        message.begin_dict();
        message.str("name");
        message.str(&self.source.name);
        message.str("version");
        message.uint(self.source.version);
        message.str("folder");
        message.str(&self.source.model_dir.to_string_lossy());
        message.str("module");
        message.str(&self.code.module);
        message.str("path");
        message.tuple(self.code.path.len());
        self.code.path.iter().for_each(|folder| message.str(&folder.to_string_lossy()));
        message.end_dict();
        worker.tell(Stage::Import, message, |_| Ok(())).map_err(load_error)?;
        Ok(worker)
    }

    /// A worker whose model is initialized for that instance.
    ///
    /// Errors: the model cannot be imported, or `initialize` fails; or the start was aborted meanwhile.
    pub(super) fn ready_worker(&self, placement: &Placement, health: &Health, abort: &Abort) -> Result<Worker> {
        let first = self.first.lock().take();
        let mut worker = first.map_or_else(|| self.loaded_worker(abort), Ok)?;
        abort.watch(worker.process());
        if let Some(cores) = &placement.cores {
            processors::bind(worker.process(), cores)?; // it was started, and has started threads, before it was known whose it is
        }
        worker.shared.set_instance(OfInstance {
            name: placement.instance_name.clone(),
            outputs: self.outputs.clone(),
            health: health.clone(),
            is_decoupled: self.is_decoupled(),
        });
        if self.repeats_requests() {
            worker.shared.leases.copy_always();
        }
        let (kind_name, device) = match placement.device {
            Device::Cpu => ("CPU", 0),
            Device::Gpu(device) => ("GPU", device),
            Device::Model => ("MODEL", 0),
        };
        let mut message = Writer::default();
        message.tuple(3);
        message.int(kind::INITIALIZE);
        message.begin_dict();
        for (key, value) in [
            ("model_config", config::to_json(&self.config).to_string()),
            ("model_instance_kind", kind_name.to_owned()),
            ("model_instance_name", placement.instance_name.clone()),
            ("model_instance_device_id", device.to_string()),
            ("model_repository", self.source.model_dir.to_string_lossy().into_owned()),
            ("model_version", self.source.version.to_string()),
            ("model_name", self.source.name.clone()),
        ] {
            message.str(key);
            message.str(&value);
        }
        message.end_dict();
        message.begin_dict();
        message.str("outputs");
        message.tuple(self.outputs.len());
        self.outputs.iter().for_each(|output| message.str(&output.name));
        message.str("calls");
        message.uint(self.backend.calls);
        message.str("decoupled");
        message.bool(self.is_decoupled());
        message.str("iterative");
        message.bool(self.is_iterative());
        message.end_dict();
        let says_whether_ready = worker.tell(Stage::Initialize, message, |value| Ok(*value == Value::Bool(true)));
        if says_whether_ready.map_err(load_error)? {
            worker.open_probe(&self.workers.probes).map_err(load_error)?;
        }
        worker.enter(Stage::Execute)?;
        Ok(worker)
    }
}

impl Starter {
    /// The files of the model, if workers are replaced when those change.
    pub(super) fn sources(&self) -> Option<Sources> {
        self.backend.reloads.then(|| Sources::new(&self.code.path))
    }

    /// Whether a request may come to a worker again: its inputs must be as they were then.
    fn repeats_requests(&self) -> bool {
        matches!(&self.config.scheduling_choice,
            Some(SchedulingChoice::SequenceBatching(batching)) if batching.iterative_sequence)
    }
}

/// Ends a start that is under way when nobody wants its worker any more.
#[derive(Debug, Default)]
pub(super) struct Abort(Mutex<Aborted>);

#[derive(Debug, Default)]
struct Aborted {
    is_aborted: bool,
    process: Weak<Process>,
}

impl Abort {
    /// This is the process that the start is about.
    fn watch(&self, process: &Arc<Process>) {
        let mut aborted = self.0.lock();
        aborted.process = Arc::downgrade(process);
        if aborted.is_aborted {
            process.kill_group();
        }
    }

    /// Kills the process of the start, also if it is yet to come: the start fails.
    pub(super) fn abort(&self) {
        let mut aborted = self.0.lock();
        aborted.is_aborted = true;
        if let Some(process) = aborted.process.upgrade() {
            process.kill_group();
        }
    }
}

/// Why a model is not loaded.
fn load_error(failure: Failure) -> Error {
    match failure {
        Failure::Refused(text) => Error::internal(text),
        Failure::Gone => Error::internal("the Python worker is gone"),
        Failure::Lost(error) => error,
    }
}
