//! Every way in which a request can end is counted once, under its reason, and nothing stays behind.
#![allow(clippy::unwrap_used)] // a failure here is the test's

mod harness;

use std::{sync::Arc, time::Duration};

use server_core::{
    error::{Code, Error},
    request::InferRequest,
    stats::ModelSnapshot,
};
use server_engine::{Engine, LoadParameters};
use tokio::task::JoinSet;

use self::harness::{Harness, ask, send};

fn snapshot(engine: &Engine, model: &str) -> ModelSnapshot {
    engine.statistics(Some(harness::id(model))).unwrap().remove(0)
}

/// `success rejected canceled backend other`, and that the failures of the statistics are those of the metrics without the
/// `refused`, which were not taken in.
fn ends(engine: &Engine, model: &str, refused: u64) -> [u64; 5] {
    let ModelSnapshot { success, fail, failures, .. } = snapshot(engine, model);
    let ends = [success.count, failures.rejected, failures.canceled, failures.backend, failures.other];
    assert_eq!(fail.count + refused, ends[1..].iter().sum::<u64>());
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_has_its_reason() {
    let harness = Harness::new();
    let policy = "dynamic_batching { default_queue_policy {
        max_queue_size: 1 allow_timeout_override: true default_timeout_microseconds: 60000000
    } } instance_group { count: 1 kind: KIND_CPU }";
    harness.scripted("gated", "gated", policy, &[1]);
    harness.scripted("broken", "panic", policy, &[1]);
    harness.scripted("forgetful", "forget", policy, &[1]);
    let (engine, probe) = harness.with_script();
    for model in ["gated", "broken", "forgetful"] {
        engine.load(model, LoadParameters::default()).await.unwrap();
    }
    for model in ["broken", "forgetful"] {
        let error = send(&engine, ask(model, &[1.0])).unwrap().response().await.unwrap_err();
        assert_eq!(error.code, Code::Internal);
        assert_eq!(ends(&engine, model, 0), [0, 0, 0, 1, 0], "{model}");
    }
    probe.close_gate();
    let running = send(&engine, ask("gated", &[1.0])).unwrap();
    harness::until(|| probe.waiting.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    let left = send(&engine, ask("gated", &[1.0])).unwrap();
    let error = send(&engine, ask("gated", &[1.0])).err().unwrap();
    assert_eq!(error, Error::unavailable("[request id: <id_unknown>] Exceeds maximum queue size"));
    assert_eq!(ends(&engine, "gated", 1), [0, 1, 0, 0, 0]);
    drop(left);
    let late = InferRequest { timeout: Some(Duration::from_millis(1)), ..ask("gated", &[1.0]) };
    let error = send(&engine, late).unwrap().response().await.unwrap_err();
    assert_eq!(error, Error::unavailable("Request timeout expired"));
    assert_eq!(ends(&engine, "gated", 1), [0, 2, 1, 0, 0], "who left made room for the one that waited too long");
    probe.open_gate();
    running.response().await.unwrap();
    assert_eq!(ends(&engine, "gated", 1), [1, 2, 1, 0, 0]);
    assert_eq!(snapshot(&engine, "gated").pending, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_request_is_counted_once_whatever_the_policy() {
    let harness = Harness::new();
    let two = "instance_group { count: 2 kind: KIND_CPU }";
    let policies = [
        ("single", String::new()),
        ("batched", "dynamic_batching { max_queue_delay_microseconds: 200 preferred_batch_size: [ 2, 4 ] }".into()),
        ("short", "dynamic_batching { default_queue_policy { max_queue_size: 3 } }".into()),
        ("reject", "dynamic_batching { default_queue_policy { default_timeout_microseconds: 100 } }".into()),
        (
            "levels",
            "dynamic_batching { priority_levels: 4 default_priority_level: 2 default_queue_policy {
                timeout_action: DELAY default_timeout_microseconds: 50 } }"
                .into(),
        ),
        ("ordered", "dynamic_batching { preserve_ordering: true default_queue_policy { max_queue_size: 8 } }".into()),
    ];
    for (model, policy) in &policies {
        harness.scripted(model, "crowd", &format!("{policy} {two}"), &[1]);
    }
    let (engine, _) = harness.with_script();
    let (callers, each) = (8, 60);
    let mut tasks = JoinSet::new();
    for (model, _) in &policies {
        engine.load(model, LoadParameters::default()).await.unwrap();
        for caller in 0..callers {
            let (engine, model) = (engine.clone(), (*model).to_owned());
            tasks.spawn(async move {
                let refused = call(engine, &model, caller, each).await;
                (model, refused)
            });
        }
    }
    let refused = tasks.join_all().await;
    for (model, _) in &policies {
        let refused = refused.iter().filter(|(of, _)| of == model).map(|(_, refused)| refused).sum();
        let sent = callers * each;
        harness::until(|| ends(&engine, model, refused).iter().sum::<u64>() == sent).await;
        let [success, rejected, canceled, backend, other] = ends(&engine, model, refused);
        assert_eq!((backend, other), (0, 0), "{model}");
        assert!(success > 0 && success + rejected + canceled == sent, "{model}");
        assert_eq!(snapshot(&engine, model).pending, 0, "{model}");
    }
}

/// Sends requests one after the other; leaves every third before its answer, and does not wait for every fifth. Returns how
/// many were not taken in.
async fn call(engine: Arc<Engine>, model: &str, caller: u64, count: u64) -> u64 {
    let (mut inside, mut refused) = (Vec::new(), 0);
    for number in 0..count {
        let request = InferRequest { priority: (caller + number) % 6, ..ask(model, &[number as f32]) };
        let Ok(inference) = send(&engine, request) else {
            refused += 1;
            continue;
        };
        match number {
            _ if number % 3 == 0 => drop(inference),
            _ if number % 5 == 0 => inside.push(inference),
            _ => {
                let _ = inference.response().await; // refused or answered: either is an end
            }
        }
    }
    for inference in inside {
        let _ = inference.response().await;
    }
    refused
}
