//! Runs of whole ensembles, with the models played by the test.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use smallvec::SmallVec;

use super::{
    Graph, MAX_RUNS_PER_STEP, Progress, Run,
    testing::{byte, compile, interface, members, wanted},
};
use crate::{
    error::Error,
    interface::Interface,
    request::{CorrelationId, Parameter, Sequence},
    response::Outputs,
    tensor::{Tensor, shape_text},
};

/// An ensemble of models, each with the inputs and outputs that its step maps.
struct Played {
    graph: Arc<Graph>,
    models: Vec<Interface>,
}

impl Played {
    fn new(text: &str, configs: &[String], models: &[usize]) -> Self {
        let texts: Vec<&str> = configs.iter().map(String::as_str).collect();
        let (graph, _, _) = compile(text, &members(&texts)).unwrap();
        let models = models.iter().map(|&model| interface(texts[model], 1)).collect();
        Self { graph: Arc::new(graph), models }
    }

    fn begin(&self, inputs: &[Tensor], outputs: &[String], rows: u32) -> Progress {
        let inputs = inputs.iter().cloned().collect();
        Progress::new(self.graph.clone(), inputs, &wanted(outputs), rows, "7".into(), None)
    }

    fn start(&self, progress: &mut Progress) -> Option<(Run, SmallVec<[Tensor; 2]>)> {
        let (run, inputs) = progress.start(|_, _| true, |step| Some(&self.models[step]))?;
        Some((run, inputs.inputs))
    }
}

fn model(name: &str, more: &str, inputs: &[&str], outputs: &[&str]) -> String {
    let side = |side: &str, names: &[&str]| -> String {
        names.iter().map(|name| format!("{side} {{ name: '{name}' data_type: TYPE_UINT8 dims: 1 }}\n")).collect()
    };
    format!("name: '{name}' {more} {} {}", side("input", inputs), side("output", outputs))
}

fn step(model: &str, inputs: &[(&str, &str)], outputs: &[(&str, &str)]) -> String {
    let map = |field: &str, pairs: &[(&str, &str)]| -> String {
        pairs.iter().map(|(key, value)| format!("{field} {{ key: '{key}' value: '{value}' }}\n")).collect()
    };
    format!(
        "step {{ model_name: '{model}' model_version: -1 {} {} }}\n",
        map("input_map", inputs),
        map("output_map", outputs)
    )
}

fn answer(tensors: &[Tensor]) -> Outputs {
    Outputs { tensors: tensors.iter().cloned().collect(), ..Outputs::default() }
}

fn text(tensors: &[Tensor]) -> String {
    let one = |tensor: &Tensor| format!("{} {}", tensor.name, shape_text(&tensor.shape));
    tensors.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// `IN -> a -> mid -> b -> OUT`, with a side output of `a` that is an output of the ensemble as well.
fn pipeline(a: &str, b: &str, ensemble: &str) -> Played {
    let text = format!(
        "{}{}",
        model("e", ensemble, &["IN"], &["OUT", "SIDE"]),
        format_args!(
            "ensemble_scheduling {{ {} {} }}",
            step("b", &[("i", "mid")], &[("o", "OUT")]),
            step("a", &[("i", "IN")], &[("o", "mid"), ("s", "SIDE")])
        )
    );
    let models = [model("a", a, &["i"], &["o", "s"]), model("b", b, &["i"], &["o"])];
    Played::new(&text, &models, &[1, 0])
}

#[test]
fn tensors_go_from_step_to_step_without_a_copy() {
    let played = pipeline("", "", "");
    let input = byte("IN", &[1], 3);
    let sent = input.data.as_host().unwrap().as_ptr();
    let mut progress = played.begin(&[input], &[], 0);
    let (run, inputs) = played.start(&mut progress).unwrap();
    assert_eq!((run.step, text(&inputs).as_str()), (1, "i [1]"));
    assert_eq!(inputs[0].data.as_host().unwrap().as_ptr(), sent);
    assert!(played.start(&mut progress).is_none(), "nothing else may run yet");
    progress.responded(&run, answer(&[Tensor { name: "o".into(), ..inputs[0].clone() }, byte("s", &[1], 9)]));
    progress.finished(&run);
    let (run, inputs) = played.start(&mut progress).unwrap();
    assert_eq!(inputs[0].data.as_host().unwrap().as_ptr(), sent);
    assert!(progress.next_response().is_none() && progress.end().is_none());
    progress.responded(&run, answer(&[byte("o", &[1], 4)]));
    progress.finished(&run);
    assert_eq!(progress.end(), None, "there is a response to be read");
    let response = progress.next_response().unwrap();
    assert_eq!(text(&response.tensors), "OUT [1], SIDE [1]");
    let parameters: Vec<_> = response.parameters.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(parameters, ["sequence_id", "sequence_start", "sequence_end"]);
    assert_eq!(progress.end(), Some(Ok(())));
}

#[test]
fn a_response_without_outputs_says_nothing_of_sequences() {
    let played = pipeline("", "", "");
    let mut progress = played.begin(&[byte("IN", &[1], 3)], &["SIDE".into()], 0);
    let (run, _) = played.start(&mut progress).unwrap();
    progress.responded(&run, answer(&[byte("o", &[1], 0)]));
    progress.finished(&run);
    let response = progress.next_response().unwrap();
    assert_eq!((response.tensors.len(), response.parameters.len()), (0, 0));
    assert_eq!(progress.end(), Some(Ok(())));
}

#[test]
fn only_what_the_outputs_asked_for_need_is_run() {
    let played = pipeline("", "", "");
    let mut progress = played.begin(&[byte("IN", &[1], 3)], &["SIDE".into()], 0);
    assert!(progress.is_needed(1) && !progress.is_needed(0));
    let (run, _) = played.start(&mut progress).unwrap();
    progress.responded(&run, answer(&[byte("o", &[1], 0), byte("s", &[1], 9)]));
    progress.finished(&run);
    assert!(played.start(&mut progress).is_none());
    assert_eq!(text(&progress.next_response().unwrap().tensors), "SIDE [1]");
    assert_eq!(progress.end(), Some(Ok(())));
}

#[test]
fn batches_are_adapted_to_models_without_a_batch_dimension_and_back() {
    let played = pipeline("", "max_batch_size: 4", "max_batch_size: 4");
    let mut progress = played.begin(&[byte("IN", &[1, 1], 3)], &[], 1);
    let (run, inputs) = played.start(&mut progress).unwrap();
    assert_eq!(text(&inputs), "i [1]", "a batch of one is a row");
    progress.responded(&run, answer(&[byte("o", &[1], 0), byte("s", &[1], 0)]));
    progress.finished(&run);
    let (run, inputs) = played.start(&mut progress).unwrap();
    assert_eq!(text(&inputs), "i [1,1]", "a row is a batch of one");
    progress.responded(&run, answer(&[byte("o", &[1, 1], 0)]));
    progress.finished(&run);
    assert_eq!(text(&progress.next_response().unwrap().tensors), "OUT [1,1], SIDE [1,1]");
}

#[test]
fn the_first_error_ends_the_request_when_what_runs_has_ended() {
    let two = |name: &str| model(name, "", &["i"], &["o"]);
    let text = format!(
        "{} ensemble_scheduling {{ {} {} }}",
        model("e", "", &["IN"], &["OUT", "SIDE"]),
        step("a", &[("i", "IN")], &[("o", "OUT")]),
        step("b", &[("i", "IN")], &[("o", "SIDE")])
    );
    let played = Played::new(&text, &[two("a"), two("b")], &[0, 1]);
    let mut progress = played.begin(&[byte("IN", &[1], 3)], &[], 0);
    let (first, _) = played.start(&mut progress).unwrap();
    let (second, _) = played.start(&mut progress).unwrap();
    progress.failed(&first, Error::unavailable("it is full"));
    assert_eq!(progress.end(), None, "the other step still runs");
    progress.failed(&second, Error::internal("it broke"));
    let error = progress.end().unwrap().unwrap_err();
    assert_eq!(error, Error::unavailable("in ensemble 'e', it is full"));
}

#[test]
fn an_output_that_cannot_come_any_more_is_a_deadlock_and_said_to_be() {
    let played = pipeline("", "", "");
    let mut progress = played.begin(&[byte("IN", &[1], 3)], &[], 0);
    let (run, _) = played.start(&mut progress).unwrap();
    progress.finished(&run); // without a response
    assert_eq!(
        progress.end().unwrap().unwrap_err().message,
        "in ensemble 'e', [request id: 7] unexpected deadlock, at least one output is not set while no more ensemble steps \
         can be made"
    );
}

#[test]
fn an_input_that_was_not_given_and_an_output_left_out_are_absent_downstream() {
    let text = format!(
        "{} ensemble_scheduling {{ {} }}",
        model("e", "", &["IN"], &["OUT"]).replace("dims: 1", "dims: 1 optional: true"),
        step("a", &[("i", "IN")], &[("o", "OUT")])
    )
    .replace(
        "output { name: 'OUT' data_type: TYPE_UINT8 dims: 1 optional: true }",
        "output { name: 'OUT' data_type: TYPE_UINT8 dims: 1 }",
    );
    let played = Played::new(&text, &[model("a", "", &["i"], &["o"])], &[0]);
    let mut progress = played.begin(&[], &[], 0);
    let (run, inputs) = played.start(&mut progress).unwrap();
    assert!(inputs.is_empty());
    progress.responded(&run, answer(&[]));
    progress.finished(&run);
    assert!(progress.next_response().unwrap().tensors.is_empty());
    assert_eq!(progress.end(), Some(Ok(())));
}

#[test]
fn a_step_may_change_the_sequence_for_those_behind_it() {
    let played = pipeline("", "", "");
    let own = Sequence { id: CorrelationId::Number(5), is_start: true, is_end: false };
    let inputs = [byte("IN", &[1], 3)].into_iter().collect();
    let mut progress = Progress::new(played.graph.clone(), inputs, &[], 0, String::new(), Some(own.clone()));
    let (run, inputs) = progress.start(|_, _| true, |step| Some(&played.models[step])).unwrap();
    assert_eq!(inputs.sequence, Some(own));
    let parameters = vec![
        ("sequence_id".to_owned(), Parameter::String("other".into())),
        ("sequence_end".to_owned(), Parameter::Bool(true)),
        ("noise".to_owned(), Parameter::Int(1)),
    ];
    let tensors = [byte("o", &[1], 0), byte("s", &[1], 0)].into_iter().collect();
    progress.responded(&run, Outputs { tensors, parameters: parameters.into() });
    progress.finished(&run);
    let (run, inputs) = progress.start(|_, _| true, |step| Some(&played.models[step])).unwrap();
    let changed = Sequence { id: CorrelationId::Text("other".into()), is_start: false, is_end: true };
    assert_eq!(inputs.sequence, Some(changed));
    progress.responded(&run, answer(&[byte("o", &[1], 0)]));
    progress.finished(&run);
    let response = progress.next_response().unwrap();
    assert_eq!(
        *response.parameters,
        [
            ("sequence_id".to_owned(), Parameter::String("other".into())),
            ("sequence_start".to_owned(), Parameter::Bool(false)),
            ("sequence_end".to_owned(), Parameter::Bool(true)),
        ]
    );
}

#[test]
fn a_sequence_parameter_of_the_wrong_type_fails_the_request() {
    let played = pipeline("", "", "");
    let mut progress = played.begin(&[byte("IN", &[1], 3)], &[], 0);
    let (run, _) = played.start(&mut progress).unwrap();
    let parameters = vec![("sequence_start".to_owned(), Parameter::Int(1))];
    progress.responded(&run, Outputs { parameters: parameters.into(), ..Outputs::default() });
    progress.finished(&run);
    assert_eq!(
        progress.end().unwrap().unwrap_err().message,
        "in ensemble 'e', expect parameter 'sequence_start' to be TRITONSERVER_PARAMETER_BOOL"
    );
}

const DECOUPLED: &str = "model_transaction_policy { decoupled: true }";

#[test]
fn each_response_of_a_decoupled_step_is_one_more_iteration() {
    let played = pipeline(DECOUPLED, "", "");
    let mut progress = played.begin(&[byte("IN", &[1], 3)], &[], 0);
    let (source, _) = played.start(&mut progress).unwrap();
    for round in 0..3 {
        progress.responded(&source, answer(&[byte("o", &[1], round), byte("s", &[1], round)]));
        let (run, inputs) = played.start(&mut progress).unwrap();
        assert_eq!(inputs[0].data.as_host().unwrap(), [round]);
        progress.responded(&run, answer(&[byte("o", &[1], round)]));
        progress.finished(&run);
        assert_eq!(progress.next_response().unwrap().tensors.len(), 2);
        assert_eq!(progress.end(), None, "more may come");
    }
    progress.finished(&source);
    assert_eq!(progress.end(), Some(Ok(())));
    assert_eq!(progress.iterations_held(), 0);
}

#[test]
fn a_decoupled_step_that_answers_nothing_ends_the_request_well() {
    let played = pipeline(DECOUPLED, "", "");
    let mut progress = played.begin(&[byte("IN", &[1], 3)], &[], 0);
    let (source, _) = played.start(&mut progress).unwrap();
    progress.finished(&source);
    assert_eq!(progress.end(), Some(Ok(())));
}

#[test]
fn a_fast_step_is_paused_while_those_it_feeds_cannot_follow() {
    let played = pipeline(DECOUPLED, "", "");
    let mut progress = played.begin(&[byte("IN", &[1], 3)], &[], 0);
    let (source, _) = played.start(&mut progress).unwrap();
    let mut runs = Vec::new();
    while !progress.is_paused(source.step) {
        progress.responded(&source, answer(&[byte("o", &[1], 0), byte("s", &[1], 0)]));
        runs.extend(played.start(&mut progress));
    }
    assert_eq!(runs.len(), MAX_RUNS_PER_STEP);
    let (run, _) = runs.remove(0);
    assert!(!progress.is_paused(run.step), "what others wait for goes on");
    progress.finished(&run);
    runs.extend(played.start(&mut progress));
    assert!(!progress.is_paused(source.step));
}

/// A random acyclic graph: each step reads some tensors of one origin and writes one or two.
#[derive(Debug, Clone)]
struct Plan {
    steps: Vec<(Vec<usize>, usize, bool)>,
    outputs: Vec<usize>,
}

/// Steps as (choice of tensors, outputs, decoupled), from raw random numbers.
fn plan(raw: &[(u32, u32, bool, bool)], choice: u32) -> Plan {
    let mut origins = vec![0, 0]; // by tensor; two inputs
    let (mut steps, mut count) = (Vec::new(), 1);
    for &(select, size, is_decoupled, is_wide) in raw {
        let first = select as usize % origins.len();
        let same: Vec<usize> = (0..origins.len()).filter(|&tensor| origins[tensor] == origins[first]).collect();
        let mut reads: Vec<usize> = same.iter().copied().filter(|tensor| (size >> (tensor % 31)) & 1 == 1).collect();
        reads.push(first);
        reads.sort_unstable();
        reads.dedup();
        let origin = if is_decoupled { count } else { origins[first] };
        count += usize::from(is_decoupled);
        let writes = 1 + usize::from(is_wide);
        origins.extend(std::iter::repeat_n(origin, writes));
        steps.push((reads, writes, is_decoupled));
    }
    let last = *origins.last().unwrap();
    let mut outputs: Vec<usize> = (2..origins.len()).filter(|&tensor| origins[tensor] == last).collect();
    let keep = 1 + choice as usize % outputs.len();
    outputs.drain(..outputs.len() - keep);
    Plan { steps, outputs }
}

fn played(plan: &Plan) -> Played {
    let tensor = |number: usize| format!("t{number}");
    let outputs: Vec<String> = plan.outputs.iter().map(|&output| tensor(output)).collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let mut text = model("e", "", &["t0", "t1"], &outputs);
    text += "ensemble_scheduling {";
    let (mut configs, mut next) = (Vec::new(), 2);
    for (index, (reads, writes, is_decoupled)) in plan.steps.iter().enumerate() {
        let reads: Vec<(String, String)> =
            reads.iter().enumerate().map(|(input, &read)| (format!("i{input}"), tensor(read))).collect();
        let writes: Vec<(String, String)> =
            (0..*writes).map(|output| (format!("o{output}"), tensor(next + output))).collect();
        next += writes.len();
        let refs: Vec<(&str, &str)> = reads.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let written: Vec<(&str, &str)> = writes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let inputs: Vec<&str> = refs.iter().map(|(key, _)| *key).collect();
        let given: Vec<&str> = written.iter().map(|(key, _)| *key).collect();
        let more = if *is_decoupled { DECOUPLED } else { "" };
        configs.push(model(&format!("m{index}"), more, &inputs, &given));
        text += &step(&format!("m{index}"), &refs, &written);
    }
    text += "}";
    let models: Vec<usize> = (0..configs.len()).collect();
    Played::new(&text, &configs, &models)
}

/// What the test still has to say for a run.
struct Open {
    run: Run,
    /// The iteration that its inputs belong to, as the test numbers them.
    label: u8,
    responses: u32,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the graph and the order in which its steps answer: every needed step runs once in each iteration of its
    /// inputs, tensors of different iterations never meet, the request ends once, and nothing is left behind.
    #[test]
    fn every_request_ends_and_runs_just_what_it_must(
        raw in prop::collection::vec((any::<u32>(), any::<u32>(), prop::bool::weighted(0.3), any::<bool>()), 1..7),
        choice in any::<u32>(),
        some_outputs in any::<bool>(),
        choices in prop::collection::vec(any::<u32>(), 1..200),
    ) {
        let plan = plan(&raw, choice);
        let played = played(&plan);
        let asked = if some_outputs { vec![format!("t{}", plan.outputs[0])] } else { vec![] };
        let mut progress = played.begin(&[byte("t0", &[1], 0), byte("t1", &[1], 0)], &asked, 0);
        let mut choices = choices.into_iter().cycle();
        let mut choose = || choices.next().unwrap_or(0) as usize;
        let (mut open, mut labels, mut responses) = (Vec::<Open>::new(), 0u8, 0);
        let mut runs = vec![0; plan.steps.len()];
        let mut answers: BTreeMap<usize, u32> = BTreeMap::new();
        for turn in 0..100_000 {
            while progress.next_response().is_some() {
                responses += 1;
            }
            if progress.end().is_some() {
                break;
            }
            let refuses = turn % 2 == 0 && choose() % 2 == 0; // other requests have what it would need
            if let Some((run, inputs)) = progress.start(|_, _| !refuses, |step| Some(&played.models[step])) {
                prop_assert!(progress.is_needed(run.step));
                let label = inputs.inputs[0].data.as_host().unwrap()[0];
                for input in &inputs.inputs {
                    prop_assert_eq!(input.data.as_host().unwrap()[0], label, "tensors of one iteration");
                }
                prop_assert_eq!(inputs.inputs.len(), plan.steps[run.step].0.len());
                runs[run.step] += 1;
                let is_decoupled = plan.steps[run.step].2;
                let responses = if is_decoupled { (choose() % 3) as u32 } else { 1 };
                open.push(Open { run, label, responses });
                continue;
            }
            let free: Vec<usize> = (0..open.len()).filter(|&at| !progress.is_paused(open[at].run.step)).collect();
            if free.is_empty() {
                prop_assert!(refuses, "something can always go on");
                continue;
            }
            let at = free[choose() % free.len()];
            if open[at].responses == 0 {
                progress.finished(&open.swap_remove(at).run);
                continue;
            }
            open[at].responses -= 1;
            let one = &open[at];
            let (_, writes, is_decoupled) = &plan.steps[one.run.step];
            if *is_decoupled {
                labels = labels.wrapping_add(1);
                *answers.entry(one.run.step).or_default() += 1;
            }
            let label = if *is_decoupled { labels } else { one.label };
            let tensors: Vec<Tensor> = (0..*writes).map(|output| byte(&format!("o{output}"), &[1], label)).collect();
            progress.responded(&one.run, answer(&tensors));
        }
        prop_assert_eq!(progress.end(), Some(Ok(())));
        prop_assert!(open.is_empty());
        prop_assert_eq!(progress.iterations_held(), 0);
        // What each origin gave, by the step that opened it.
        let iterations = |tensor: usize| {
            let mut tensor = tensor;
            loop {
                let Some(writer) = writer(&plan, tensor) else { return 1 };
                if plan.steps[writer].2 {
                    return answers.get(&writer).copied().unwrap_or(0);
                }
                tensor = plan.steps[writer].0[0];
            }
        };
        for (index, (reads, _, _)) in plan.steps.iter().enumerate() {
            let expect = if progress.is_needed(index) { iterations(reads[0]) } else { 0 };
            prop_assert_eq!(runs[index], expect, "step {}", index);
        }
        prop_assert_eq!(responses, iterations(plan.outputs[0]));
    }
}

/// The step that writes a tensor.
fn writer(plan: &Plan, tensor: usize) -> Option<usize> {
    let mut next = 2;
    plan.steps.iter().position(|(_, writes, _)| {
        next += writes;
        tensor >= next - writes && tensor < next && tensor >= 2
    })
}
