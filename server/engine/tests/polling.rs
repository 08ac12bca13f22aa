//! Poll mode: what changes in the repositories is followed, and nothing that is half-written or out of reach takes a good
//! model down. Time is tokio's and stands still: looks come as fast as their loads.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use harness::{Harness, ask, ask_ensemble, scripted::Probe, send};
use server_core::error::Code;
use server_engine::{ControlMode, Engine, LoadParameters, Options, Startup, VersionState};

/// An engine that polls these folders every 15 seconds.
async fn polling(repositories: Vec<PathBuf>, expect: Startup) -> (Arc<Engine>, Arc<Probe>) {
    let options = Options {
        repositories,
        control_mode: ControlMode::Poll,
        poll_interval: Some(Duration::from_secs(15)),
        ..Options::default()
    };
    let (engine, probe) = harness::scripted_engine(options);
    assert_eq!(engine.start().await.unwrap(), expect);
    let followed = engine.clone();
    tokio::spawn(async move { followed.follow_repositories().await });
    (engine, probe)
}

/// Lets time pass until something is so; gives up after ten real seconds.
#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let (what, deadline) = (what.to_owned(), Instant::now() + Duration::from_secs(10));
    async move {
        while !so() {
            assert!(Instant::now() < deadline, "it never became so: {what}");
            tokio::time::advance(Duration::from_millis(100)).await; // by itself it stands still while a load runs
            tokio::task::yield_now().await;
        }
    }
}

/// Lets so many looks pass.
async fn looks(count: u32) {
    tokio::time::sleep(Duration::from_secs(15) * count + Duration::from_secs(1)).await;
}

/// The index, a line for each version: `NAME VERSION STATE: REASON`.
fn index(engine: &Engine) -> Vec<String> {
    let lines = engine.index(false).unwrap().into_iter();
    lines
        .map(|line| {
            let version = line.version.map_or("-".into(), |version| version.to_string());
            let text =
                format!("{} {version} {}: {}", line.name, line.state.map_or("-", VersionState::text), line.reason);
            text.trim_end_matches([':', ' ', '\n']).to_owned()
        })
        .collect()
}

async fn answers(engine: &Engine, model: &str) -> bool {
    match send(engine, ask(model, &[1.0])) {
        Ok(inference) => inference.response().await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test(start_paused = true)]
async fn models_come_change_and_go_with_their_folders() {
    let harness = Harness::new();
    harness.model("a", "", &[1]);
    let (engine, _) = polling(vec![harness.path("")], Startup::AllReady).await;
    assert_eq!(index(&engine), ["a 1 READY"]);

    harness.model("b", "", &[1]);
    until("b", || index(&engine) == ["a 1 READY", "b 1 READY"]).await;
    harness.write("a/2/.keep", "");
    until("version 2", || index(&engine) == ["a 1 UNAVAILABLE: unloaded", "a 2 READY", "b 1 READY"]).await;
    harness.model("a", "version_policy { all { } }", &[]);
    until("both", || index(&engine) == ["a 1 READY", "a 2 READY", "b 1 READY"]).await;
    fs::remove_dir_all(harness.path("a/1")).unwrap();
    until("version 1 away", || index(&engine)[0] == "a 1 UNAVAILABLE: unloaded").await;
    assert!(engine.is_ready().await.unwrap());

    fs::remove_dir_all(harness.path("a")).unwrap();
    until("a away", || index(&engine) == ["b 1 READY"]).await;
    let error = send(&engine, ask("a", &[1.0])).err().unwrap();
    assert_eq!(
        (error.code, &*error.message),
        (Code::NotFound, "Request for unknown model: 'a' has no available versions")
    );
    assert!(engine.is_ready().await.unwrap() && answers(&engine, "b").await);
    harness.model("a", "", &[7]);
    until("a again", || index(&engine).contains(&"a 7 READY".into())).await;
    assert!(answers(&engine, "a").await);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_load_leaves_what_serves_and_says_why() {
    let harness = Harness::new();
    harness.scripted("m", "", "", &[1]);
    let (engine, probe) = polling(vec![harness.path("")], Startup::AllReady).await;
    let good = fs::read_to_string(harness.path("m/config.pbtxt")).unwrap();

    fs::write(harness.path("m/config.pbtxt"), &good[..good.find("INPUT0").unwrap()]).unwrap();
    until("an unreadable configuration", || {
        index(&engine)[0].starts_with("m 1 READY: failed to read text proto from ")
    })
    .await;
    assert!(answers(&engine, "m").await && engine.is_ready().await.unwrap());
    fs::write(harness.path("m/config.pbtxt"), &good).unwrap();
    until("the good one", || index(&engine) == ["m 1 READY"]).await;
    assert_eq!(probe.opened.load(Ordering::SeqCst), 1, "nothing of it was loaded anew");

    harness.write("m/1/broken", "");
    until("a broken version", || index(&engine) == ["m 1 READY: Unavailable: version 1 is broken"]).await;
    assert!(answers(&engine, "m").await && engine.is_ready().await.unwrap());
    fs::remove_file(harness.path("m/1/broken")).unwrap();
    until("as before", || index(&engine) == ["m 1 READY"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_being_written_is_loaded_when_it_is_complete() {
    let harness = Harness::new();
    let (engine, probe) = polling(vec![harness.path("")], Startup::AllReady).await;
    // Written faster than it settles: it would be broken at any moment but the last.
    harness.scripted("m", "", "", &[1]);
    harness.write("m/1/broken", "");
    let mut size = 0;
    let end = tokio::time::Instant::now() + Duration::from_secs(40);
    while tokio::time::Instant::now() < end {
        size += 1;
        harness.write("m/1/weights", &"x".repeat(size));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(index(&engine), ["m - -"], "nobody tried to load it");
    fs::remove_file(harness.path("m/1/broken")).unwrap();
    until("m", || index(&engine) == ["m 1 READY"]).await;
    assert_eq!(probe.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_tried_again_later() {
    let harness = Harness::new();
    harness.scripted("m", "", "", &[1]);
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), harness.path("m/1/.cause")).unwrap();
    harness.write("m/1/broken", "");
    let (engine, _) = polling(vec![harness.path("")], Startup::SomeFailed).await;
    assert!(!engine.is_ready().await.unwrap());
    looks(3).await;
    assert_eq!(index(&engine), ["m 1 UNAVAILABLE: Unavailable: version 1 is broken"]);
    // What the load needs comes back without a change that a look could see.
    let renamed = (harness.path("m/1/broken"), harness.path("m/1/.broken"));
    let before = fs::metadata(harness.path("m/1")).unwrap().modified().unwrap();
    fs::rename(renamed.0, renamed.1).unwrap();
    fs::File::open(harness.path("m/1")).unwrap().set_modified(before).unwrap();
    until("m", || index(&engine) == ["m 1 READY"]).await;
    assert!(engine.is_ready().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_ensemble_follows_its_parts() {
    let harness = Harness::new();
    harness.ensemble("e", &[("part", "IN", "OUT")], &["OUT"], "");
    harness.model("part", "", &[1]);
    let (engine, _) = polling(vec![harness.path("")], Startup::AllReady).await;
    let ensemble_answers = async || match send(&engine, ask_ensemble("e", &[1.0])) {
        Ok(inference) => inference.response().await.is_ok(),
        Err(_) => false,
    };
    assert!(ensemble_answers().await);

    fs::rename(harness.path("part"), harness.path(".part")).unwrap();
    until("e without its part", || index(&engine)[0].starts_with("e 1 UNAVAILABLE: ensemble e contains models")).await;
    assert!(engine.is_ready().await.unwrap(), "it was meant to go");
    fs::rename(harness.path(".part"), harness.path("part")).unwrap();
    until("both", || index(&engine) == ["e 1 READY", "part 1 READY"]).await;
    assert!(ensemble_answers().await);

    // The part goes and the ensemble is changed to do without it, in one look.
    harness.model("other", "", &[1]);
    harness.ensemble("e", &[("other", "IN", "OUT")], &["OUT"], "");
    fs::remove_dir_all(harness.path("part")).unwrap();
    until("e with another part", || index(&engine) == ["e 1 READY", "other 1 READY"]).await;
    assert!(ensemble_answers().await);
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_is_out_of_reach_keeps_its_models() {
    let harness = Harness::new();
    harness.model("one/m", "", &[1]);
    harness.model("two/n", "", &[1]);
    let (engine, _) = polling(vec![harness.path("one"), harness.path("two")], Startup::AllReady).await;
    fs::rename(harness.path("one"), harness.path("away")).unwrap();
    fs::remove_dir_all(harness.path("two/n")).unwrap();
    harness.model("two/new", "", &[1]);
    until("the other repository to be followed", || {
        engine.model(harness::id("new")).is_ok() && engine.model(harness::id("n")).is_err()
    })
    .await;
    looks(3).await;
    assert!(answers(&engine, "m").await);
    // The place where it was mounted is empty.
    fs::create_dir(harness.path("one")).unwrap();
    looks(3).await;
    assert!(answers(&engine, "m").await && engine.is_ready().await.unwrap());
    fs::remove_dir(harness.path("one")).unwrap();
    fs::rename(harness.path("away"), harness.path("one")).unwrap();
    harness.model("one/m", "version_policy { all { } }", &[2]);
    until("it to be followed again", || index(&engine).starts_with(&["m 1 READY".into(), "m 2 READY".into()])).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_in_two_repositories_is_not_served() {
    let harness = Harness::new();
    harness.model("one/m", "", &[1]);
    fs::create_dir(harness.path("two")).unwrap();
    let (engine, _) = polling(vec![harness.path("one"), harness.path("two")], Startup::AllReady).await;
    harness.model("two/m", "", &[1]);
    let duplicate = "m - UNAVAILABLE: model appears in two or more repositories";
    until("neither", || index(&engine) == [duplicate]).await;
    assert!(!answers(&engine, "m").await);
    fs::remove_dir_all(harness.path("one/m")).unwrap();
    until("the one that is left", || index(&engine) == ["m 1 READY"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_load_holds_nothing_else_up() {
    let harness = Harness::new();
    fs::create_dir(harness.path("a")).unwrap();
    let (engine, probe) = polling(vec![harness.path("")], Startup::SomeFailed).await;
    probe.close_gate();
    harness.scripted("slow", "", "", &[1]);
    harness.write("slow/1/slow", "");
    until("it to load", || probe.waiting.load(Ordering::SeqCst) == 1).await;
    harness.model("quick", "", &[1]);
    until("quick", || engine.model(harness::id("quick")).is_ok()).await;
    assert_eq!(index(&engine).last().unwrap(), "slow 1 LOADING");
    probe.open_gate();
    until("the slow one", || engine.model(harness::id("slow")).is_ok()).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_else_loads_and_unloads() {
    let harness = Harness::new();
    harness.model("m", "", &[1]);
    let (engine, _) = polling(vec![harness.path("")], Startup::AllReady).await;
    let text = "explicit model load / unload is not allowed if polling is enabled";
    for error in [engine.load("m", LoadParameters::default()).await, engine.unload("m", false).await] {
        let error = error.unwrap_err();
        assert_eq!((error.code, &*error.message), (Code::Unavailable, text));
    }
}
