//! Loads that somebody else has the server do.

use super::*;

#[tokio::test]
async fn what_somebody_else_has_loaded_is_undone_and_said() {
    let harness = Harness::new(vec![inline("a", "ours"), inline("bad", "bad")]).await;
    harness.settled().await;
    let loads = [("a", Some("files")), ("a", Some("config")), ("strange", None), ("bad", Some("files"))];
    for (count, (name, given)) in (1..).zip(loads) {
        harness.server.load_for_somebody(name, given);
        let state = harness.until("seen", |state| state.foreign_loads.count == count).await;
        assert!(state.foreign_loads.last.contains(&format!("'{name}'")), "{}", state.foreign_loads.last);
        let is_undone = |_: &State| {
            harness.server.loaded("a").as_deref() == Some("ours")
                && ["strange", "bad"].iter().all(|name| harness.server.loaded(name).is_none())
                && harness.server.overrides.lock().unwrap().is_empty()
        };
        harness.until("undone", |state| state.is_settled && is_undone(state)).await;
    }
    let calls = harness.server.calls();
    assert_eq!(calls.iter().filter(|call| *call == "unload a").count(), 0, "it served all the time");
}

#[tokio::test]
async fn what_is_overridden_is_not_said_to_serve() {
    let harness = Harness::new(vec![inline("a", "ours")]).await;
    harness.settled().await;
    // it cannot be undone as long as the content hangs
    let repository = harness.agent.as_ref().unwrap().repository();
    fs::write(repository.join("a/1/model.py"), "hang").unwrap();
    harness.server.load_for_somebody("a", Some("files"));
    let state = harness.until("seen", |state| state.models["a"].phase == Phase::Loading).await;
    assert_eq!((state.models["a"].serving.as_ref(), state.foreign_loads.count), (None, 1));
}

#[tokio::test]
async fn what_leaves_the_manifest_is_not_taken_for_somebody_elses() {
    let harness = Harness::new(Vec::new()).await;
    for round in 0..20 {
        harness.want(vec![inline("a", &round.to_string()), inline("b", "b")]);
        harness.until("ready", |state| state.models.len() == 2 && state.is_ready()).await;
        harness.want(Vec::new());
        harness.until("gone", |state| state.models.is_empty()).await;
    }
    assert_eq!(harness.settled().await.foreign_loads.count, 0);
}
