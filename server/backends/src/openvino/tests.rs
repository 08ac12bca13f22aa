//! The real library through the contract: ONNX models of `tests/models`, which OpenVINO reads as well, and models in its own form of
//! `tests/openvino_models`, made by `tests/make_openvino_models.py`.

mod running;

use std::{fs, path::Path, sync::Arc};

use server_core::{
    backend::{Backend, Device, Health, Instance, Model, ModelSource, Placement, Settings},
    config::{Machine, ModelConfig, from_text},
    error::{Code, Error},
    tensor::{DataType, Tensor},
};
use server_proto::inference::{
    ModelInstanceGroup, ModelParameter, model_config::SchedulingChoice, model_instance_group::Kind,
};

use super::{
    library, model,
    settings::{ModelSettings, Threads},
};
use crate::testing::{
    asking_for, bytes, floats, no_host, on_cpu, output, request, run_batch, run_one, runtime_settings, source, tensor,
    values,
};

fn settings() -> Option<Settings> {
    runtime_settings("OPENVINO_DYLIB_PATH", "openvino/openvino/libs")
}

/// Where a model of one of the two folders lies.
fn place(file: &str) -> ModelSource {
    let onnx = source("m");
    if file.ends_with(".onnx") {
        return onnx;
    }
    let folder = onnx.version_dir.with_file_name("openvino_models");
    ModelSource { model_dir: folder.clone(), version_dir: folder, ..onnx }
}

/// A model of the test folders, its configuration completed from the file.
struct Loaded {
    backend: Arc<dyn Backend>,
    source: ModelSource,
    config: ModelConfig,
}

impl Loaded {
    /// `None` if the library is not there; that was said.
    fn new(file: &str) -> Option<Self> {
        Self::with(file, "")
    }

    fn with(file: &str, config: &str) -> Option<Self> {
        let backend = super::backend(settings()?);
        let mut config = from_text(&format!("name: 'm' default_model_filename: '{file}' {config}")).unwrap();
        let source = place(file);
        backend.prepare(&mut config, &Machine { gpus: 1 });
        backend.open(&source, &mut config, true, &no_host()).unwrap();
        Some(Self { backend, source, config })
    }

    fn parameter(mut self, key: &str, value: &str) -> Self {
        self.config.parameters.insert(key.into(), ModelParameter { string_value: value.into() });
        self
    }

    fn model(&self) -> Result<Box<dyn Model>, Error> {
        let mut config = self.config.clone();
        let mut model = self.backend.open(&self.source, &mut config, false, &no_host())?;
        model.configure(&Arc::new(config))?;
        Ok(model)
    }

    fn instance(&self) -> Box<dyn Instance> {
        self.model().and_then(|model| model.instance(&on_cpu(), &Health::default())).unwrap()
    }

    #[track_caller]
    fn refusal(&self) -> Error {
        let refused = self.model().and_then(|model| model.instance(&on_cpu(), &Health::default()));
        refused.err().expect("the model must not load")
    }
}

// === The library ===

#[test]
fn a_library_of_something_else_is_named_with_what_it_lacks() {
    let of = |path: &str| {
        let settings = Settings::from([("library".to_owned(), path.to_owned())]);
        library::open(&settings).err().expect("it is of no use")
    };
    let gone = of("/there/is/none");
    assert_eq!(gone.code, Code::InvalidArgument);
    let text = "unable to find backend library for backend 'openvino': library libopenvino_c.so not found, searched: /there/is/none; \
                install OpenVINO 2023.1 or newer";
    assert!(gone.message.starts_with(text), "{gone}");
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let other = of(maps
        .lines()
        .find_map(|line| line.find('/').map(|at| &line[at..]).filter(|path| path.contains("libc.so")))
        .unwrap());
    assert_eq!(other.code, Code::Internal);
    assert!(other.message.starts_with("unable to load backend library for backend 'openvino': library /"), "{other}");
    assert!(other.message.ends_with(" is not suitable: it does not export ov_get_openvino_version"), "{other}");
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("libopenvino_c.so.2641");
    fs::write(&empty, "").unwrap();
    let refused = of(folder.path().to_str().unwrap());
    assert!(refused.message.contains("libopenvino_c.so.2641 cannot be opened: "), "{refused}");
}

// === Completing configurations ===

#[test]
fn an_absent_configuration_is_read_from_the_file() {
    let Some(Loaded { config, .. }) = Loaded::new("add_sub.onnx") else { return };
    assert_eq!(config.max_batch_size, 4);
    assert!(matches!(config.scheduling_choice, Some(SchedulingChoice::DynamicBatching(_))));
    let inputs: Vec<_> = config.input.iter().map(|input| (&*input.name, input.data_type, &*input.dims)).collect();
    assert_eq!(inputs, [("A", 11, [4].as_slice()), ("B", 11, &[4])]);
    let outputs: Vec<_> = config.output.iter().map(|output| (&*output.name, output.data_type, &*output.dims)).collect();
    assert_eq!(outputs, [("SUM", 11, [4].as_slice()), ("DIFFERENCE", 11, &[4])]);
    let group = &config.instance_group[0];
    assert_eq!((group.kind(), config.instance_group.len()), (Kind::Cpu, 1), "the CPU is where it runs");
}

fn numbers() -> impl Iterator<Item = DataType> {
    DataType::ALL.into_iter().filter(|data_type| data_type.byte_size().is_some())
}

#[test]
fn strings_are_refused() {
    let Some(settings) = settings() else { return };
    let mut config = from_text("name: 'm' default_model_filename: 'strings.onnx'").unwrap();
    let error = super::backend(settings).open(&place("strings.onnx"), &mut config, true, &no_host()).err().unwrap();
    assert_eq!(error, Error::unsupported("unsupported datatype string for tensor 'TEXT'"));
}

#[test]
fn every_type_of_a_file_has_its_name_in_the_configuration() {
    let Some(Loaded { config, .. }) = Loaded::new("every_type.xml") else { return };
    let types: Vec<_> = config.output.iter().map(|output| DataType::from_config(output.data_type).unwrap()).collect();
    assert_eq!(types, numbers().collect::<Vec<_>>());
}

#[test]
fn a_model_made_for_one_row_batches_if_the_configuration_says_so() {
    let Some(Loaded { config, .. }) = Loaded::new("dense.xml") else { return };
    assert_eq!(
        (config.max_batch_size, &*config.input[0].dims, &*config.output[0].dims),
        (0, [1, 3].as_slice(), [1, 2].as_slice())
    );
    let loaded = Loaded::with("dense.xml", "max_batch_size: 8").unwrap();
    assert_eq!((&*loaded.config.input[0].dims, &*loaded.config.output[0].dims), ([3].as_slice(), [2].as_slice()));
    let mut instance = loaded.instance();
    let ask = |rows: i64| request([floats("X", &[rows, 3], &[1.0, 0.0, 2.0].repeat(rows as usize))]);
    for sizes in [[1, 2], [3, 1]] {
        let (replies, _) = run_batch(&mut *instance, sizes.map(|rows| (rows as u32, ask(rows))).into());
        for (reply, rows) in replies.iter().zip(sizes) {
            let output = &reply.as_ref().unwrap().tensors[0];
            assert_eq!(output.shape.as_slice(), [rows, 2]);
            assert_eq!(values(output), [11.0, 14.0].repeat(rows as usize));
        }
    }
}

#[test]
fn a_port_may_be_called_by_any_of_its_names() {
    for name in ["Y", "Y:0"] {
        let output = format!("output {{ name: '{name}' data_type: TYPE_FP32 dims: [ 1, 2 ] }}");
        let Some(loaded) = Loaded::with("dense.xml", &output) else { return };
        let outputs = run_one(&mut *loaded.instance(), request([floats("X", &[1, 3], &[1.0, 0.0, 0.0])])).unwrap();
        assert_eq!(values(self::output(&outputs, name)), [1.0, 2.0]);
    }
}

// === What does not load ===

#[test]
fn parameters_and_devices_that_there_are_not_are_refused() {
    let Some(loaded) = Loaded::new("add_sub.onnx") else { return };
    let error = loaded.parameter("TARGET_DEVICE", "npu").refusal();
    assert_eq!(error.code, Code::InvalidArgument);
    let text = "unable to load model 'm', TARGET_DEVICE 'NPU' is not a device that OpenVINO has here: CPU";
    assert_eq!(error.message, text);
    let error = Loaded::new("add_sub.onnx").unwrap().parameter("NUM_STREAMS", "many").refusal();
    assert_eq!(error.message, "expected the parameter 'NUM_STREAMS' to be either AUTO/NUMA/<int_value>, got many");
    let error = Loaded::new("add_sub.onnx").unwrap().parameter("CPU_EXTENSION_PATH", "/there/is/none.so").refusal();
    assert!(error.message.starts_with("openvino error in  loading custom CPU extensions : "), "{error}");
    let loaded = Loaded::new("add_sub.onnx").unwrap();
    let on_gpu = Placement { device: Device::Gpu(0), ..on_cpu() };
    let error = loaded.model().unwrap().instance(&on_gpu, &Health::default()).err().unwrap();
    assert_eq!(error.message, "unable to load model 'm', Triton OpenVINO backend supports only Kind CPU and AUTO");
}

#[test]
fn an_output_that_does_not_follow_the_rows_is_refused() {
    let config = "max_batch_size: 4 input { name: 'X' data_type: TYPE_FP32 dims: [ 3, 4 ] }
                  output { name: 'Y' data_type: TYPE_FP32 dims: 48 }";
    let Some(loaded) = Loaded::with("end_to_end.xml", config) else { return };
    let text = "model 'm', tensor 'Y': for the model to support batching the shape should have at least 1 dimension and the first \
                dimension must be -1; but shape expected by the model is [1,48]";
    assert_eq!(loaded.refusal(), Error::invalid_argument(text));
}

#[test]
fn one_number_of_all_rows_is_not_computed_of_a_batch_that_is_filled_up() {
    let config = "max_batch_size: 4 input { name: 'X' data_type: TYPE_FP32 dims: 3 }
                  output { name: 'Y' data_type: TYPE_FP32 dims: 1 }
                  parameters { key: 'SKIP_OV_DYNAMIC_BATCHSIZE' value { string_value: 'YES' } }";
    let Some(loaded) = Loaded::with("total.xml", config) else { return };
    let (replies, _) = run_batch(&mut *loaded.instance(), vec![(4, request([floats("X", &[4, 3], &[1.0; 12])]))]);
    assert_eq!(values(output(replies[0].as_ref().unwrap(), "Y")), [12.0; 4]);
    let text = "unable to load model 'm', output 'Y' is a scalar, in which 'ENABLE_BATCH_PADDING' would count the zeros that fill up a \
                batch; set it to 'NO'";
    assert_eq!(loaded.parameter("ENABLE_BATCH_PADDING", "YES").refusal(), Error::invalid_argument(text));
}

#[test]
fn a_device_may_stand_for_others() {
    for device in ["AUTO", "AUTO:CPU", "HETERO:CPU", "MULTI:CPU", "BATCH:CPU"] {
        let Some(loaded) = Loaded::new("add_sub.onnx") else { return };
        let loaded = loaded.parameter("TARGET_DEVICE", device).parameter("PERFORMANCE_HINT", "LATENCY");
        let ask = request(["A", "B"].map(|name| floats(name, &[1, 4], &[1.0; 4])));
        let (replies, _) = run_batch(&mut *loaded.instance(), vec![(1, ask)]);
        assert_eq!(values(output(replies[0].as_ref().unwrap(), "SUM")), [2.0; 4], "{device}");
    }
}

#[test]
fn the_cpu_has_no_more_threads_than_granted() {
    let Some(settings) = settings() else { return };
    let api = library::runtime(&settings).unwrap().api;
    let of_cpu = |on_processors, granted| {
        let core = library::core(api, Threads { on_processors, granted }).unwrap();
        core.property("CPU", "INFERENCE_NUM_THREADS").unwrap()
    };
    assert_eq!([of_cpu(8, 1), of_cpu(8, 8)], ["1", "0"], "0: OpenVINO chooses");
}

#[test]
fn parameters_are_taken() {
    let Some(settings) = settings() else { return };
    let mut loaded = Loaded::new("add_sub.onnx").unwrap();
    let parameters = [
        ("INFERENCE_NUM_THREADS", "1"),
        ("COMPILATION_NUM_THREADS", "1"),
        ("NUM_STREAMS", "2"),
        ("PERFORMANCE_HINT", "throughput"),
        ("TARGET_DEVICE", "cpu"),
    ];
    for (key, value) in parameters {
        loaded = loaded.parameter(key, value);
    }
    let read = ModelSettings::read(&loaded.config, library::threads()).unwrap();
    let known = model::known(&library::runtime(&settings).unwrap().core, &loaded.config, &read).unwrap();
    let expect = [("INFERENCE_NUM_THREADS", "1"), ("NUM_STREAMS", "2"), ("PERFORMANCE_HINT", "THROUGHPUT")];
    assert_eq!(known, expect.map(|(key, value)| (key, value.to_owned())), "the CPU knows no COMPILATION_NUM_THREADS");
    let ask = || request(["A", "B"].map(|name| floats(name, &[1, 4], &[1.0; 4])));
    let (replies, _) = run_batch(&mut *loaded.instance(), vec![(1, ask())]);
    assert_eq!(values(output(replies[0].as_ref().unwrap(), "SUM")), [2.0; 4]);
    for streams in ["AUTO", "NUMA"] {
        loaded = loaded.parameter("NUM_STREAMS", streams);
        assert!(run_batch(&mut *loaded.instance(), vec![(1, ask())]).0[0].is_ok(), "{streams}");
    }
}

#[test]
fn a_configuration_that_contradicts_the_file_is_refused() {
    let Some(mut loaded) = Loaded::new("dense.xml") else { return };
    loaded.config.input[0].dims = vec![1, 4];
    assert!(loaded.refusal().message.contains("tensor 'X': the model expects 2 dimensions (shape [1,3])"));
    loaded.config.input[0].dims = vec![1, 3];
    loaded.config.output[0].name = "Z".into();
    let error = loaded.refusal();
    assert!(error.message.contains("unexpected inference output 'Z', allowed outputs are: Y"), "{error}");
}

#[test]
fn files_that_are_damaged_or_missing_fail_their_model_alone() {
    let Some(settings) = settings() else { return };
    let backend = super::backend(settings);
    let good = place("dense.xml").version_dir;
    let text = fs::read_to_string(good.join("dense.xml")).unwrap();
    let huge = text
        .replace("<dim>1</dim>", "<dim>9000000000000000</dim>")
        .replace("shape=\"1,3\"", "shape=\"9000000000000000,3\"");
    let cases: [(&str, &str, Option<&[u8]>); 7] = [
        ("empty", "", None),
        ("junk", "this is not a model", None),
        ("truncated", &text[..text.len() / 2], None),
        ("without weights", &text, None),
        ("with weights cut off", &text, Some(&[0; 7])),
        ("of another version", &text.replace("version=\"11\"", "version=\"99\""), Some(&[0; 24])),
        ("huge", &huge, Some(&[0; 24])),
    ];
    for (name, xml, weights) in cases {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.xml"), xml).unwrap();
        if let Some(weights) = weights {
            fs::write(folder.path().join("model.bin"), weights).unwrap();
        }
        let error = load(&*backend, folder.path()).err().unwrap_or_else(|| panic!("{name}: it must not load"));
        println!("{name}: {error}");
        assert!(!error.message.is_empty());
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.xml"), &text).unwrap();
    let pipe = folder.path().join("model.bin");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let error = load(&*backend, folder.path()).err().unwrap();
    assert_eq!(error, Error::unavailable(format!("'{}' for model 'm' is not a regular file", pipe.display())));
    let folder = tempfile::tempdir().unwrap();
    let error = load(&*backend, folder.path()).err().unwrap();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.starts_with("unable to find '") && error.message.contains("model.xml"), "{error}");
}

fn load(backend: &dyn Backend, folder: &Path) -> Result<Box<dyn Instance>, Error> {
    let source = ModelSource { model_dir: folder.into(), version_dir: folder.into(), name: "m".into(), version: 1 };
    let group = ModelInstanceGroup { count: 1, kind: Kind::Cpu as i32, ..ModelInstanceGroup::default() };
    let mut config = ModelConfig { name: "m".into(), instance_group: vec![group], ..ModelConfig::default() };
    let mut model = backend.open(&source, &mut config, true, &no_host())?;
    model.configure(&Arc::new(config))?;
    model.instance(&on_cpu(), &Health::default())
}

#[test]
fn weights_that_are_written_over_do_not_matter_to_a_loaded_model() {
    let Some(settings) = settings() else { return };
    let folder = tempfile::tempdir().unwrap();
    for kind in ["xml", "bin"] {
        fs::copy(
            place("dense.xml").version_dir.join(format!("dense.{kind}")),
            folder.path().join(format!("model.{kind}")),
        )
        .unwrap();
    }
    let mut instance = load(&*super::backend(settings), folder.path()).unwrap();
    fs::write(folder.path().join("model.bin"), "").unwrap();
    let outputs = run_one(&mut *instance, request([floats("X", &[1, 3], &[1.0, 0.0, 2.0])])).unwrap();
    assert_eq!(values(output(&outputs, "Y")), [11.0, 14.0]);
}
