//! Ensembles in the engine: their requests here; see also [`limits`] and [`parts`].
#![allow(clippy::unwrap_used)] // a failure here is the test's

#[path = "../harness/mod.rs"]
mod harness;
mod limits;
mod parts;

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
