//! What a model's `parameters` and `optimization`, and `--backend-config=tensorflow`, ask of its sessions. Read and checked when the
//! model is loaded.
//!
//! Source: TensorFlow backend of Triton, "Parameters" and "Command-line Options".

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use prost::Message;
use serde_json::Value;
use server_core::{
    backend::{Device, ModelSource, Settings},
    config::ModelConfig,
    error::{Error, Result},
};

use super::messages::{GpuOptions, GraphOptions, OptimizerOptions, RewriterConfig, SessionConfig};
use crate::native::{
    operations,
    settings::{MOST_THREADS, integer, not_a_switch, number, switch, usable_threads},
};

/// `--backend-config=tensorflow,default-max-batch-size=` if it is not given.
const DEFAULT_MAX_BATCH_SIZE: usize = 4;

/// Tag of graphs that serve, if the configuration names none.
const SERVE: &str = "serve";

/// Which graph of a SavedModel, and which of its signatures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// `TF_GRAPH_TAG`.
    pub(super) tag: Option<String>,
    /// `TF_SIGNATURE_DEF`.
    pub(super) signature: Option<String>,
}

impl Chosen {
    /// What a configuration says.
    pub(super) fn read(config: &ModelConfig) -> Self {
        Self { tag: text(config, "TF_GRAPH_TAG"), signature: text(config, "TF_SIGNATURE_DEF") }
    }

    /// The tag to load.
    pub(super) fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or(SERVE)
    }
}

/// How sessions of one model are made.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SessionOptions {
    intra_op_threads: usize,
    inter_op_threads: usize,
    use_per_session_threads: bool,
    jit_level: i32,
    allow_soft_placement: bool,
    gpu_memory_fraction: f64,
    auto_mixed_precision: bool,
    /// Most instances that run one session.
    pub(super) most_sharing: usize,
    /// Operations to run before the first request, in order.
    pub(super) initial_operations: Vec<String>,
    /// Libraries with further operations.
    pub(super) operation_libraries: Vec<PathBuf>,
}

impl SessionOptions {
    /// Reads and checks all of them.
    ///
    /// Errors: `InvalidArgument` at the first that makes no sense, in Triton's words.
    pub(super) fn read(config: &ModelConfig, settings: &Settings, source: &ModelSource) -> Result<Self> {
        let most_sharing = match integer(config, "MAX_SESSION_SHARE_COUNT")? {
            None => 1,
            Some(count) => usize::try_from(count)
                .ok()
                .filter(|count| *count > 0)
                .ok_or_else(|| unfit(config, "parameter 'MAX_SESSION_SHARE_COUNT' must be positive number"))?,
        };
        Ok(Self {
            intra_op_threads: threads(config, "TF_NUM_INTRA_THREADS")?,
            inter_op_threads: threads(config, "TF_NUM_INTER_THREADS")?,
            use_per_session_threads: match text(config, "TF_USE_PER_SESSION_THREADS") {
                None => false,
                Some(value) => switch(&value).ok_or_else(|| not_a_switch("TF_USE_PER_SESSION_THREADS", &value))?,
            },
            jit_level: jit_level(config),
            allow_soft_placement: match settings.get("allow-soft-placement") {
                None => true,
                Some(value) => switch(value.trim()).ok_or_else(|| not_a_switch("allow-soft-placement", value))?,
            },
            gpu_memory_fraction: gpu_memory_fraction(settings)?,
            auto_mixed_precision: accelerators(config)?,
            most_sharing,
            initial_operations: initial_operations(config, source)?,
            operation_libraries: operations::libraries(config, &source.model_dir),
        })
    }

    /// The `ConfigProto` of a session on that device.
    pub(super) fn session_config(&self, device: Device) -> Vec<u8> {
        let int = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let on_gpu = matches!(device, Device::Gpu(_) | Device::Model);
        let config = SessionConfig {
            device_count: if on_gpu { [].into() } else { [("GPU".to_owned(), 0)].into() },
            intra_op_threads: int(self.intra_op_threads),
            inter_op_threads: int(self.inter_op_threads),
            gpu: Some(GpuOptions {
                per_process_memory_fraction: self.gpu_memory_fraction,
                allow_growth: self.gpu_memory_fraction == 0.0,
            }),
            allow_soft_placement: self.allow_soft_placement,
            use_per_session_threads: self.use_per_session_threads,
            graph: Some(GraphOptions {
                optimizer: Some(OptimizerOptions { global_jit_level: self.jit_level }),
                rewriter: (on_gpu && self.auto_mixed_precision).then_some(RewriterConfig { auto_mixed_precision: 1 }),
            }),
        };
        config.encode_to_vec()
    }
}

/// Most requests of a batch if a model does not say, and whether settings fit this backend.
///
/// Errors: `InvalidArgument` if it is no number.
pub(super) fn default_max_batch_size(settings: &Settings) -> Result<i32> {
    let size = number(settings, "default-max-batch-size")?.unwrap_or(DEFAULT_MAX_BATCH_SIZE);
    Ok(i32::try_from(size).unwrap_or(i32::MAX))
}

/// A parameter, `None` if it is absent or empty.
fn text(config: &ModelConfig, key: &str) -> Option<String> {
    let value = config.parameters.get(key)?.string_value.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

fn unfit(config: &ModelConfig, text: &str) -> Error {
    Error::invalid_argument(format!("{text} for TensorFlow model '{}'", config.name))
}

/// A number of threads; 0 or none are as many as this process may use.
fn threads(config: &ModelConfig, key: &str) -> Result<usize> {
    let count = integer(config, key)?.unwrap_or(0);
    let count =
        usize::try_from(count).map_err(|_| unfit(config, &format!("parameter '{key}' must be non-negative number")))?;
    Ok(if count == 0 { usable_threads() } else { count }.min(MOST_THREADS))
}

/// XLA's level: off below zero, and 2 for whatever is above 1.
fn jit_level(config: &ModelConfig) -> i32 {
    let graph = config.optimization.as_ref().and_then(|optimization| optimization.graph.as_ref());
    graph.map_or(0, |graph| graph.level.clamp(-1, 2))
}

fn gpu_memory_fraction(settings: &Settings) -> Result<f64> {
    let Some(value) = settings.get("gpu-memory-fraction") else { return Ok(0.0) };
    let fraction = value.trim().parse().ok().filter(|fraction| (0.0..=1.0).contains(fraction));
    fraction.ok_or_else(|| {
        let text = format!("unexpected value '{value}' of 'gpu-memory-fraction', expected a number from 0 to 1");
        Error::invalid_argument(text)
    })
}

/// Whether mixed precision is asked for. The others cannot be had through TensorFlow's C interface.
fn accelerators(config: &ModelConfig) -> Result<bool> {
    let asked = config.optimization.as_ref().and_then(|optimization| optimization.execution_accelerators.as_ref());
    let Some(asked) = asked else { return Ok(false) };
    if !asked.cpu_execution_accelerator.is_empty() {
        return Err(Error::invalid_argument("CPU Execution Accelerator is not supported in TensorFlow backend"));
    }
    let mut is_mixed = false;
    for accelerator in &asked.gpu_execution_accelerator {
        match &*accelerator.name {
            "auto_mixed_precision" => is_mixed = true,
            name @ ("tensorrt" | "gpu_io") => {
                let text = format!(
                    "Execution Accelerator '{name}' needs a GPU build of TensorFlow with C++ interfaces that this server does not call; leave it out"
                );
                return Err(unfit(config, &text));
            }
            name => {
                return Err(Error::invalid_argument(format!("unknown Execution Accelerator '{name}' is requested")));
            }
        }
    }
    Ok(is_mixed)
}

/// The operations that `TF_INIT_OPS_FILE` lists: a file in the version's folder, or in that of the model.
fn initial_operations(config: &ModelConfig, source: &ModelSource) -> Result<Vec<String>> {
    let Some(name) = text(config, "TF_INIT_OPS_FILE") else { return Ok(Vec::new()) };
    let wrong =
        |reason: &str| Error::invalid_argument(format!("'TF_INIT_OPS_FILE' of model '{}': {reason}", config.name));
    if !Path::new(&name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(wrong(&format!("'{name}' leads out of the folder of the model")));
    }
    let own = source.version_dir.join(&name);
    let path = if own.exists() { own } else { source.model_dir.join(&name) };
    let shown = path.display();
    let text = fs::read_to_string(&path).map_err(|error| wrong(&format!("unable to read '{shown}': {error}")))?;
    let content: Value =
        serde_json::from_str(&text).map_err(|error| wrong(&format!("'{shown}' is not JSON: {error}")))?;
    let names = content.get("init_ops").and_then(Value::as_array);
    let names = names.and_then(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
    names.ok_or_else(|| wrong(&format!("'{shown}' has no list 'init_ops' of names of operations")))
}

#[cfg(test)]
mod tests {
    use server_core::config::from_text;

    use super::*;

    fn source(folder: &Path) -> ModelSource {
        ModelSource { model_dir: folder.into(), version_dir: folder.join("1"), name: "m".into(), version: 1 }
    }

    #[track_caller]
    fn read(text: &str, settings: &[(&str, &str)]) -> Result<SessionOptions> {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        SessionOptions::read(
            &from_text(&format!("name: 'm' {text}")).unwrap(),
            &settings,
            &source(Path::new("/nowhere")),
        )
    }

    fn parameter(key: &str, value: &str) -> String {
        format!("parameters {{ key: '{key}' value {{ string_value: '{value}' }} }} ")
    }

    fn config(options: &SessionOptions, device: Device) -> SessionConfig {
        SessionConfig::decode(&*options.session_config(device)).unwrap()
    }

    #[test]
    fn parameters_reach_the_session() {
        let text = parameter("TF_NUM_INTRA_THREADS", "2")
            + &parameter("TF_NUM_INTER_THREADS", "3")
            + &parameter("TF_USE_PER_SESSION_THREADS", "On")
            + &parameter("MAX_SESSION_SHARE_COUNT", "4");
        let options = read(&text, &[("allow-soft-placement", "false"), ("gpu-memory-fraction", "0.5")]).unwrap();
        let made = config(&options, Device::Gpu(0));
        assert_eq!((made.intra_op_threads, made.inter_op_threads, options.most_sharing), (2, 3, 4));
        assert!(made.use_per_session_threads && !made.allow_soft_placement && made.device_count.is_empty());
        assert_eq!(made.gpu, Some(GpuOptions { per_process_memory_fraction: 0.5, allow_growth: false }));
    }

    #[test]
    fn without_parameters_it_has_the_threads_of_the_process_and_no_gpu_on_the_processor() {
        let made = config(&read("", &[]).unwrap(), Device::Cpu);
        assert_eq!(usize::try_from(made.intra_op_threads).unwrap(), usable_threads());
        assert_eq!(made.device_count["GPU"], 0);
        assert!(made.allow_soft_placement && made.gpu.unwrap().allow_growth);
    }

    #[test]
    fn the_level_of_the_graph_switches_xla() {
        let level = |text: &str| {
            config(&read(text, &[]).unwrap(), Device::Cpu).graph.unwrap().optimizer.unwrap().global_jit_level
        };
        let of = |number: i32| level(&format!("optimization {{ graph {{ level: {number} }} }}"));
        assert_eq!((level(""), of(-1), of(0), of(1), of(2), of(7)), (0, -1, 0, 1, 2, 2));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |text: &str, settings: &[(&str, &str)], expect: &str| {
            assert_eq!(read(text, settings), Err(Error::invalid_argument(expect.to_owned())));
        };
        check(
            &parameter("MAX_SESSION_SHARE_COUNT", "0"),
            &[],
            "parameter 'MAX_SESSION_SHARE_COUNT' must be positive number for TensorFlow model 'm'",
        );
        check(
            &parameter("TF_NUM_INTRA_THREADS", "-1"),
            &[],
            "parameter 'TF_NUM_INTRA_THREADS' must be non-negative number for TensorFlow model 'm'",
        );
        check(
            &parameter("TF_USE_PER_SESSION_THREADS", "perhaps"),
            &[],
            "failed to convert 'perhaps' to boolean for 'TF_USE_PER_SESSION_THREADS', expected '0' or '1'",
        );
        check(
            "",
            &[("gpu-memory-fraction", "2")],
            "unexpected value '2' of 'gpu-memory-fraction', expected a number from 0 to 1",
        );
        let accelerator = |kind: &str, name: &str| {
            format!(
                "optimization {{ execution_accelerators {{ {kind}_execution_accelerator: {{ name: '{name}' }} }} }}"
            )
        };
        check(&accelerator("cpu", "xla"), &[], "CPU Execution Accelerator is not supported in TensorFlow backend");
        check(&accelerator("gpu", "magic"), &[], "unknown Execution Accelerator 'magic' is requested");
        let refused = read(&accelerator("gpu", "tensorrt"), &[]).unwrap_err();
        assert!(refused.message.starts_with("Execution Accelerator 'tensorrt' needs a GPU build"), "{refused:?}");
        assert!(read(&accelerator("gpu", "auto_mixed_precision"), &[]).unwrap().auto_mixed_precision);
    }

    #[test]
    fn initial_operations_come_from_the_version_or_else_the_model() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("1")).unwrap();
        let config = from_text(&format!("name: 'm' {}", parameter("TF_INIT_OPS_FILE", "init.json"))).unwrap();
        let read = || initial_operations(&config, &source(folder.path()));
        assert!(read().unwrap_err().message.contains("unable to read"), "{:?}", read());
        fs::write(folder.path().join("init.json"), r#"{"init_ops": ["a"]}"#).unwrap();
        assert_eq!(read().unwrap(), ["a"]);
        fs::write(folder.path().join("1/init.json"), r#"{"init_ops": ["b", "c"]}"#).unwrap();
        assert_eq!(read().unwrap(), ["b", "c"]);
        fs::write(folder.path().join("1/init.json"), r#"{"init_ops": "b"}"#).unwrap();
        assert!(read().unwrap_err().message.ends_with("has no list 'init_ops' of names of operations"), "{:?}", read());
        let out = from_text(&parameter("TF_INIT_OPS_FILE", "../init.json")).unwrap();
        let refused = initial_operations(&out, &source(folder.path())).unwrap_err();
        assert!(refused.message.ends_with("'../init.json' leads out of the folder of the model"), "{refused:?}");
    }
}
