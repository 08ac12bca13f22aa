//! Steps of loading that all native runtimes have.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use server_core::{
    backend::{Device, ModelSource},
    config::ModelConfig,
    error::{Error, Result},
};
use server_proto::inference::model_instance_group::Kind;

use crate::{cuda, dylib::LoadError};

/// The file to open for an instance on that device: the one that the configuration [names](named_file) or `default` in the version's
/// folder, or `default` in the folder of that name.
///
/// Errors: `Unavailable` if it is not there, or is no file: reading a pipe or a device would never end.
pub(crate) fn file(source: &ModelSource, config: &ModelConfig, default: &str, device: Device) -> Result<PathBuf> {
    let path = source.version_dir.join(named_file(config, device).unwrap_or(default));
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

/// The name that a configuration has for the model's file on that device, if it has one.
pub(crate) fn named_file(config: &ModelConfig, device: Device) -> Option<&str> {
    let capability = match device {
        Device::Gpu(number) if !config.cc_model_filenames.is_empty() => cuda::compute_capability(number),
        _ => None,
    };
    file_by_capability(config, capability.as_deref())
}

/// The same on a GPU of that compute capability: the file of `cc_model_filenames`, else `default_model_filename`.
pub(crate) fn file_by_capability<'a>(config: &'a ModelConfig, compute_capability: Option<&str>) -> Option<&'a str> {
    let by_capability = compute_capability.and_then(|capability| config.cc_model_filenames.get(capability));
    let name = by_capability.unwrap_or(&config.default_model_filename);
    (!name.is_empty()).then_some(name.as_str())
}

/// Where the first instance of a configuration runs: on its first GPU, if it has any.
pub(crate) fn first_device(config: &ModelConfig) -> Device {
    let on_gpu = config.instance_group.iter().find(|group| group.kind() == Kind::Gpu);
    on_gpu.map_or(Device::Cpu, |group| {
        Device::Gpu(group.gpus.first().and_then(|gpu| u32::try_from(*gpu).ok()).unwrap_or(0))
    })
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

#[cfg(test)]
mod tests {
    use server_core::config::from_text;

    use super::*;

    #[test]
    fn a_gpu_has_the_file_of_its_compute_capability_and_everybody_else_the_default() {
        let config =
            from_text("default_model_filename: 'any.pt' cc_model_filenames { key: '8.6' value: 'ampere.pt' }").unwrap();
        let of = |capability| file_by_capability(&config, capability);
        assert_eq!([of(Some("8.6")), of(Some("9.0")), of(None)], [Some("ampere.pt"), Some("any.pt"), Some("any.pt")]);
        assert_eq!(file_by_capability(&ModelConfig::default(), Some("8.6")), None);
        assert_eq!(named_file(&config, Device::Cpu), Some("any.pt"));
    }

    #[test]
    fn the_first_device_is_the_first_gpu_of_any() {
        let device = |groups: &str| first_device(&from_text(groups).unwrap());
        assert_eq!(device("instance_group { kind: KIND_CPU }"), Device::Cpu);
        assert_eq!(
            device("instance_group { kind: KIND_CPU } instance_group { kind: KIND_GPU gpus: [ 2, 0 ] }"),
            Device::Gpu(2)
        );
    }
}
