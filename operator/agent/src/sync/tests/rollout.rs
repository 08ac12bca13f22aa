//! Contents in rollout: what a pod serves of them, and what it goes back to.

use operator_core::manifest::{ModelRollout, RolloutPhase};

use super::*;

fn in_rollout(phase: RolloutPhase, new: ManifestModel, former: Option<ManifestModel>) -> ManifestModel {
    let rollout = ModelRollout { phase, former: former.map(Box::new), crashes: BTreeMap::new(), failure: None };
    ManifestModel { rollout: Some(rollout), ..new }
}

async fn with_annotation(models: Vec<ManifestModel>, adopts: &[&ManifestModel]) -> Harness {
    let mut harness = Harness::without_agent(models).await;
    harness.adopts = Some(watch::Sender::new(words(adopts)));
    harness.start_agent();
    harness
}

fn words(models: &[&ManifestModel]) -> BTreeSet<String> {
    models.iter().map(|model| model.adopt_word()).collect()
}

impl Harness {
    fn adopt(&self, models: &[&ManifestModel]) {
        self.adopts.as_ref().unwrap().send_replace(words(models));
    }

    /// Waits until `entry` of model a is ready, and nothing else is to be done.
    async fn follows(&self, entry: &ManifestModel) -> State {
        let hash = entry.content_hash();
        let follows = |state: &State| {
            state.is_settled
                && state.is_ready()
                && state.models.get("a").is_some_and(|a| a.entry.as_ref() == Some(&hash))
        };
        self.until("followed", follows).await
    }
}

#[tokio::test]
async fn a_content_on_trial_is_served_while_the_annotation_names_it_and_the_former_one_comes_back_without_a_fetch() {
    let harness = with_annotation(Vec::new(), &[]).await;
    let uri = format!("http://{}/files/private/model.py", harness.address);
    let old = model("a", ManifestSource::Http { uri, secret: Some("token".into()) });
    write(&harness.root.path().join("secrets/token/token"), "right");
    harness.want(vec![old.clone()]);
    let first = harness.follows(&old).await.models["a"].serving.clone();
    fs::remove_dir_all(harness.root.path().join("secrets")).unwrap(); // it cannot be fetched again

    let new = inline("a", "new");
    let trial = || vec![in_rollout(RolloutPhase::Trial, new.clone(), Some(old.clone()))];
    harness.want(trial());
    assert_eq!(harness.follows(&old).await.models["a"].serving, first);
    harness.adopt(&[&new]);
    let state = harness.follows(&new).await;
    assert_eq!((state.adopts, harness.server.loaded("a").as_deref()), (Some(words(&[&new])), Some("new")));
    harness.adopt(&[]);
    assert_eq!(harness.follows(&old).await.models["a"].serving, first);
    assert_eq!(harness.server.loaded("a").as_deref(), Some("print('private')"));

    harness.adopt(&[&new]);
    harness.follows(&new).await;
    harness.want(vec![in_rollout(RolloutPhase::Quarantined, new.clone(), Some(old.clone()))]);
    assert_eq!(harness.follows(&old).await.models["a"].serving, first);

    // once it is proven, nothing is kept to go back to
    let proven = inline("a", "mended");
    harness.want(vec![proven.clone()]);
    harness.follows(&proven).await;
    let store = harness.root.path().join("agent/store");
    let alone = async {
        while fs::read_dir(&store).unwrap().count() != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), alone).await.unwrap();
}

#[tokio::test]
async fn a_first_content_in_quarantine_is_unloaded_and_others_go_on() {
    let (new, other) = (inline("a", "new"), inline("b", "other"));
    let harness =
        with_annotation(vec![in_rollout(RolloutPhase::Trial, new.clone(), None), other.clone()], &[&new]).await;
    harness.follows(&new).await;
    harness.want(vec![in_rollout(RolloutPhase::Quarantined, new, None), other]);
    let state = harness.until("gone", |state| !state.models.contains_key("a")).await;
    assert_eq!((harness.server.loaded("a"), &state.models["b"].phase), (None, &Phase::Ready));
}

#[tokio::test]
async fn a_pod_that_starts_serves_what_was_proven_before_it_tries_what_it_may() {
    let (old, new) = (inline("a", "old"), inline("a", "bad"));
    let trial = in_rollout(RolloutPhase::Trial, new.clone(), Some(old.clone()));
    let mut harness = with_annotation(vec![trial], &[&new]).await;
    let failed = |state: &State| reason(&state.models["a"]) == Some(Reason::LoadFailed);
    let state = harness.until("failed", failed).await;
    assert_eq!(state.models["a"].entry, Some(new.content_hash()));
    assert_eq!(harness.server.loaded("a").as_deref(), Some("old"));

    // a former one that cannot be had holds nothing up
    harness.kill_agent().await;
    harness.server.stop().await;
    harness.root = tempfile::tempdir().unwrap();
    harness.server.start(harness.address).await;
    let lost = model("a", ManifestSource::Pvc { claim: "none".into(), path: String::new() });
    let good = inline("a", "good");
    harness.want(vec![in_rollout(RolloutPhase::Trial, good.clone(), Some(lost))]);
    harness.adopt(&[&good]);
    harness.start_agent();
    harness.follows(&good).await;
}

#[tokio::test]
async fn a_new_pod_takes_a_content_that_spreads_and_one_that_serves_waits_until_it_is_named() {
    let (old, new) = (inline("a", "old"), inline("a", "new"));
    let spreading = || vec![in_rollout(RolloutPhase::Spreading, new.clone(), Some(old.clone()))];
    let fresh = with_annotation(spreading(), &[]).await;
    fresh.follows(&new).await;
    assert_eq!(fresh.server.calls(), ["load a"]);

    let mut serving = with_annotation(vec![old.clone()], &[]).await;
    serving.follows(&old).await;
    serving.want(spreading());
    serving.follows(&old).await;
    serving.adopt(&[&new]);
    serving.follows(&new).await;
    // nor does it go back once it has it, whatever comes late
    serving.adopt(&[]);
    serving.kill_agent().await;
    serving.start_agent();
    serving.follows(&new).await;
}

#[tokio::test]
async fn a_server_does_not_wait_for_a_first_content_that_failed() {
    let (on_trial, proven) = (inline("a", "bad"), inline("b", "bad"));
    let harness =
        with_annotation(vec![in_rollout(RolloutPhase::Trial, on_trial.clone(), None), proven], &[&on_trial]).await;
    harness.settled().await;
    let unloads: Vec<_> = harness.server.calls().into_iter().filter(|call| call.starts_with("unload")).collect();
    assert!(unloads.iter().all(|call| call == "unload a") && !unloads.is_empty(), "{unloads:?}");
}

#[tokio::test]
async fn what_does_not_fit_twice_is_unloaded_first_and_comes_back_if_its_successor_fails() {
    let unloads_first = |text: &str| {
        let mut model = inline("a", text);
        (model.load.order, model.load.retries) = (LoadOrder::UnloadFirst, 0);
        model
    };
    let harness = Harness::new(vec![unloads_first("one")]).await;
    harness.settled().await;
    assert_eq!(harness.server.calls(), ["load a"]);
    harness.want(vec![unloads_first("two")]);
    assert!(harness.settled().await.is_ready());
    assert_eq!(harness.server.calls(), ["load a", "unload a", "load a"]);
    assert_eq!(harness.server.loaded("a").as_deref(), Some("two"));
    harness.want(vec![unloads_first("bad")]);
    let state = harness.settled().await;
    assert_eq!(reason(&state.models["a"]), Some(Reason::LoadFailed));
    assert_eq!(harness.server.loaded("a").as_deref(), Some("two"));
    assert_eq!(harness.server.calls()[3..], ["unload a", "load a", "load a"]);
}

#[tokio::test]
async fn a_replica_leaves_the_service_before_it_unloads_and_waits_while_another_one_is_out() {
    let unloads_first = |name: &str, text: &str| {
        let mut model = inline(name, text);
        (model.load.order, model.load.retries) = (LoadOrder::UnloadFirst, 0);
        model
    };
    let (old, new) = (unloads_first("a", "old"), unloads_first("a", "new"));
    // an ensemble leaves with its part, and comes back after it
    let whole = inline("whole", "needs a");
    let harness = with_annotation(vec![old.clone(), whole.clone()], &[]).await;
    harness.follows(&old).await;
    let before = harness.server.calls().len();
    let trial = in_rollout(RolloutPhase::Trial, new.clone(), Some(old.clone()));
    harness.want(vec![trial, whole]);
    let say = |word: String| harness.adopts.as_ref().unwrap().send_replace([new.adopt_word(), word].into());
    say(format!("hold/{}", new.adopt_word()));
    harness.until("held", |state| state.adopts.as_ref().is_some_and(|adopts| adopts.len() == 2)).await;
    assert_eq!(harness.server.loaded("a").as_deref(), Some("old"));
    assert_eq!(harness.server.calls().len(), before);
    say(format!("drain/0/{}", new.adopt_word()));
    harness.follows(&new).await;
    let is_back = async {
        while harness.server.calls().last().is_none_or(|call| call != "ready") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_back).await.unwrap();
    let calls = harness.server.calls().split_off(before);
    assert_eq!(
        (calls[..3].join(", "), calls.last().unwrap().as_str()),
        ("drain, unload a, load a".into(), "ready"),
        "{calls:?}"
    );
    assert_eq!(calls.iter().filter(|call| *call == "ready").count(), 1, "{calls:?}");
    assert!(calls.iter().any(|call| call == "load whole"), "{calls:?}");
}

/// The resource asks for the former content again.
#[tokio::test]
async fn a_replica_that_goes_back_is_told_how_and_begins_without_a_word_where_none_comes() {
    let unloads_first = |text: &str| {
        let mut model = inline("a", text);
        (model.load.order, model.load.retries) = (LoadOrder::UnloadFirst, 0);
        model
    };
    let (old, new) = (unloads_first("old"), unloads_first("new"));
    let mut harness = with_annotation(vec![old.clone()], &[]).await;
    harness.word_within = Duration::from_secs(600);
    harness.kill_agent().await;
    harness.start_agent();
    harness.follows(&old).await;
    let say = |harness: &Harness, words: &[String]| {
        harness.adopts.as_ref().unwrap().send_replace(words.iter().cloned().collect());
    };
    say(&harness, &[new.adopt_word()]);
    harness.want(vec![in_rollout(RolloutPhase::Trial, new.clone(), Some(old.clone()))]);
    harness.follows(&new).await;
    let before = harness.server.calls().len();
    // back, but nothing is said of that yet, and then that another replica is out
    harness.want(vec![old.clone()]);
    say(&harness, &[new.adopt_word(), "another".into()]);
    harness.until("read", |state| state.adopts.as_ref().is_some_and(|adopts| adopts.contains("another"))).await;
    say(&harness, &[format!("hold/{}", old.adopt_word())]);
    harness.until("held", |state| state.adopts.as_ref().is_some_and(|adopts| !adopts.contains("another"))).await;
    assert_eq!(harness.server.calls().len(), before, "it serves on");
    assert_eq!(harness.server.loaded("a").as_deref(), Some("new"));
    say(&harness, &[format!("drain/0/{}", old.adopt_word())]);
    harness.follows(&old).await;
    assert_eq!(harness.server.calls()[before..][..3], ["drain", "unload a", "load a"]);
    // where nobody says anything it does not wait for ever
    harness.word_within = Duration::from_millis(100);
    harness.kill_agent().await;
    harness.start_agent();
    say(&harness, &[]);
    harness.want(vec![new.clone()]);
    harness.follows(&new).await;
}

#[tokio::test]
async fn a_content_whose_server_ends_before_it_has_settled_is_tried_once_more_and_then_given_up() {
    let (old, new, beside) = (inline("a", "old"), inline("a", "new"), inline("b", "beside"));
    let mut harness = with_annotation(vec![old.clone(), beside.clone()], &[]).await;
    harness.follows(&old).await;
    harness.adopt(&[&new]);
    harness.want(vec![in_rollout(RolloutPhase::Trial, new.clone(), Some(old.clone())), beside]);
    let state = harness.follows(&new).await;
    assert_eq!((state.models["a"].settled, state.models["b"].settled), (Some(false), None));
    for crashes in [1, 2] {
        harness.until("tried", |state| state.models["a"].settled == Some(false)).await;
        harness.replace_server().await;
        let state = harness.until("accused", |state| state.models["a"].crashes == crashes).await;
        assert_eq!(state.models["b"].crashes, 0, "what is proven is not accused");
    }
    // neither does another agent begin anew
    harness.kill_agent().await;
    harness.start_agent();
    let given_up = |state: &State| reason(&state.models["a"]) == Some(Reason::ServerCrashed);
    let state = harness.until("given up", |state| given_up(state) && state.is_settled).await;
    let message = &state.models["a"].failure().unwrap().message;
    assert!(message.contains("s after it had loaded it, so it is not loaded again"), "{message}");
    assert_eq!(harness.server.loaded("a").as_deref(), Some("old"));
    assert_eq!(harness.server.loaded("b").as_deref(), Some("beside"));
    // a repair begins at once, and with a count of its own
    let repaired = inline("a", "repaired");
    harness.adopt(&[&repaired]);
    harness.want(vec![in_rollout(RolloutPhase::Trial, repaired.clone(), Some(old)), inline("b", "beside")]);
    assert_eq!(harness.follows(&repaired).await.models["a"].crashes, 0);
}

#[tokio::test]
async fn a_content_that_has_settled_is_not_accused() {
    let (old, mut new) = (inline("a", "old"), inline("a", "new"));
    new.load.settle_time = Some(Duration::from_millis(50).into());
    let mut harness = Harness::without_agent(vec![in_rollout(RolloutPhase::Trial, new.clone(), Some(old))]).await;
    harness.adopts = Some(watch::Sender::new(words(&[&new])));
    harness.start_agent();
    for _ in 0..3 {
        harness.follows(&new).await;
        // loaded by this process, and settled
        let settled = async {
            let agent = harness.agent.as_ref().unwrap();
            while harness.server.loaded("a").is_none() || !agent.attempts.open_trials().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), settled).await.unwrap();
        harness.replace_server().await;
    }
    // the first process was not told of; the ends of two are not explained by anything
    harness.until("seen", |state| state.models["a"].ends_servers).await;
    assert_eq!(harness.follows(&new).await.models["a"].crashes, 0);
}

#[tokio::test]
async fn a_server_that_is_gone_is_held_against_a_content_before_the_next_one_starts() {
    let new = inline("a", "new");
    let harness = with_annotation(vec![in_rollout(RolloutPhase::Trial, new.clone(), None)], &[&new]).await;
    harness.follows(&new).await;
    harness.server.stop().await;
    let state = harness.until("accused", |state| state.models["a"].crashes == 1).await;
    let crash = state.models["a"].crash.as_ref().unwrap();
    assert!(crash.starts_with("the server ended ") && crash.ends_with("after it had loaded this content"), "{crash}");
    // its successor is told of, and that counts no second time
    harness.agent.as_ref().unwrap().server_starting();
    harness.server.start(harness.address).await;
    assert_eq!(harness.follows(&new).await.models["a"].crashes, 1);
}
