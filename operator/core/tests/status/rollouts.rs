//! What is said of a content that is not proven yet, or has failed.

use crds::{
    TritonModelStatus,
    parts::{ConditionStatus, condition},
};
use operator_core::{
    manifest::{ModelRollout, RolloutFailure, RolloutPhase},
    replica::Phase,
    status::{Activity, Outcome, Statuses},
};
use serde_json::json;

use crate::case::{Case, all_ready, at, line, model, of, replica};

#[test]
fn a_bad_new_version_is_told_in_the_servers_words_while_the_old_one_serves() {
    let failed = Phase::Failed { reason: "LoadFailed".into(), message: "no such operator".into(), will_retry: true };
    let mut case = Case::new(2, vec![model("a", json!({}))]).saying(2, &failed, &[1]);
    case.deployment = all_ready(2);
    let first = case.take();
    let status = &first.models[0].1;
    assert_eq!(
        line(&status.conditions),
        "Ready=False/LoadFailed ServerResolved=True/Found FitsMemory=True/Admitted Servable=True/ActiveVersionLoaded \
         Reconciling=True/LoadFailed"
    );
    assert!(of(&status.conditions, "Ready").message.contains("vision-0: no such operator"));
    assert_eq!((status.failures.len(), status.loaded_replicas.as_deref()), (2, Some("0/2")));
    assert_eq!(status.serving_replicas.as_deref(), Some("2/2"), "the former content serves");
    assert_eq!(status.replicas.as_ref().map(|counts| (counts.loaded, counts.serving)), Some((0, Some(2))));
    let servable = &of(&status.conditions, "Servable").message;
    assert_eq!(servable, "2 of 2 replicas of TritonServer vision serve a version of it, 0 of them as it is wanted now");
    assert_eq!(status.last_failure.as_ref().map(|failure| failure.time.clone()), Some(at(1)));
    assert_eq!(of(&first.server.conditions, "Ready").status, ConditionStatus::True, "models are no part of Ready");
    assert_eq!(of(&first.server.conditions, "ModelsLoaded").reason, "SomeModelsFailed");

    case.second = 20;
    case.before = Some(first.clone());
    assert_eq!(case.take(), first, "a failure that lasts keeps its time");

    let final_one =
        Phase::Failed { reason: "ChecksumMismatch".into(), message: "other files".into(), will_retry: false };
    let mut case = case.saying(2, &final_one, &[1]);
    case.before = Some(first);
    let stalled = case.take();
    assert_eq!(of(&stalled.models[0].1.conditions, "Stalled").reason, "ChecksumMismatch");
    assert!(condition::find(&stalled.models[0].1.conditions, "Reconciling").is_none());
    assert_eq!(stalled.activity, Activity::Settled);
}

#[test]
fn a_replica_that_has_not_seen_the_new_manifest_keeps_other_models_loaded() {
    let mut case = Case::new(1, vec![model("a", json!({}))]).saying(1, &Phase::Ready, &[1]);
    case.deployment = all_ready(1);
    let before = case.take();
    // another model comes; the replica still speaks of the manifest without it
    let old = case.replicas.clone();
    let mut case = Case::new(1, vec![model("a", json!({})), model("b", json!({}))]);
    (case.replicas, case.deployment) = (old, all_ready(1));
    let mut models = before.models.clone();
    models.push((models[0].0.clone(), TritonModelStatus::default()));
    case.before = Some(Statuses { models, ..before });
    let after = case.take();
    assert_eq!(of(&after.models[0].1.conditions, "Ready").reason, "Loaded");
    assert_eq!(of(&after.models[1].1.conditions, "Ready").reason, "Pending");
    // but a model that was changed itself is not taken for loaded
    case.models[0].metadata.generation = Some(3);
    assert_eq!(of(&case.take().models[0].1.conditions, "Ready").reason, "Pending");
}

/// A case of three replicas with one model in rollout: what each pod serves of it (`new`, which is `settling`, or `old`, where it may be
/// `chosen` for the new one).
fn in_rollout(phase: RolloutPhase, failure: Option<RolloutFailure>, pods: &[(&str, Phase)]) -> Statuses {
    let mut case = Case::new(3, vec![model("echo", json!({}))]);
    case.deployment = all_ready(3);
    let mut compiled = case.compiled();
    let entry = &mut compiled.manifest.models[0];
    let former = Some(Box::new(entry.clone()));
    entry.rollout = Some(ModelRollout { phase, former, crashes: std::collections::BTreeMap::new(), failure });
    let (hash, word) = (entry.content_hash(), entry.adopt_word());
    let replica = |(at, (serves, phase)): (usize, &(&str, Phase))| {
        let mut replica = replica(at, Some("another"), &case.models, phase, &[1]);
        let report = replica.report.as_mut().unwrap();
        report.adopts = Some(std::collections::BTreeSet::new());
        let entry = if matches!(*serves, "new" | "settling") { hash.clone() } else { "former".to_owned() };
        let model = report.models.get_mut("echo").unwrap();
        (model.entry, model.settled) = (Some(entry), (*serves == "settling").then_some(false));
        if *serves == "chosen" {
            replica.may_adopt.insert(word.clone());
        }
        replica
    };
    case.replicas = pods.iter().enumerate().map(replica).collect();
    let resources = case.applied(&compiled);
    case.take_with(&compiled, Outcome::Applied(&resources))
}

#[track_caller]
fn check_rollout(statuses: &Statuses, conditions: &str, message: &str) {
    let status = &statuses.models[0].1;
    assert_eq!(line(&status.conditions), conditions);
    assert_eq!(of(&status.conditions, "Ready").message, message);
}

#[test]
fn a_content_in_rollout_says_which_replica_tries_it() {
    let old = || ("old", Phase::Ready);
    check_rollout(
        &in_rollout(RolloutPhase::Trial, None, &[("new", Phase::Loading), old(), old()]),
        "Ready=False/Loading ServerResolved=True/Found FitsMemory=True/Admitted Servable=True/ActiveVersionLoaded \
         Reconciling=True/Loading",
        "0 of 3 replicas serve it; vision-0 tries it first; vision-1, vision-2 get it after that; the former content serves on",
    );
    check_rollout(
        &in_rollout(RolloutPhase::Trial, None, &[old(), old(), old()]),
        "Ready=False/Pending ServerResolved=True/Found FitsMemory=True/Admitted Servable=True/ActiveVersionLoaded \
         Reconciling=True/Pending",
        "0 of 3 replicas serve it; the first of vision-0, vision-1, vision-2 that serves the former content tries it; the former \
         content serves on",
    );
    check_rollout(
        &in_rollout(RolloutPhase::Spreading, None, &[("new", Phase::Ready), old(), old()]),
        "Ready=False/Pending ServerResolved=True/Found FitsMemory=True/Admitted Servable=True/ActiveVersionLoaded \
         Reconciling=True/Pending",
        "1 of 3 replicas serve it; vision-1, vision-2 get it next",
    );
    check_rollout(
        &in_rollout(RolloutPhase::Trial, None, &[("settling", Phase::Ready), ("chosen", Phase::Ready), old()]),
        "Ready=False/Pending ServerResolved=True/Found FitsMemory=True/Admitted Servable=True/ActiveVersionLoaded \
         Reconciling=True/Pending",
        "1 of 3 replicas serve it; vision-1 tries it first; vision-2 gets it after that; the former content serves on",
    );
    check_rollout(
        &in_rollout(RolloutPhase::Trial, None, &[("settling", Phase::Ready), old(), old()]),
        "Ready=False/Pending ServerResolved=True/Found FitsMemory=True/Admitted Servable=True/ActiveVersionLoaded \
         Reconciling=True/Pending",
        "1 of 3 replicas serve it; vision-0 tries it first, and its server has yet to live on with it for a while; vision-1, vision-2 \
         get it after that; the former content serves on",
    );
    check_rollout(
        &in_rollout(RolloutPhase::Trial, None, &std::array::from_fn::<_, 3, _>(|_| ("settling", Phase::Ready))),
        "Ready=True/Loaded ServerResolved=True/Found FitsMemory=True/Admitted Servable=True/ActiveVersionLoaded",
        "3 of 3 replicas serve it",
    );
}

#[test]
fn a_content_that_failed_or_is_in_quarantine_names_replica_reason_and_cure() {
    let old = || ("old", Phase::Ready);
    let failure = |reason: &str| {
        Some(RolloutFailure {
            reason: reason.into(),
            message: "no such op".into(),
            pod: "vision-0".into(),
            reported_restarts: None,
        })
    };
    let failed = Phase::Failed { reason: "LoadFailed".into(), message: "no such op".into(), will_retry: true };
    check_rollout(
        &in_rollout(RolloutPhase::Stopped, failure("LoadFailed"), &[("new", failed), old(), old()]),
        "Ready=False/LoadFailed ServerResolved=True/Found FitsMemory=True/Admitted Servable=True/ActiveVersionLoaded \
         Reconciling=True/LoadFailed",
        "vision-0: no such op; no further replica gets this content before that one serves it, the former one goes on",
    );
    let failed = || Phase::Failed { reason: "LoadFailed".into(), message: "no such op".into(), will_retry: true };
    let statuses = in_rollout(
        RolloutPhase::Stopped,
        failure("LoadFailed"),
        &[("new", failed()), ("new", Phase::Ready), ("new", Phase::Ready)],
    );
    let message = "vision-0: no such op; vision-1, vision-2 serve it, the former one goes on";
    assert_eq!(of(&statuses.models[0].1.conditions, "Ready").message, message);
    let statuses = in_rollout(RolloutPhase::Quarantined, failure("ServerCrashed"), &[old(), old(), old()]);
    check_rollout(
        &statuses,
        "Ready=False/ServerCrashed ServerResolved=True/Found FitsMemory=True/Admitted Servable=True/ActiveVersionLoaded \
         Stalled=True/ServerCrashed",
        "vision-0: no such op; no replica loads this content any more, the former one goes on: change the model, or set its \
         annotation triton-operator.dev/retry to a new text",
    );
    let failures = &statuses.models[0].1.failures;
    assert_eq!((failures.len(), failures[0].pod.as_str(), failures[0].state.as_str()), (1, "vision-0", "Failed"));
    assert_eq!(statuses.server.models.as_ref().unwrap().failed, 1);
    assert_eq!(statuses.activity, Activity::Waiting, "pods have not read the manifest yet");
}

#[test]
fn a_model_is_ready_when_its_content_is_served_whatever_else_has_changed() {
    let mut case = Case::new(1, vec![model("echo", json!({}))]);
    case.deployment = all_ready(1);
    let hash = case.compiled().manifest.models[0].content_hash();
    case.replicas = vec![replica(0, Some("an earlier manifest"), &case.models, &Phase::Ready, &[1])];
    let report = case.replicas[0].report.as_mut().unwrap();
    report.models.get_mut("echo").unwrap().entry = Some(hash);
    assert_eq!(of(&case.take().models[0].1.conditions, "Ready").status, ConditionStatus::True);
}
