//! Execution providers of one instance: CUDA for one on a GPU, and the accelerators its configuration asks for. Which
//! ones, with which options, is decided in [`plan`]; [`register`] hands them to a session.
//!
//! Source: ONNX Runtime backend of Triton, "ONNX Runtime with TensorRT/CUDA/OpenVINO optimization".

use std::collections::BTreeMap;

use ort::{
    ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch},
    session::builder::SessionBuilder,
};
use server_core::{
    backend::Device,
    config::ModelConfig,
    error::{Error, Result},
};

use super::{library::Runtime, raw::Failure};

/// Options of a provider, by its own names.
type Options = BTreeMap<String, String>;

/// A provider and its options, in the order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Provider {
    /// NVIDIA TensorRT.
    TensorRt(Options),
    /// NVIDIA CUDA.
    Cuda(Options),
    /// Intel OpenVINO.
    OpenVino(Options),
}

/// The providers of an instance on that device. GPU accelerators mean nothing to instances elsewhere.
///
/// Errors: `InvalidArgument` for an accelerator or an option nobody knows.
pub(super) fn plan(config: &ModelConfig, device: Device) -> Result<Vec<Provider>> {
    let accelerators =
        config.optimization.as_ref().and_then(|optimization| optimization.execution_accelerators.as_ref());
    let mut providers = Vec::new();
    if let Device::Gpu(id) = device {
        let device_id = || ("device_id".to_owned(), id.to_string());
        let mut cuda = cuda_parameters(config)?;
        for accelerator in accelerators.iter().flat_map(|all| &all.gpu_execution_accelerator) {
            match accelerator.name.as_str() {
                "tensorrt" => {
                    let options = tensorrt_options(accelerator.parameters.iter())?;
                    providers.push(Provider::TensorRt(options.into_iter().chain([device_id()]).collect()));
                }
                "cuda" => cuda.extend(accelerator.parameters.iter().map(|(key, value)| (key.clone(), value.clone()))),
                other => return Err(unknown(other)),
            }
        }
        providers.push(Provider::Cuda(cuda.into_iter().chain([device_id()]).collect()));
    }
    for accelerator in accelerators.iter().flat_map(|all| &all.cpu_execution_accelerator) {
        match accelerator.name.as_str() {
            "openvino" => {
                let options = accelerator.parameters.iter().map(|(key, value)| (key.clone(), value.clone()));
                providers.push(Provider::OpenVino(options.collect()));
            }
            other => return Err(unknown(other)),
        }
    }
    let has_nul = |text: &String| text.contains('\0');
    let options = providers.iter().flat_map(|provider| provider.options().iter());
    if let Some((key, _)) = options.into_iter().find(|(key, value)| has_nul(key) || has_nul(value)) {
        return Err(Error::invalid_argument(format!("execution accelerator option {key:?} contains a zero byte")));
    }
    Ok(providers)
}

/// Gives the session its providers.
///
/// Errors: `Unavailable` if the library has no such provider; its own words if the provider cannot start.
pub(super) fn register(builder: SessionBuilder, providers: &[Provider], runtime: &Runtime) -> Result<SessionBuilder> {
    let mut builder = builder;
    for provider in providers {
        if !provider.is_available() {
            return Err(Error::unavailable(format!(
                "{} has no {} execution provider; name a library built with it by --backend-config=onnxruntime,library=PATH or ORT_DYLIB_PATH",
                runtime.path.display(),
                provider.name()
            )));
        }
        builder = builder.with_execution_providers([provider.dispatch()]).map_err(|error| {
            let reason = Failure::from(error);
            Error::internal(format!("{} execution provider cannot start: {reason}", provider.name()))
        })?;
    }
    Ok(builder)
}

impl Provider {
    fn name(&self) -> &'static str {
        match self {
            Self::TensorRt(_) => "TensorRT",
            Self::Cuda(_) => "CUDA",
            Self::OpenVino(_) => "OpenVINO",
        }
    }

    fn options(&self) -> &Options {
        match self {
            Self::TensorRt(options) | Self::Cuda(options) | Self::OpenVino(options) => options,
        }
    }

    fn is_available(&self) -> bool {
        let is_available = match self {
            Self::TensorRt(_) => ep::TensorRT::is_available(),
            Self::Cuda(_) => ep::CUDA::is_available(),
            Self::OpenVino(_) => ep::OpenVINO::is_available(),
        };
        is_available.unwrap_or(false)
    }

    fn dispatch(&self) -> ExecutionProviderDispatch {
        let dispatch = match self {
            Self::TensorRt(options) => configured(ep::TensorRT::default(), options).build(),
            Self::Cuda(options) => configured(ep::CUDA::default(), options).build(),
            Self::OpenVino(options) => configured(ep::OpenVINO::default(), options).build(),
        };
        dispatch.error_on_failure()
    }
}

fn configured<P: ArbitrarilyConfigurableExecutionProvider>(provider: P, options: &Options) -> P {
    options.iter().fold(provider, |provider, (key, value)| provider.with_arbitrary_config(key, value))
}

fn unknown(name: &str) -> Error {
    Error::invalid_argument(format!("unknown Execution Accelerator '{name}' is requested"))
}

/// CUDA options that may stand among a model's `parameters`.
fn cuda_parameters(config: &ModelConfig) -> Result<Options> {
    let mut options = Options::new();
    for (key, words) in [
        ("cudnn_conv_algo_search", ["EXHAUSTIVE", "HEURISTIC", "DEFAULT"].as_slice()),
        ("arena_extend_strategy", &["kNextPowerOfTwo", "kSameAsRequested"]),
        ("do_copy_in_default_stream", &["0", "1"]),
        ("gpu_mem_limit", &[]),
    ] {
        let Some(parameter) = config.parameters.get(key) else { continue };
        let value = parameter.string_value.trim();
        let number = value.parse::<usize>().map_err(|_| {
            Error::invalid_argument(format!("unexpected value '{value}' of '{key}', expected a number"))
        })?;
        let word = match words {
            [] => value,
            words => words.get(number).ok_or_else(|| {
                let last = words.len() - 1;
                Error::invalid_argument(format!("unexpected value '{value}' of '{key}', expected 0 to {last}"))
            })?,
        };
        options.insert(key.to_owned(), word.to_owned());
    }
    Ok(options)
}

/// Triton's own names of TensorRT options, and those it hands on under ONNX Runtime's.
fn tensorrt_options<'a>(parameters: impl Iterator<Item = (&'a String, &'a String)>) -> Result<Options> {
    let mut options = Options::new();
    for (key, value) in parameters {
        let name = match key.as_str() {
            "precision_mode" => {
                let switch = match value.as_str() {
                    "FP32" => continue,
                    "FP16" => "trt_fp16_enable",
                    "BF16" => "trt_bf16_enable",
                    "INT8" => "trt_int8_enable",
                    _ => {
                        return Err(Error::invalid_argument(format!(
                            "unsupported precision mode '{value}' is requested"
                        )));
                    }
                };
                options.insert(switch.to_owned(), "1".to_owned());
                continue;
            }
            "max_workspace_size_bytes" => "max_workspace_size",
            other => other.strip_prefix("trt_").unwrap_or(other),
        };
        if !TENSORRT_OPTIONS.contains(&name) {
            return Err(Error::invalid_argument(format!(
                "unknown parameter '{key}' is provided for TensorRT Execution Accelerator"
            )));
        }
        options.insert(format!("trt_{name}"), value.clone());
    }
    Ok(options)
}

const TENSORRT_OPTIONS: [&str; 33] = [
    "max_workspace_size",
    "int8_calibration_table_name",
    "int8_use_native_calibration_table",
    "max_partition_iterations",
    "min_subgraph_size",
    "dla_enable",
    "dla_core",
    "engine_cache_enable",
    "engine_cache_path",
    "engine_cache_prefix",
    "dump_subgraphs",
    "force_sequential_engine_build",
    "context_memory_sharing_enable",
    "layer_norm_fp32_fallback",
    "timing_cache_enable",
    "timing_cache_path",
    "force_timing_cache",
    "detailed_build_log",
    "build_heuristics_enable",
    "sparsity_enable",
    "builder_optimization_level",
    "auxiliary_streams",
    "tactic_sources",
    "extra_plugin_lib_paths",
    "profile_min_shapes",
    "profile_max_shapes",
    "profile_opt_shapes",
    "cuda_graph_enable",
    "dump_ep_context_model",
    "ep_context_file_path",
    "ep_context_embed_mode",
    "fp16_enable",
    "int8_enable",
];

#[cfg(test)]
mod tests {
    use server_proto::inference::{
        ModelOptimizationPolicy, ModelParameter,
        model_optimization_policy::{ExecutionAccelerators, execution_accelerators::Accelerator},
    };

    use super::*;

    fn accelerator(name: &str, parameters: &[(&str, &str)]) -> Accelerator {
        let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Accelerator { name: name.into(), parameters }
    }

    fn config(gpu: Vec<Accelerator>, cpu: Vec<Accelerator>) -> ModelConfig {
        let accelerators = ExecutionAccelerators { gpu_execution_accelerator: gpu, cpu_execution_accelerator: cpu };
        let optimization = ModelOptimizationPolicy {
            execution_accelerators: Some(accelerators),
            ..ModelOptimizationPolicy::default()
        };
        ModelConfig { optimization: Some(optimization), ..ModelConfig::default() }
    }

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_gpu_instance_has_cuda_on_its_device() {
        assert_eq!(plan(&ModelConfig::default(), Device::Cpu), Ok(vec![]));
        assert_eq!(plan(&ModelConfig::default(), Device::Model), Ok(vec![]));
        let expect = vec![Provider::Cuda(options(&[("device_id", "3")]))];
        assert_eq!(plan(&ModelConfig::default(), Device::Gpu(3)), Ok(expect));
    }

    #[test]
    fn accelerators_go_before_cuda_and_bring_their_options() {
        let tensorrt =
            [("precision_mode", "FP16"), ("max_workspace_size_bytes", "7"), ("trt_engine_cache_enable", "1")];
        let config =
            config(vec![accelerator("tensorrt", &tensorrt), accelerator("cuda", &[("use_tf32", "0")])], vec![]);
        let tensorrt = [
            ("trt_fp16_enable", "1"),
            ("trt_max_workspace_size", "7"),
            ("trt_engine_cache_enable", "1"),
            ("device_id", "0"),
        ];
        let expect = vec![
            Provider::TensorRt(options(&tensorrt)),
            Provider::Cuda(options(&[("use_tf32", "0"), ("device_id", "0")])),
        ];
        assert_eq!(plan(&config, Device::Gpu(0)), Ok(expect));
        assert_eq!(plan(&config, Device::Cpu), Ok(vec![]));
    }

    #[test]
    fn what_nobody_knows_is_an_error_with_its_name() {
        let error = plan(&config(vec![], vec![accelerator("quick", &[])]), Device::Cpu).unwrap_err();
        assert_eq!(error, Error::invalid_argument("unknown Execution Accelerator 'quick' is requested"));
        let config = config(vec![accelerator("tensorrt", &[("speed", "9")])], vec![]);
        let text = "unknown parameter 'speed' is provided for TensorRT Execution Accelerator";
        assert_eq!(plan(&config, Device::Gpu(0)).unwrap_err(), Error::invalid_argument(text));
    }

    #[test]
    fn cuda_parameters_of_old_configurations_still_count() {
        let parameter = |value: &str| ModelParameter { string_value: value.into() };
        let mut config = ModelConfig::default();
        config.parameters.insert("cudnn_conv_algo_search".into(), parameter("1"));
        config.parameters.insert("gpu_mem_limit".into(), parameter("4294967200"));
        let expect = [("cudnn_conv_algo_search", "HEURISTIC"), ("device_id", "0"), ("gpu_mem_limit", "4294967200")];
        assert_eq!(plan(&config, Device::Gpu(0)), Ok(vec![Provider::Cuda(options(&expect))]));
        config.parameters.insert("arena_extend_strategy".into(), parameter("2"));
        assert!(plan(&config, Device::Gpu(0)).unwrap_err().message.contains("expected 0 to 1"));
    }
}
