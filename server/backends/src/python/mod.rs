//! The `python` backend: runs the class `TritonPythonModel` of a `model.py`, each instance in a process of its own, which
//! is started with the interpreter of the settings or of the model. See `wire.rs` for what server and worker say to each other.
//!
//! Source: Triton Python backend.

mod alone;
mod batch_time;
mod busy;
mod cache;
mod calls;
mod channel;
mod decode;
mod encode;
mod environment;
mod exchange;
mod inline;
mod instance;
mod interpreter;
mod lines;
mod marshal;
mod memory;
mod memory_limit;
mod model;
mod monitor;
mod open_requests;
mod probe;
mod process;
mod processors;
mod recent_output;
mod reload;
mod requirements;
mod ring;
mod rings;
mod run;
mod settings;
mod several;
mod shared;
mod spin;
mod start;
mod stub_files;
mod supervise;
mod time_limits;
mod tool;
mod wire;
mod worker;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use server_core::{
    backend::{Backend, Host, Model, ModelSource, Settings},
    config::ModelConfig,
    error::{Error, Result},
};
use server_shm::{Limits, SegmentPool};

use self::{
    model::PythonModel,
    settings::Memory,
    start::{Code, Starter},
    time_limits::TimeLimits,
};

/// The file with the model's class, unless the configuration names another; as `runtime`, code in Python for models of a backend.
pub(crate) const MODEL_FILE: &str = "model.py";

/// The backend whose models may be written in Python, and the module of the stub that runs those.
const PYTORCH: (&str, &str) = ("pytorch", "triton_pytorch_backend");

/// The backend. Its settings are read when the first model is opened.
pub(crate) fn backend(settings: Settings) -> Arc<dyn Backend> {
    let (settings, opened) = (Arc::new(settings), Arc::default());
    Arc::new(Python { name: "python".into(), class: Class::OfModel, settings, opened })
}

/// Kills all workers, each with the processes that its model has started.
pub(crate) fn kill_processes() {
    process::kill_all();
}

struct Python {
    name: String,
    class: Class,
    settings: Arc<Settings>,
    opened: Arc<parking_lot::Mutex<Option<Arc<PythonBackend>>>>,
}

/// Where the class `TritonPythonModel` lies.
enum Class {
    /// In each model.
    OfModel,
    /// In a folder: all models of the backend share it.
    InFolder(PathBuf),
    /// In that module of the stub, which has the model's own files run.
    InStub(&'static str),
}

/// What all Python models share.
struct PythonBackend {
    memory: Memory,
    /// Calls that an instance may have under way.
    calls: u64,
    time_limits: TimeLimits,
    /// Bytes that a worker may use.
    memory_limit: Option<u64>,
    /// Whether models are imported anew when their files change.
    reloads: bool,
    /// Whether workers use the extension module.
    has_extension: bool,
    pool: Arc<SegmentPool>,
    cache: Option<String>,
    /// Where the worker's program may lie.
    stub_places: Vec<PathBuf>,
}

impl PythonBackend {
    fn new(settings: &Settings) -> Result<Self> {
        let unknown = settings::unknown(settings);
        if !unknown.is_empty() {
            tracing::warn!("unknown settings of --backend-config=python are ignored: {}", unknown.join(", "));
        }
        let memory = settings::memory(settings)?;
        let limits = Limits {
            name_prefix: memory.prefix.clone(),
            smallest: memory.smallest,
            step: memory.step,
            total: memory.total,
            // a small container has no 256 MiB to lie idle
            idle: Limits::default().idle.min(memory.total / 4),
            idle_for: memory.idle_for,
        };
        let backend_directory = settings.get("backend-directory").map(Path::new);
        Ok(Self {
            memory,
            calls: settings::calls(settings)?,
            time_limits: TimeLimits::new(settings)?,
            memory_limit: memory_limit::bytes(settings)?,
            reloads: reload::is_wanted(settings)?,
            has_extension: settings::has_extension(settings)?,
            pool: SegmentPool::new(limits),
            cache: settings.get(interpreter::CACHE_SETTING).cloned(),
            stub_places: stub_files::places(std::env::current_exe().ok().as_deref(), backend_directory),
        })
    }

    /// The folder with the worker's program.
    fn stub_folder(&self) -> Result<PathBuf> {
        stub_files::folder(stub_files::FILES, &self.stub_places, || cache::folder(self.cache.as_deref()))
            .map_err(|error| Error::internal(error.to_string()))
    }
}

impl Python {
    fn opened(&self) -> Result<Arc<PythonBackend>> {
        let mut opened = self.opened.lock();
        if let Some(opened) = &*opened {
            return Ok(opened.clone());
        }
        let backend = Arc::new(PythonBackend::new(&self.settings)?);
        *opened = Some(backend.clone());
        Ok(backend)
    }
}

impl Python {
    fn is_of_models(&self) -> bool {
        matches!(self.class, Class::OfModel)
    }

    /// The same under another name, with the class in another place.
    fn with_class(&self, name: &str, class: Class) -> Arc<dyn Backend> {
        let (settings, opened) = (self.settings.clone(), self.opened.clone());
        Arc::new(Self { name: name.into(), class, settings, opened })
    }

    /// Where the class of a model lies.
    ///
    /// Errors: there is no such file.
    /// Source: Triton Python backend; "Python-based Backends" for one whose models share the class.
    fn code(&self, source: &ModelSource, config: &ModelConfig) -> Result<Code> {
        let of_model = vec![source.version_dir.clone(), source.model_dir.clone()];
        match &self.class {
            Class::OfModel => {}
            Class::InFolder(folder) => return Ok(Code { module: "model".into(), path: vec![folder.clone()] }),
            Class::InStub(module) => return Ok(Code { module: (*module).into(), path: of_model }),
        }
        let file = if config.default_model_filename.is_empty() { MODEL_FILE } else { &config.default_model_filename };
        if !source.version_dir.join(file).is_file() {
            return Err(Error::internal(format!(
                "Python model file not found: '{}' does not exist",
                source.version_dir.join(file).display()
            )));
        }
        let stem = file
            .strip_suffix(".py")
            .ok_or_else(|| Error::internal(format!("Model name must end with '.py'. Model name is \"{file}\".")))?;
        Ok(Code { module: format!("{}.{stem}", source.version), path: of_model })
    }
}

impl Backend for Python {
    fn name(&self) -> &str {
        &self.name
    }

    fn library(&self) -> String {
        if self.is_of_models() { "libtriton_python.so".into() } else { MODEL_FILE.into() }
    }

    fn with_code(&self, name: &str, folder: &Path) -> Option<Arc<dyn Backend>> {
        folder.join(MODEL_FILE).is_file().then(|| self.with_class(name, Class::InFolder(folder.into())))
    }

    fn with_runtime(&self, name: &str, runtime: &str) -> Option<Arc<dyn Backend>> {
        let (of_pytorch, module) = PYTORCH;
        (name == of_pytorch && runtime == MODEL_FILE).then(|| self.with_class(name, Class::InStub(module)))
    }

    fn open(
        &self,
        source: &ModelSource,
        config: &mut ModelConfig,
        may_complete: bool,
        host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        let code = self.code(source, config)?;
        if !self.is_of_models() {
            config.runtime = MODEL_FILE.into(); // as Triton says of such a backend
        }
        settings::check_input_placement(config)?;
        let interpreter = interpreter::of_model(&self.settings, source, config)?;
        let starter = Starter::new(self.opened()?, source, host, code, interpreter);
        if may_complete {
            starter.complete(config)?;
        }
        Ok(Box::new(PythonModel { starter: Arc::new(starter) }))
    }
}
