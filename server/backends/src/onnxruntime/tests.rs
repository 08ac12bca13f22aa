//! The real library through the contract: models of `tests/models`, made by `tests/make_models.py`.

mod running;

use std::sync::Arc;

use bytes::Bytes;
use server_core::{
    backend::{Backend, Device, Health, Instance, Model, Placement},
    buffer::Buffer,
    config::{ModelConfig, from_text},
    error::{Code, Error},
    tensor::{DataType, Tensor, strings},
};
use server_proto::inference::{
    ModelOperations, ModelOptimizationPolicy, ModelParameter, ModelTensorReshape,
    model_config::SchedulingChoice,
    model_optimization_policy::{ExecutionAccelerators, execution_accelerators::Accelerator},
};

use crate::testing::{
    asking_for, bytes, example, floats, no_host, on_cpu, onnxruntime_settings, output, request, run_batch, run_one,
    source, tensor, values,
};

/// A model of the test folder, its configuration completed from the file.
struct Loaded {
    backend: Arc<dyn Backend>,
    config: ModelConfig,
}

impl Loaded {
    /// `None` if the library is not there; that was said.
    fn new(file: &str) -> Option<Self> {
        Self::with(file, ModelConfig::default())
    }

    fn with(file: &str, config: ModelConfig) -> Option<Self> {
        let backend = super::backend(onnxruntime_settings()?);
        let file = format!("{file}.onnx");
        let mut config = ModelConfig { name: "m".into(), default_model_filename: file, ..config };
        backend.open(&source("m"), &mut config, true, &no_host()).unwrap();
        Some(Self { backend, config })
    }

    /// The same model without batching, every dimension in its configuration.
    fn unbatched(mut self) -> Self {
        for input in &mut self.config.input {
            input.dims.insert(0, -1);
        }
        for output in &mut self.config.output {
            output.dims =
                if output.reshape.take().is_some() { vec![-1] } else { [vec![-1], output.dims.clone()].concat() };
        }
        self.config.max_batch_size = 0;
        self.config.scheduling_choice = None;
        self
    }

    fn parameter(mut self, key: &str, value: &str) -> Self {
        self.config.parameters.insert(key.into(), ModelParameter { string_value: value.into() });
        self
    }

    fn model(&self) -> Result<Box<dyn Model>, Error> {
        let mut config = self.config.clone();
        let mut model = self.backend.open(&source("m"), &mut config, false, &no_host())?;
        model.configure(&Arc::new(config))?;
        Ok(model)
    }

    fn instance(&self) -> Box<dyn Instance> {
        self.model().and_then(|model| model.instance(&on_cpu(), &Health::default())).unwrap()
    }

    #[track_caller]
    fn refusal(&self, device: Device) -> Error {
        let placement = Placement { device, ..on_cpu() };
        let refused = self.model().and_then(|model| model.instance(&placement, &Health::default()));
        refused.err().expect("the model must not load")
    }
}

fn text(parts: &[&[u8]]) -> Vec<u8> {
    strings::join(parts.iter().copied())
}

// === Completing configurations ===

#[test]
fn an_absent_configuration_is_read_from_the_file() {
    let Some(Loaded { config, .. }) = Loaded::new("add_sub") else { return };
    assert_eq!(config.max_batch_size, 4);
    assert!(matches!(config.scheduling_choice, Some(SchedulingChoice::DynamicBatching(_))));
    let inputs: Vec<_> = config.input.iter().map(|input| (&*input.name, input.data_type, &*input.dims)).collect();
    assert_eq!(inputs, [("A", 11, [4].as_slice()), ("B", 11, &[4])]);
    let outputs: Vec<_> = config.output.iter().map(|output| (&*output.name, output.data_type, &*output.dims)).collect();
    assert_eq!(outputs, [("SUM", 11, [4].as_slice()), ("DIFFERENCE", 11, &[4])]);
}

#[test]
fn every_type_of_a_file_has_its_name_in_the_configuration() {
    let Some(Loaded { config, .. }) = Loaded::new("every_type") else { return };
    let types: Vec<_> = config.output.iter().map(|output| DataType::from_config(output.data_type).unwrap()).collect();
    assert_eq!(types, DataType::ALL);
}

#[test]
fn replaceable_constants_are_not_asked_for() {
    let Some(Loaded { config, .. }) = Loaded::new("default_bias") else { return };
    assert_eq!(config.input.iter().map(|input| &*input.name).collect::<Vec<_>>(), ["X"]);
}

#[test]
fn a_file_that_is_no_model_is_an_error_in_the_runtimes_words() {
    let Some(settings) = onnxruntime_settings() else { return };
    let backend = super::backend(settings);
    let complete = |file: &str| {
        let mut config = ModelConfig { default_model_filename: file.into(), ..ModelConfig::default() };
        backend.open(&source("m"), &mut config, true, &no_host()).err().unwrap()
    };
    let junk = complete("junk.onnx");
    assert_eq!(junk.code, Code::Internal);
    assert!(junk.message.starts_with("onnx runtime error 7: Load model from "), "{junk}");
    let gone = complete("gone.onnx");
    assert_eq!(gone.code, Code::Unavailable);
    assert!(
        gone.message.starts_with("unable to find '") && gone.message.ends_with("gone.onnx' for model instance 'm'"),
        "{gone}"
    );
    let sequence = complete("sequence_output.onnx");
    assert_eq!(sequence.code, Code::Unsupported);
    assert!(sequence.message.contains("Unsupported ONNX Type 'ONNX_TYPE_SEQUENCE' for I/O 'PARTS'"), "{sequence}");
}

// === Options and refusals ===

#[test]
fn session_options_are_taken() {
    let Some(loaded) = Loaded::new("add_fixed") else { return };
    let loaded = loaded
        .parameter("intra_op_thread_count", "1")
        .parameter("inter_op_thread_count", "2")
        .parameter("execution_mode", "1")
        .parameter("enable_mem_arena", "0")
        .parameter("enable_mem_pattern", "0")
        .parameter("session.use_device_allocator_for_initializers", "1");
    let ask = || request(["A", "B"].map(|name| floats(name, &[4], &[1.0; 4])));
    assert_eq!(values(output(&run_one(&mut *loaded.instance(), ask()).unwrap(), "SUM")), [2.0; 4]);

    let Some(loaded) = Loaded::new("add_fixed") else { return };
    let loaded = loaded.parameter("memory.enable_memory_arena_shrinkage", "cpu:0;gpu:0");
    assert_eq!(values(output(&run_one(&mut *loaded.instance(), ask()).unwrap(), "SUM")), [2.0; 4]);

    let Some(loaded) = Loaded::new("add_fixed") else { return };
    let error = loaded.parameter("enable_mem_pattern", "2").refusal(Device::Cpu);
    assert_eq!(error.message, "failed to convert '2' to boolean for 'enable_mem_pattern', expected '0' or '1'");
}

#[test]
fn a_configuration_that_contradicts_the_file_is_refused() {
    let Some(mut loaded) = Loaded::new("add_fixed") else { return };
    loaded.config.input[1].dims = vec![5];
    let text = "model 'm', tensor 'B': the model expects 1 dimensions (shape [4]) but the model configuration specifies 1 dimensions (shape [5])";
    assert_eq!(loaded.refusal(Device::Cpu), Error::invalid_argument(text));
}

#[test]
fn an_instance_on_a_gpu_runs_there_or_says_what_is_missing() {
    use ort::ep::{CUDA, ExecutionProvider};
    let Some(loaded) = Loaded::new("add_fixed") else { return };
    let placement = Placement { device: Device::Gpu(0), ..on_cpu() };
    match loaded.model().unwrap().instance(&placement, &Health::default()) {
        Ok(mut instance) => {
            let ask = request(["A", "B"].map(|name| floats(name, &[4], &[1.0; 4])));
            assert_eq!(values(output(&run_one(&mut *instance, ask).unwrap(), "SUM")), [2.0; 4]);
        }
        Err(error) if CUDA::is_available().unwrap() => {
            println!("skipped: no GPU, or no CUDA for it: {error}");
            assert!(error.message.starts_with("unable to use GPU 0 for instance 'm_0_0': "), "{error}");
            if error.message.contains("cannot open shared object file") {
                assert!(error.message.ends_with("for example in a folder of LD_LIBRARY_PATH"), "{error}");
            }
        }
        Err(error) => {
            println!("skipped: this ONNX Runtime was built without CUDA");
            assert_eq!(error.code, Code::Unavailable);
            let text = "has no CUDA execution provider (it has: ";
            assert!(error.message.contains(text) && error.message.contains("CPU); name a library built"), "{error}");
        }
    }
}

fn operators(library: &str) -> ModelConfig {
    let op_library_filename = vec![library.to_owned()];
    ModelConfig { model_operations: Some(ModelOperations { op_library_filename }), ..ModelConfig::default() }
}

#[test]
fn a_model_with_operators_of_its_own_is_read_and_run_with_their_library() {
    let Some(loaded) =
        example("custom_operator").and_then(|library| Loaded::with("custom_operator", operators(&library)))
    else {
        return;
    };
    assert_eq!((loaded.config.max_batch_size, &*loaded.config.output[0].dims), (4, [2].as_slice()));
    let mut instance = loaded.instance();
    let requests =
        vec![(1, request([floats("X", &[1, 2], &[1.0, 2.0])])), (1, request([floats("X", &[1, 2], &[3.0, 4.0])]))];
    let (replies, _) = run_batch(&mut *instance, requests);
    assert_eq!(values(output(replies[0].as_ref().unwrap(), "Y")), [3.0, 6.0]);
    assert_eq!(values(output(replies[1].as_ref().unwrap(), "Y")), [9.0, 12.0]);
}

#[test]
fn a_library_that_has_no_operators_is_named() {
    let Some(settings) = onnxruntime_settings() else { return };
    let backend = super::backend(settings);
    let refusal = |library: &str| {
        let default_model_filename = "custom_operator.onnx".into();
        let mut config = ModelConfig { name: "m".into(), default_model_filename, ..operators(library) };
        backend.open(&source("m"), &mut config, true, &no_host()).err().unwrap().message
    };
    for library in ["/nowhere/libops.so", "libc.so.6", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/junk.onnx")] {
        let message = refusal(library);
        let start = format!("operator library '{library}' cannot be used: onnx runtime error 1: ");
        assert!(message.starts_with(&start), "{message}");
    }
}

#[test]
fn types_that_no_request_can_carry_are_named() {
    let Some(settings) = onnxruntime_settings() else { return };
    let backend = super::backend(settings);
    for (file, word) in [("foreign_float8", "f8_e4m3fn"), ("foreign_four_bits", "i4")] {
        let default_model_filename = format!("{file}.onnx");
        let mut config = ModelConfig { name: "m".into(), default_model_filename, ..ModelConfig::default() };
        let error = backend.open(&source("m"), &mut config, true, &no_host()).err().unwrap();
        assert_eq!(error, Error::unsupported(format!("unsupported datatype {word} for tensor 'X'")));
    }
}

fn on_cpu_with(accelerator: &str) -> Option<ModelOptimizationPolicy> {
    let accelerator = Accelerator { name: accelerator.into(), ..Accelerator::default() };
    let execution_accelerators = Some(ExecutionAccelerators {
        cpu_execution_accelerator: vec![accelerator],
        ..ExecutionAccelerators::default()
    });
    Some(ModelOptimizationPolicy { execution_accelerators, ..ModelOptimizationPolicy::default() })
}

#[test]
fn openvino_runs_a_model_or_is_said_to_be_missing() {
    use ort::ep::{ExecutionProvider, OpenVINO};
    let Some(mut loaded) = Loaded::new("add_sub") else { return };
    loaded.config.optimization = on_cpu_with("openvino");
    if OpenVINO::is_available().unwrap() {
        let model = loaded.model().unwrap();
        // Two at once: they are made in turn.
        let instance = || model.instance(&on_cpu(), &Health::default()).unwrap();
        let mut both =
            std::thread::scope(|scope| [(); 2].map(|()| scope.spawn(instance)).map(|made| made.join().unwrap()));
        for instance in &mut both {
            let ask = request(["A", "B"].map(|name| floats(name, &[1, 4], &[1.0, 2.0, 3.0, 4.0])));
            let (replies, _) = run_batch(&mut **instance, vec![(1, ask)]);
            assert_eq!(values(output(replies[0].as_ref().unwrap(), "SUM")), [2.0, 4.0, 6.0, 8.0]);
        }
    } else {
        println!("skipped: this ONNX Runtime was built without OpenVINO");
        let error = loaded.refusal(Device::Cpu);
        assert_eq!(error.code, Code::Unavailable);
        assert!(error.message.contains("has no OpenVINO execution provider (it has: "), "{error}");
    }
}

#[test]
fn an_accelerator_nobody_knows_is_refused() {
    let Some(mut loaded) = Loaded::new("add_fixed") else { return };
    loaded.config.optimization = on_cpu_with("quick");
    let error = loaded.refusal(Device::Cpu);
    assert_eq!(error, Error::invalid_argument("unknown Execution Accelerator 'quick' is requested"));
}
