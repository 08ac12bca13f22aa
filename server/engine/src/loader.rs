//! One version from its folder to running instances: complete, normalise, verify, open, start. Blocks its thread.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use server_core::{
    backend::{Backend, Device, ModelSource},
    config::{self, ModelConfig},
    error::{Error, Result},
    interface::{Interface, Labels},
};

use crate::{
    machine::Machine,
    model::{LoadedModel, Parts, placements},
    repository,
};

/// What a load works with.
pub(crate) struct Loader {
    backends: BTreeMap<&'static str, Arc<dyn Backend>>,
    auto_complete: bool,
    gpu_fallback: bool,
}

/// One version to load.
pub(crate) struct VersionToLoad<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: u64,
    pub(crate) model_dir: &'a Path,
    /// As written by the user; everything else is filled in here.
    pub(crate) config: &'a ModelConfig,
}

impl Loader {
    pub(crate) fn new(backends: Vec<Arc<dyn Backend>>, auto_complete: bool, gpu_fallback: bool) -> Self {
        Self {
            backends: backends.into_iter().map(|backend| (backend.name(), backend)).collect(),
            auto_complete,
            gpu_fallback,
        }
    }

    /// Loads one version and starts its instances.
    ///
    /// Errors: all problems of the configuration at once, or what the backend says.
    pub(crate) fn load(
        &self,
        target: &VersionToLoad<'_>,
        machine: &Machine,
        files: Option<&Arc<tempfile::TempDir>>,
    ) -> Result<LoadedModel> {
        let began = Instant::now();
        let version_dir = target.model_dir.join(target.version.to_string());
        let source = ModelSource {
            model_dir: target.model_dir.to_owned(),
            version_dir: version_dir.clone(),
            name: target.name.to_owned(),
            version: target.version,
        };
        let mut config = target.config.clone();
        config::complete(&mut config, target.name, &file_names(&version_dir))?;
        let backend = self.backend(config::backend_name(&config))?;
        if self.auto_complete {
            backend.complete(&source, &mut config)?;
        }
        if self.gpu_fallback {
            let groups = config::run_gpu_groups_on_cpu(&mut config, &machine.for_config());
            if !groups.is_empty() {
                tracing::warn!(
                    "model '{}' is configured for GPUs and this machine has none: {} on the CPU (--gpu-fallback=cpu)",
                    target.name,
                    if let [only] = groups.as_slice() {
                        format!("{only} runs")
                    } else {
                        format!("{} run", groups.join(", "))
                    }
                );
            }
        }
        config::normalize(&mut config, &machine.for_config());
        let problems = config::verify(&config, target.name, &machine.for_config());
        if !problems.is_empty() {
            return Err(config::problems_error(target.name, &problems));
        }
        let unsupported = config::unsupported_fields(&config);
        if !unsupported.is_empty() {
            let fields = unsupported.join(", ");
            tracing::warn!("model '{}' sets fields that this server does not support: {fields}", target.name);
        }
        let interface = Interface::new(&config, target.version, labels(&config, target.model_dir)?)?;
        let config = Arc::new(config);
        let model = backend.load(&source, &config)?;
        let placements = placements(&config);
        let gpu_uuid = placements.iter().find_map(|placement| match placement.device {
            Device::Gpu(gpu) => machine.gpu_uuid(gpu).map(str::to_owned),
            Device::Cpu | Device::Model => None,
        });
        LoadedModel::start(Parts { interface, config, model, placements, gpu_uuid, files: files.cloned() }, began)
    }

    fn backend(&self, name: &str) -> Result<&dyn Backend> {
        self.backends.get(name).map(|backend| &**backend).ok_or_else(|| {
            let known: Vec<_> = self.backends.keys().copied().collect();
            Error::invalid_argument(format!(
                "unable to find backend library for backend '{name}', try specifying runtime on the model configuration. \
                 This server has: {}.",
                known.join(", ")
            ))
        })
    }
}

fn file_names(version_dir: &Path) -> Vec<String> {
    // A version without a folder has no files; the backend says what it misses.
    repository::names(version_dir).unwrap_or_default()
}

/// Class names of the outputs that have a label file.
fn labels(config: &ModelConfig, model_dir: &Path) -> Result<Labels> {
    let with_file = config.output.iter().filter(|output| !output.label_filename.is_empty());
    with_file.map(|output| Ok((output.name.clone(), repository::labels(model_dir, &output.label_filename)?))).collect()
}

/// Writes files given with a load request into a folder of their own.
///
/// Errors: a path leaves the folder, or names a folder that another path needs as one.
pub(crate) fn write_files(files: &[(String, Vec<u8>)]) -> Result<tempfile::TempDir> {
    let internal =
        |error: std::io::Error| Error::internal(format!("cannot keep the files of the load request: {error}"));
    let folder = tempfile::Builder::new().prefix("tritonserver-model-").tempdir().map_err(internal)?;
    for (name, content) in files {
        let path = folder.path().join(inside(name)?);
        if path.is_dir() {
            return Err(Error::invalid_argument(format!(
                "Invalid file parameter '{name}', directory has been created as a file"
            )));
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(internal)?;
        }
        std::fs::write(&path, content).map_err(internal)?;
    }
    Ok(folder)
}

fn inside(name: &str) -> Result<PathBuf> {
    use std::path::Component;
    let mut normalized = PathBuf::new();
    let mut escapes = name.is_empty();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => normalized.push(part),
            Component::CurDir => {}
            Component::ParentDir => escapes |= !normalized.pop(),
            Component::RootDir | Component::Prefix(_) => escapes = true,
        }
    }
    if escapes || normalized.as_os_str().is_empty() {
        return Err(Error::invalid_argument(format!(
            "Invalid file parameter '{name}' with normalized path '{}' must stay within model directory.",
            normalized.display()
        )));
    }
    Ok(normalized)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_parameter_cannot_leave_its_folder() {
        assert_eq!(inside("1/./model.onnx").unwrap(), PathBuf::from("1/model.onnx"));
        assert_eq!(inside("a/../1/model.onnx").unwrap(), PathBuf::from("1/model.onnx"));
        for bad in ["../model.onnx", "/etc/passwd", "1/../../x", "", "."] {
            assert!(inside(bad).is_err(), "{bad}");
        }
    }
}
