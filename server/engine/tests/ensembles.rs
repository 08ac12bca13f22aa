//! Ensembles in the engine: their requests, and how they come and go with the models they are made of.
#![allow(clippy::unwrap_used)] // a failure here is the test's

mod harness;

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use server_core::{
    backend::Host,
    error::{Code, Error},
    interface::ModelId,
    request::{CorrelationId, Parameter, RequestedOutput, Sequence, VersionChoice},
    stats::ModelSnapshot,
};
use server_engine::{Engine, Inference, LoadParameters, Options, Startup, VersionState};

use harness::{Harness, ask, ask_ensemble, id, send, text, until};

async fn load(engine: &Arc<Engine>, name: &str) -> Result<(), Error> {
    engine.load(name, LoadParameters::default()).await
}

async fn ready(engine: &Arc<Engine>, name: &str) {
    assert_eq!(engine.start().await.unwrap(), Startup::AllReady);
    load(engine, name).await.unwrap();
}

fn counts(engine: &Engine, name: &str) -> ModelSnapshot {
    engine.statistics(Some(id(name))).unwrap().remove(0)
}

fn state(engine: &Engine, name: &str) -> (Option<VersionState>, String) {
    let line = engine.index(false).unwrap().into_iter().find(|line| line.name == name).unwrap();
    (line.state, line.reason)
}

fn is_ready(engine: &Engine, name: &str) -> bool {
    Host::is_model_ready(engine, name, VersionChoice::Latest).unwrap()
}

async fn error(engine: &Arc<Engine>, name: &str) -> String {
    load(engine, name).await.unwrap_err().message.into_owned()
}

const CHAIN: [(&str, &str, &str); 3] = [("a", "IN", "one"), ("b", "one", "two"), ("c", "two", "OUT")];

fn chain(harness: &Harness) {
    for model in ["a", "b", "c"] {
        harness.model(model, "", &[1]);
    }
    harness.ensemble("e", &CHAIN, &["OUT"], "");
}

#[tokio::test]
async fn a_request_goes_through_every_step_and_is_counted_everywhere() {
    let harness = Harness::new();
    chain(&harness);
    let engine = harness.explicit();
    ready(&engine, "e").await;
    let request = ask_ensemble("e", &[1.0, 2.0]);
    let sent = request.inputs[0].data.as_host().unwrap().as_ptr();
    let mut request = request;
    request.id = "mine".into();
    let response = send(&engine, request).unwrap().response().await.unwrap();
    assert_eq!((text(&response).as_str(), response.id.as_str()), ("e 1: OUT FP32 [1,2]", "mine"));
    assert_eq!(response.outputs[0].data.as_host().unwrap().as_ptr(), sent, "no step has copied the tensor");
    for model in ["a", "b", "c", "e"] {
        let counts = counts(&engine, model);
        assert_eq!((counts.success.count, counts.inference_count, counts.execution_count), (1, 1, 1), "{model}");
        assert_eq!(counts.batches.len(), 1);
    }
    let sum: u64 = ["a", "b", "c"].iter().map(|model| counts(&engine, model).compute_infer.ns).sum();
    assert_eq!(counts(&engine, "e").compute_infer.ns, sum);
    assert!(counts(&engine, "e").queue.ns > 0, "until its first step might start, and no longer");
    let config = engine.config(id("e")).unwrap();
    assert!(config.model_transaction_policy.is_some_and(|policy| !policy.decoupled));
    assert!(engine.metrics().text().contains("nv_inference_request_success{model=\"e\",version=\"1\"} 1"));
}

#[tokio::test]
async fn what_a_request_carries_reaches_every_step() {
    let harness = Harness::new();
    harness.scripted("a", "echo_request", "", &[1]);
    harness.ensemble("e", &[("a", "IN", "mid"), ("a", "mid", "OUT")], &["OUT"], "");
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    let mut request = ask_ensemble("e", &[1.0]);
    request.id = "7".into();
    request.priority = 3;
    request.timeout = Some(Duration::from_secs(50));
    request.parameters = vec![("key".into(), Parameter::Int(4))];
    request.sequence = Some(Sequence { id: CorrelationId::Number(9), is_start: true, is_end: false });
    let response = send(&engine, request.clone()).unwrap().response().await.unwrap();
    let seen = probe.requests.lock();
    assert_eq!(seen.len(), 2);
    for step in &*seen {
        assert_eq!((&step.id, step.priority, step.timeout), (&request.id, request.priority, request.timeout));
        assert_eq!((&step.parameters, &step.sequence), (&request.parameters, &request.sequence));
    }
    let sequence = ("sequence_id".to_owned(), Parameter::Int(9));
    assert_eq!(response.parameters[0], sequence);
}

#[tokio::test]
async fn only_what_the_outputs_asked_for_need_runs() {
    let harness = Harness::new();
    for model in ["a", "b", "c"] {
        harness.model(model, "", &[1]);
    }
    harness.ensemble("e", &[("a", "IN", "one"), ("b", "one", "B"), ("c", "one", "C")], &["B", "C"], "");
    let engine = harness.explicit();
    ready(&engine, "e").await;
    let mut request = ask_ensemble("e", &[1.0]);
    request.outputs.push(RequestedOutput::values("C"));
    let response = send(&engine, request).unwrap().response().await.unwrap();
    assert_eq!(text(&response), "e 1: C FP32 [1,1]");
    let ran: Vec<u64> = ["a", "b", "c"].iter().map(|model| counts(&engine, model).success.count).collect();
    assert_eq!(ran, [1, 0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_do_not_need_each_other_run_side_by_side() {
    let harness = Harness::new();
    for model in ["a", "b"] {
        harness.scripted(model, "gated", "", &[1]);
    }
    harness.ensemble("e", &[("a", "IN", "A"), ("b", "IN", "B")], &["A", "B"], "");
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    probe.close_gate();
    let inference = send(&engine, ask_ensemble("e", &[1.0])).unwrap();
    let response = tokio::spawn(inference.response());
    until(|| probe.waiting.load(Ordering::SeqCst) == 2).await;
    probe.open_gate();
    assert_eq!(text(&response.await.unwrap().unwrap()), "e 1: A FP32 [1,1], B FP32 [1,1]");
}

#[tokio::test]
async fn the_error_of_a_step_names_the_ensemble_and_is_counted_as_other() {
    let harness = Harness::new();
    harness.model("a", "", &[1]);
    harness.scripted("b", "panic", "", &[1]);
    harness.ensemble("e", &[("a", "IN", "one"), ("b", "one", "OUT")], &["OUT"], "");
    let (engine, _) = harness.with_script();
    ready(&engine, "e").await;
    let error = send(&engine, ask_ensemble("e", &[1.0])).unwrap().response().await.unwrap_err();
    assert_eq!(error, Error::internal("in ensemble 'e', the request was dropped without a response"));
    let counts = counts(&engine, "e");
    assert_eq!((counts.fail.count, counts.failures.other, counts.failures.backend), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_takes_its_steps_along() {
    let harness = Harness::new();
    harness.scripted("a", "gated", "max_batch_size: 1 dynamic_batching { } instance_group { count: 1 }", &[1]);
    harness.ensemble("e", &[("a", "IN", "OUT")], &["OUT"], "max_batch_size: 1");
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    probe.close_gate();
    let mut first = send(&engine, ask_ensemble("e", &[1.0])).unwrap();
    let mut second = send(&engine, ask_ensemble("e", &[1.0])).unwrap();
    poll_once(&mut first).await;
    until(|| probe.waiting.load(Ordering::SeqCst) == 1).await;
    poll_once(&mut second).await;
    until(|| counts(&engine, "a").pending == 1).await;
    drop((first, second));
    probe.open_gate();
    until(|| counts(&engine, "a").failures.canceled == 1).await;
    assert_eq!(counts(&engine, "e").failures.canceled, 2);
    assert!(engine.shutdown(Duration::from_secs(10)).await, "nothing is left inside");
}

async fn poll_once(inference: &mut Inference) {
    poll_fn(|context| {
        assert!(inference.poll_next(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
}

async fn responses(mut inference: Inference) -> Vec<Result<String, Error>> {
    let mut all = Vec::new();
    while let Some(response) = poll_fn(|context| inference.poll_next(context)).await {
        all.push(response.map(|response| text(&response)));
    }
    all
}

const DECOUPLED: &str = "model_transaction_policy { decoupled: true }";

#[tokio::test(flavor = "multi_thread")]
async fn every_response_of_a_decoupled_step_becomes_one_of_the_ensemble() {
    let harness = Harness::new();
    harness.scripted("source", "many 1000", DECOUPLED, &[1]);
    harness.model("a", "", &[1]);
    harness.ensemble("e", &[("source", "IN", "one"), ("a", "one", "OUT")], &["OUT"], "");
    harness.ensemble("outer", &[("e", "IN", "mid"), ("a", "mid", "OUT")], &["OUT"], "");
    let (engine, _) = harness.with_script();
    // The steps of `outer` name the tensors of `e` as its own models' would.
    let config = "platform: 'ensemble' max_batch_size: 8 input { name: 'IN' data_type: TYPE_FP32 dims: [ -1 ] } \
                  output { name: 'OUT' data_type: TYPE_FP32 dims: [ -1 ] } ensemble_scheduling { \
                  step { model_name: 'e' model_version: -1 input_map { key: 'IN' value: 'IN' } \
                         output_map { key: 'OUT' value: 'mid' } } \
                  step { model_name: 'a' model_version: -1 input_map { key: 'INPUT0' value: 'mid' } \
                         output_map { key: 'OUTPUT0' value: 'OUT' } } }";
    harness.write("outer/config.pbtxt", config);
    ready(&engine, "outer").await;
    for name in ["e", "outer"] {
        assert!(engine.model(id(name)).unwrap().interface().is_decoupled);
        let responses = responses(send(&engine, ask_ensemble(name, &[1.0])).unwrap()).await;
        assert_eq!(responses.len(), 1000);
        assert!(responses.iter().all(|response| *response == Ok(format!("{name} 1: OUT FP32 [1,1]"))));
    }
    assert_eq!(counts(&engine, "e").success.count, 2);
    assert!(engine.shutdown(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_requests_in_flight_holds_over_all_requests_of_a_step() {
    let harness = Harness::new();
    harness.scripted("source", "many 20", DECOUPLED, &[1]);
    harness.scripted("slow", "gated", "max_batch_size: 8 instance_group { count: 8 }", &[1]);
    harness.ensemble("e", &[("source", "IN", "one"), ("slow", "one", "OUT")], &["OUT"], "limit 2");
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    probe.close_gate();
    let asked: Vec<_> =
        (0..3).map(|_| tokio::spawn(responses(send(&engine, ask_ensemble("e", &[1.0])).unwrap()))).collect();
    until(|| probe.waiting.load(Ordering::SeqCst) >= 2).await;
    // Two have places; each request may have one more, once it has waited. There are 60 to run.
    let in_flight = probe.waiting.load(Ordering::SeqCst) + counts(&engine, "slow").pending as usize;
    assert!(in_flight <= 2 + 3, "{in_flight}");
    probe.open_gate();
    for asked in asked {
        let responses = asked.await.unwrap();
        assert_eq!(responses.iter().filter(|response| response.is_ok()).count(), 20);
    }
    assert_eq!(counts(&engine, "slow").success.count, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_stops_reading_keeps_nobody_from_the_limited_steps() {
    let harness = Harness::new();
    harness.scripted("slow", "gated", "", &[1]);
    harness.ensemble("e", &[("slow", "IN", "OUT")], &["OUT"], "limit 1");
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    probe.close_gate();
    let unread = send(&engine, ask_ensemble("e", &[1.0])).unwrap(); // its step has begun
    let other = tokio::spawn(send(&engine, ask_ensemble("e", &[2.0])).unwrap().response());
    until(|| probe.waiting.load(Ordering::SeqCst) == 1).await;
    probe.open_gate();
    let limit = Duration::from_secs(20);
    assert!(tokio::time::timeout(limit, other).await.expect("the permit is given back").unwrap().is_ok());
    assert!(unread.response().await.is_ok());
}

/// Less than it takes a model of the harness to give up a response that nobody reads.
const SOON: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_keeps_nobody_from_the_limited_steps() {
    let harness = Harness::new();
    let two = "instance_group { count: 2 }";
    harness.scripted("source", "many 2000", &format!("{DECOUPLED} {two}"), &[1]); // more than a reply slot holds
    harness.model("a", "", &[1]);
    harness.ensemble("e", &[("source", "IN", "one"), ("a", "one", "OUT")], &["OUT"], "limit 1");
    let (engine, _) = harness.with_script();
    ready(&engine, "e").await;
    let mut unread = send(&engine, ask_ensemble("e", &[1.0])).unwrap();
    assert!(poll_fn(|context| unread.poll_next(context)).await.unwrap().is_ok());
    let other = responses(send(&engine, ask_ensemble("e", &[2.0])).unwrap());
    assert_eq!(tokio::time::timeout(SOON, other).await.expect("others are served").len(), 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_request_of_a_limited_step_does_not_hold_up_others_until_its_end() {
    let harness = Harness::new();
    harness.scripted("long", "gated", "instance_group { count: 3 }", &[1]);
    harness.ensemble("e", &[("long", "IN", "OUT")], &["OUT"], "limit 1");
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    probe.close_gate();
    let asked: Vec<_> =
        (0..3).map(|_| tokio::spawn(send(&engine, ask_ensemble("e", &[1.0])).unwrap().response())).collect();
    until(|| probe.waiting.load(Ordering::SeqCst) == 3).await; // while none has ended
    probe.open_gate();
    for asked in asked {
        assert!(asked.await.unwrap().is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_ensemble_that_another_uses_twice_does_not_wait_for_itself() {
    let harness = Harness::new();
    harness.scripted("source", "many 3", &format!("{DECOUPLED} instance_group {{ count: 2 }}"), &[1]);
    harness.scripted("a", "crowd", "", &[1]);
    for limit in 1..3 {
        let inner = format!("inner{limit}");
        harness.ensemble(&inner, &[("source", "IN", "one"), ("a", "one", "OUT")], &["OUT"], &format!("limit {limit}"));
        let step = |from: &str, to: &str| {
            format!(
                "step {{ model_name: '{inner}' model_version: -1 input_map {{ key: 'IN' value: '{from}' }} \
                 output_map {{ key: 'OUT' value: '{to}' }} }}"
            )
        };
        let config = format!(
            "platform: 'ensemble' max_batch_size: 8 input {{ name: 'IN' data_type: TYPE_FP32 dims: [ -1 ] }} \
             output {{ name: 'OUT' data_type: TYPE_FP32 dims: [ -1 ] }} ensemble_scheduling {{ \
             max_inflight_requests: {limit} {} {} }}",
            step("IN", "mid"),
            step("mid", "OUT")
        );
        harness.write(&format!("outer{limit}/config.pbtxt"), &config);
    }
    let (engine, _) = harness.with_script();
    assert_eq!(engine.start().await.unwrap(), Startup::AllReady);
    for outer in ["outer1", "outer2"] {
        load(&engine, outer).await.unwrap();
        let asked: Vec<_> =
            (0..4).map(|_| tokio::spawn(responses(send(&engine, ask_ensemble(outer, &[1.0])).unwrap()))).collect();
        for asked in asked {
            let responses = tokio::time::timeout(Duration::from_secs(30), asked).await.expect("nobody hangs").unwrap();
            assert_eq!(responses, vec![Ok(format!("{outer} 1: OUT FP32 [1,1]")); 9]);
        }
    }
    assert!(engine.shutdown(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_unloaded_finishes_the_ensembles_requests() {
    let harness = Harness::new();
    harness.scripted("a", "gated", "", &[1]);
    harness.model("b", "", &[1]);
    harness.ensemble("e", &[("a", "IN", "one"), ("b", "one", "OUT")], &["OUT"], "");
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    probe.close_gate();
    let inside = tokio::spawn(send(&engine, ask_ensemble("e", &[1.0])).unwrap().response());
    until(|| probe.waiting.load(Ordering::SeqCst) == 1).await;
    // The second step has not begun, and its model goes: the request was there before.
    engine.unload("b", false).await.unwrap();
    assert!(!is_ready(&engine, "e"));
    let refused = send(&engine, ask_ensemble("e", &[1.0])).map(drop).unwrap_err();
    assert_eq!(refused.message, "Request for unknown model: 'e' has no available versions");
    let lacks = "ensemble e contains models that are not available or ambiguous: b";
    assert_eq!(state(&engine, "e").1, lacks);
    probe.open_gate();
    assert_eq!(text(&inside.await.unwrap().unwrap()), "e 1: OUT FP32 [1,1]");
    until(|| state(&engine, "b") == (Some(VersionState::Unavailable), "unloaded".into())).await;
    until(|| state(&engine, "e") == (Some(VersionState::Unavailable), lacks.into())).await;
    load(&engine, "b").await.unwrap();
    assert!(is_ready(&engine, "e"), "it comes back with its part");
    assert_eq!(state(&engine, "e"), (Some(VersionState::Ready), String::new()));
}

#[tokio::test]
async fn parts_are_loaded_first_and_stay_unless_they_are_asked_to_go_along() {
    let harness = Harness::new();
    chain(&harness);
    harness.ensemble("f", &[("b", "IN", "OUT")], &["OUT"], "");
    let engine = harness.explicit();
    ready(&engine, "e").await;
    assert!(["a", "b", "c", "e"].iter().all(|model| is_ready(&engine, model)));
    engine.unload("e", false).await.unwrap();
    assert!(["a", "b", "c"].iter().all(|model| is_ready(&engine, model)) && !is_ready(&engine, "e"));
    load(&engine, "e").await.unwrap();
    load(&engine, "f").await.unwrap();
    load(&engine, "c").await.unwrap(); // somebody wants it for its own sake
    engine.unload("e", true).await.unwrap();
    let left: Vec<bool> = ["a", "b", "c", "e", "f"].iter().map(|model| is_ready(&engine, model)).collect();
    assert_eq!(left, [false, true, true, false, true]);
}

#[tokio::test]
async fn what_an_ensemble_lacks_is_said_and_mended_by_loading_it() {
    let harness = Harness::new();
    harness.model("a", "", &[1]);
    harness.ensemble("e", &[("a", "IN", "one"), ("x", "one", "OUT")], &["OUT"], "");
    let engine = harness.explicit();
    assert_eq!(engine.start().await.unwrap(), Startup::AllReady);
    let lacks = "ensemble e contains models that are not available or ambiguous: x";
    assert_eq!(error(&engine, "e").await, format!("load failed for model 'e': {lacks}\n"));
    assert_eq!(state(&engine, "e"), (Some(VersionState::Unavailable), lacks.into()));
    assert!(is_ready(&engine, "a") && engine.is_ready().await.unwrap());
    harness.model("x", "max_batch_size: 2", &[1]);
    load(&engine, "x").await.unwrap();
    let small = "ensemble e allows maximum batch size 8, but it contains model x which only allows maximum batch size to \
                 be 2";
    assert_eq!(state(&engine, "e").1, small);
    harness.model("x", "", &[1]);
    load(&engine, "x").await.unwrap();
    assert!(is_ready(&engine, "e"));
}

#[tokio::test]
async fn a_part_that_fails_is_named_with_its_reason() {
    let harness = Harness::new();
    harness.scripted("bad", "", "", &[1]);
    harness.write("bad/1/broken", "");
    harness.ensemble("e", &[("bad", "IN", "OUT")], &["OUT"], "");
    harness.ensemble("outer", &[("e", "IN", "OUT")], &["OUT"], "");
    let (engine, _) = harness.with_script();
    assert_eq!(engine.start().await.unwrap(), Startup::AllReady);
    let inner = "ensemble 'e' depends on 'bad' which has no loaded version. Model 'bad' loading failed with error: version \
                 1 is at UNAVAILABLE state: Unavailable: version 1 is broken;\n";
    assert_eq!(error(&engine, "e").await, format!("load failed for model 'e': {inner}"));
    let outer = format!("ensemble 'outer' depends on 'e' which is not valid. Model 'e' failed with error: {inner}");
    assert_eq!(error(&engine, "outer").await, format!("load failed for model 'outer': {outer}"));
}

#[tokio::test]
async fn ensembles_that_are_made_of_themselves_are_refused() {
    let harness = Harness::new();
    harness.model("a", "", &[1]);
    harness.ensemble("e", &[("f", "IN", "OUT")], &["OUT"], "");
    harness.ensemble("f", &[("e", "IN", "OUT")], &["OUT"], "");
    harness.ensemble("g", &[("g", "IN", "OUT")], &["OUT"], "");
    let engine = harness.engine(Options::default());
    assert_eq!(engine.start().await.unwrap(), Startup::SomeFailed);
    assert!(is_ready(&engine, "a"));
    let reason = |name: &str| state(&engine, name).1;
    assert_eq!(reason("e"), "circular dependency between ensembles: e -> ... -> f -> e");
    assert_eq!(reason("f"), "circular dependency between ensembles: f -> ... -> e -> f");
    assert_eq!(reason("g"), "circular dependency between ensembles: g -> ... -> g -> g");
}

#[tokio::test]
async fn a_part_with_another_interface_takes_the_ensemble_out_until_it_fits_again() {
    let harness = Harness::new();
    chain(&harness);
    let engine = harness.explicit();
    ready(&engine, "e").await;
    harness.model("b", "max_batch_size: 0", &[1]);
    load(&engine, "b").await.unwrap();
    assert!(is_ready(&engine, "e"), "the shapes still fit");
    harness.model("b", "max_batch_size: 2", &[1]);
    load(&engine, "b").await.unwrap();
    assert!(!is_ready(&engine, "e"));
    harness.model("b", "", &[1]);
    load(&engine, "b").await.unwrap();
    let response = send(&engine, ask_ensemble("e", &[1.0])).unwrap().response().await.unwrap();
    assert_eq!(text(&response), "e 1: OUT FP32 [1,1]");
}

#[tokio::test]
async fn the_start_up_set_waits_for_the_parts_of_its_ensembles() {
    let harness = Harness::new();
    harness.ensemble("an_ensemble", &[("slow", "IN", "OUT")], &["OUT"], "");
    harness.model("slow", "parameters { key: 'creation_delay_sec' value { string_value: '1' } }", &[1]);
    let engine = harness.engine(Options::default());
    assert_eq!(engine.start().await.unwrap(), Startup::AllReady);
    assert!(is_ready(&engine, "an_ensemble") && engine.is_ready().await.unwrap());
}

#[tokio::test]
async fn a_step_takes_the_newest_version_or_the_one_it_names() {
    let harness = Harness::new();
    harness.model("a", "version_policy { all { } }", &[1, 2]);
    harness.ensemble("e", &[("a", "IN", "OUT")], &["OUT"], "");
    let engine = harness.explicit();
    ready(&engine, "e").await;
    send(&engine, ask_ensemble("e", &[1.0])).unwrap().response().await.unwrap();
    let count = |version| {
        let model = ModelId { name: "a", version: server_core::request::VersionChoice::Exact(version) };
        engine.statistics(Some(model)).unwrap()[0].success.count
    };
    assert_eq!((count(1), count(2)), (0, 1));
    harness.model("a", "version_policy { all { } }", &[3]);
    load(&engine, "a").await.unwrap();
    send(&engine, ask_ensemble("e", &[1.0])).unwrap().response().await.unwrap();
    assert_eq!((count(2), count(3)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_asks_an_ensemble_also_while_the_server_stops() {
    let harness = Harness::new();
    harness.model("b", "", &[1]);
    harness.scripted("gate", "gated", "", &[1]);
    // Inputs and outputs named as the asking model's.
    let config = "platform: 'ensemble' max_batch_size: 8 input { name: 'INPUT0' data_type: TYPE_FP32 dims: [ -1 ] } \
                  output { name: 'OUTPUT0' data_type: TYPE_FP32 dims: [ -1 ] } ensemble_scheduling { \
                  step { model_name: 'gate' model_version: -1 input_map { key: 'INPUT0' value: 'INPUT0' } \
                         output_map { key: 'OUTPUT0' value: 'mid' } } \
                  step { model_name: 'b' model_version: -1 input_map { key: 'INPUT0' value: 'mid' } \
                         output_map { key: 'OUTPUT0' value: 'OUTPUT0' } } }";
    harness.write("e/config.pbtxt", config);
    harness.scripted("asking", "ask e", "", &[1]);
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    load(&engine, "asking").await.unwrap();
    probe.close_gate();
    let asked = tokio::spawn(send(&engine, ask("asking", &[1.0])).unwrap().response());
    until(|| probe.waiting.load(Ordering::SeqCst) == 1).await;
    let stopping = tokio::spawn({
        let engine = engine.clone();
        async move { engine.shutdown(Duration::from_secs(20)).await }
    });
    until(|| engine.is_live().is_err()).await;
    probe.open_gate();
    assert_eq!(text(&asked.await.unwrap().unwrap()), "asking 1: OUTPUT0 FP32 [1,1]");
    assert!(stopping.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_reloaded_and_unloaded_under_load_leave_nobody_without_an_answer() {
    let harness = Harness::new();
    chain(&harness);
    let engine = harness.explicit();
    ready(&engine, "e").await;
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (engine, is_over) = (engine.clone(), is_over.clone());
            tokio::spawn(async move {
                let (mut served, mut refused) = (0, 0);
                while !is_over.load(Ordering::Relaxed) {
                    match async { send(&engine, ask_ensemble("e", &[1.0]))?.response().await }.await {
                        Ok(_) => served += 1,
                        Err(error) => {
                            assert!(matches!(error.code, Code::NotFound | Code::Unavailable), "{error}");
                            refused += 1;
                        }
                    }
                    tokio::task::yield_now().await;
                }
                (served, refused)
            })
        })
        .collect();
    for round in 0..10 {
        harness.model("b", &format!("metric_tags {{ key: 'round' value: '{round}' }}"), &[1]);
        load(&engine, "b").await.unwrap();
        if round % 3 == 2 {
            engine.unload("b", false).await.unwrap();
            load(&engine, "b").await.unwrap();
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let mut served = 0;
    for caller in callers {
        served += caller.await.unwrap().0;
    }
    assert!(served > 0);
    send(&engine, ask_ensemble("e", &[1.0])).unwrap().response().await.unwrap();
    assert!(engine.shutdown(Duration::from_secs(20)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_its_turn_goes_on_without_being_read() {
    let harness = Harness::new();
    harness.model("a", "", &[1]);
    harness.scripted("b", "gated", "max_batch_size: 1 instance_group { count: 2 }", &[1]);
    harness.ensemble("e", &[("a", "IN", "one"), ("b", "one", "OUT")], &["OUT"], "max_batch_size: 1");
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    probe.close_gate();
    let mut all: Vec<_> = (0..2).map(|_| send(&engine, ask_ensemble("e", &[1.0])).unwrap()).collect();
    assert!(all.iter().all(Inference::is_polled_on));
    until(|| counts(&engine, "a").success.count == 2).await; // the first step does not wait to be polled
    for inference in &mut all {
        poll_fn(|context| {
            inference.poll_ahead(context);
            std::task::Poll::Ready(())
        })
        .await;
    }
    until(|| probe.waiting.load(Ordering::SeqCst) == 2).await;
    probe.open_gate();
    for inference in all {
        assert_eq!(text(&inference.response().await.unwrap()), "e 1: OUT FP32 [1,1]");
    }
}

/// A model's own thread knows no runtime: what waits for a moment must find one all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_asks_hears_in_time_what_waits_for_a_moment() {
    let harness = Harness::new();
    let one = "max_batch_size: 1 dynamic_batching { default_queue_policy { allow_timeout_override: true \
               default_timeout_microseconds: 20000000 } } instance_group { count: 1 }";
    harness.scripted("slow", "gated", one, &[1]);
    let config = "platform: 'ensemble' max_batch_size: 1 input { name: 'INPUT0' data_type: TYPE_FP32 dims: [ -1 ] } \
                  output { name: 'OUTPUT0' data_type: TYPE_FP32 dims: [ -1 ] } ensemble_scheduling { \
                  max_inflight_requests: 2 \
                  step { model_name: 'slow' model_version: -1 input_map { key: 'INPUT0' value: 'INPUT0' } \
                         output_map { key: 'OUTPUT0' value: 'OUTPUT0' } } }";
    harness.write("e/config.pbtxt", config);
    harness.scripted("asking", "ask e", "instance_group { count: 3 }", &[1]);
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    load(&engine, "asking").await.unwrap();
    probe.close_gate();
    let ask = |timeout| {
        let mut request = ask("asking", &[1.0]);
        request.timeout = timeout;
        tokio::spawn(send(&engine, request).unwrap().response())
    };
    let first = ask(None);
    until(|| probe.waiting.load(Ordering::SeqCst) == 1).await;
    let late = ask(Some(Duration::from_millis(50)));
    until(|| counts(&engine, "slow").pending == 1).await;
    let third = ask(None); // waits for one of the two permits
    let error = late.await.unwrap().unwrap_err();
    assert_eq!(error, Error::unavailable("in ensemble 'e', Request timeout expired"));
    probe.open_gate();
    for asked in [first, third] {
        assert_eq!(text(&asked.await.unwrap().unwrap()), "asking 1: OUTPUT0 FP32 [1,1]");
    }
}
