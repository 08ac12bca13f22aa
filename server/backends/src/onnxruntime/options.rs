//! Session options of a model: from its `parameters` and `optimization`, and from `--backend-config=onnxruntime`. Read
//! and checked when the model is loaded, applied when each instance makes its session.
//!
//! Source: ONNX Runtime backend of Triton, "Model Config Options" and "Command-line Options".

use std::path::{Component, Path, PathBuf};

use ort::{
    environment::Environment,
    ep,
    session::{
        RunOptions, Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
};
use server_core::{
    backend::{Device, Settings},
    config::ModelConfig,
    error::{Error, Result},
};

use super::{library::Runtime, raw::Failure};
use crate::native::{
    operations,
    settings::{MOST_THREADS, integer, not_a_switch, number, share, switch, usable_threads, wrong},
};

/// The parameter, and option of a run, that says which arenas give back what they do not need, after each run.
const SHRINKAGE: &str = "memory.enable_memory_arena_shrinkage";

/// One arena, by the device whose memory it hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ArenaOf {
    Cpu(u32),
    Gpu(u32),
}

impl ArenaOf {
    fn text(self) -> String {
        match self {
            Self::Cpu(id) => format!("cpu:{id}"),
            Self::Gpu(id) => format!("gpu:{id}"),
        }
    }
}

/// Arenas as ONNX Runtime lists them: `cpu:0;gpu:0`.
fn arenas(list: &str) -> Result<Vec<ArenaOf>> {
    let one = |entry: &str| {
        let (device, id) = entry.trim().split_once(':')?;
        let id = id.parse().ok()?;
        match device {
            "cpu" => Some(ArenaOf::Cpu(id)),
            "gpu" => Some(ArenaOf::Gpu(id)),
            _ => None,
        }
    };
    let entries = list.split(';').filter(|entry| !entry.trim().is_empty());
    entries.map(|entry| one(entry).ok_or_else(|| wrong(SHRINKAGE, list, "devices such as 'cpu:0;gpu:0'"))).collect()
}

/// How to make sessions of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionOptions {
    intra_op_threads: usize,
    inter_op_threads: usize,
    is_parallel: bool,
    memory_arena: Option<bool>,
    memory_pattern: Option<bool>,
    device_allocator_for_initializers: Option<bool>,
    arena_shrinkage: Vec<ArenaOf>,
    graph_level: i32,
    operator_libraries: Vec<PathBuf>,
}

impl SessionOptions {
    /// Reads them. A count of 0 means this instance's share of what the process may use.
    ///
    /// Errors: `InvalidArgument` with parameter, value and what was expected.
    pub(super) fn read(config: &ModelConfig, settings: &Settings, model_dir: &Path) -> Result<Self> {
        let parameter = |key: &str| config.parameters.get(key).map(|value| value.string_value.trim());
        let threads = |key: &str| -> Result<usize> {
            // A negative number means no number, as in Triton.
            let own = integer(config, key)?.map(|count| usize::try_from(count).unwrap_or(0));
            let count = own.or(number(settings, key)?);
            if let Some(count) = count.filter(|count| *count > MOST_THREADS) {
                return Err(wrong(key, &count.to_string(), &format!("at most {MOST_THREADS} threads")));
            }
            Ok(count.filter(|count| *count > 0).unwrap_or_else(|| share(usable_threads(), config)))
        };
        let switch = |key: &str| match parameter(key) {
            None => Ok(None),
            Some(value) => switch(value).ok_or_else(|| not_a_switch(key, value)).map(Some),
        };
        let execution_mode = integer(config, "execution_mode")?.unwrap_or(0);
        if !matches!(execution_mode, 0 | 1) {
            return Err(Error::invalid_argument(format!(
                "Invalid configuration value provided. Expected values for  execution_mode are 0 or 1 but got {execution_mode} ."
            )));
        }
        let level = config.optimization.as_ref().and_then(|optimization| optimization.graph.as_ref());
        Ok(Self {
            intra_op_threads: threads("intra_op_thread_count")?,
            inter_op_threads: threads("inter_op_thread_count")?,
            is_parallel: execution_mode == 1,
            memory_arena: switch("enable_mem_arena")?,
            memory_pattern: switch("enable_mem_pattern")?,
            device_allocator_for_initializers: switch("session.use_device_allocator_for_initializers")?,
            arena_shrinkage: parameter(SHRINKAGE).map_or_else(|| Ok(Vec::new()), arenas)?,
            graph_level: level.map_or(0, |graph| graph.level),
            operator_libraries: operations::libraries(config, model_dir),
        })
    }

    /// A session that is about to be made, without execution providers.
    ///
    /// Errors: a library of operators cannot be opened or has none; `Internal` in ONNX Runtime's words.
    pub(super) fn builder(&self, runtime: &Runtime) -> Result<SessionBuilder> {
        let builder = self.without_operators(runtime)?;
        with_operators(builder, &self.operator_libraries)
    }

    fn without_operators(&self, runtime: &Runtime) -> std::result::Result<SessionBuilder, Failure> {
        let mut builder = Session::builder(&runtime.environment)?
            .with_optimization_level(self.optimization_level())?
            .with_parallel_execution(self.is_parallel)?;
        if !runtime.has_global_threads {
            // Threads that spin while they wait take processor time from other models.
            builder = builder
                .with_intra_threads(self.intra_op_threads)?
                .with_inter_threads(self.inter_op_threads)?
                .with_config_entry("session.intra_op.allow_spinning", "0")?
                .with_config_entry("session.inter_op.allow_spinning", "0")?;
        }
        if runtime.has_shared_arena {
            builder = builder.with_env_allocators()?;
        }
        if let Some(is_on) = self.memory_arena {
            let arena = ep::CPU::default().with_arena_allocator(is_on).build().error_on_failure();
            builder = builder.with_execution_providers([arena])?;
        }
        if let Some(is_on) = self.memory_pattern {
            builder = builder.with_memory_pattern(is_on)?;
        }
        if let Some(is_on) = self.device_allocator_for_initializers {
            let key = "session.use_device_allocator_for_initializers";
            builder = builder.with_config_entry(key, if is_on { "1" } else { "0" })?;
        }
        Ok(builder)
    }

    /// Options of every run of an instance on that device, if there are any.
    pub(super) fn run_options(&self, device: Device) -> std::result::Result<Option<RunOptions>, Failure> {
        let arenas = self.shrinking(device);
        if arenas.is_empty() {
            return Ok(None);
        }
        let mut options = RunOptions::new()?;
        options.set(SHRINKAGE, arenas)?;
        Ok(Some(options))
    }

    /// The arenas that a session on that device has: naming another one would fail every run.
    fn shrinking(&self, device: Device) -> String {
        let has = |arena: &&ArenaOf| match arena {
            ArenaOf::Cpu(id) => *id == 0 && self.memory_arena != Some(false),
            ArenaOf::Gpu(id) => device == Device::Gpu(*id),
        };
        self.arena_shrinkage.iter().filter(has).map(|arena| arena.text()).collect::<Vec<_>>().join(";")
    }

    /// The same, empty ones if there are none.
    pub(super) fn some_run_options(&self, device: Device) -> std::result::Result<RunOptions, Failure> {
        match self.run_options(device)? {
            Some(options) => Ok(options),
            None => Ok(RunOptions::new()?),
        }
    }

    fn optimization_level(&self) -> GraphOptimizationLevel {
        match self.graph_level {
            -1 => GraphOptimizationLevel::Level1,
            1 => GraphOptimizationLevel::Level2,
            2 => GraphOptimizationLevel::Disable,
            _ => GraphOptimizationLevel::All,
        }
    }
}

/// A session that only serves to read the model's inputs and outputs: made fast, on one thread. It has the model's own
/// operators, without which the file may say nothing about its outputs.
pub(super) fn inspection_builder(
    environment: &Environment,
    config: &ModelConfig,
    model_dir: &Path,
) -> Result<SessionBuilder> {
    // Not verified yet: what leads out of the folder is left to the check that refuses it.
    let leaves = |path: &PathBuf| path.components().any(|component| component == Component::ParentDir);
    let mut libraries = operations::libraries(config, model_dir);
    libraries.retain(|path| !leaves(path));
    with_operators(plain_builder(environment)?, &libraries)
}

fn plain_builder(environment: &Environment) -> std::result::Result<SessionBuilder, Failure> {
    Ok(Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::Disable)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?)
}

/// Registers the operators of these libraries.
fn with_operators(builder: SessionBuilder, libraries: &[PathBuf]) -> Result<SessionBuilder> {
    libraries.iter().try_fold(builder, |builder, library| {
        builder.with_operator_library(library).map_err(|error| {
            let reason = Failure::from(error);
            Error::internal(format!("operator library '{}' cannot be used: {reason}", library.display()))
        })
    })
}

#[cfg(test)]
mod tests {
    use server_proto::inference::{ModelOptimizationPolicy, ModelParameter, model_optimization_policy::Graph};

    use super::*;

    fn config(parameters: &[(&str, &str)]) -> ModelConfig {
        let parameter =
            |(key, value): &(&str, &str)| ((*key).to_owned(), ModelParameter { string_value: (*value).to_owned() });
        ModelConfig { parameters: parameters.iter().map(parameter).collect(), ..ModelConfig::default() }
    }

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[track_caller]
    fn read(parameters: &[(&str, &str)], global: &[(&str, &str)]) -> SessionOptions {
        SessionOptions::read(&config(parameters), &settings(global), Path::new("/models/m")).unwrap()
    }

    #[test]
    fn a_models_parameter_overrides_the_servers_setting() {
        let key = "intra_op_thread_count";
        assert_eq!(read(&[(key, "3")], &[(key, "5")]).intra_op_threads, 3);
        assert_eq!(read(&[], &[(key, "5")]).intra_op_threads, 5);
    }

    #[test]
    fn unset_and_zero_mean_a_share_of_the_usable_threads() {
        assert_eq!(read(&[], &[]).intra_op_threads, usable_threads());
        assert_eq!(read(&[("intra_op_thread_count", "0")], &[]).intra_op_threads, usable_threads());
        assert_eq!(read(&[("intra_op_thread_count", "-1")], &[]).intra_op_threads, usable_threads());
        assert_eq!(read(&[], &[("inter_op_thread_count", "0")]).inter_op_threads, usable_threads());
        assert_eq!(read(&[], &[("inter_op_thread_count", "-1")]).inter_op_threads, usable_threads());
    }

    #[test]
    fn a_thread_count_no_machine_has_is_refused() {
        let read = |count| {
            let parameters = config(&[("intra_op_thread_count", count)]);
            SessionOptions::read(&parameters, &Settings::new(), Path::new("/models/m"))
                .map(|read| read.intra_op_threads)
        };
        assert_eq!(read("1024"), Ok(1024));
        let text = "unexpected value '2147483647' of 'intra_op_thread_count', expected at most 1024 threads";
        assert_eq!(read("2147483647"), Err(Error::invalid_argument(text)));
    }

    #[test]
    fn switches_are_zero_or_one() {
        let options = read(&[("enable_mem_arena", "0"), ("enable_mem_pattern", "1"), ("execution_mode", "1")], &[]);
        assert_eq!(
            (options.memory_arena, options.memory_pattern, options.is_parallel),
            (Some(false), Some(true), true)
        );
        let options = read(&[("enable_mem_arena", "ON"), ("enable_mem_pattern", "False")], &[]);
        assert_eq!((options.memory_arena, options.memory_pattern), (Some(true), Some(false)));
        let refusal = |key: &str, value: &str| {
            SessionOptions::read(&config(&[(key, value)]), &Settings::new(), Path::new("/m")).unwrap_err()
        };
        let text = "failed to convert 'yes' to boolean for 'enable_mem_arena', expected '0' or '1'";
        assert_eq!(refusal("enable_mem_arena", "yes"), Error::invalid_argument(text));
        let text = "Invalid configuration value provided. Expected values for  execution_mode are 0 or 1 but got 2 .";
        assert_eq!(refusal("execution_mode", "2"), Error::invalid_argument(text));
        let text = "failed to convert 'two' to integral number for 'intra_op_thread_count'";
        assert_eq!(refusal("intra_op_thread_count", "two"), Error::invalid_argument(text));
    }

    #[test]
    fn arenas_that_an_instance_does_not_have_are_not_its_to_shrink() {
        let shrinking = |list: &str, more: &[(&str, &str)], device| {
            read(&[&[(SHRINKAGE, list)][..], more].concat(), &[]).shrinking(device)
        };
        assert_eq!(shrinking("cpu:0;gpu:0", &[], Device::Cpu), "cpu:0");
        assert_eq!(shrinking("cpu:0; gpu:1;", &[], Device::Gpu(1)), "cpu:0;gpu:1");
        assert_eq!(shrinking("cpu:0;gpu:1", &[("enable_mem_arena", "0")], Device::Gpu(0)), "");
        for list in ["cpu", "gpu:x", "tpu:0", "cpu:0,gpu:0"] {
            let refused = SessionOptions::read(&config(&[(SHRINKAGE, list)]), &Settings::new(), Path::new("/m"));
            let text = format!("unexpected value '{list}' of '{SHRINKAGE}', expected devices such as 'cpu:0;gpu:0'");
            assert_eq!(refused, Err(Error::invalid_argument(text)));
        }
    }

    #[test]
    fn graph_levels_are_tritons() {
        let level = |level| {
            let graph = Some(Graph { level });
            let optimization = Some(ModelOptimizationPolicy { graph, ..ModelOptimizationPolicy::default() });
            let config = ModelConfig { optimization, ..ModelConfig::default() };
            SessionOptions::read(&config, &Settings::new(), Path::new("/m")).unwrap().optimization_level()
        };
        assert_eq!(level(-1), GraphOptimizationLevel::Level1);
        assert_eq!(level(0), GraphOptimizationLevel::All);
        assert_eq!(level(1), GraphOptimizationLevel::Level2);
        assert_eq!(level(2), GraphOptimizationLevel::Disable);
        assert_eq!((level(3), level(-2)), (GraphOptimizationLevel::All, GraphOptimizationLevel::All));
    }
}
