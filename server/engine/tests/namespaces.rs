//! `--model-namespacing`: models of one name in several repositories, side by side.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{fs, sync::Arc};

use harness::{Harness, ask, ask_ensemble, id, send};
use server_core::{config::SchedulingChoice, error::Code};
use server_engine::{ControlMode, Engine, LoadParameters, Options, Startup};

/// Repositories `a` and `b`: both have `dup`, with another batch size each, and an ensemble of it; each has a model of its
/// own, and `a` an ensemble of that of `b`.
fn repositories() -> Harness {
    let harness = Harness::new();
    harness.model("a/dup", "max_batch_size: 2", &[1]);
    harness.model("b/dup", "max_batch_size: 3", &[1]);
    harness.model("a/only_a", "", &[1]);
    harness.model("b/only_b", "", &[1]);
    harness.ensemble("a/ens_a", &[("dup", "IN", "OUT")], &["OUT"], "max_batch_size: 2");
    harness.ensemble("b/ens_b", &[("dup", "IN", "OUT")], &["OUT"], "max_batch_size: 3");
    harness.ensemble("a/ens_x", &[("only_b", "IN", "OUT")], &["OUT"], "");
    harness
}

fn engine(harness: &Harness, control_mode: ControlMode) -> Arc<Engine> {
    let startup_models = if control_mode == ControlMode::Explicit { vec!["*".to_owned()] } else { Vec::new() };
    let repositories = vec![harness.path("a"), harness.path("b")];
    let options = Options { repositories, namespaces: true, control_mode, startup_models, ..Options::default() };
    Engine::new(options, server_backends::all(&Default::default()))
}

fn ready(engine: &Engine) -> Vec<String> {
    engine.index(true).unwrap().into_iter().map(|line| line.name).collect()
}

async fn answer(engine: &Engine, model: &str) -> Result<(), String> {
    let request = if model.starts_with("ens") { ask_ensemble(model, &[1.0]) } else { ask(model, &[1.0]) };
    let inference = send(engine, request).map_err(|error| format!("{:?} {error}", error.code))?;
    inference.response().await.map(|_| ()).map_err(|error| error.to_string())
}

const AMBIGUOUS: &str = "InvalidArgument There are 2 identifiers of model 'dup' in global map, model namespace must be \
                         provided to resolve ambiguity.";

#[tokio::test]
async fn a_name_that_several_models_have_must_not_be_asked_for_but_ensembles_know_their_own() {
    let harness = repositories();
    let engine = engine(&harness, ControlMode::None);
    assert_eq!(engine.start().await.unwrap(), Startup::AllReady);
    assert!(engine.is_ready().await.unwrap());
    assert_eq!(ready(&engine), ["dup", "ens_a", "ens_x", "only_a", "dup", "ens_b", "only_b"]);
    for model in ["only_a", "only_b", "ens_a", "ens_b", "ens_x"] {
        assert_eq!(answer(&engine, model).await, Ok(()), "{model}");
    }
    assert_eq!(answer(&engine, "dup").await.unwrap_err(), AMBIGUOUS);
    let unknown = "InvalidArgument Request for unknown model: 'nobody' is not found";
    assert_eq!(answer(&engine, "nobody").await.unwrap_err(), unknown);
    assert!(!engine.is_model_ready(id("dup")).await.unwrap() && !engine.is_model_ready(id("nobody")).await.unwrap());
    let error = engine.statistics(Some(id("dup"))).unwrap_err();
    assert_eq!((error.code, &*error.message), (Code::InvalidArgument, "requested model 'dup' is not available"));
    assert_eq!(engine.statistics(None).unwrap().len(), 7);
    assert_eq!(engine.statistics(Some(id("only_b"))).unwrap()[0].success.count, 2, "asked, and as a step");
    assert_eq!(engine.metadata(id("only_a")).unwrap().versions, [1]);

    for (ensemble, repository) in [("ens_a", "a"), ("ens_b", "b"), ("ens_x", "b")] {
        let config = engine.config(id(ensemble)).unwrap();
        let Some(SchedulingChoice::EnsembleScheduling(graph)) = &config.scheduling_choice else { panic!() };
        assert_eq!(graph.step[0].model_namespace, harness.path(repository).to_str().unwrap(), "{ensemble}");
    }
    let page = engine.metrics().text();
    for repository in ["a", "b"] {
        let namespace = harness.path(repository);
        let namespace = namespace.display();
        let line = format!("nv_inference_request_success{{model=\"dup\",namespace=\"{namespace}\",version=\"1\"}} 1\n");
        assert!(page.contains(&line), "{line}");
    }
}

#[tokio::test]
async fn all_models_of_a_name_are_loaded_and_unloaded() {
    let harness = repositories();
    let engine = engine(&harness, ControlMode::Explicit);
    assert_eq!(engine.start().await.unwrap(), Startup::AllReady);
    engine.unload("dup", false).await.unwrap();
    harness::until(|| ready(&engine) == ["ens_x", "only_a", "only_b"]).await;
    let gone = "NotFound Identifier of model 'dup' is not found in global map";
    assert_eq!(answer(&engine, "dup").await.unwrap_err(), gone);
    engine.load("dup", LoadParameters::default()).await.unwrap();
    assert_eq!(ready(&engine).len(), 7);
    assert_eq!(answer(&engine, "dup").await.unwrap_err(), AMBIGUOUS);
    assert_eq!(answer(&engine, "ens_b").await, Ok(()));

    engine.unload("dup", false).await.unwrap();
    fs::remove_dir_all(harness.path("b/dup")).unwrap();
    engine.load("dup", LoadParameters::default()).await.unwrap();
    harness::until(|| engine.model(id("dup")).is_ok()).await;
    assert_eq!(engine.config(id("dup")).unwrap().max_batch_size, 2);
    let error = engine.load("nobody", LoadParameters::default()).await.unwrap_err();
    let text = "failed to load 'nobody', failed to poll from model repository";
    assert_eq!((error.code, &*error.message), (Code::Internal, text));
    engine.unload("nobody", false).await.unwrap();
    let config = Some(harness::config_json("only_a", 5));
    engine.load("only_a", LoadParameters { config, files: Vec::new() }).await.unwrap();
    assert_eq!(engine.config(id("only_a")).unwrap().max_batch_size, 5);
}

#[tokio::test]
async fn an_ensemble_takes_to_the_model_of_its_own_repository_when_that_comes() {
    let harness = repositories();
    let engine = engine(&harness, ControlMode::Explicit);
    engine.start().await.unwrap();
    let namespace = || {
        let config = engine.config(id("ens_x")).unwrap();
        let Some(SchedulingChoice::EnsembleScheduling(graph)) = &config.scheduling_choice else { panic!() };
        graph.step[0].model_namespace.clone()
    };
    assert_eq!(namespace(), harness.path("b").to_str().unwrap());
    harness.model("a/only_b", "", &[1]);
    engine.load("only_b", LoadParameters::default()).await.unwrap();
    assert_eq!(namespace(), harness.path("a").to_str().unwrap());
    assert_eq!(answer(&engine, "ens_x").await, Ok(()));
}

#[tokio::test]
async fn without_namespaces_a_name_in_two_repositories_is_nobody_s() {
    let harness = repositories();
    let repositories = vec![harness.path("a"), harness.path("b")];
    let engine = Engine::new(Options { repositories, ..Options::default() }, server_backends::all(&Default::default()));
    assert_eq!(engine.start().await.unwrap(), Startup::SomeFailed);
    let line = engine.index(false).unwrap().remove(0);
    assert_eq!((&*line.name, &*line.reason), ("dup", "model appears in two or more repositories"));
    assert_eq!(ready(&engine), ["ens_x", "only_a", "only_b"]);
}

#[tokio::test]
async fn a_load_of_a_name_in_two_repositories_is_refused_and_says_where() {
    let harness = repositories();
    let repositories = vec![harness.path("a"), harness.path("b")];
    let options = Options { repositories, control_mode: ControlMode::Explicit, ..Options::default() };
    let engine = Engine::new(options, server_backends::all(&Default::default()));
    let error = engine.load("dup", LoadParameters::default()).await.unwrap_err();
    let text =
        "failed to load 'dup', failed to poll from model repository: model 'dup' is in more than one repository: ";
    assert_eq!(error.code, Code::Internal);
    assert!(error.message.starts_with(text), "{error}");
}
