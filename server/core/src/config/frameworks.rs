//! Which words belong together: backend, platform and model file of each framework. One table; everything else that
//! pairs them reads it.

use super::{ModelConfig, Problem};

/// The platform of models that are graphs of other models.
pub(super) const ENSEMBLE: &str = "ensemble";

/// One kind of model file.
pub(super) struct Framework {
    /// Value of `backend`.
    pub(super) backend: &'static str,
    /// Values of `platform`, the usual one first; none if the backend allows any.
    pub(super) platforms: &'static [&'static str],
    /// Name of the model file in the version folder.
    pub(super) file: &'static str,
    /// Taken for the backend when neither platform nor file decides.
    pub(super) is_default: bool,
    /// Instances on the processor when the configuration names no count.
    pub(super) cpu_instances: i32,
}

/// Every framework, in the order in which a model folder is searched for their files.
///
/// Source: Triton model repository, "Model Files"; instance counts from "Instance Groups".
#[rustfmt::skip] // a table
pub(super) const FRAMEWORKS: [Framework; 8] = [
    Framework { backend: "tensorflow",  platforms: &["tensorflow_savedmodel"],        file: "model.savedmodel", is_default: false, cpu_instances: 2 },
    Framework { backend: "tensorflow",  platforms: &["tensorflow_graphdef"],          file: "model.graphdef",   is_default: false, cpu_instances: 2 },
    Framework { backend: "tensorrt",    platforms: &["tensorrt_plan"],                file: "model.plan",       is_default: true,  cpu_instances: 1 },
    Framework { backend: "onnxruntime", platforms: &["onnxruntime_onnx"],             file: "model.onnx",       is_default: true,  cpu_instances: 2 },
    Framework { backend: "openvino",    platforms: &[],                               file: "model.xml",        is_default: true,  cpu_instances: 1 },
    Framework { backend: "pytorch",     platforms: &["pytorch_libtorch", "libtorch"], file: "model.pt",         is_default: true,  cpu_instances: 1 },
    Framework { backend: "pytorch",     platforms: &["torch_aoti"],                   file: "model.pt2",        is_default: false, cpu_instances: 1 },
    Framework { backend: "python",      platforms: &[],                               file: "model.py",         is_default: true,  cpu_instances: 1 },
];

/// The frameworks of a backend; none for backends that are not in the table.
pub(super) fn of_backend(backend: &str) -> impl Iterator<Item = &'static Framework> {
    FRAMEWORKS.iter().filter(move |framework| framework.backend == backend)
}

/// The framework of a platform.
pub(super) fn of_platform(platform: &str) -> Option<&'static Framework> {
    FRAMEWORKS.iter().find(|framework| framework.platforms.contains(&platform))
}

/// The framework of a model file.
pub(super) fn of_file(file: &str) -> Option<&'static Framework> {
    FRAMEWORKS.iter().find(|framework| framework.file == file)
}

/// The backend that runs a model: `backend`, or the one `platform` belongs to. For an ensemble, `ensemble`.
pub fn backend_name(config: &ModelConfig) -> &str {
    if !config.backend.is_empty() {
        return &config.backend;
    }
    of_platform(&config.platform).map_or(&config.platform, |framework| framework.backend)
}

/// What is wrong with the pair of `platform` and `backend`, if anything.
pub(super) fn pair_problem(config: &ModelConfig) -> Option<Problem> {
    let ModelConfig { name, platform, backend, .. } = config;
    let problem = |path: &str, message: String| Some(Problem::new(path, message));
    if backend.is_empty() {
        return match platform.as_str() {
            ENSEMBLE => None,
            "" => problem("backend", format!("must specify 'platform' or 'backend' for '{name}'")),
            _ if of_platform(platform).is_some() => problem("backend", format!("must specify 'backend' for '{name}'")),
            _ => problem("platform", format!("unexpected platform type '{platform}' for {name}")),
        };
    }
    if platform == ENSEMBLE {
        let message = format!("Ensemble model '{name}' must have platform type '{ENSEMBLE}' and empty backend type");
        return problem("backend", message);
    }
    let mut pairs = of_backend(backend).flat_map(|framework| framework.platforms).peekable();
    if pairs.peek().is_none() || pairs.any(|known| known == platform) {
        return None; // a backend without platforms of its own allows any
    }
    problem("platform", format!("unexpected 'platform' and 'backend' pair, got:{platform}, {backend}"))
}

#[cfg(test)]
mod tests {
    use super::{backend_name, pair_problem};
    use crate::config::ModelConfig;

    #[track_caller]
    fn check(platform: &str, backend: &str, expected: Option<&str>) {
        let config =
            ModelConfig { name: "m".into(), platform: platform.into(), backend: backend.into(), ..Default::default() };
        assert_eq!(pair_problem(&config).map(|problem| problem.message).as_deref(), expected);
    }

    #[test]
    fn platform_and_backend_must_fit() {
        check("onnxruntime_onnx", "onnxruntime", None);
        check("libtorch", "pytorch", None);
        check("torch_aoti", "pytorch", None);
        check("", "python", None);
        check("anything", "python", None);
        check("anything", "of_my_own", None);
        check("ensemble", "", None);
        check(
            "tensorrt_plan",
            "onnxruntime",
            Some("unexpected 'platform' and 'backend' pair, got:tensorrt_plan, onnxruntime"),
        );
        check("", "tensorflow", Some("unexpected 'platform' and 'backend' pair, got:, tensorflow"));
        check("onnx", "", Some("unexpected platform type 'onnx' for m"));
        check("onnxruntime_onnx", "", Some("must specify 'backend' for 'm'"));
        check("", "", Some("must specify 'platform' or 'backend' for 'm'"));
        check(
            "ensemble",
            "python",
            Some("Ensemble model 'm' must have platform type 'ensemble' and empty backend type"),
        );
    }

    #[test]
    fn the_backend_is_known_by_either_word() {
        let name = |platform: &str, backend: &str| {
            let config = ModelConfig { platform: platform.into(), backend: backend.into(), ..Default::default() };
            backend_name(&config).to_owned()
        };
        assert_eq!(name("onnxruntime_onnx", ""), "onnxruntime");
        assert_eq!(name("", "python"), "python");
        assert_eq!(name("ensemble", ""), "ensemble");
    }
}
