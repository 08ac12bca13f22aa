//! The real libtorch through the contract: scripts that `e2e/runtimes/pytorch` makes from `e2e/models/torchscript.py`.

use std::{env, fs, path::Path, sync::Arc};

use server_core::{
    backend::{Backend, Device, Health, Instance, MemoryUse, Model, ModelSource, Placement, Settings},
    config::{ModelConfig, from_text},
    error::{Code, Error},
    tensor::{DataType, strings},
};

use super::types;
use crate::testing::{asking_for, bytes, floats, no_host, on_cpu, output, request, run_batch, run_one, tensor, values};

/// The shim for tests: `TORCH_SHIM_PATH`, or what `e2e/runtimes/pytorch` made. Without one the test is skipped with a line that
/// says so; where `CI` promises it, it fails.
fn settings() -> Option<Settings> {
    let made = Path::new(MADE).join("libtriton_torch_shim.so");
    match env::var_os("TORCH_SHIM_PATH").map(Into::into).or_else(|| made.exists().then_some(made)) {
        Some(path) => Some(Settings::from([("library".to_owned(), path.display().to_string())])),
        None if env::var("CI").is_ok_and(|value| value == "true") => {
            panic!("the shim of PyTorch is missing: e2e/runtimes/pytorch makes it")
        }
        None => {
            println!("skipped: no shim of PyTorch: e2e/runtimes/pytorch makes it");
            None
        }
    }
}

const MADE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/runtimes/pytorch");

fn models() -> ModelSource {
    let folder = Path::new(MADE).join("models");
    ModelSource { model_dir: folder.clone(), version_dir: folder, name: "m".into(), version: 1 }
}

/// A script with its configuration.
struct Script {
    backend: Arc<dyn Backend>,
    source: ModelSource,
    config: ModelConfig,
}

impl Script {
    /// `None` if the library is not there; that was said. Tensors are written `NAME TYPE DIMS`.
    fn new(file: &str, inputs: &[&str], outputs: &[&str], more: &str) -> Option<Self> {
        let backend = super::backend(settings()?);
        let tensors = |side: &str, tensors: &[&str]| -> String {
            let one = |text: &&str| {
                let mut words = text.splitn(3, ' ');
                let mut word = || words.next().unwrap();
                format!("{side} {{ name: '{}' data_type: TYPE_{} dims: [{}] }}\n", word(), word(), word())
            };
            tensors.iter().map(one).collect()
        };
        let tensors = tensors("input", inputs) + &tensors("output", outputs);
        let text =
            format!("name: 'm' platform: 'pytorch_libtorch' default_model_filename: '{file}.pt'\n{tensors}{more}");
        Some(Self { backend, source: models(), config: from_text(&text).unwrap() })
    }

    fn model(&self) -> Result<Box<dyn Model>, Error> {
        let mut config = self.config.clone();
        let mut model = self.backend.open(&self.source, &mut config, true, &no_host())?;
        model.configure(&Arc::new(config))?;
        Ok(model)
    }

    fn load(&self) -> Result<Box<dyn Instance>, Error> {
        self.model()?.instance(&on_cpu(), &Health::default())
    }

    fn instance(&self) -> Box<dyn Instance> {
        self.load().unwrap()
    }

    #[track_caller]
    fn refusal(&self) -> String {
        self.load().err().expect("the model must not load").message.to_string()
    }
}

const TWO: [&str; 2] = ["INPUT0 FP32 2", "INPUT1 FP32 2"];
const SUM_AND_DIFFERENCE: [&str; 2] = ["OUTPUT__0 FP32 2", "OUTPUT__1 FP32 2"];

#[test]
fn requests_run_as_one_batch_and_get_their_own_rows() {
    let Some(script) = Script::new("add_sub", &TWO, &SUM_AND_DIFFERENCE, "max_batch_size: 8") else { return };
    let ask = |rows: i64, first: f32| {
        let row: Vec<f32> = (0_u8..).map(f32::from).take(2 * rows as usize).map(|value| first + value).collect();
        let ones = vec![1.0; row.len()];
        (rows as u32, request([floats("INPUT0", &[rows, 2], &row), floats("INPUT1", &[rows, 2], &ones)]))
    };
    let (replies, _) = run_batch(&mut *script.instance(), vec![ask(1, 10.0), ask(2, 20.0)]);
    let reply = |index: usize| replies[index].as_ref().unwrap();
    assert_eq!(values(output(reply(0), "OUTPUT__0")), [11.0, 12.0]);
    assert_eq!(values(output(reply(0), "OUTPUT__1")), [9.0, 10.0]);
    assert_eq!(values(output(reply(1), "OUTPUT__1")), [19.0, 20.0, 21.0, 22.0]);
    assert_eq!(output(reply(1), "OUTPUT__1").shape.as_slice(), [2, 2]);
}

#[test]
fn names_may_be_those_of_arguments_or_numbers_or_in_order() {
    let ways = [
        (["INPUT1 FP32 2", "INPUT0 FP32 2"], ["INPUT0", "INPUT1"]),
        (["A__1 FP32 2", "B__0 FP32 2"], ["B__0", "A__1"]),
        (["minuend FP32 2", "subtrahend FP32 2"], ["minuend", "subtrahend"]),
    ];
    for (inputs, [minuend, subtrahend]) in ways {
        let Some(script) = Script::new("add_sub", &inputs, &["SUM FP32 2", "DIFFERENCE FP32 2"], "") else { return };
        let ask = request([floats(minuend, &[2], &[5.0, 7.0]), floats(subtrahend, &[2], &[1.0, 2.0])]);
        let reply = run_one(&mut *script.instance(), asking_for(&["DIFFERENCE"], ask)).unwrap();
        assert_eq!(reply.tensors.len(), 1);
        assert_eq!(values(output(&reply, "DIFFERENCE")), [4.0, 5.0]);
    }
}

#[test]
fn a_dictionary_gets_its_inputs_by_name() {
    let inputs = ["subtrahend FP32 -1", "minuend FP32 -1"];
    let Some(script) = Script::new("dictionary", &inputs, &["y FP32 -1"], "") else { return };
    let ask = request([floats("subtrahend", &[2], &[1.0, 2.0]), floats("minuend", &[2], &[5.0, 7.0])]);
    assert_eq!(values(output(&run_one(&mut *script.instance(), ask).unwrap(), "y")), [4.0, 5.0]);
    let inputs = ["subtrahend FP32 -1", "minuend STRING -1"];
    let text = Script::new("dictionary", &inputs, &["y FP32 -1"], "").unwrap().refusal();
    assert!(
        text.ends_with("configuration expects TYPE_STRING for input 'minuend', and the model takes tensors"),
        "{text}"
    );
}

#[test]
fn every_type_of_libtorch_goes_in_and_out() {
    let types = DataType::ALL.into_iter().filter(|data_type| {
        !matches!(data_type, DataType::Bytes | DataType::Bool | DataType::Uint16 | DataType::Uint32 | DataType::Uint64)
    });
    for data_type in types {
        let word = data_type.to_config().as_str_name().trim_start_matches("TYPE_").to_owned();
        let Some(script) = Script::new("twice", &[&format!("x {word} -1")], &[&format!("y {word} -1")], "") else {
            return;
        };
        let size = data_type.byte_size().unwrap();
        // One and one is two, in whatever way the type writes them.
        let (one, two) = match data_type {
            DataType::Fp16 => (0x3C00_u64, 0x4000_u64),
            DataType::Bf16 => (0x3F80, 0x4000),
            DataType::Fp32 => (u64::from(1f32.to_bits()), u64::from(2f32.to_bits())),
            DataType::Fp64 => (1f64.to_bits(), 2f64.to_bits()),
            _ => (1, 2),
        };
        let three = |value: u64| value.to_le_bytes()[..size].repeat(3);
        let reply = run_one(&mut *script.instance(), request([tensor("x", data_type, &[3], three(one))])).unwrap();
        let y = output(&reply, "y");
        assert_eq!((y.data_type, bytes(y)), (data_type, &*three(two)), "{data_type}");
        assert_eq!(types::of_number(types::number(data_type)), Some(data_type));
    }
}

#[test]
fn strings_are_lists() {
    let (inputs, outputs) = (["words STRING -1"], ["doubled STRING -1", "lengths INT64 -1"]);
    let Some(script) = Script::new("words", &inputs, &outputs, "") else { return };
    let mut instance = script.instance();
    let text = |words: &[&str]| strings::join(words.iter().map(|word| word.as_bytes()));
    let words = tensor("words", DataType::Bytes, &[3], text(&["ab", "", "ü"]));
    let reply = run_one(&mut *instance, request([words])).unwrap();
    assert_eq!(output(&reply, "doubled").shape.as_slice(), [3]);
    assert_eq!(bytes(output(&reply, "doubled")), text(&["abab", "", "üü"]));
    assert_eq!(output(&reply, "lengths").shape.as_slice(), [3]);
    let nothing = request([tensor("words", DataType::Bytes, &[0], Vec::new())]);
    let reply = run_one(&mut *instance, nothing).unwrap();
    assert_eq!(
        (output(&reply, "doubled").shape.as_slice(), bytes(output(&reply, "doubled"))),
        ([0].as_slice(), [].as_slice())
    );
}

#[test]
fn a_scalar_has_a_shape_of_ones() {
    let Some(script) = Script::new("total", &["x FP32 -1"], &["y FP32 1"], "") else { return };
    let reply = run_one(&mut *script.instance(), request([floats("x", &[3], &[1.0, 2.0, 3.0])])).unwrap();
    assert_eq!((values(output(&reply, "y")), output(&reply, "y").shape.as_slice()), (vec![6.0], [1].as_slice()));
}

#[test]
fn tensors_without_elements_pass() {
    let Some(script) = Script::new("add_sub", &["INPUT0 FP32 -1", "INPUT1 FP32 -1"], &["S FP32 -1"], "") else {
        return;
    };
    let ask = request([floats("INPUT0", &[0], &[]), floats("INPUT1", &[0], &[])]);
    let reply = run_one(&mut *script.instance(), ask).unwrap();
    assert_eq!((output(&reply, "S").shape.as_slice(), bytes(output(&reply, "S")).len()), ([0].as_slice(), 0));
}

#[test]
fn outputs_lie_row_by_row_whatever_libtorch_does() {
    let Some(script) = Script::new("transposed", &["x FP32 2,-1"], &["y FP32 -1,2"], "max_batch_size: 4") else {
        return;
    };
    let ask = request([floats("x", &[1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]);
    let (replies, _) = run_batch(&mut *script.instance(), vec![(1, ask)]);
    let y = output(replies[0].as_ref().unwrap(), "y");
    assert_eq!((y.shape.as_slice(), values(y)), ([1, 3, 2].as_slice(), vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
}

/// Enough numbers that outputs are shared, not copied.
fn many(from: f32) -> Vec<f32> {
    (0_u16..1024).map(|index| from + f32::from(index)).collect()
}

#[test]
fn an_output_that_is_an_input_outlives_the_request() {
    let Some(script) = Script::new("same", &["x FP32 -1"], &["all FP32 -1", "rest FP32 -1"], "") else { return };
    let mut instance = script.instance();
    let reply = run_one(&mut *instance, request([floats("x", &[1024], &many(0.0))])).unwrap();
    run_one(&mut *instance, request([floats("x", &[1024], &many(5000.0))])).unwrap();
    assert_eq!(values(output(&reply, "all")), many(0.0));
    assert_eq!(values(output(&reply, "rest")), many(0.0)[1..]);
}

#[test]
fn what_a_model_writes_to_is_a_copy_of_the_input() {
    for (file, shape, first) in [("writes_input", &[1024][..], 1.0), ("writes_view", &[1, 1024], 0.0)] {
        let Some(script) = Script::new(file, &["x FP32 -1"], &["y FP32 -1"], "") else { return };
        let given = floats("x", shape, &many(0.0));
        let kept = given.clone(); // shares the bytes
        let reply = run_one(&mut *script.instance(), request([given])).unwrap();
        assert_eq!(values(&kept), many(0.0), "{file} has changed its input");
        assert_eq!(values(output(&reply, "y"))[0].to_bits(), f32::to_bits(first));
    }
}

#[test]
fn what_a_model_keeps_of_its_input_outlives_the_request() {
    let Some(script) = Script::new("keeps_input", &["x FP32 -1"], &["before FP32 -1"], "") else { return };
    let mut instance = script.instance();
    let mut ask = |from: f32| run_one(&mut *instance, request([floats("x", &[1024], &many(from))])).unwrap();
    ask(1.0);
    let overwritten: Vec<Vec<f32>> = (0..64).map(|_| many(9999.0)).collect(); // takes memory that was free
    assert_eq!(values(output(&ask(2.0), "before")), many(1.0));
    assert_eq!(values(output(&ask(3.0), "before")), many(2.0));
    drop(overwritten);
}

#[test]
fn an_output_that_is_a_buffer_of_the_model_stays_as_it_was() {
    let Some(script) = Script::new("counts", &["x FP32 1024"], &["total FP32 1024"], "max_batch_size: 1") else {
        return;
    };
    let mut instance = script.instance();
    let mut ask = || {
        let (mut replies, _) = run_batch(&mut *instance, vec![(1, request([floats("x", &[1, 1024], &[1.0; 1024])]))]);
        replies.remove(0).unwrap()
    };
    let replies = [ask(), ask(), ask()];
    let firsts: Vec<f32> = replies.iter().map(|reply| values(output(reply, "total"))[0]).collect();
    assert_eq!(firsts, [1.0, 2.0, 3.0]);
}

#[test]
fn instances_share_weights_if_the_configuration_says_so() {
    let shared = "parameters { key: 'ENABLE_WEIGHT_SHARING' value { string_value: 'true' } }";
    for (more, expect) in [("", [1.0, 1.0]), (shared, [1.0, 2.0])] {
        let Some(script) = Script::new("counts", &["x FP32 1,1024"], &["total FP32 1,1024"], more) else { return };
        let model = script.model().unwrap();
        let mut instances = [(); 2].map(|()| model.instance(&on_cpu(), &Health::default()).unwrap());
        let bytes = 4096 * if more.is_empty() { 2 } else { 1 };
        let held: u64 = model.memory().iter().map(|held| held.bytes).sum();
        assert_eq!(held, bytes);
        let firsts = instances.each_mut().map(|instance| {
            let ask = request([floats("x", &[1, 1024], &[1.0; 1024])]);
            values(output(&run_one(&mut **instance, ask).unwrap(), "total"))[0]
        });
        assert_eq!(firsts, expect);
    }
}

#[test]
fn the_weights_of_a_model_are_counted_until_its_instances_go() {
    let Some(script) = Script::new("linear", &["x FP32 1024"], &["y FP32 1024"], "max_batch_size: 4") else { return };
    let model = script.model().unwrap();
    let instance = model.instance(&on_cpu(), &Health::default()).unwrap();
    assert_eq!(model.memory(), [MemoryUse { device: Device::Cpu, bytes: 4 * (1024 * 1024 + 1024) }]);
    drop(instance);
    assert_eq!(model.memory(), []);
}

#[test]
fn the_request_at_fault_fails_alone_with_the_traceback_of_the_script() {
    let Some(script) = Script::new("fails", &["x FP32 2"], &["y FP32 2"], "max_batch_size: 4") else { return };
    let ask = |value: f32| (1, request([floats("x", &[1, 2], &[value, 1.0])]));
    let (replies, _) = run_batch(&mut *script.instance(), vec![ask(1.0), ask(-1.0), ask(3.0)]);
    let error = replies[1].as_ref().unwrap_err();
    assert_eq!(error.code, Code::Internal);
    let begin = "PyTorch execute failure: The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript";
    assert!(error.message.starts_with(begin), "{error}");
    assert!(error.message.contains("a number is negative"), "{error}");
    assert_eq!(values(output(replies[2].as_ref().unwrap(), "y")), [3.0, 1.0]);
    assert!(replies[0].is_ok());
}

#[test]
fn memory_that_there_is_not_is_an_error_of_the_request() {
    let Some(script) = Script::new("greedy", &["x FP32 1"], &["y FP32 1"], "") else { return };
    let mut instance = script.instance();
    let error = run_one(&mut *instance, request([floats("x", &[1], &[1e9])])).unwrap_err();
    assert!(error.message.contains("you tried to allocate 1048576000000000 bytes"), "{error}");
    let reply = run_one(&mut *instance, request([floats("x", &[1], &[1.0])])).unwrap();
    assert_eq!(values(output(&reply, "y")), [1.0]);
}

#[test]
fn ragged_requests_are_one_row_with_borders() {
    let more = "max_batch_size: 4
        batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO target_name: 'BORDERS' data_type: TYPE_INT32 source_input: 'X' }
        batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: 'DOUBLED__1' source_input: 'X' }";
    let Some(mut script) = Script::new("segments", &["X FP32 -1"], &["SUM__0 FP32 1", "DOUBLED__1 FP32 -1"], more)
    else {
        return;
    };
    script.config.input[0].allow_ragged_batch = true;
    script.config.output[0].reshape = Some(Default::default());
    let ask = |row: &[f32]| (1, request([floats("X", &[1, row.len() as i64], row)]));
    let (replies, _) = run_batch(&mut *script.instance(), vec![ask(&[1.0, 2.0, 3.0]), ask(&[10.0]), ask(&[4.0, 5.0])]);
    let sums: Vec<_> = replies.iter().map(|reply| values(output(reply.as_ref().unwrap(), "SUM__0"))).collect();
    assert_eq!(sums, [[6.0], [10.0], [9.0]]);
    let doubled = output(replies[2].as_ref().unwrap(), "DOUBLED__1");
    assert_eq!((doubled.shape.as_slice(), values(doubled)), ([1, 2].as_slice(), vec![8.0, 10.0]));
}

#[test]
fn outputs_that_do_not_fit_the_configuration_are_named() {
    let run = |file: &str, output: &str| {
        let script = Script::new(file, &["x FP32 -1"], &[output], "")?;
        Some(run_one(&mut *script.instance(), request([floats("x", &[1], &[1.0])])).unwrap_err())
    };
    let Some(error) = run("twice", "y INT64 -1") else { return };
    let text = "configuration expects datatype TYPE_INT64 for output 'y', model provides TYPE_FP32";
    assert_eq!(error, Error::invalid_argument(text));
    let text = "configuration expects datatype TYPE_FP32 for output 'y', model provides TYPE_ComplexFloat";
    assert_eq!(run("complex", "y FP32 -1").unwrap(), Error::invalid_argument(text));
    let text = "The output OUTPUT__3 in the model configuration refers to an output index which doesn't exist. This model has 1 outputs";
    assert_eq!(run("twice", "OUTPUT__3 FP32 -1").unwrap(), Error::invalid_argument(text));
    let text = "PyTorch execute failure: output must be of type Tensor or List[str], received List[Tensor]";
    assert_eq!(run("many_tensors", "y FP32 -1").unwrap(), Error::internal(text));
    let text = "PyTorch execute failure: output must be of type Tensor, List[str] or Tuple containing one of these two types. It \
                should not be a List / Dictionary of Tensors or a Scalar";
    assert_eq!(run("number", "y FP32 -1").unwrap(), Error::internal(text));
    let text = "PyTorch execute failure: output must be a dense tensor";
    for file in ["sparse", "nested"] {
        assert_eq!(run(file, "y FP32 -1").unwrap(), Error::internal(text), "{file}");
    }
    let text = "PyTorch execute failure: output at index 1 must be of type Tensor or List[str], received GenericDict";
    assert_eq!(run("named", "y FP32 -1").unwrap(), Error::internal(text));
}

#[test]
fn scripts_that_cannot_be_called_are_refused() {
    let refusal = |file: &str| Some(Script::new(file, &["x FP32 -1", "mask FP32 -1"], &["y FP32 -1"], "")?.refusal());
    let Some(text) = refusal("maybe_tensor") else { return };
    let begin = "An input of type 'Tensor?' was detected in the model.";
    assert!(text.starts_with(begin), "{text}");
    let text = refusal("no_forward").unwrap();
    assert!(text.starts_with("failed to load model 'm': ") && text.contains("'forward' is not defined"), "{text}");
    let expect = "unable to load model 'm', configuration expects 2 inputs, model provides 1";
    assert_eq!(refusal("twice").unwrap(), expect);
}

#[test]
fn damaged_files_are_refused() {
    let Some(mut script) = Script::new("linear", &["x FP32 1024"], &["y FP32 1024"], "") else { return };
    let whole = fs::read(script.source.version_dir.join("linear.pt")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    script.source.version_dir = folder.path().into();
    let mut changed = whole.clone();
    changed[..64].fill(0xFF);
    for damaged in [&[][..], b"text", &whole[..100], &whole[..whole.len() / 2], &whole[..whole.len() - 1], &changed] {
        fs::write(folder.path().join("linear.pt"), damaged).unwrap();
        let text = script.refusal();
        assert!(text.starts_with("failed to load model 'm': "), "{text}");
    }
    fs::remove_file(folder.path().join("linear.pt")).unwrap();
    let path = folder.path().join("linear.pt");
    assert_eq!(script.refusal(), format!("unable to find '{}' for model instance 'm'", path.display()));
}

#[test]
fn a_gpu_that_libtorch_does_not_see_is_refused_with_the_cure() {
    let Some(script) = Script::new("twice", &["x FP32 -1"], &["y FP32 -1"], "") else { return };
    let placement = Placement { device: Device::Gpu(7), ..on_cpu() };
    let error = script.model().unwrap().instance(&placement, &Health::default()).err().unwrap();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.starts_with("unable to use GPU 7 for instance 'm_0_0': libtorch "), "{error}");
    assert!(error.message.contains("use KIND_CPU"), "{error}");
}

#[test]
fn a_model_may_place_itself() {
    let Some(script) = Script::new("twice", &["x FP32 -1"], &["y FP32 -1"], "") else { return };
    let placement = Placement { device: Device::Model, ..on_cpu() };
    let mut instance = script.model().unwrap().instance(&placement, &Health::default()).unwrap();
    let reply = run_one(&mut *instance, request([floats("x", &[1], &[2.0])])).unwrap();
    assert_eq!(values(output(&reply, "y")), [4.0]);
}

#[test]
fn modes_change_how_a_model_runs_and_not_what_it_answers() {
    let keys = [
        "DISABLE_OPTIMIZED_EXECUTION",
        "INFERENCE_MODE",
        "DISABLE_CUDNN",
        "ENABLE_JIT_EXECUTOR",
        "ENABLE_JIT_PROFILING",
        "ENABLE_TENSOR_FUSER",
        "ENABLE_CACHE_CLEANING",
    ];
    for (key, value) in keys.iter().flat_map(|key| [(key, "true"), (key, "false")]) {
        let more = format!("parameters {{ key: '{key}' value {{ string_value: '{value}' }} }}");
        let Some(script) = Script::new("add_sub", &TWO, &SUM_AND_DIFFERENCE, &more) else { return };
        let mut instance = script.instance();
        for _ in 0..3 {
            let ask = request([floats("INPUT0", &[2], &[1.0, 2.0]), floats("INPUT1", &[2], &[3.0, 4.0])]);
            let reply = run_one(&mut *instance, ask).unwrap();
            assert_eq!(values(output(&reply, "OUTPUT__0")), [4.0, 6.0], "{key}={value}");
        }
    }
}

#[test]
fn a_package_says_which_libtorch_it_needs() {
    let Some(mut script) = Script::new("twice", &["x FP32 -1"], &["y FP32 -1"], "") else { return };
    script.config.platform = "torch_aoti".into();
    let error = script.model().err();
    let Some(error) = error else { return println!("skipped: this libtorch has packages") };
    assert_eq!(error.code, Code::Unsupported);
    assert!(
        error.message.starts_with("model 'm' has platform torch_aoti, which libtorch has since 2.8, and this is 1.13"),
        "{error}"
    );
}

#[test]
fn instances_run_on_several_threads() {
    let Some(script) = Script::new("linear", &["x FP32 1024"], &["y FP32 1024"], "max_batch_size: 4") else { return };
    let model = script.model().unwrap();
    std::thread::scope(|scope| {
        for thread in 0_u8..4 {
            let mut instance = model.instance(&on_cpu(), &Health::default()).unwrap();
            scope.spawn(move || {
                for step in 0_u8..20 {
                    let value = f32::from(thread) + f32::from(step);
                    let ask = request([floats("x", &[1, 1024], &[value; 1024])]);
                    let (replies, _) = run_batch(&mut *instance, vec![(1, ask)]);
                    assert_eq!(values(output(replies[0].as_ref().unwrap(), "y")), [value * 3.0 + 1.0; 1024]);
                }
            });
        }
    });
}

#[test]
fn operations_come_from_libraries_each_of_which_is_opened_once() {
    let library = Path::new(MADE).join("libe2e_operations.so");
    let with = |library: &Path| {
        let more = format!("model_operations {{ op_library_filename: '{}' }}", library.display());
        Script::new("scaled", &["x FP32 -1"], &["y FP32 -1"], &more)
    };
    let Some(without) = Script::new("scaled", &["x FP32 -1"], &["y FP32 -1"], "") else { return };
    let text = without.refusal();
    assert!(text.contains("Unknown builtin op: e2e::scaled"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let missing = with(&folder.path().join("libops.so")).unwrap().refusal();
    assert!(missing.starts_with("operator library '") && missing.contains("libops.so' cannot be read: "), "{missing}");

    let copy = folder.path().join("a_copy.so");
    fs::copy(&library, &copy).unwrap();
    for library in [&library, &copy] {
        let ask = request([floats("x", &[2], &[1.0, 2.0])]);
        let reply = run_one(&mut *with(library).unwrap().instance(), ask).unwrap();
        assert_eq!(values(output(&reply, "y")), [3.0, 6.0]);
    }
    let other = folder.path().join("libe2e_operations.so");
    fs::write(&other, [fs::read(&library).unwrap(), b"changed".to_vec()].concat()).unwrap();
    let text = with(&other).unwrap().refusal();
    assert!(text.contains("another one of this name was opened before"), "{text}");
}

/// Packages are made by hand (`e2e/models/torch_packages.py`), for Debian's libtorch has none.
#[test]
fn packages_run_with_the_names_of_their_call() {
    let Some(folder) = env::var_os("TORCH_PACKAGES") else {
        return println!("skipped: no packages of AOTInductor: see e2e/models/torch_packages.py");
    };
    let package = |file: &str, inputs: &[&str], outputs: &[&str], more: &str| {
        let mut script = Script::new(file, inputs, outputs, more).unwrap();
        script.config.platform = "torch_aoti".into();
        script.config.default_model_filename = format!("{file}.pt2");
        script.source.version_dir = Path::new(&folder).into();
        script
    };
    let linear = package("linear", &["ARGS[0] FP32 4"], &["RESULT FP32 3"], "max_batch_size: 8");
    let mut instance = linear.instance();
    let ask = |rows: i64, first: f32| {
        (rows as u32, request([floats("ARGS[0]", &[rows, 4], &[first; 4].repeat(rows as usize))]))
    };
    let (replies, _) = run_batch(&mut *instance, vec![ask(1, 1.0), ask(2, 0.0)]);
    assert_eq!(values(output(replies[0].as_ref().unwrap(), "RESULT")), [7.0, 24.0, 41.0]);
    assert_eq!(values(output(replies[1].as_ref().unwrap(), "RESULT")), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    let wrong = request([floats("ARGS[0]", &[1, 5], &[1.0; 5])]);
    let (replies, _) = run_batch(&mut *instance, vec![(1, wrong)]);
    let text = "PyTorch execute failure: the package refuses these inputs or fails; its reason is on standard error";
    assert_eq!(replies[0].as_ref().unwrap_err(), &Error::internal(text));

    let inputs = ["ARGS[0] FP32 2", "INPUT__1 FP32 2", "ARGS[1][key2] FP32 2", "KWARGS[scale] FP32 2"];
    let outputs = ["RESULT[more][1][same] FP32 2", "OUTPUT__0 FP32 2", "RESULT[more][0] FP32 2"];
    let ask = request(
        inputs
            .iter()
            .zip([1.0, 10.0, 100.0, 1000.0])
            .map(|(name, value)| floats(name.split_once(' ').unwrap().0, &[2], &[value, 2.0 * value])),
    );
    let reply = run_one(&mut *package("nested", &inputs, &outputs, "").instance(), ask).unwrap();
    assert_eq!(values(output(&reply, "OUTPUT__0")), [11.0, 22.0]);
    assert_eq!(values(output(&reply, "RESULT[more][0]")), [1000.0, 4000.0]);
    assert_eq!(values(output(&reply, "RESULT[more][1][same]")), [100.0, 200.0]);

    let given = floats("INPUT__0", &[2], &[1.0, 2.0]);
    let kept = given.clone();
    let writes = package("writes", &["INPUT__0 FP32 2"], &["OUTPUT__0 FP32 2"], "");
    let reply = run_one(&mut *writes.instance(), request([given])).unwrap();
    assert_eq!((values(output(&reply, "OUTPUT__0")), values(&kept)), (vec![4.0, 6.0], vec![1.0, 2.0]));

    let junk = tempfile::tempdir().unwrap();
    let mut damaged = package("linear", &["ARGS[0] FP32 4"], &["RESULT FP32 3"], "");
    let whole = fs::read(Path::new(&folder).join("linear.pt2")).unwrap();
    damaged.source.version_dir = junk.path().into();
    for content in [&[][..], b"text", &whole[..whole.len() / 2]] {
        fs::write(junk.path().join("linear.pt2"), content).unwrap();
        let text = damaged.refusal();
        assert!(text.starts_with("failed to load model 'm': "), "{text}");
    }
}
