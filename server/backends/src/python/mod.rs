//! The `python` backend: runs the class `TritonPythonModel` of a `model.py`, each instance in a process of its own, which
//! is started with the interpreter of the settings or of the model. See `wire.rs` for what server and worker say to each other.
//!
//! Source: Triton Python backend.

mod attendant;
#[allow(dead_code, reason = "environments and supervision of workers use the rest")]
mod cache;
mod channel;
mod decode;
mod encode;
mod instance;
#[allow(dead_code, reason = "environments and supervision of workers use the rest")]
mod interpreter;
#[allow(dead_code, reason = "environments and supervision of workers use the rest")]
mod lines;
mod marshal;
mod memory;
mod model;
#[allow(dead_code, reason = "environments and supervision of workers use the rest")]
mod process;
mod run;
mod settings;
mod stub_files;
#[allow(dead_code, reason = "not every message is sent yet")]
mod wire;
mod worker;

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
};

use server_core::{
    backend::{Backend, Host, Model, ModelSource, Settings},
    config::ModelConfig,
    error::{Error, Result},
};
use server_shm::{Limits, SegmentPool};

use self::{
    model::{Code, PythonModel},
    settings::Memory,
};

/// The backend. Its settings are read when the first model is opened.
pub(crate) fn backend(settings: Settings) -> Arc<dyn Backend> {
    Arc::new(Python { settings, opened: parking_lot::Mutex::default() })
}

struct Python {
    settings: Settings,
    opened: parking_lot::Mutex<Option<Arc<PythonBackend>>>,
}

/// What all Python models share.
struct PythonBackend {
    memory: Memory,
    pool: Arc<SegmentPool>,
    cache: Option<String>,
}

impl PythonBackend {
    fn new(settings: &Settings) -> Result<Self> {
        let memory = settings::memory(settings)?;
        let limits = Limits {
            name_prefix: memory.prefix.clone(),
            smallest: memory.smallest,
            step: memory.step,
            ..Limits::default()
        };
        Ok(Self { memory, pool: SegmentPool::new(limits), cache: settings.get("cache-directory").cloned() })
    }

    /// The folder with the worker's program.
    fn stub_folder(&self) -> Result<PathBuf> {
        let places = stub_files::places(std::env::current_exe().ok().as_deref(), None);
        stub_files::folder(stub_files::FILES, &places, || cache::folder(self.cache.as_deref()))
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

impl Backend for Python {
    fn name(&self) -> &str {
        "python"
    }

    fn open(
        &self,
        source: &ModelSource,
        config: &mut ModelConfig,
        may_complete: bool,
        _host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        let file = if config.default_model_filename.is_empty() { "model.py" } else { &config.default_model_filename };
        if !source.version_dir.join(file).is_file() {
            return Err(Error::internal(format!(
                "Python model file not found: '{}' does not exist",
                source.version_dir.join(file).display()
            )));
        }
        let stem = file.strip_suffix(".py").unwrap_or(file);
        let code = Code {
            module: format!("{}.{stem}", source.version),
            path: vec![source.version_dir.clone(), source.model_dir.clone()],
        };
        let interpreter = interpreter::of_settings(&self.settings)?;
        let model = PythonModel::new(self.opened()?, source, code, interpreter);
        if may_complete {
            model.complete(config)?;
        }
        Ok(Box::new(model))
    }
}
