//! The real library through the contract: models of `e2e/models/tensorflow_models.py`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Barrier},
    thread,
};

use server_core::{
    backend::{Backend, Device, Health, Instance, Model, ModelSource, Placement, Settings},
    config::{ModelConfig, from_text, to_text},
    error::{Code, Error},
    tensor::{DataType, Tensor, strings},
};

use crate::testing::{
    asking_for, bytes, floats, no_host, on_cpu, output, request, run_batch, run_one, runtime_settings, tensor, values,
};

/// A model, its configuration completed.
struct Loaded {
    backend: Arc<dyn Backend>,
    source: ModelSource,
    config: ModelConfig,
}

/// `None` if the library is not there; that was said.
fn settings() -> Option<Settings> {
    runtime_settings("TENSORFLOW_DYLIB_PATH", "tensorflow/lib")
}

/// Where a model's version lies.
fn made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/runtimes/tensorflow/models").join(name)
}

impl Loaded {
    /// `None` if the library is not there; that was said.
    fn new(name: &str, config: &str) -> Option<Self> {
        settings().map(|_| Self::at(made(name), config).unwrap())
    }

    /// One whose version lies in that folder.
    fn at(folder: PathBuf, config: &str) -> Result<Self, Error> {
        let backend = super::backend(settings().expect("asked for before"));
        let source = ModelSource { model_dir: folder.clone(), version_dir: folder, name: "m".into(), version: 1 };
        let mut config = from_text(&format!("name: 'm' {config}")).unwrap();
        backend.open(&source, &mut config, true, &no_host())?;
        Ok(Self { backend, source, config })
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
        self.refusal_on(Device::Cpu)
    }

    #[track_caller]
    fn refusal_on(&self, device: Device) -> Error {
        let placement = Placement { device, ..on_cpu() };
        let refused = self.model().and_then(|model| model.instance(&placement, &Health::default()));
        refused.err().expect("the model must not load")
    }
}

/// A copy of a model's version, to damage.
fn copy(name: &str) -> Option<tempfile::TempDir> {
    settings()?;
    fn copy_all(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in from.read_dir().unwrap().flatten() {
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy_all(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy_all(&made(name), folder.path());
    Some(folder)
}

fn ints(name: &str, shape: &[i64], values: &[i32]) -> Tensor {
    tensor(name, DataType::Int32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

fn int_values(tensor: &Tensor) -> Vec<i32> {
    assert_eq!(tensor.data_type, DataType::Int32);
    bytes(tensor).chunks_exact(4).map(|chunk| i32::from_le_bytes(chunk.try_into().unwrap())).collect()
}

fn texts(name: &str, shape: &[i64], texts: &[&[u8]]) -> Tensor {
    let mut data = Vec::new();
    texts.iter().for_each(|text| strings::push(&mut data, text));
    tensor(name, DataType::Bytes, shape, data)
}

fn text_values(tensor: &Tensor) -> Vec<Vec<u8>> {
    strings::elements(bytes(tensor)).map(|text| text.unwrap().to_vec()).collect()
}

const GRAPH: &str = "platform: 'tensorflow_graphdef' ";

// === SavedModels ===

#[test]
fn a_saved_model_completes_its_configuration() {
    let Some(loaded) = Loaded::new("add_sub", "") else { return };
    let text = to_text(&loaded.config).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        text,
        r#"name: "m" max_batch_size: 4 input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }, { name: "INPUT1" data_type: TYPE_FP32 dims: [ 16 ] } ] output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 16 ] }, { name: "OUTPUT1" data_type: TYPE_FP32 dims: [ 16 ] } ] dynamic_batching { }"#
    );
}

#[test]
fn a_file_that_only_tensorflow_can_read_is_described_by_it() {
    let Some(loaded) = Loaded::new("as_text", "") else { return };
    assert_eq!((loaded.config.max_batch_size, loaded.config.input.len(), loaded.config.output.len()), (4, 2, 2));
    let inputs = [floats("INPUT0", &[1, 16], &[2.0; 16]), floats("INPUT1", &[1, 16], &[1.0; 16])];
    let (replies, _) = run_batch(&mut *loaded.instance(), vec![(1, request(inputs))]);
    assert_eq!(values(output(replies[0].as_ref().unwrap(), "OUTPUT0")), [3.0; 16]);
}

#[test]
fn requests_of_a_batch_run_together_and_each_gets_its_rows() {
    let Some(loaded) = Loaded::new("add_sub", "") else { return };
    let mut instance = loaded.instance();
    let ask = |rows: i64, value: f32| {
        let count = usize::try_from(rows * 16).unwrap();
        let inputs =
            [floats("INPUT0", &[rows, 16], &vec![value; count]), floats("INPUT1", &[rows, 16], &vec![1.0; count])];
        (u32::try_from(rows).unwrap(), request(inputs))
    };
    let (replies, _) = run_batch(&mut *instance, vec![ask(1, 10.0), ask(2, 20.0), ask(1, 30.0)]);
    for (reply, (rows, value)) in replies.iter().zip([(1_i64, 10.0_f32), (2, 20.0), (1, 30.0)]) {
        let outputs = reply.as_ref().unwrap();
        let sum = output(outputs, "OUTPUT0");
        assert_eq!(&*sum.shape, [rows, 16]);
        assert!(values(sum).iter().all(|&it| it == value + 1.0));
        assert!(values(output(outputs, "OUTPUT1")).iter().all(|&it| it == value - 1.0));
    }
}

#[test]
fn every_type_comes_back_as_it_was() {
    let Some(loaded) = Loaded::new("types", "") else { return };
    let mut instance = loaded.instance();
    let inputs = DataType::ALL.into_iter().map(|data_type| {
        let name = format!("IN_{}", if data_type == DataType::Bytes { "STRING" } else { data_type.wire_name() });
        match data_type.byte_size() {
            None => {
                texts(&name, &[1, 3], &[b"", b"short", b"much longer than the words that lie in the string itself"])
            }
            Some(size) => {
                let data: Vec<u8> = (0..3 * size).map(|index| u8::try_from(index).unwrap()).collect();
                let data = if data_type == DataType::Bool { vec![1, 0, 1] } else { data };
                tensor(&name, data_type, &[1, 3], data)
            }
        }
    });
    let inputs: Vec<Tensor> = inputs.collect();
    let (mut replies, _) = run_batch(&mut *instance, vec![(1, request(inputs.clone()))]);
    let outputs = replies.remove(0).unwrap();
    for input in &inputs {
        let answered = output(&outputs, &input.name.replace("IN", "OUT"));
        assert_eq!(
            (answered.data_type, &answered.shape, bytes(answered)),
            (input.data_type, &input.shape, bytes(input))
        );
    }
}

#[test]
fn large_and_empty_tensors_come_back_whole() {
    let Some(loaded) = Loaded::new("passing", "") else { return };
    let mut instance = loaded.instance();
    let large: Vec<f32> = (0..u16::MAX).map(f32::from).collect();
    let ask = |shape: &[i64], data: &[f32]| (u32::try_from(shape[0]).unwrap(), request([floats("X", shape, data)]));
    let length = i64::try_from(large.len()).unwrap();
    let (replies, _) = run_batch(&mut *instance, vec![ask(&[1, length], &large), ask(&[1, length], &large)]);
    for reply in &replies {
        assert!(values(output(reply.as_ref().unwrap(), "Y")) == large);
    }
    let (replies, _) = run_batch(&mut *instance, vec![ask(&[1, 0], &[])]);
    assert_eq!(&*output(replies[0].as_ref().unwrap(), "Y").shape, [1, 0]);
}

#[test]
fn a_shape_that_no_tensor_has_is_an_error_and_no_end_of_the_process() {
    let Some(loaded) = Loaded::new("passing", "") else { return };
    let mut instance = loaded.instance();
    let shape = [1, 0, i64::MAX / 2, i64::MAX / 2];
    let (replies, _) = run_batch(&mut *instance, vec![(1, request([floats("X", &shape, &[])]))]);
    let refused = replies[0].as_ref().unwrap_err();
    assert!(refused.message.ends_with("is larger than any tensor"), "{refused:?}");
}

#[test]
fn scalars_any_rank_and_extents_that_depend_on_values() {
    let Some(loaded) = Loaded::new("shapes", "") else { return };
    assert_eq!(loaded.config.max_batch_size, 0);
    let mut instance = loaded.instance();
    let inputs =
        [floats("SCALE", &[1], &[3.0]), floats("ANY", &[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]), ints("COUNT", &[1], &[5])];
    let outputs = run_one(&mut *instance, request(inputs)).unwrap();
    let scaled = output(&outputs, "SCALED");
    assert_eq!((&*scaled.shape, values(scaled)), ([2, 1, 2].as_slice(), vec![3.0, 6.0, 9.0, 12.0]));
    let twice = output(&outputs, "TWICE");
    assert_eq!((&*twice.shape, values(twice)), ([1].as_slice(), vec![6.0]));
    assert_eq!(int_values(output(&outputs, "RANGE")), [0, 1, 2, 3, 4]);
}

#[test]
fn only_what_is_asked_for_is_computed() {
    let Some(loaded) = Loaded::new("shapes", "") else { return };
    let mut instance = loaded.instance();
    let inputs = || [floats("SCALE", &[1], &[3.0]), floats("ANY", &[1], &[1.0]), ints("COUNT", &[1], &[7])];
    let outputs = run_one(&mut *instance, asking_for(&["TWICE"], request(inputs()))).unwrap();
    assert_eq!(outputs.tensors.len(), 1);
    let outputs = run_one(&mut *instance, asking_for(&["RANGE", "SCALED"], request(inputs()))).unwrap();
    assert_eq!((int_values(output(&outputs, "RANGE")).len(), values(output(&outputs, "SCALED"))), (7, vec![3.0]));
}

#[test]
fn any_number_of_different_choices_among_outputs_is_answered() {
    let Some(loaded) = Loaded::new("types", "") else { return };
    let mut instance = loaded.instance();
    let names: Vec<&str> = loaded.config.output.iter().map(|output| output.name.as_str()).collect();
    let inputs = loaded.config.input.iter().map(|input| {
        let data_type = DataType::from_config(input.data_type).unwrap();
        match data_type.byte_size() {
            None => texts(&input.name, &[1, 1], &[b"word"]),
            Some(size) => tensor(&input.name, data_type, &[1, 1], vec![1; size]),
        }
    });
    let inputs: Vec<Tensor> = inputs.collect();
    for (first, last) in names.iter().flat_map(|first| names.iter().map(move |last| (*first, *last))) {
        let ask = asking_for(&[first, last], request(inputs.clone()));
        let (mut replies, _) = run_batch(&mut *instance, vec![(1, ask)]);
        let outputs = replies.remove(0).unwrap();
        for name in [first, last] {
            let input = inputs.iter().find(|input| input.name.replace("IN", "OUT") == name).unwrap();
            assert_eq!(bytes(output(&outputs, name)), bytes(input), "{name} of {first}, {last}");
        }
    }
}

#[test]
fn words_are_strings_of_any_bytes() {
    let Some(loaded) = Loaded::new("words", "") else { return };
    let mut instance = loaded.instance();
    let first = (1, request([texts("WORDS", &[1, 2], &[b"a\0b", b"\xff\xfe"])]));
    let second = (1, request([texts("WORDS", &[1, 2], &[b"", &[b'x'; 5000]])]));
    let (replies, _) = run_batch(&mut *instance, vec![first, second]);
    let outputs: Vec<_> = replies.into_iter().map(Result::unwrap).collect();
    assert_eq!(text_values(output(&outputs[0], "JOINED")), [b"a\0b \xff\xfe"]);
    assert_eq!(int_values(output(&outputs[0], "LENGTHS")), [3, 2]);
    assert_eq!(int_values(output(&outputs[1], "LENGTHS")), [0, 5000]);
}

#[test]
fn tables_are_filled_before_the_first_request() {
    let Some(loaded) = Loaded::new("table", "") else { return };
    let mut instance = loaded.instance();
    let (replies, _) =
        run_batch(&mut *instance, vec![(1, request([texts("WORD", &[1, 3], &[b"two", b"zero", b"many"])]))]);
    let numbers = bytes(output(replies[0].as_ref().unwrap(), "NUMBER"));
    let numbers: Vec<i64> =
        numbers.chunks_exact(8).map(|chunk| i64::from_le_bytes(chunk.try_into().unwrap())).collect();
    assert_eq!(numbers, [2, 0, -1]);
}

#[test]
fn a_request_that_the_model_fails_on_fails_alone() {
    let Some(loaded) = Loaded::new("gather", "") else { return };
    let mut instance = loaded.instance();
    let ask = |index: i32| (1, request([ints("INDEX", &[1, 1], &[index])]));
    let (replies, _) = run_batch(&mut *instance, vec![ask(2), ask(7), ask(0)]);
    assert_eq!(values(output(replies[0].as_ref().unwrap(), "VALUE")), [30.0]);
    assert_eq!(values(output(replies[2].as_ref().unwrap(), "VALUE")), [10.0]);
    let failed = replies[1].as_ref().unwrap_err();
    assert!(failed.code == Code::InvalidArgument && failed.message.contains("7 is not in [0, 3)"), "{failed:?}");
}

#[test]
fn what_a_model_keeps_is_its_own() {
    let Some(loaded) = Loaded::new("counter", "") else { return };
    let mut instance = loaded.instance();
    let mut ask = |value: f32| run_one(&mut *instance, request([floats("X", &[64], &[value; 64])])).unwrap();
    let first = ask(5.0);
    for round in 2_u8..20 {
        let answered = ask(f32::from(round));
        let before = if round == 2 { 5.0 } else { f32::from(round - 1) };
        assert_eq!(int_values(output(&answered, "RUNS")), [i32::from(round)]);
        assert!(values(output(&answered, "BEFORE")).iter().all(|&value| value == before));
    }
    assert!(values(output(&first, "BEFORE")).iter().all(|&value| value == 0.0), "an answer changed afterwards");
}

#[test]
fn instances_share_sessions_up_to_their_number() {
    let Some(mut loaded) = Loaded::new("counter", "") else { return };
    let runs = |loaded: &Loaded| {
        let model = loaded.model().unwrap();
        let mut instances: Vec<_> = (0..3).map(|_| model.instance(&on_cpu(), &Health::default()).unwrap()).collect();
        let ask = |instance: &mut Box<dyn Instance>| {
            let outputs = run_one(&mut **instance, request([floats("X", &[64], &[0.0; 64])])).unwrap();
            int_values(output(&outputs, "RUNS"))[0]
        };
        instances.iter_mut().map(ask).collect::<Vec<_>>()
    };
    assert_eq!(runs(&loaded), [1, 1, 1]);
    let share = from_text("parameters { key: 'MAX_SESSION_SHARE_COUNT' value { string_value: '2' } }").unwrap();
    loaded.config.parameters = share.parameters;
    assert_eq!(runs(&loaded), [1, 2, 1]);
}

#[test]
fn instances_run_at_the_same_time_on_threads_of_their_own() {
    let Some(loaded) =
        Loaded::new("add_sub", "parameters { key: 'MAX_SESSION_SHARE_COUNT' value { string_value: '2' } }")
    else {
        return;
    };
    let (model, begin) = (loaded.model().unwrap(), Barrier::new(4));
    thread::scope(|scope| {
        for number in 0_u8..4 {
            let (model, begin) = (&model, &begin);
            scope.spawn(move || {
                let mut instance = model.instance(&on_cpu(), &Health::default()).unwrap();
                begin.wait();
                for round in 0_u8..100 {
                    let (a, b) = ([f32::from(number); 16], [f32::from(round); 16]);
                    let inputs = [floats("INPUT0", &[1, 16], &a), floats("INPUT1", &[1, 16], &b)];
                    let (replies, _) = run_batch(&mut *instance, vec![(1, request(inputs))]);
                    let sum = values(output(replies[0].as_ref().unwrap(), "OUTPUT0"));
                    assert_eq!(sum, [f32::from(number) + f32::from(round); 16]);
                }
            });
        }
    });
}

#[test]
fn graphs_and_signatures_are_chosen_by_name() {
    let parameter =
        |key: &str, value: &str| format!("parameters {{ key: '{key}' value {{ string_value: '{value}' }} }}");
    let Some(square) = Loaded::new("signatures", &parameter("TF_SIGNATURE_DEF", "square")) else { return };
    let (replies, _) = run_batch(&mut *square.instance(), vec![(1, request([floats("X", &[1, 1], &[3.0])]))]);
    assert_eq!(values(output(replies[0].as_ref().unwrap(), "Z")), [9.0]);
    assert_eq!(Loaded::new("signatures", "").unwrap().config.output[0].name, "Z");

    let other = Loaded::new("tags", &parameter("TF_GRAPH_TAG", "other")).unwrap();
    assert_eq!((other.config.max_batch_size, &*other.config.input[0].dims), (0, [-1].as_slice()));
    let outputs = run_one(&mut *other.instance(), request([floats("X", &[3], &[1.0, 2.0, 3.0])])).unwrap();
    assert_eq!(values(output(&outputs, "Y")), [3.0, 6.0, 9.0]);

    let refused = |config: &str| Loaded::at(made("tags"), config).err().unwrap().message;
    assert_eq!(
        refused(&parameter("TF_GRAPH_TAG", "third")),
        "unable to load model 'm', expected 'third' tag, the SavedModel has: {serve}, {other}"
    );
    assert_eq!(
        refused(&parameter("TF_SIGNATURE_DEF", "third")),
        "unable to load model 'm', expected 'third' signature, the SavedModel has: serving_default"
    );
}

#[test]
fn states_of_sequences_and_ragged_batches_are_fed_by_the_server() {
    let sequences = "max_batch_size: 2 sequence_batching { control_input { name: 'START' control { kind: CONTROL_SEQUENCE_START \
                     fp32_false_true: [ 0, 1 ] } } state { input_name: 'STATE' output_name: 'STATE_OUT' data_type: TYPE_FP32 dims: 1 } }";
    let Some(loaded) = Loaded::new("accumulate", sequences) else { return };
    assert_eq!((loaded.config.input.len(), loaded.config.output.len()), (1, 1));
    loaded.instance();

    let ragged = "max_batch_size: 4 input { name: 'X' dims: -1 allow_ragged_batch: true } output { name: 'SUM' dims: 1 } \
                  batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: 'ENDS' data_type: TYPE_FP32 source_input: 'X' }";
    let loaded = Loaded::new("segments", ragged).unwrap();
    let ask = |row: &[f32]| (1, request([floats("X", &[1, i64::try_from(row.len()).unwrap()], row)]));
    let (replies, _) = run_batch(&mut *loaded.instance(), vec![ask(&[1.0, 2.0]), ask(&[]), ask(&[7.0, 8.0, 9.0])]);
    let sums: Vec<f32> = replies.iter().flat_map(|reply| values(output(reply.as_ref().unwrap(), "SUM"))).collect();
    assert_eq!(sums, [3.0, 0.0, 24.0]);
}

#[test]
fn configurations_that_contradict_the_model_are_refused() {
    let Some(loaded) = Loaded::new("add_sub", "") else { return };
    let changed = |change: &dyn Fn(&mut ModelConfig)| {
        let Loaded { backend, source, config } = &loaded;
        let mut config = config.clone();
        change(&mut config);
        Loaded { backend: backend.clone(), source: source.clone(), config }.refusal().message
    };
    assert_eq!(
        changed(&|config| config.input[0].data_type = 9),
        "unable to load model 'm', configuration expects datatype TYPE_INT64 for input 'INPUT0', model provides TYPE_FP32"
    );
    assert_eq!(
        changed(&|config| config.output[1].name = "SUM".into()),
        "unable to load model 'm', unexpected inference output 'SUM', allowed outputs are: OUTPUT0, OUTPUT1"
    );
    assert!(
        changed(&|config| config.input[1].dims = vec![8]).contains("the model expects 2 dimensions (shape [-1,16])")
    );
    let refused = |name: &str, config: &str| Loaded::at(made(name), config).err().unwrap();
    assert_eq!(
        refused("shapes", "max_batch_size: 2").message,
        "unable to autofill for 'm', configuration specified max-batch 2 but model signature does not support batching"
    );
    assert_eq!(
        refused("foreign", ""),
        Error::unsupported("unable to process input 'X' for 'm', unsupported datatype 'DT_COMPLEX64'")
    );
    assert!(loaded.refusal_on(Device::Gpu(0)).message.contains("this TensorFlow library has no GPU"));
}

#[test]
fn damaged_saved_models_are_errors() {
    let Some(folder) = copy("counter") else { return };
    let at = |path: &str| folder.path().join("model.savedmodel").join(path);
    let loads = || {
        Loaded::at(folder.path().into(), "").and_then(|loaded| loaded.model()?.instance(&on_cpu(), &Health::default()))
    };
    loads().unwrap();

    let data = at("variables/variables.data-00000-of-00001");
    let whole = fs::read(&data).unwrap();
    fs::write(&data, &whole[..whole.len() / 2]).unwrap();
    let truncated = loads().err().unwrap();
    assert!(truncated.message.starts_with("unable to load model 'm': "), "{truncated:?}");
    fs::remove_file(&data).unwrap();
    assert!(loads().err().unwrap().message.starts_with("unable to load model 'm': "));
    fs::write(&data, &whole).unwrap();

    let graph = fs::read(at("saved_model.pb")).unwrap();
    for length in [0, 1, graph.len() / 3, graph.len() / 2, graph.len() - 1] {
        fs::write(at("saved_model.pb"), &graph[..length]).unwrap();
        loads().err().unwrap();
    }
    fs::remove_file(at("saved_model.pb")).unwrap();
    let nothing = loads().err().unwrap();
    assert!(
        nothing.code == Code::Unavailable && nothing.message.contains("is not a SavedModel: it has no file"),
        "{nothing:?}"
    );
    fs::remove_dir_all(at("")).unwrap();
    let nothing = loads().err().unwrap();
    assert!(nothing.code == Code::Unavailable && nothing.message.starts_with("unable to find"), "{nothing:?}");
}

// === GraphDefs ===

fn graph_tensors(inputs: &[&str], outputs: &[&str]) -> String {
    let one = |side: &str, name: &str| format!("{side} {{ name: '{name}' data_type: TYPE_INT32 dims: 4 }} ");
    let inputs: String = inputs.iter().map(|name| one("input", name)).collect();
    GRAPH.to_owned() + &inputs + &outputs.iter().map(|name| one("output", name)).collect::<String>()
}

#[test]
fn a_graph_is_asked_by_the_names_of_its_tensors() {
    let config = graph_tensors(&["INPUT0", "INPUT1:0"], &["OUTPUT0", "OUTPUT1"]) + "max_batch_size: 8";
    let Some(loaded) = Loaded::new("graph_add_sub", &config) else { return };
    let inputs = [ints("INPUT0", &[1, 4], &[1, 2, 3, 4]), ints("INPUT1:0", &[1, 4], &[1; 4])];
    let (replies, _) = run_batch(&mut *loaded.instance(), vec![(1, request(inputs))]);
    assert_eq!(int_values(output(replies[0].as_ref().unwrap(), "OUTPUT0")), [2, 3, 4, 5]);
    let halves = graph_tensors(&["INPUT0"], &["HALVES:1"]) + "max_batch_size: 8";
    let (replies, _) = run_batch(
        &mut *Loaded::new("graph_add_sub", &halves).unwrap().instance(),
        vec![(1, request([ints("INPUT0", &[1, 4], &[1, 2, 3, 4])]))],
    );
    assert_eq!(int_values(output(replies[0].as_ref().unwrap(), "HALVES:1")), [3, 4]);
}

#[test]
fn graphs_refuse_names_and_types_that_they_have_not() {
    let refusal = |config: &str| Some(Loaded::new("graph_add_sub", config)?.refusal().message.into_owned());
    let Some(text) = refusal(&graph_tensors(&["INPUT"], &["OUTPUT0"])) else { return };
    assert_eq!(
        text,
        "unable to load model 'm', unexpected inference input 'INPUT', allowed inputs are: INPUT0, INPUT1"
    );
    let nothing = "unable to load model 'm', configuration must name at least one output: a GraphDef does not say what callers may ask";
    assert_eq!(refusal("platform: 'tensorflow_graphdef'").unwrap(), nothing);
    let text = refusal(&graph_tensors(&["OUTPUT1"], &["OUTPUT0"])).unwrap();
    assert!(text.starts_with("unable to load model 'm', unexpected inference input 'OUTPUT1'"), "{text}");
    let text = refusal(&graph_tensors(&["INPUT0"], &["OUTPUT9"])).unwrap();
    assert!(
        text.starts_with(
            "unable to load model 'm', unexpected inference output 'OUTPUT9', allowed outputs are: HALVES"
        ),
        "{text}"
    );
    let text = refusal(&graph_tensors(&["INPUT0", "INPUT1", "INPUT2"], &["OUTPUT0"])).unwrap();
    assert_eq!(text, "unable to load model 'm', configuration expects 3 inputs, model provides at most 2");
    let text = refusal(&graph_tensors(&["INPUT0"], &["OUTPUT0"]).replace("INT32", "FP32")).unwrap();
    assert_eq!(
        text,
        "unable to load model 'm', configuration expects datatype TYPE_FP32 for input 'INPUT0', model provides TYPE_INT32"
    );
}

#[test]
fn initial_operations_set_variables_which_change_where_they_lie() {
    let tensors =
        "input { name: 'X' data_type: TYPE_FP32 dims: 1 } output { name: 'SUM' data_type: TYPE_FP32 dims: 1 }";
    let init = "parameters { key: 'TF_INIT_OPS_FILE' value { string_value: 'init_ops.json' } }";
    let Some(loaded) = Loaded::new("graph_variable", &format!("{GRAPH} {tensors} {init}")) else { return };
    let mut instance = loaded.instance();
    let mut ask = || run_one(&mut *instance, request([floats("X", &[1], &[1.0])])).unwrap();
    let answers = [ask(), ask(), ask()];
    let totals: Vec<_> = answers.iter().map(|answer| values(output(answer, "SUM"))[0]).collect();
    assert_eq!(totals, [101.0, 102.0, 103.0]);

    let without = Loaded::new("graph_variable", &format!("{GRAPH} {tensors}")).unwrap();
    let failed = run_one(&mut *without.instance(), request([floats("X", &[1], &[1.0])])).unwrap_err();
    assert!(failed.message.contains("uninitialized"), "{failed:?}");
}

#[test]
fn damaged_graphs_are_errors() {
    let Some(folder) = copy("graph_add_sub") else { return };
    let file = folder.path().join("model.graphdef");
    let config = graph_tensors(&["INPUT0"], &["OUTPUT0"]);
    let refusal = || Loaded::at(folder.path().into(), &config).unwrap().refusal().message;
    let graph = fs::read(&file).unwrap();
    for length in [1, graph.len() / 2 + 1, graph.len() - 1] {
        fs::write(&file, &graph[..length]).unwrap();
        assert!(refusal().contains("GraphDef"), "{}", refusal());
    }
    fs::write(&file, "").unwrap();
    assert_eq!(refusal(), "model m has an empty network");
    fs::remove_file(&file).unwrap();
    assert!(refusal().starts_with("unable to find"), "{}", refusal());
}

#[test]
fn operations_come_from_libraries_each_of_which_is_opened_once() {
    let Some(folder) = copy("scaled") else { return };
    let library = made("../libe2e_operations.so");
    let config = |library: &Path| format!("model_operations {{ op_library_filename: '{}' }}", library.display());
    let load = |config: &str| Loaded::at(folder.path().into(), config).map(|loaded| loaded.instance());
    let without = Loaded::at(folder.path().into(), "").unwrap().refusal();
    assert!(without.message.contains("E2eScaled"), "{without:?}");

    let own = folder.path().join("a_copy.so");
    fs::copy(&library, &own).unwrap();
    for library in [&library, &own] {
        let mut instance = load(&config(library)).unwrap();
        let (replies, _) = run_batch(&mut *instance, vec![(1, request([floats("X", &[1, 2], &[1.0, 2.0])]))]);
        assert_eq!(values(output(replies[0].as_ref().unwrap(), "Y")), [3.0, 6.0]);
    }
    let other = folder.path().join("libe2e_operations.so");
    fs::write(&other, [fs::read(&library).unwrap(), b"changed".to_vec()].concat()).unwrap();
    let refused = Loaded::at(folder.path().into(), &config(&other)).unwrap().refusal();
    assert!(refused.message.contains("another one of this name was opened before"), "{refused:?}");
}
