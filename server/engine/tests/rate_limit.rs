//! Instances that share resources: never more run than there is for, and every request gets its end.
#![allow(clippy::unwrap_used)] // a failure here is the test's

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use server_core::{
    error::Code,
    rate_limit::Amounts,
    request::{CorrelationId, InferRequest, Sequence},
    tensor::DataType,
};
use server_engine::{Engine, LoadParameters, Options, VersionState};

use self::harness::{Harness, ask, scripted::Probe, send};

/// One CPU instance group that needs this.
fn group(count: u32, resources: &str) -> String {
    format!("instance_group {{ count: {count} kind: KIND_CPU rate_limiter {{ {resources} }} }}")
}

fn r(count: u32) -> String {
    format!("resources {{ name: \"R\" count: {count} }}")
}

async fn start(harness: &Harness, declared: &[(&str, u64)], models: &[&str]) -> (Arc<Engine>, Arc<Probe>) {
    let mut amounts = Amounts::default();
    for (name, count) in declared {
        amounts.set(name, *count, None);
    }
    let (engine, probe) = harness.with_script_and(Options { rate_limit: Some(amounts), ..Options::default() });
    for model in models {
        engine.load(model, LoadParameters::default()).await.unwrap();
    }
    (engine, probe)
}

fn pending(engine: &Engine, model: &str) -> u64 {
    engine.statistics(Some(harness::id(model))).unwrap()[0].pending
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_more_run_at_once_than_there_are_resources_for() {
    for (declared, most) in [(1, 1), (3, 3)] {
        let harness = Harness::new();
        for model in ["a", "b", "c"] {
            harness.scripted(model, "crowd", &group(2, &r(1)), &[1]);
        }
        let (engine, probe) = start(&harness, &[("R", declared)], &["a", "b", "c"]).await;
        let callers: Vec<_> = (0..12)
            .map(|caller| {
                let engine = engine.clone();
                tokio::spawn(async move {
                    let model = ["a", "b", "c"][caller % 3];
                    for _ in 0..100 {
                        send(&engine, ask(model, &[1.0])).unwrap().response().await.unwrap();
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(probe.most_running.load(Ordering::SeqCst), most);
        assert_eq!(probe.inline_runs(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_resources_waits_in_the_queue() {
    let harness = Harness::new();
    harness.scripted("first", "gated", &group(1, &r(1)), &[1]);
    let policy = "dynamic_batching { default_queue_policy { allow_timeout_override: true default_timeout_microseconds: 60000000 } }";
    harness.scripted("second", "echo", &format!("{policy} {}", group(1, &r(1))), &[1]);
    let (engine, probe) = start(&harness, &[], &["first", "second"]).await;
    probe.close_gate();
    let first = send(&engine, ask("first", &[1.0])).unwrap();
    harness::until(|| probe.waiting.load(Ordering::SeqCst) == 1).await; // it runs, and holds R
    let second: Vec<_> = (0..5).map(|_| send(&engine, ask("second", &[2.0])).unwrap()).collect();
    let impatient = InferRequest { timeout: Some(Duration::from_millis(1)), ..ask("second", &[3.0]) };
    let error = send(&engine, impatient).unwrap().response().await.unwrap_err();
    assert_eq!((error.code, &*error.message), (Code::Unavailable, "Request timeout expired"));
    assert_eq!(pending(&engine, "second"), 5);
    probe.open_gate();
    assert!(first.response().await.is_ok());
    for one in second {
        assert!(one.response().await.is_ok());
    }
    let snapshot = engine.statistics(Some(harness::id("second"))).unwrap().remove(0);
    assert_eq!((snapshot.inference_count, snapshot.execution_count), (5, 1), "they came together meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_not_due_holds_no_resources() {
    let harness = Harness::new();
    let delay = "dynamic_batching { max_queue_delay_microseconds: 600000000 }";
    harness.scripted("patient", "echo", &format!("{delay} {}", group(1, &r(1))), &[1]);
    harness.scripted("other", "echo", &group(1, &r(1)), &[1]);
    let (engine, _) = start(&harness, &[], &["patient", "other"]).await;
    let waiting: Vec<_> = (0..7).map(|_| send(&engine, ask("patient", &[1.0])).unwrap()).collect();
    for _ in 0..3 {
        assert!(send(&engine, ask("other", &[2.0])).unwrap().response().await.is_ok());
    }
    assert_eq!(pending(&engine, "patient"), 7);
    assert!(send(&engine, ask("patient", &[1.0])).unwrap().response().await.is_ok());
    for one in waiting {
        assert!(one.response().await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_asks_another_is_not_held_up_by_those_in_line() {
    let harness = Harness::new();
    harness.scripted("outer", "ask inner", &group(2, &r(1)), &[1]);
    harness.scripted("inner", "echo", &group(1, "resources { name: \"S\" count: 1 }"), &[1]);
    harness.scripted("greedy", "echo", &group(1, &format!("{} resources {{ name: \"S\" count: 1 }}", r(2))), &[1]);
    let (engine, _) = start(&harness, &[("R", 2), ("S", 1)], &["outer", "inner", "greedy"]).await;
    let callers: Vec<_> = (0..6)
        .map(|caller| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let model = ["outer", "greedy"][caller % 2];
                for _ in 0..50 {
                    send(&engine, ask(model, &[1.0])).unwrap().response().await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_never_run_is_not_loaded() {
    let harness = Harness::new();
    harness.scripted("large", "echo", &group(1, &r(4)), &[1]);
    harness.scripted("global", "echo", &group(1, "resources { name: \"R\" global: true count: 1 }"), &[1]);
    harness.scripted("small", "echo", &group(1, &r(3)), &[1]);
    let (engine, _) = start(&harness, &[("R", 3)], &["small"]).await;
    let error = engine.load("large", LoadParameters::default()).await.unwrap_err();
    let expect = "Resource count for \"R\" is limited to 3 which will prevent scheduling of one or more model instances, \
                  the minimum required count is 4";
    assert!(error.message.contains(expect), "{error}");
    let error = engine.load("global", LoadParameters::default()).await.unwrap_err();
    let expect = "Resource \"R\" is present as both global and device-specific resource in the model configuration.";
    assert!(error.message.contains(expect), "{error}");
    assert!(send(&engine, ask("small", &[1.0])).unwrap().response().await.is_ok());
    // A model that is gone counts no more.
    engine.unload("small", false).await.unwrap();
    harness::until(|| {
        let index = engine.index(false).unwrap();
        index.iter().any(|entry| entry.name == "small" && entry.state == Some(VersionState::Unavailable))
    })
    .await;
    engine.load("global", LoadParameters::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_takes_nobodys_resources_and_gives_back_its_own() {
    let harness = Harness::new();
    harness.scripted("holder", "gated", &group(1, &r(1)), &[1]);
    harness.scripted("waiter", "echo", &group(2, &r(1)), &[1]);
    let (engine, probe) = start(&harness, &[], &["holder", "waiter"]).await;
    probe.close_gate();
    let held = send(&engine, ask("holder", &[1.0])).unwrap();
    harness::until(|| probe.waiting.load(Ordering::SeqCst) == 1).await;
    let waiting = send(&engine, ask("waiter", &[1.0])).unwrap();
    engine.unload("waiter", false).await.unwrap();
    engine.unload("holder", false).await.unwrap();
    probe.open_gate();
    assert!(held.response().await.is_ok());
    assert!(waiting.response().await.is_ok());
    harness::until(|| engine.index(false).unwrap().iter().all(|entry| entry.state == Some(VersionState::Unavailable)))
        .await;
    harness::until(|| probe.instances.load(Ordering::SeqCst) == 0).await;
    engine.load("waiter", LoadParameters::default()).await.unwrap();
    assert!(send(&engine, ask("waiter", &[1.0])).unwrap().response().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn instances_come_and_go_while_they_share() {
    let harness = Harness::new();
    harness.scripted("a", "crowd", &group(2, &r(1)), &[1]);
    harness.scripted("b", "crowd", &group(2, &r(2)), &[1]);
    let (engine, probe) = start(&harness, &[("R", 2)], &["a", "b"]).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..6)
        .map(|caller| {
            let (engine, is_over) = (engine.clone(), is_over.clone());
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    send(&engine, ask(["a", "b"][caller % 2], &[1.0])).unwrap().response().await.unwrap();
                }
            })
        })
        .collect();
    for number in 0..30 {
        let count = 1 + number % 3;
        harness.scripted("a", "crowd", &group(count, &r(1 + number % 2)), &[1]);
        engine.load("a", LoadParameters::default()).await.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(probe.most_running.load(Ordering::SeqCst) <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sequences_share_resources_and_keep_their_order() {
    for (backend, strategy) in [("sequence", "direct { }"), ("dyna_sequence", "oldest { max_candidate_sequences: 4 }")]
    {
        let harness = Harness::new();
        let config = format!(
            "backend: '{backend}' max_batch_size: 4 {}
             input {{ name: 'INPUT' data_type: TYPE_INT32 dims: 1 }} output {{ name: 'OUTPUT' data_type: TYPE_INT32 dims: 1 }}
             sequence_batching {{ {strategy}
                 control_input {{ name: 'START' control {{ kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] }} }}
                 control_input {{ name: 'READY' control {{ kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] }} }}
                 control_input {{ name: 'CORRID' control {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }} }} }}",
            group(2, &r(1))
        );
        harness.write("sums/config.pbtxt", &config);
        harness.write("sums/1/.keep", "");
        harness.scripted("other", "crowd", &group(2, &r(1)), &[1]);
        let (engine, _) = start(&harness, &[], &["sums", "other"]).await;
        let mut tasks = tokio::task::JoinSet::new();
        for id in 1..=6 {
            let engine = engine.clone();
            tasks.spawn(async move {
                let mut before = None;
                for number in 0..20 {
                    let sequence =
                        Sequence { id: CorrelationId::Number(id), is_start: number == 0, is_end: number == 19 };
                    let mut request = InferRequest { sequence: Some(sequence), ..ask("sums", &[0.0]) };
                    request.inputs[0].name = "INPUT".into();
                    request.inputs[0].data_type = DataType::Int32;
                    request.inputs[0].data = 1_i32.to_le_bytes().to_vec().into();
                    let response = send(&engine, request).unwrap().response().await.unwrap();
                    let sum = i32::from_le_bytes(response.outputs[0].data.as_host().unwrap().try_into().unwrap());
                    assert!(before.is_none_or(|before| sum == before + 1), "{backend}: {before:?}, {sum}");
                    before = Some(sum);
                    send(&engine, ask("other", &[1.0])).unwrap().response().await.unwrap();
                }
            });
        }
        tasks.join_all().await;
    }
}
