//! Models that have models loaded and unloaded, while they are loaded themselves or run: as clients do, and without two
//! waiting for each other.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use harness::{Harness, ask, ask_ensemble, id, send, until};
use server_core::{backend::Host, error::Result, request::VersionChoice};
use server_engine::{ControlMode, Engine, LoadParameters, Options, Startup};
use tokio::time::timeout;

/// Longer than any of these takes, shorter than a test run that hangs.
const LIMIT: Duration = Duration::from_secs(30);

const TWO: &str = "instance_group { count: 2 kind: KIND_CPU }";

async fn load(engine: &Arc<Engine>, model: &str) -> Result<()> {
    timeout(LIMIT, engine.load(model, LoadParameters::default())).await.expect("it waits for itself")
}

async fn run(engine: &Engine, model: &str) -> Result<()> {
    let request = if model == "ensemble" { ask_ensemble(model, &[1.0]) } else { ask(model, &[1.0]) };
    timeout(LIMIT, send(engine, request)?.response()).await.expect("it waits for itself").map(drop)
}

fn serves(engine: &Engine, models: &[&str]) -> bool {
    models.iter().all(|model| Host::is_model_ready(engine, model, VersionChoice::Latest).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_has_others_loaded_while_it_is_loaded() {
    let harness = Harness::new();
    harness.scripted("a", "made loads b", TWO, &[1, 2]);
    harness.scripted("b", "made loads c", TWO, &[1]);
    harness.scripted("c", "", "", &[1]);
    let (engine, _) = harness.with_script_and(Options { load_threads: 1, ..Options::default() });
    load(&engine, "a").await.unwrap();
    assert!(serves(&engine, &["a", "b", "c"]));
    assert!(!Host::is_model_ready(&*engine, "nobody", VersionChoice::Latest).unwrap());
    assert!(!Host::is_model_ready(&*engine, "b", VersionChoice::Exact(2)).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn models_of_the_start_up_set_may_have_each_other_loaded() {
    for load_threads in [1, 4] {
        let harness = Harness::new();
        harness.scripted("a", "made loads b", TWO, &[1]);
        harness.scripted("b", "made loads c", "", &[1]);
        harness.scripted("c", "", "", &[1]);
        let startup_models = ["a", "b", "c"].map(str::to_owned).into();
        let (engine, _) = harness.with_script_and(Options { load_threads, startup_models, ..Options::default() });
        assert_eq!(timeout(LIMIT, engine.start()).await.unwrap(), Ok(Startup::AllReady));
        assert!(serves(&engine, &["a", "b", "c"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_have_each_other_loaded_are_refused() {
    let harness = Harness::new();
    harness.scripted("a", "made loads b", "", &[1]);
    harness.scripted("b", "made loads a", "", &[1]);
    harness.scripted("itself", "made loads itself", "", &[1]);
    harness.scripted("part", "made loads ensemble", "", &[1]);
    harness.ensemble("ensemble", &[("part", "IN", "OUT")], &["OUT"], "");
    let (engine, _) = harness.with_script();
    let related = |name| format!("a related model '{name}' to a load/unload request is currently loading or unloading");
    for (model, name) in [("a", "a"), ("itself", "itself"), ("part", "part")] {
        let error = load(&engine, model).await.unwrap_err();
        assert!(model == "part" || error.message.contains(&related(name)), "{error}");
        assert!(!serves(&engine, &[model]));
    }
    let index = engine.index(false).unwrap();
    assert!(index.iter().any(|line| line.name == "part" && line.reason.contains("ensemble")), "{index:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_that_wait_for_another_of_their_model_keep_no_place_among_loads() {
    let harness = Harness::new();
    harness.scripted("slow", "made waits", "", &[1]);
    harness.model("other", "", &[1]);
    let (engine, probe) = harness.with_script_and(Options { load_threads: 2, ..Options::default() });
    probe.close_gate();
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let engine = engine.clone();
        slow.spawn(async move { load(&engine, "slow").await });
    }
    until(|| probe.waiting.load(Ordering::SeqCst) == 1).await;
    load(&engine, "other").await.unwrap();
    assert!(!serves(&engine, &["slow"]));
    probe.open_gate();
    assert_eq!(slow.join_all().await, [Ok(()), Ok(()), Ok(())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_has_itself_loaded_anew_with_fewer_instances_while_it_runs() {
    let harness = Harness::new();
    harness.scripted("m", "asked loads m", TWO, &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine, "m").await.unwrap();
    harness.scripted("m", "asked loads m", "", &[1]);
    for _ in 0..4 {
        run(&engine, "m").await.unwrap();
    }
    until(|| probe.instances.load(Ordering::SeqCst) == 1).await;
    assert!(timeout(LIMIT, engine.shutdown(LIMIT)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_has_itself_or_its_ensemble_unloaded_while_it_runs() {
    for target in ["m", "ensemble"] {
        let harness = Harness::new();
        harness.scripted("m", &format!("asked unloads {target}"), "", &[1]);
        harness.ensemble("ensemble", &[("m", "IN", "OUT")], &["OUT"], "");
        let (engine, _) = harness.with_script();
        load(&engine, "ensemble").await.unwrap();
        run(&engine, "ensemble").await.unwrap();
        assert!(!serves(&engine, &["ensemble"]));
        assert_eq!(serves(&engine, &["m"]), target != "m");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ensemble_follows_when_one_of_its_models_has_another_loaded() {
    let harness = Harness::new();
    harness.scripted("m", "asked loads n", "", &[1]);
    harness.scripted("n", "", "", &[1]);
    harness.ensemble("ensemble", &[("n", "IN", "OUT")], &["OUT"], "");
    let (engine, _) = harness.with_script();
    for model in ["m", "ensemble"] {
        load(&engine, model).await.unwrap();
    }
    engine.unload("n", false).await.unwrap();
    assert!(!serves(&engine, &["ensemble"]));
    run(&engine, "m").await.unwrap();
    assert!(serves(&engine, &["n", "ensemble"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_may_not_do_models_may_not_either() {
    let harness = Harness::new();
    harness.scripted("m", "asked loads nobody", "", &[1]);
    let (engine, _) = harness.with_script();
    load(&engine, "m").await.unwrap();
    let refused = run(&engine, "m").await.unwrap_err();
    assert_eq!(refused.message, "failed to load 'nobody', failed to poll from model repository");
    let engine = harness.engine(Options { control_mode: ControlMode::None, ..Options::default() });
    let refused = "explicit model load / unload is not allowed if polling is enabled";
    assert_eq!(engine.load_model("m", "m", None, Vec::new()).unwrap_err().message, refused);
    assert_eq!(engine.unload_model("m", "m", false).unwrap_err().message, refused);
    engine.close_admission();
    let error = Host::is_model_ready(&*engine, "m", VersionChoice::Latest).unwrap_err();
    assert_eq!(error.message, "Server not ready");
    assert_eq!(engine.model(id("m")).map(drop).unwrap_err().message, "Server not ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_gives_configuration_and_files_of_the_model_it_has_loaded() {
    let harness = Harness::new();
    harness.model("m", "", &[1]);
    let engine = harness.explicit();
    load(&engine, "m").await.unwrap();
    let host = engine.clone();
    let config = harness::config_json("n", 3);
    let loading = move || host.load_model("m", "n", Some(config), vec![("7/weights".into(), b"x".to_vec().into())]);
    tokio::task::spawn_blocking(loading).await.unwrap().unwrap();
    assert_eq!(engine.config(id("n")).unwrap().max_batch_size, 3);
    assert!(Host::is_model_ready(&*engine, "n", VersionChoice::Exact(7)).unwrap());
}
