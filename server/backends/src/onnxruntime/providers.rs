//! Execution providers of one instance: CUDA for one on a GPU, and the accelerators its configuration asks for. Which
//! ones, with which options, is decided in [`plan`]; [`register`] hands them to a session.
//!
//! Source: ONNX Runtime backend of Triton, "ONNX Runtime with TensorRT/CUDA/OpenVINO optimization".

use ort::{
    ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch},
    session::builder::SessionBuilder,
};
use server_core::{
    backend::Device,
    config::ModelConfig,
    error::{Error, Result},
};

use super::{
    library::Runtime,
    provider_options::{Options, cuda_options, cuda_parameters, tensorrt_options},
    raw::{self, Failure},
};
use crate::native::settings::is_on;

/// A provider and its options, in the order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Provider {
    /// NVIDIA TensorRT.
    TensorRt(Options),
    /// NVIDIA CUDA.
    Cuda(Options),
    /// Intel OpenVINO.
    OpenVino(Options),
    /// One of a library that the settings name.
    Plugin(String, Options, Device),
}

/// The providers of an instance on that device. GPU accelerators mean nothing to instances elsewhere. `is_plugin`: whether the
/// settings name a library with a provider so.
///
/// Errors: `InvalidArgument` for an accelerator or an option nobody knows.
pub(super) fn plan(config: &ModelConfig, device: Device, is_plugin: impl Fn(&str) -> bool) -> Result<Vec<Provider>> {
    let accelerators =
        config.optimization.as_ref().and_then(|optimization| optimization.execution_accelerators.as_ref());
    let mut providers = Vec::new();
    if let Device::Gpu(id) = device {
        let device_id = || ("device_id".to_owned(), id.to_string());
        let (mut cuda, mut asks_for_cuda) = (Options::new(), false);
        for accelerator in accelerators.iter().flat_map(|all| &all.gpu_execution_accelerator) {
            match accelerator.name.as_str() {
                name if is_plugin(name) => {
                    providers.push(Provider::Plugin(name.to_owned(), accelerator.parameters.clone(), device));
                }
                "tensorrt" => {
                    let options = tensorrt_options(&accelerator.parameters)?;
                    providers.push(Provider::TensorRt(options.into_iter().chain([device_id()]).collect()));
                }
                "cuda" => {
                    asks_for_cuda = true;
                    cuda.extend(cuda_options(&accelerator.parameters)?);
                }
                other => return Err(unknown(other)),
            }
        }
        cuda.extend(cuda_parameters(config)?); // the older way to say it counts, as in Triton
        // Beside the provider of a library, ONNX Runtime's own is there only if it is asked for.
        let has_plugin = providers.iter().any(|provider| matches!(provider, Provider::Plugin(..)));
        if asks_for_cuda || !has_plugin {
            providers.push(Provider::Cuda(cuda.into_iter().chain([device_id()]).collect()));
        }
    }
    for accelerator in accelerators.iter().flat_map(|all| &all.cpu_execution_accelerator) {
        match accelerator.name.as_str() {
            name if is_plugin(name) => {
                providers.push(Provider::Plugin(name.to_owned(), accelerator.parameters.clone(), Device::Cpu));
            }
            "openvino" => {
                let on_cpu = ("device_type".to_owned(), "CPU".to_owned()); // unless the parameters say otherwise
                let options = accelerator.parameters.iter().map(|(key, value)| (key.clone(), value.clone()));
                providers.push(Provider::OpenVino([on_cpu].into_iter().chain(options).collect()));
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
    check_available(providers, runtime)?;
    let mut builder = builder;
    for provider in providers {
        builder = match provider {
            Provider::TensorRt(options) => {
                start(builder, provider, configured(ep::TensorRT::default(), options).build())
            }
            Provider::Cuda(options) => start(builder, provider, configured(ep::CUDA::default(), options).build()),
            Provider::OpenVino(options) => {
                start(builder, provider, configured(ep::OpenVINO::default(), options).build())
            }
            Provider::Plugin(name, options, device) => {
                runtime.plugins.append(&builder, &runtime.environment, name, options, *device).map(|()| builder)
            }
        }?;
    }
    Ok(builder)
}

/// Whether the library has all of them.
///
/// Errors: `Unavailable` with the name of one it has not, those it has, and the cure.
pub(super) fn check_available(providers: &[Provider], runtime: &Runtime) -> Result<()> {
    for provider in providers {
        if !provider.is_available() {
            return Err(Error::unavailable(format!(
                "{} has no {} execution provider (it has: {}); name a library built with it by \
                 --backend-config=onnxruntime,library=PATH or ORT_DYLIB_PATH",
                runtime.path.display(),
                provider.name(),
                raw::available_providers().join(", ")
            )));
        }
    }
    Ok(())
}

impl Provider {
    fn name(&self) -> &str {
        match self {
            Self::TensorRt(_) => "TensorRT",
            Self::Cuda(_) => "CUDA",
            Self::OpenVino(_) => "OpenVINO",
            Self::Plugin(name, ..) => name,
        }
    }

    /// Whether work on the GPU is captured, and replayed.
    pub(super) fn captures_runs(&self) -> bool {
        let is_on = |options: &Options, key: &str| options.get(key).is_some_and(|value| is_on(value));
        match self {
            Self::Cuda(options) => is_on(options, "enable_cuda_graph"),
            Self::TensorRt(options) => is_on(options, "trt_cuda_graph_enable"),
            Self::OpenVino(_) | Self::Plugin(..) => false,
        }
    }

    /// What to do about a provider that does not start, for reasons that lie outside the model; the end of a sentence.
    fn cure(&self, reason: &str) -> &'static str {
        if reason.contains("CUDA failure") {
            return "; the NVIDIA driver must be there and new enough for these CUDA libraries: nvidia-smi shows driver and GPUs";
        }
        match self {
            _ if !reason.contains("cannot open shared object file") => "",
            Self::Cuda(_) => {
                "; install the CUDA and cuDNN libraries of the versions that this ONNX Runtime was built for where the loader finds \
                 them, for example in a folder of LD_LIBRARY_PATH"
            }
            Self::TensorRt(_) => {
                "; install the TensorRT, CUDA and cuDNN libraries of the versions that this ONNX Runtime was built for where the \
                 loader finds them, for example in a folder of LD_LIBRARY_PATH"
            }
            Self::OpenVino(_) => {
                "; install the OpenVINO libraries beside it, as the package onnxruntime-openvino has them"
            }
            Self::Plugin(..) => "",
        }
    }

    /// Whether two sessions with it must not be made at the same time.
    pub(super) fn makes_sessions_in_turn(&self) -> bool {
        matches!(self, Self::OpenVino(_))
    }

    fn options(&self) -> &Options {
        match self {
            Self::TensorRt(options) | Self::Cuda(options) | Self::OpenVino(options) => options,
            Self::Plugin(_, options, _) => options,
        }
    }

    fn is_available(&self) -> bool {
        let is_available = match self {
            Self::TensorRt(_) => ep::TensorRT::is_available(),
            Self::Cuda(_) => ep::CUDA::is_available(),
            Self::OpenVino(_) => ep::OpenVINO::is_available(),
            Self::Plugin(..) => Ok(true), // its library says what is wrong
        };
        is_available.unwrap_or(false)
    }
}

fn start(builder: SessionBuilder, provider: &Provider, dispatch: ExecutionProviderDispatch) -> Result<SessionBuilder> {
    builder.with_execution_providers([dispatch.error_on_failure()]).map_err(|error| {
        let reason = Failure::from(error);
        let cure = provider.cure(&reason.message);
        Error::internal(format!("{} execution provider cannot start: {reason}{cure}", provider.name()))
    })
}

fn configured<P: ArbitrarilyConfigurableExecutionProvider>(provider: P, options: &Options) -> P {
    options.iter().fold(provider, |provider, (key, value)| provider.with_arbitrary_config(key, value))
}

fn unknown(name: &str) -> Error {
    Error::invalid_argument(format!("unknown Execution Accelerator '{name}' is requested"))
}

#[cfg(test)]
mod tests {
    use server_proto::inference::{
        ModelOptimizationPolicy, ModelParameter,
        model_optimization_policy::{ExecutionAccelerators, execution_accelerators::Accelerator},
    };

    use super::*;

    /// Without libraries of further providers.
    fn plan(config: &ModelConfig, device: Device) -> Result<Vec<Provider>> {
        super::plan(config, device, |_| false)
    }

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
    fn a_provider_that_does_not_start_says_what_is_missing_on_the_machine() {
        let cuda = Provider::Cuda(Options::new());
        let missing = "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.12: cannot open shared object file";
        assert!(cuda.cure(missing).contains("LD_LIBRARY_PATH"));
        assert!(Provider::TensorRt(Options::new()).cure(missing).contains("TensorRT, CUDA and cuDNN"));
        let driver = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version";
        assert!(cuda.cure(driver).contains("nvidia-smi"));
        assert_eq!(cuda.cure("unknown provider option \"speed\""), "");
    }

    #[test]
    fn graphs_of_a_gpu_are_switched_on_by_the_options_of_its_providers() {
        let captures = |name: &str, parameters: &[(&str, &str)]| {
            let planned = plan(&config(vec![accelerator(name, parameters)], vec![]), Device::Gpu(0)).unwrap();
            planned.iter().any(Provider::captures_runs)
        };
        assert!(captures("cuda", &[("enable_cuda_graph", "1")]) && captures("cuda", &[("enable_cuda_graph", "true")]));
        assert!(captures("tensorrt", &[("trt_cuda_graph_enable", "1")]));
        assert!(!captures("cuda", &[("enable_cuda_graph", "0")]) && !captures("cuda", &[]));
    }

    #[test]
    fn a_library_of_the_settings_is_an_accelerator_by_its_name() {
        let parameters = [("speed", "9")];
        let config = config(vec![accelerator("quick", &parameters)], vec![accelerator("quick", &[])]);
        let plan = |device| super::plan(&config, device, |name| name == "quick").unwrap();
        let on = |device, pairs: &[(&str, &str)]| Provider::Plugin("quick".into(), options(pairs), device);
        assert_eq!(plan(Device::Cpu), [on(Device::Cpu, &[])]);
        let gpu = Device::Gpu(1);
        assert_eq!(plan(gpu), [on(gpu, &parameters), on(Device::Cpu, &[])]);
    }

    #[test]
    fn cuda_parameters_of_old_configurations_still_count() {
        let parameter = |value: &str| ModelParameter { string_value: value.into() };
        let mut config = ModelConfig::default();
        config.parameters.insert("cudnn_conv_algo_search".into(), parameter("1"));
        config.parameters.insert("gpu_mem_limit".into(), parameter("4294967200"));
        let expect = [("cudnn_conv_algo_search", "HEURISTIC"), ("device_id", "0"), ("gpu_mem_limit", "4294967200")];
        assert_eq!(plan(&config, Device::Gpu(0)), Ok(vec![Provider::Cuda(options(&expect))]));
        let parameters = [("cudnn_conv_algo_search", "DEFAULT"), ("use_tf32", "0")];
        config.optimization = super::tests::config(vec![accelerator("cuda", &parameters)], vec![]).optimization;
        let expect = [&expect[..], &[("use_tf32", "0")]].concat();
        assert_eq!(plan(&config, Device::Gpu(0)), Ok(vec![Provider::Cuda(options(&expect))]), "they come first");
        config.parameters.insert("arena_extend_strategy".into(), parameter("2"));
        let text = "unsupported arena_extend_strategy value '2' is requested";
        assert_eq!(plan(&config, Device::Gpu(0)), Err(Error::invalid_argument(text)));
        assert_eq!(plan(&config, Device::Cpu), Ok(vec![]));
    }
}
