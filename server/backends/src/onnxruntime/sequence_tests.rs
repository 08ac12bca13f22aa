//! Controls and implicit state through the real library, fed by the real policy.

use std::{sync::Arc, time::Instant};

use server_core::{
    backend::{Health, Instance},
    batch::{Batch, Pending},
    batching::policy::Policy,
    completion::{Completion, RequestRecord},
    config::{Machine, ModelConfig, from_text, normalize},
    error::{Error, Result},
    request::{CorrelationId, InferRequest, Sequence},
    responder::{DEFAULT_SLOT_BYTES, Replies},
    response::Outputs,
    sequence::{
        SlotRef,
        direct::Direct,
        settings::{Hold, Settings, extra_inputs},
    },
    tensor::DataType,
};

use crate::testing::{
    Recorder, bytes, no_host, on_cpu, only_reply, onnxruntime_settings, output, request, source, tensor,
};

const CONTROLS: &str = "
    control_input { name: 'START' control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }
    control_input { name: 'READY' control { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } }";
const STATES: &str = "
    state { input_name: 'SUM_IN' output_name: 'SUM_OUT' data_type: TYPE_INT32 dims: 1 }
    state { input_name: 'SEEN_IN' output_name: 'SEEN_OUT' data_type: TYPE_INT32 dims: -1
            initial_state { name: 'none' data_type: TYPE_INT32 dims: 0 zero_data: true } }";

fn config(batching: &str, outputs: &[&str]) -> ModelConfig {
    let output = |name: &&str| format!("output {{ name: '{name}' data_type: TYPE_INT32 dims: -1 }}");
    let outputs: String = outputs.iter().map(output).collect();
    let mut config = from_text(&format!(
        "name: 'm' max_batch_size: 4 default_model_filename: 'accumulate.onnx'
         input {{ name: 'INPUT' data_type: TYPE_INT32 dims: 1 }} output {{ name: 'OUTPUT' data_type: TYPE_INT32 dims: 1 }}
         {outputs} sequence_batching {{ {batching} }}"
    ))
    .unwrap();
    normalize(&mut config, &Machine { gpus: 0 });
    config
}

/// `None` if the library is not there; that was said.
fn load(config: &ModelConfig) -> Option<Result<Box<dyn Instance>>> {
    let backend = super::backend(onnxruntime_settings()?);
    let mut config = config.clone();
    let model = backend.open(&source("m"), &mut config, true, &no_host());
    Some(model.and_then(|mut model| {
        model.configure(&Arc::new(config))?;
        model.instance(&on_cpu(), &Health::default())
    }))
}

/// A model and the policy in front of it.
struct Bench {
    instance: Box<dyn Instance>,
    policy: Direct<Pending>,
}

impl Bench {
    fn new(batching: &str, outputs: &[&str]) -> Option<Self> {
        let config = config(batching, outputs);
        let extra = extra_inputs(&config, |name| Err(Error::internal(name.to_owned()))).unwrap();
        let mut policy = Direct::new(Settings::of(&config, Hold::default()).unwrap(), extra);
        policy.add_instance(0, Instant::now());
        Some(Self { instance: load(&config)?.unwrap(), policy })
    }

    /// Runs one value of each of these sequences as one batch.
    fn run(&mut self, asked: &[(u64, &str, i32)]) -> Vec<Outputs> {
        let now = Instant::now();
        let replies: Vec<Replies> = asked.iter().map(|&(id, flags, value)| self.push(id, flags, value)).collect();
        let mut batch = Vec::new();
        self.policy.decide(0, now, &mut batch, &mut Vec::new());
        let slots: Vec<SlotRef> = batch.iter().filter_map(|pending| pending.completion.slot()).collect();
        assert_eq!(slots.len(), asked.len(), "all run together");
        self.instance.execute(Batch::new(batch, now));
        for slot in slots {
            self.policy.released(slot, now);
        }
        replies.into_iter().map(|replies| only_reply(replies).unwrap()).collect()
    }

    fn push(&mut self, id: u64, flags: &str, value: i32) -> Replies {
        let input = tensor("INPUT", DataType::Int32, &[1, 1], value.to_le_bytes().to_vec());
        let sequence =
            Sequence { id: CorrelationId::Number(id), is_start: flags.contains('S'), is_end: flags.contains('E') };
        let request = InferRequest { sequence: Some(sequence), ..request([input]) };
        let record = RequestRecord { received_at: request.received_at, queued_at: Instant::now(), batch_size: 1 };
        let (completion, replies) = Completion::new(record, Arc::new(Recorder::default()), DEFAULT_SLOT_BYTES);
        assert!(self.policy.push(Pending { request, completion }, 0, None, Instant::now()).is_ok());
        replies
    }
}

fn integers(outputs: &Outputs, name: &str) -> Vec<i32> {
    let integers = bytes(output(outputs, name)).chunks_exact(4);
    integers.map(|chunk| i32::from_le_bytes(chunk.try_into().unwrap())).collect()
}

#[test]
fn every_sequence_has_states_of_its_own_which_grow() {
    let Some(mut bench) = Bench::new(&format!("{CONTROLS} {STATES}"), &["SEEN_OUT"]) else { return };
    let outputs = bench.run(&[(1, "S", 1), (2, "S", 10)]);
    assert_eq!(outputs.iter().map(|one| integers(one, "OUTPUT")).collect::<Vec<_>>(), [[1], [10]]);
    let outputs = bench.run(&[(1, "", 2), (2, "", 20)]);
    assert_eq!(outputs.iter().map(|one| integers(one, "OUTPUT")).collect::<Vec<_>>(), [[3], [30]]);
    assert_eq!(integers(&outputs[1], "SEEN_OUT"), [10, 20]);
    assert!(outputs[0].tensors.iter().all(|tensor| &*tensor.name != "SUM_OUT"), "it is no output");
    // A row between two others without a request keeps its states, and so does one that runs alone.
    let outputs = bench.run(&[(2, "", 30)]);
    assert_eq!((integers(&outputs[0], "OUTPUT"), integers(&outputs[0], "SEEN_OUT")), (vec![60], vec![10, 20, 30]));
    let outputs = bench.run(&[(1, "E", 3)]);
    assert_eq!((integers(&outputs[0], "OUTPUT"), integers(&outputs[0], "SEEN_OUT")), (vec![6], vec![1, 2, 3]));
    let outputs = bench.run(&[(1, "S", 5)]);
    assert_eq!(integers(&outputs[0], "SEEN_OUT"), [5], "a sequence starts with the initial states");
}

#[test]
fn controls_and_states_are_held_against_the_file() {
    let message = |batching: &str| Some(load(&config(batching, &[]))?.err().map(|error| error.message.into_owned()));
    let Some(whole) = message(&format!("{CONTROLS} {STATES}")) else { return };
    assert_eq!(whole, None);
    let error = |batching: &str| message(batching).flatten().expect("it must not load");
    assert_eq!(error(CONTROLS), "unable to load model 'm', configuration expects 3 inputs, model provides 5");
    assert_eq!(
        error(&format!("{CONTROLS} {}", STATES.replace("SUM_OUT", "SUM"))),
        "unable to load model 'm', unexpected inference output 'SUM', allowed outputs are: OUTPUT, SEEN_OUT, SUM_OUT"
    );
    assert_eq!(
        error(&format!("{} {STATES}", CONTROLS.replace("int32", "fp32"))),
        "unable to load model 'm', sequence control 'START', the model expects data-type INT32 but the model configuration \
         specifies data-type TYPE_FP32"
    );
    assert_eq!(
        error(&format!("{} {STATES}", CONTROLS.replace("'READY'", "'READIED'"))),
        "configuration specified sequence control 'READIED', but model does not provide that input"
    );
    let of_state = CONTROLS.replace("'READY'", "'SEEN_IN'");
    assert_eq!(
        error(&format!("{of_state} {STATES}")),
        "unable to load model 'm', configuration lacks input 'READY' of the model"
    );
    let wide = STATES.replacen("dims: 1", "dims: [ 1, 2 ]", 1);
    assert!(error(&format!("{CONTROLS} {wide}")).contains("tensor 'SUM_IN': the model expects 2 dimensions"));
}

#[test]
fn what_belongs_to_sequences_is_not_completed_as_a_callers() {
    let Some(settings) = onnxruntime_settings() else { return };
    let mut config = config(&format!("{CONTROLS} {STATES}"), &[]);
    (config.input, config.output) = (Vec::new(), Vec::new());
    super::backend(settings).open(&source("m"), &mut config, true, &no_host()).unwrap();
    let names = |names: &mut dyn Iterator<Item = &String>| names.cloned().collect::<Vec<_>>();
    assert_eq!(names(&mut config.input.iter().map(|input| &input.name)), ["INPUT"]);
    assert_eq!(names(&mut config.output.iter().map(|output| &output.name)), ["OUTPUT"]);
}
