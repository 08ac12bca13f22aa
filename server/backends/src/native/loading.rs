//! Steps of loading that all native runtimes have.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use server_core::{
    backend::ModelSource,
    config::ModelConfig,
    error::{Error, Result},
};

use crate::dylib::LoadError;

/// The file to open: `default_model_filename` or `default` in the version's folder, or `default` in the folder of
/// that name.
///
/// Errors: `Unavailable` if it is not there, or is no file: reading a pipe or a device would never end.
pub(crate) fn file(source: &ModelSource, config: &ModelConfig, default: &str) -> Result<PathBuf> {
    let name = Some(config.default_model_filename.as_str()).filter(|name| !name.is_empty()).unwrap_or(default);
    let path = source.version_dir.join(name);
    let path = if path.is_dir() { path.join(default) } else { path };
    match path.metadata() {
        Ok(found) if found.is_file() => Ok(path),
        Ok(_) => Err(not_regular(source, &path)),
        Err(_) => {
            let text = format!("unable to find '{}' for model instance '{}'", path.display(), source.name);
            Err(Error::unavailable(text))
        }
    }
}

/// The error of a model one of whose files is none: a folder, a pipe or a device.
pub(crate) fn not_regular(source: &ModelSource, path: &Path) -> Error {
    Error::unavailable(format!("'{}' for model '{}' is not a regular file", path.display(), source.name))
}

/// Runs a step of loading so that a mistake in it costs this model and nothing else.
pub(crate) fn guarded<T>(backend: &str, model: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let failed = || Error::internal(format!("backend '{backend}' failed inside while it loaded model '{model}'"));
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| Err(failed()))
}

/// The error of a model whose runtime cannot be opened, in Triton's words.
pub(crate) fn without_library(backend: &str, error: &LoadError) -> Error {
    match error {
        LoadError::NotFound { .. } => {
            Error::invalid_argument(format!("unable to find backend library for backend '{backend}': {error}"))
        }
        LoadError::Refused { .. } | LoadError::Unsuitable { .. } => {
            Error::internal(format!("unable to load backend library for backend '{backend}': {error}"))
        }
    }
}
