//! Warm-up: instances run the samples of their model before they serve, and a sample that fails fails the load.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use harness::{Harness, ask, send, until};
use server_core::{error::Result, rate_limit::Amounts, tensor::shape_text};
use server_engine::{Engine, LoadParameters, Options, VersionState};

/// A sample of zeros of that many elements.
fn sample(name: &str, batch_size: u32, count: u32, elements: u32) -> String {
    format!(
        "model_warmup {{ name: '{name}' batch_size: {batch_size} count: {count} \
         inputs {{ key: 'INPUT0' value {{ data_type: TYPE_FP32 dims: {elements} zero_data: true }} }} }} "
    )
}

fn instances(count: u32, more: &str) -> String {
    format!("instance_group {{ count: {count} kind: KIND_CPU {more} }} ")
}

async fn load(engine: &Arc<Engine>, name: &str) -> Result<()> {
    engine.load(name, LoadParameters::default()).await
}

/// Why version 1 of `m` could not be loaded.
async fn failure(engine: &Arc<Engine>) -> String {
    let message = load(engine, "m").await.unwrap_err().message;
    let reason = message.strip_prefix("load failed for model 'm': version 1 is at UNAVAILABLE state: ");
    reason.and_then(|reason| reason.strip_suffix(";\n")).unwrap_or(&message).to_owned()
}

fn state(engine: &Engine, name: &str) -> Option<VersionState> {
    engine.index(false).unwrap().iter().find(|line| line.name == name).unwrap().state
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_runs_every_sample_on_its_own_thread_and_is_counted() {
    let harness = Harness::new();
    let samples = sample("first", 3, 2, 5) + &sample("none", 0, 7, 5) + &sample("second", 1, 0, 2);
    harness.scripted("m", "echo_request", &(instances(2, "") + &samples), &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine, "m").await.unwrap();
    let mut shapes = BTreeMap::new();
    for request in probe.requests.lock().iter() {
        *shapes.entry(shape_text(&request.inputs[0].shape)).or_insert(0) += 1;
    }
    assert_eq!(shapes, BTreeMap::from([("[1,5]".into(), 2 * 2 * 3), ("[1,2]".into(), 2)]));
    let last = probe.requests.lock().drain(..).next_back().unwrap();
    let data = last.inputs[0].data.clone().into_host().unwrap();
    drop(last);
    assert!(data.is_unique(), "nobody keeps the samples");
    assert_eq!(probe.inline_runs(), 0, "the threads that made the instances ran them");
    let counted = engine.statistics(Some(harness::id("m"))).unwrap().remove(0);
    assert_eq!((counted.success.count, counted.execution_count, counted.pending), (14, 6, 0));

    harness.scripted("m", "echo_request", &(instances(3, "") + &samples), &[]);
    load(&engine, "m").await.unwrap();
    let counted = engine.statistics(Some(harness::id("m"))).unwrap().remove(0);
    assert_eq!(counted.success.count, 14 + 7, "the third instance was warmed up, the others are as they were");
    send(&engine, ask("m", &[1.0])).unwrap().response().await.unwrap();
    assert!(engine.shutdown(std::time::Duration::from_secs(10)).await, "no sample is in flight any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_fails_fails_the_load() {
    let harness = Harness::new();
    let (engine, probe) = harness.with_script();
    let cases = [
        (
            "panic",
            sample("s", 2, 1, 1),
            "the request was dropped without a response; the request was dropped without a response; ",
        ),
        ("forget", sample("s", 1, 1, 1), "the request was dropped without a response; "),
        (
            "turns 3",
            sample("s", 1, 1, 1),
            "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is not configured to \
             handle such a flag.; ",
        ),
        ("echo", sample("good", 1, 1, 1) + &sample("s", 9, 1, 1), "batch size 9 for 'm_0_0', max allowed is 8; "),
    ];
    for (script, samples, expect) in cases {
        harness.scripted("m", script, &(instances(1, "") + &samples), &[1]);
        let expect = format!("Invalid argument: failed to run warmup sample 's': {expect}");
        assert_eq!(failure(&engine).await, expect, "{script}");
        assert_eq!(state(&engine, "m"), Some(VersionState::Unavailable));
        until(|| probe.instances.load(Ordering::SeqCst) == 0).await;
    }
    harness.scripted("m", "echo", &(instances(1, "") + &sample("s", 1, 1, 1)), &[1]);
    load(&engine, "m").await.unwrap();
    harness.scripted("m", "panic", &(instances(1, "") + &sample("s", 1, 1, 1)), &[]);
    failure(&engine).await;
    send(&engine, ask("m", &[1.0])).unwrap().response().await.expect("what served before still does");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_batch_dimension_takes_one_request_at_a_time() {
    let harness = Harness::new();
    let (engine, _probe) = harness.with_script();
    harness.scripted("m", "echo", &format!("max_batch_size: 0 {}", sample("s", 2, 1, 1)), &[1]);
    let text = "Invalid argument: failed to run warmup sample 's': batch size 2 for 'm_0', max allowed is 0; ";
    assert_eq!(failure(&engine).await, text);
    harness.scripted("m", "echo", &format!("max_batch_size: 0 {}", sample("s", 1, 1, 1)), &[1]);
    load(&engine, "m").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_that_come_later_and_often_are_waited_for() {
    let harness = Harness::new();
    for (script, more) in [("late", ""), ("many 300", "model_transaction_policy { decoupled: true } ")] {
        harness.scripted("m", script, &format!("{more}{}{}", instances(1, ""), sample("s", 4, 2, 100)), &[1]);
        let (engine, _probe) = harness.with_script();
        load(&engine, "m").await.unwrap();
        let counted = engine.statistics(Some(harness::id("m"))).unwrap().remove(0);
        assert_eq!(counted.success.count, 8, "{script}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iterative_model_has_its_turns() {
    let harness = Harness::new();
    for strategy in ["direct { }", "oldest { max_candidate_sequences: 4 }"] {
        let config = format!(
            "backend: 'iterative_sequence' max_batch_size: 4 {}
             model_transaction_policy {{ decoupled: true }}
             input {{ name: 'INPUT' data_type: TYPE_INT32 dims: 1 }}
             output {{ name: 'OUTPUT' data_type: TYPE_INT32 dims: 1 }}
             sequence_batching {{ {strategy} iterative_sequence: true }}
             model_warmup {{ name: 's' batch_size: 2 inputs {{ key: 'INPUT'
                value {{ data_type: TYPE_INT32 dims: 1 input_data_file: 'count' }} }} }}",
            instances(1, "")
        );
        harness.write("m/config.pbtxt", &config);
        harness.write("m/warmup/count", "\u{5}\0\0\0");
        harness.write("m/1/.keep", "");
        let engine = harness.explicit();
        load(&engine, "m").await.unwrap();
        let counted = engine.statistics(Some(harness::id("m"))).unwrap().remove(0);
        assert_eq!((counted.success.count, counted.execution_count), (2 * 5, 5), "{strategy}: each turn counts");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_warm_up_that_hangs_disturbs_nobody_else() {
    let harness = Harness::new();
    harness.scripted("hanging", "gated", &(instances(2, "") + &sample("s", 1, 1, 1)), &[1]);
    harness.scripted("other", "echo", &sample("s", 1, 1, 1), &[1]);
    let (engine, probe) = harness.with_script();
    probe.close_gate();
    let loading = tokio::spawn({
        let engine = engine.clone();
        async move { load(&engine, "hanging").await }
    });
    until(|| probe.waiting.load(Ordering::SeqCst) == 2).await; // both instances at the same time
    assert_eq!(state(&engine, "hanging"), Some(VersionState::Loading));
    assert!(send(&engine, ask("hanging", &[1.0])).is_err(), "it does not serve yet");
    load(&engine, "other").await.unwrap();
    send(&engine, ask("other", &[1.0])).unwrap().response().await.unwrap();
    probe.open_gate();
    loading.await.unwrap().unwrap();
    assert_eq!(state(&engine, "hanging"), Some(VersionState::Ready));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_for_callers() {
    let harness = Harness::new();
    let mut amounts = Amounts::default();
    amounts.set("R", 1, None);
    let limited = instances(3, "rate_limiter { resources { name: 'R' count: 1 } }");
    harness.scripted("m", "echo", &(limited + &sample("s", 2, 2, 1)), &[1]);
    let (engine, _probe) = harness.with_script_and(Options { rate_limit: Some(amounts), ..Options::default() });
    load(&engine, "m").await.unwrap();
    send(&engine, ask("m", &[1.0])).unwrap().response().await.unwrap();
    assert_eq!(engine.statistics(Some(harness::id("m"))).unwrap()[0].success.count, 3 * 4 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_comes_from_the_folder_warmup_and_from_nowhere_else() {
    let harness = Harness::new();
    let (engine, probe) = harness.with_script();
    let from = |file: &str| {
        format!(
            "model_warmup {{ name: 's' batch_size: 1 inputs {{ key: 'INPUT0' \
             value {{ data_type: TYPE_FP32 dims: 1 input_data_file: '{file}' }} }} }}"
        )
    };
    harness.write("m/warmup/folder/data", "12345");
    harness.write("other/data", "1234");
    harness.scripted("m", "echo_request", &from("./folder/data"), &[1]);
    load(&engine, "m").await.unwrap();
    assert_eq!(probe.requests.lock()[0].inputs[0].data.as_host(), Some(b"1234".as_slice()));
    for file in ["../../other/data", "folder/../../../other/data", "/etc/hostname"] {
        harness.scripted("m", "echo_request", &from(file), &[1]);
        load(&engine, "m").await.unwrap_err();
        let reason = engine.index(false).unwrap().remove(0).reason;
        assert!(reason.contains(&format!("file '{file}' must lie in the model's folder")), "{reason}");
    }
    for (file, reason) in [
        ("none", "No such file or directory"),
        ("folder", "it is not a regular file"),
        ("", "it is not a regular file"),
    ] {
        harness.scripted("m", "echo_request", &from(file), &[1]);
        let text = failure(&engine).await;
        assert!(text.starts_with("Internal: failed to open text file for read ") && text.ends_with(reason), "{text}");
    }
}
