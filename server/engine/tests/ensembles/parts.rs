//! How ensembles come and go with the models they are made of.

use super::*;

async fn error(engine: &Arc<Engine>, name: &str) -> String {
    load(engine, name).await.unwrap_err().message.into_owned()
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
