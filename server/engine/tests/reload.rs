//! What a load changes and what it leaves alone. Counters tell: those of a version that is opened again start anew.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{collections::BTreeMap, sync::Arc};

use harness::{Harness, ask, send};
use server_core::{
    config,
    error::Code,
    interface::ModelId,
    request::{InferRequest, VersionChoice},
};
use server_engine::{ControlMode, Engine, LoadParameters, Options, Override, VersionState};

const ALL: &str = "version_policy { all { } }";

async fn load(engine: &Arc<Engine>) -> server_core::error::Result<()> {
    engine.load("m", LoadParameters::default()).await
}

/// Asks versions, each as often as its number says.
async fn ask_versions(engine: &Engine, versions: &[u64]) {
    for &version in versions {
        for _ in 0..version {
            let request = InferRequest { model_version: VersionChoice::Exact(version), ..ask("m", &[1.0]) };
            send(engine, request).unwrap().response().await.unwrap();
        }
    }
}

fn counts(engine: &Engine) -> BTreeMap<u64, u64> {
    engine.statistics(None).unwrap().iter().map(|one| (one.version, one.success.count)).collect()
}

#[tokio::test]
async fn versions_that_did_not_change_are_left_alone() {
    let harness = Harness::new();
    harness.model("m", ALL, &[1, 2]);
    let engine = harness.explicit();
    load(&engine).await.unwrap();
    ask_versions(&engine, &[1, 2]).await;

    harness.write("m/3/.keep", "");
    load(&engine).await.unwrap();
    assert_eq!(counts(&engine), BTreeMap::from([(1, 1), (2, 2), (3, 0)]), "a version was added");

    ask_versions(&engine, &[3]).await;
    harness.write("m/2/weights", "other");
    load(&engine).await.unwrap();
    assert_eq!(counts(&engine), BTreeMap::from([(1, 1), (2, 0), (3, 3)]), "a version was written anew");

    harness.model("m", "version_policy { specific { versions: [ 1, 3 ] } }", &[]);
    load(&engine).await.unwrap();
    assert_eq!(counts(&engine), BTreeMap::from([(1, 1), (3, 3)]), "the policy was narrowed");
    let policy = engine.config(harness::id("m")).unwrap().version_policy.clone().unwrap();
    assert!(format!("{policy:?}").contains("Specific"), "{policy:?}");

    harness.model("m", &format!("{ALL} instance_group {{ count: 2 kind: KIND_CPU }}"), &[]);
    load(&engine).await.unwrap();
    assert_eq!(counts(&engine), BTreeMap::from([(1, 1), (2, 0), (3, 3)]), "instances were added");
    assert_eq!(engine.config(harness::id("m")).unwrap().instance_group[0].count, 2);

    harness.model("m", &format!("{ALL} max_batch_size: 4"), &[]);
    load(&engine).await.unwrap();
    assert_eq!(counts(&engine), BTreeMap::from([(1, 0), (2, 0), (3, 0)]), "all of them are made anew for this");
    load(&engine).await.unwrap();
    ask_versions(&engine, &[1]).await;
    load(&engine).await.unwrap();
    assert_eq!(counts(&engine), BTreeMap::from([(1, 1), (2, 0), (3, 0)]), "nothing changed");
    for stray in [
        "007/weights",
        "0/weights",
        "-3/weights",
        "5.tmp/weights",
        ".git/HEAD",
        ".DS_Store",
        "notes~",
        "1/.nfs1",
        "1/__pycache__/a.pyc",
    ] {
        harness.write(&format!("m/{stray}"), "not of any version");
        load(&engine).await.unwrap();
        assert_eq!(counts(&engine), BTreeMap::from([(1, 1), (2, 0), (3, 0)]), "{stray}");
    }
    harness.write("m/warmup/input", "data");
    load(&engine).await.unwrap();
    assert_eq!(counts(&engine), BTreeMap::from([(1, 0), (2, 0), (3, 0)]), "a file they share came");
}

#[tokio::test]
async fn new_labels_are_there_without_a_reload() {
    let harness = Harness::new();
    let config = "backend: \"identity\" max_batch_size: 8
        input { name: \"INPUT0\" data_type: TYPE_FP32 dims: [ 3 ] }
        output { name: \"OUTPUT0\" data_type: TYPE_FP32 dims: [ 3 ] label_filename: \"labels.txt\" }";
    harness.write("m/config.pbtxt", config);
    harness.write("m/1/.keep", "");
    harness.write("m/labels.txt", "a\nb\nc\n");
    let engine = harness.explicit();
    load(&engine).await.unwrap();
    send(&engine, ask("m", &[1.0, 2.0, 3.0])).unwrap().response().await.unwrap();
    let labels = || engine.model(harness::id("m")).unwrap().interface().outputs[0].labels.concat();
    assert_eq!(labels(), b"abc");
    harness.write("m/labels.txt", "one\ntwo\nthree\n");
    load(&engine).await.unwrap();
    assert_eq!((labels().as_slice(), counts(&engine)[&1]), (b"onetwothree".as_slice(), 1));
}

#[tokio::test]
async fn a_load_succeeds_as_a_whole_or_changes_nothing() {
    let harness = Harness::new();
    harness.scripted("m", "", ALL, &[1, 2]);
    harness.write("m/2/broken", "");
    let (engine, probe) = harness.with_script();
    let error = load(&engine).await.unwrap_err();
    let expected = "load failed for model 'm': version 2 is at UNAVAILABLE state: Unavailable: version 2 is broken;\n";
    assert_eq!((error.code, &*error.message), (Code::InvalidArgument, expected));
    assert!(!engine.is_model_ready(ModelId { name: "m", version: VersionChoice::Exact(1) }).await.unwrap_or(false));
    let index = engine.index(false).unwrap();
    let states: Vec<_> = index.iter().map(|line| (line.version, line.state, line.reason.as_str())).collect();
    let unavailable = Some(VersionState::Unavailable);
    let reason = "Unavailable: version 2 is broken";
    assert_eq!(states, [(Some(1), unavailable, "unloaded"), (Some(2), unavailable, reason)]);
    engine.unload("m", false).await.unwrap();
    assert_eq!(engine.index(false).unwrap(), index, "an unload changes no reason");
    harness::until(|| probe.instances.load(std::sync::atomic::Ordering::SeqCst) == 0).await;

    harness.scripted("m", "", "version_policy { specific { versions: 1 } }", &[]);
    load(&engine).await.unwrap();
    ask_versions(&engine, &[1]).await;
    harness.scripted("m", "", &format!("{ALL} max_batch_size: 2"), &[]);
    assert!(load(&engine).await.is_err());
    assert_eq!(counts(&engine), BTreeMap::from([(1, 1)]), "what served before serves");
    assert_eq!(engine.config(harness::id("m")).unwrap().max_batch_size, 8);
}

#[tokio::test]
async fn a_configuration_is_checked_before_versions_are_chosen() {
    let harness = Harness::new();
    harness.model("m", "dynamic_batching { preferred_batch_size: [ 99 ] }", &[]);
    let engine = harness.explicit();
    let error = load(&engine).await.unwrap_err();
    let expected = "failed to load 'm', failed to poll from model repository";
    assert_eq!((error.code, &*error.message), (Code::Internal, expected));
    let reason = engine.index(false).unwrap().remove(0).reason;
    assert_eq!(reason, "dynamic batching preferred size must be <= max batch size for m");
    harness.model("m", "", &[]);
    let error = load(&engine).await.unwrap_err();
    assert!(error.message.contains("at least one version must be available"), "{error}");
}

#[tokio::test]
async fn an_override_holds_until_another_comes_or_the_folder_changes() {
    let harness = Harness::new();
    harness.model("m", "", &[1]);
    let engine = harness.explicit();
    let with = |size| LoadParameters { config: Some(harness::config_json("m", size)), files: Vec::new() };
    let size = || engine.config(harness::id("m")).unwrap().max_batch_size;
    engine.load("m", with(2)).await.unwrap();
    send(&engine, ask("m", &[1.0])).unwrap().response().await.unwrap();
    load(&engine).await.unwrap();
    assert_eq!((size(), counts(&engine)[&1]), (2, 1), "a plain load keeps it, and has nothing to do");
    let bad = LoadParameters { config: Some(harness::config_json("m", 9).replace("[-1]", "[0]")), files: Vec::new() };
    assert!(engine.load("m", bad).await.is_err());
    load(&engine).await.unwrap();
    assert_eq!((size(), counts(&engine)[&1]), (2, 1), "one that cannot be loaded is not kept");
    engine.load("m", with(3)).await.unwrap();
    assert_eq!(size(), 3);
    harness.model("m", "max_batch_size: 5", &[]);
    load(&engine).await.unwrap();
    assert_eq!(size(), 5, "the folder has another configuration now");
    load(&engine).await.unwrap();
    assert_eq!(size(), 5);
    engine.load("m", with(2)).await.unwrap();
    engine.unload("m", false).await.unwrap();
    load(&engine).await.unwrap();
    assert_eq!(size(), 5, "an unload ends it");
}

#[tokio::test]
async fn what_stands_in_for_a_folder_is_known_until_a_load_goes_back_to_the_folder() {
    let harness = Harness::new();
    harness.model("m", "max_batch_size: 4 parameters { key: 'k' value { string_value: 'v' } }", &[1]);
    let engine = harness.explicit();
    let with = |config: &str, files: &[&str]| LoadParameters {
        config: Some(config.to_owned()),
        files: files.iter().map(|file| ((*file).to_owned(), b"x".to_vec().into())).collect(),
    };
    let given = || engine.overrides().get("m").copied();
    let size = || engine.config(harness::id("m")).unwrap().max_batch_size;
    load(&engine).await.unwrap();
    assert_eq!(given(), None);
    let text = std::fs::read_to_string(harness.path("m/config.pbtxt")).unwrap();
    let own = config::to_json(&config::from_text(&text).unwrap()).to_string();
    for files in [&[][..], &["3/weights"]] {
        engine.load("m", with(&harness::config_json("m", 2), files)).await.unwrap();
        let expected = if files.is_empty() { Override::Config } else { Override::Files };
        assert_eq!((given(), size()), (Some(expected), 2));
        engine.load("m", with(&own, &[])).await.unwrap();
        assert_eq!((given(), size()), (None, 4), "a configuration that says what the folder says is none of its own");
        load(&engine).await.unwrap();
        assert_eq!((given(), size()), (None, 4), "nor is it kept");
    }
    engine.load("m", with(&harness::config_json("m", 2), &[])).await.unwrap();
    let bad = with(&own.replace("\"max_batch_size\":4", "\"max_batch_size\":-4"), &[]);
    assert!(engine.load("m", bad).await.is_err());
    load(&engine).await.unwrap();
    assert_eq!((given(), size()), (Some(Override::Config), 2), "what failed changes nothing");
    engine.unload("m", false).await.unwrap();
    assert_eq!(given(), None, "nothing serves");
}

#[tokio::test]
async fn a_server_whose_repository_cannot_be_read_is_not_live() {
    let harness = Harness::new();
    let options = Options { repositories: vec!["/nowhere".into()], ..Options::default() };
    let engine = Engine::new(options, server_backends::all(&Default::default()));
    assert!(engine.is_live().unwrap(), "it has not tried yet");
    assert!(engine.start().await.is_err());
    assert!(!engine.is_live().unwrap());
    assert!(!engine.is_ready().await.unwrap());

    harness.model("m", "max_batch_size: -1", &[1]);
    let engine = harness.engine(Options { control_mode: ControlMode::None, ..Options::default() });
    engine.start().await.unwrap();
    assert!(engine.is_live().unwrap(), "a model that fails is another matter");
}

#[tokio::test]
async fn without_completion_a_model_needs_a_configuration() {
    let harness = Harness::new();
    harness.write("m/1/.keep", "");
    let options = Options { control_mode: ControlMode::Explicit, auto_complete: false, ..Options::default() };
    let engine = harness.engine(options);
    let error = load(&engine).await.unwrap_err();
    assert_eq!(&*error.message, "failed to load 'm', failed to poll from model repository");
    let reason = engine.index(false).unwrap().remove(0).reason;
    assert!(reason.starts_with("failed to open text file for read ") && reason.contains("m/config.pbtxt"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_go_on_where_statistics_start_anew() {
    let harness = Harness::new();
    harness.scripted("m", "gated", "", &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine).await.unwrap();
    ask_versions(&engine, &[1]).await;
    probe.close_gate();
    let inside = send(&engine, ask("m", &[1.0])).unwrap();
    harness::until(|| probe.waiting.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    let success = || {
        let page = engine.metrics().text();
        let line = page.lines().find(|line| line.starts_with("nv_inference_request_success{")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    for number in 1..4 {
        harness.write("m/1/weights", &"x".repeat(number));
        load(&engine).await.unwrap();
        assert_eq!((counts(&engine)[&1], success()), (0, 1));
    }
    probe.open_gate();
    assert!(inside.response().await.is_ok());
    assert_eq!((counts(&engine)[&1], success()), (0, 2), "the request of a replaced version is counted");
    harness::until(|| probe.instances.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    ask_versions(&engine, &[1]).await;
    assert_eq!((counts(&engine)[&1], success()), (1, 3), "and stays counted when that is gone");
}
