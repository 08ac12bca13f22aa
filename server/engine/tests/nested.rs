//! Models that ask models, also themselves and each other: nobody waits for ever, and every request is counted.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use harness::{Harness, ask, ask_ensemble, id, send, until};
use server_core::error::{Error, Result};
use server_engine::{Engine, LoadParameters, Options};
use tokio::time::timeout;

/// Longer than any of these takes, shorter than a test run that hangs.
const LIMIT: Duration = Duration::from_secs(30);

async fn load(engine: &Arc<Engine>, models: &[&str]) {
    for model in models {
        engine.load(model, LoadParameters::default()).await.unwrap();
    }
}

/// Asks a model to count down from a number; the number it came to.
async fn count_down(engine: &Engine, model: &str, from: f32) -> Result<f32> {
    let request = if model.starts_with("ensemble") { ask_ensemble(model, &[from]) } else { ask(model, &[from]) };
    let response = timeout(LIMIT, send(engine, request)?.response()).await.expect("it waits for itself")?;
    Ok(f32::from_le_bytes(response.outputs[0].data.as_host().unwrap().try_into().unwrap()))
}

fn counts(engine: &Engine, model: &str) -> (u64, u64) {
    let counted = engine.statistics(Some(id(model))).unwrap().remove(0);
    (counted.success.count, counted.execution_count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_one_instance_asks_itself() {
    let harness = Harness::new();
    harness.scripted("m", "count_down m", "", &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine, &["m"]).await;
    assert_eq!(count_down(&engine, "m", 5.0).await, Ok(0.0));
    assert_eq!(counts(&engine, "m"), (6, 6), "each is counted as any request");
    assert_eq!(probe.reentries.lock().len(), 5);
    assert!(timeout(LIMIT, engine.shutdown(LIMIT)).await.unwrap(), "nothing is left inside");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_free_instance_takes_what_its_model_asks_itself_for() {
    let harness = Harness::new();
    harness.scripted("m", "count_down m", "instance_group { count: 2 kind: KIND_CPU }", &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine, &["m"]).await;
    assert_eq!(count_down(&engine, "m", 1.0).await, Ok(0.0));
    assert_eq!(probe.threads.lock().iter().collect::<HashSet<_>>().len(), 2, "both instances have run");
    assert_eq!(probe.reentries.lock().len(), 0);
    assert_eq!(count_down(&engine, "m", 2.0).await, Ok(0.0));
    assert_eq!(probe.reentries.lock().len(), 1, "both wait then");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn models_that_ask_each_other_at_the_same_time_do_not_wait_for_each_other() {
    let harness = Harness::new();
    harness.scripted("ping", "count_down pong", "", &[1]);
    harness.scripted("pong", "count_down ping", "", &[1]);
    let (engine, _) = harness.with_script();
    load(&engine, &["ping", "pong"]).await;
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (engine, model) = (engine.clone(), if number % 2 == 0 { "ping" } else { "pong" });
        callers.spawn(async move {
            for from in 0..50 {
                assert_eq!(count_down(&engine, model, (from % 7) as f32).await, Ok(0.0));
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let asked: u64 = (0..50).map(|from| from % 7 + 1).sum();
    assert_eq!(counts(&engine, "ping").0 + counts(&engine, "pong").0, 8 * asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_asks_an_ensemble_that_it_is_a_part_of() {
    let harness = Harness::new();
    harness.scripted("m", "count_down ensemble", "", &[1]);
    harness.ensemble("ensemble", &[("m", "IN", "OUT")], &["OUT"], "");
    let (engine, _) = harness.with_script();
    load(&engine, &["m", "ensemble"]).await;
    assert_eq!(count_down(&engine, "ensemble", 4.0).await, Ok(0.0));
    assert_eq!((counts(&engine, "m").0, counts(&engine, "ensemble").0), (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_without_an_end_is_refused_with_its_models() {
    let harness = Harness::new();
    harness.scripted("ping", "count_down pong", "", &[1]);
    harness.scripted("pong", "count_down ping", "", &[1]);
    let (engine, _) = harness.with_script();
    load(&engine, &["ping", "pong"]).await;
    assert_eq!(count_down(&engine, "ping", 100.0).await, Ok(0.0));
    let error = count_down(&engine, "ping", 101.0).await.unwrap_err();
    assert_eq!(
        error.message,
        "model 'ping' cannot ask model 'pong': 101 models wait for each other already (ping -> pong -> ping -> pong -> \
         ... -> ping -> pong -> ping -> pong), and 100 may; models that ask each other in a circle need a condition to \
         end it"
    );
}

fn looks_every_second() -> Options {
    Options { circle_patience: Duration::from_secs(1), ..Options::default() }
}

/// A request of an instance that runs nothing meanwhile ends so, after so many seconds at least.
#[track_caller]
fn hears_of_a_circle(error: &Error, asking: &str, asked: &str, seconds: u64) {
    let before =
        format!("model '{asking}' asked model '{asked}', all instances of which have waited for the answer for ");
    let behind = format!(
        " s ({asking} -> {asked}): models whose backends ask each other in a circle need more instances, or must not wait for the \
         answer"
    );
    let waited = error.message.strip_prefix(&before).and_then(|rest| rest.strip_suffix(&behind));
    let waited: Option<u64> = waited.and_then(|waited| waited.parse().ok());
    assert!(waited.is_some_and(|waited| waited >= seconds), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_runs_nothing_meanwhile_hears_of_a_circle_through_an_ensemble() {
    let harness = Harness::new();
    harness.scripted("m", "count_down_blocking ensemble", "", &[1]);
    harness.ensemble("ensemble", &[("m", "IN", "OUT")], &["OUT"], "");
    let (engine, _) = harness.with_script_and(looks_every_second());
    load(&engine, &["m", "ensemble"]).await;
    let error = count_down(&engine, "m", 1.0).await.unwrap_err();
    hears_of_a_circle(&error, "m", "ensemble", 1);
    assert_eq!(count_down(&engine, "m", 0.0).await, Ok(0.0), "it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn instances_that_run_nothing_meanwhile_hear_that_they_wait_for_each_other() {
    let harness = Harness::new();
    let two = "instance_group { count: 2 kind: KIND_CPU }";
    harness.scripted("ping", "count_down_blocking pong", two, &[1]);
    harness.scripted("pong", "count_down_blocking ping", "", &[1]);
    let (engine, probe) = harness.with_script_and(looks_every_second());
    load(&engine, &["ping", "pong"]).await;
    probe.close_gate();
    let asked = ["ping", "ping", "pong"].map(|model| {
        let engine = engine.clone();
        (model, tokio::spawn(async move { count_down(&engine, model, 1.0).await }))
    });
    until(|| probe.waiting.load(Ordering::SeqCst) == 3).await; // all instances are about to ask
    probe.open_gate();
    let mut errors = 0;
    for (model, asked) in asked {
        if let Err(error) = asked.await.unwrap() {
            hears_of_a_circle(&error, model, if model == "ping" { "pong" } else { "ping" }, 1);
            errors += 1;
        }
    }
    assert!(errors > 0, "at least one must do without");
}

async fn hear_that_they_wait_for_each_other_through_ensembles(steps_before: &[(&str, &str, &str)], seconds: u64) {
    let harness = Harness::new();
    let from = steps_before.last().map_or("IN", |(_, _, to)| to);
    harness.scripted("before", "rests 900", "", &[1]); // nearly as long as the time after which a ring is looked for
    for (model, other) in [("ping", "pong"), ("pong", "ping")] {
        harness.scripted(model, &format!("count_down_blocking ensemble_{other}"), "", &[1]);
        let steps = [steps_before, &[(model, from, "OUT")]].concat();
        harness.ensemble(&format!("ensemble_{model}"), &steps, &["OUT"], "");
    }
    let (engine, probe) = harness.with_script_and(looks_every_second());
    load(&engine, &["before", "ping", "pong", "ensemble_ping", "ensemble_pong"]).await;
    probe.close_gate();
    let asked = ["ping", "pong"].map(|model| {
        let engine = engine.clone();
        (model, tokio::spawn(async move { count_down(&engine, model, 1.0).await }))
    });
    until(|| probe.waiting.load(Ordering::SeqCst) == 2).await; // both instances are about to ask
    probe.open_gate();
    let mut errors = 0;
    for (model, asked) in asked {
        if let Err(error) = asked.await.unwrap() {
            let asked = if model == "ping" { "ensemble_pong" } else { "ensemble_ping" };
            hears_of_a_circle(&error, model, asked, seconds);
            errors += 1;
        }
    }
    assert!(errors > 0, "at least one must do without");
    for model in ["ping", "pong"] {
        assert_eq!(count_down(&engine, model, 1.0).await, Ok(0.0), "it goes on, and one alone closes no ring");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn instances_that_wait_for_each_other_through_ensembles_hear_of_it() {
    hear_that_they_wait_for_each_other_through_ensembles(&[], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn instances_that_wait_for_each_other_since_a_later_step_began_hear_of_it() {
    hear_that_they_wait_for_each_other_through_ensembles(&[("before", "IN", "BETWEEN")], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_asks_for_from_a_thread_beside_it_enters_the_queue() {
    let harness = Harness::new();
    harness.scripted("outer", "count_down_alone inner", "", &[1]);
    harness.scripted("inner", "count_down nobody", "", &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine, &["outer", "inner"]).await;
    assert_eq!(count_down(&engine, "outer", 1.0).await, Ok(0.0));
    assert_eq!((probe.threads.lock().len(), probe.reentries.lock().len()), (2, 0));
    let error = count_down(&engine, "inner", 1.0).await.unwrap_err();
    assert_eq!(error.message, "Request for unknown model: 'nobody' is not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_asks_itself_can_be_replaced_meanwhile() {
    let harness = Harness::new();
    harness.scripted("m", "count_down m", "", &[1]);
    let (engine, _) = harness.with_script();
    load(&engine, &["m"]).await;
    let asking = {
        let engine = engine.clone();
        tokio::spawn(async move {
            for _ in 0..200 {
                assert_eq!(count_down(&engine, "m", 3.0).await, Ok(0.0));
            }
        })
    };
    for size in (1..9).cycle().take(20) {
        let extra = format!("max_batch_size: {size}");
        harness.scripted("m", "count_down m", &extra, &[1]);
        timeout(LIMIT, engine.load("m", LoadParameters::default())).await.unwrap().unwrap();
    }
    asking.await.unwrap();
}
