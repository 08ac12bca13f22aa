//! A plan file becomes an engine on a GPU.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use server_core::{
    backend::ModelSource,
    error::{Error, Result},
};

use super::{
    description::Description,
    header,
    raw::{Api, Engine, take_last_error},
    settings::Policy,
};
use crate::cuda::Gpu;

/// An engine with what it says of itself.
pub(super) struct Loaded {
    /// What it takes and gives.
    pub(super) description: Description,
    /// Ready to run.
    pub(super) engine: Arc<Engine>,
    // after the engine
    _held: Held,
    /// Runs on this GPU.
    pub(super) gpu: Arc<Gpu>,
}

impl Drop for Loaded {
    /// The engine is destroyed on its GPU.
    fn drop(&mut self) {
        let _ = self.gpu.enter();
    }
}

/// Memory of a GPU that a model holds, in a sum, until this is dropped.
pub(super) struct Held {
    sum: Arc<AtomicU64>,
    bytes: u64,
}

impl Held {
    /// Adds to a sum.
    pub(super) fn of(sum: &Arc<AtomicU64>, bytes: usize) -> Self {
        let bytes = bytes as u64;
        sum.fetch_add(bytes, Ordering::Relaxed);
        Self { sum: sum.clone(), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The file of that name in the folder of a version.
///
/// Errors: `Unavailable` if it is not there, or is no file.
pub(super) fn find(source: &ModelSource, name: &str) -> Result<PathBuf> {
    let path = source.version_dir.join(name);
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

/// Checks the beginning of a plan: that it is one, and of a version that this library may read.
///
/// Errors: `Unavailable` if it cannot be read, `InvalidArgument` if it is no such plan, with what to do.
pub(super) fn check(path: &Path, api: &Api, policy: Policy) -> Result<()> {
    let unreadable = |error: std::io::Error| Error::unavailable(format!("cannot read '{}': {error}", path.display()));
    let mut start = Vec::new();
    File::open(path).map_err(unreadable)?.take(header::LENGTH as u64).read_to_end(&mut start).map_err(unreadable)?;
    let name = path.display().to_string();
    header::check(header::read(&start, &name)?, api.version, policy.is_version_compatible, &name)
}

/// Reads a plan and makes it ready to run on a GPU. One after the other: TensorRT reads one plan at a time.
///
/// Errors: `Internal` in TensorRT's words with what to do, if the plan is damaged, for another GPU, or too large for this one.
pub(super) fn load(
    api: &'static Api,
    gpu: &Arc<Gpu>,
    dla_core: Option<i32>,
    path: &Path,
    policy: Policy,
    sum: &Arc<AtomicU64>,
) -> Result<Loaded> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    check(path, api, policy)?;
    let plan = std::fs::read(path)
        .map_err(|error| Error::unavailable(format!("cannot read '{}': {error}", path.display())))?;
    let _alone = ONE_AT_A_TIME.lock();
    gpu.enter().map_err(|error| Error::unavailable(format!("the GPU cannot be used: {error}")))?;
    take_last_error(); // of earlier calls
    let failed = |what: &str| {
        let words = take_last_error().unwrap_or_else(|| "TensorRT does not say why".into());
        Error::internal(format!("unable to create TensorRT {what}: {words}"))
    };
    let mut runtime = api.runtime().ok_or_else(|| failed("runtime"))?;
    if policy.is_version_compatible {
        runtime.allow_host_code();
    }
    if let Some(core) = dla_core {
        let count = runtime.dla_cores();
        if !(0..count).contains(&core) {
            return Err(Error::invalid_argument(format!(
                "unable to create TensorRT runtime with DLA Core ID: {core}, available number of DLA cores: {count}"
            )));
        }
        runtime.set_dla_core(core);
    }
    let engine = runtime.engine(&plan).ok_or_else(|| {
        let error = failed("engine");
        Error::internal(format!(
            "{} ('{}' is damaged, for another GPU or another version than TensorRT {}, or too large for this GPU: {})",
            error.message,
            path.display(),
            api.version,
            header::CURE
        ))
    })?;
    let description = Description::of(&engine)?;
    Ok(Loaded { description, engine: Arc::new(engine), _held: Held::of(sum, plan.len()), gpu: gpu.clone() })
}
