//! What is wrong, refused or too much, in words that are bounded.

use crds::{
    TritonServerStatus,
    parts::{ConditionStatus, condition},
};
use operator_core::{
    Observed, build, compile, events,
    replica::Phase,
    status::{self, Outcome},
};
use serde_json::json;

use crate::case::{Case, all_ready, at, deployment, line, model, of, replica};

#[test]
fn a_wrong_model_is_stalled_with_its_field_and_a_crowded_out_one_is_not() {
    let wrong = model("wrong", json!({ "modelName": "no/name" }));
    let case = Case::new(1, vec![wrong]);
    let status = case.take().models[0].1.clone();
    let stalled = of(&status.conditions, "Stalled");
    assert!(stalled.message.starts_with("spec.modelName: "), "{}", stalled.message);

    let mut case = Case::new(1, vec![model("big", json!({ "gpuMemory": "4Gi" }))]);
    case.server.spec.gpu = serde_json::from_value(json!({ "count": 1, "memoryPerReplica": "2Gi" })).unwrap();
    let status = case.take().models[0].1.clone();
    assert_eq!(
        line(&status.conditions),
        "Ready=False/InsufficientGPUMemory ServerResolved=True/Found FitsMemory=False/InsufficientGPUMemory \
         Servable=False/NoActiveVersion"
    );
}

#[test]
fn a_refused_spec_is_told_and_the_pods_that_run_still_count() {
    let case = Case::new(1, vec![model("a", json!({}))]);
    let compiled = case.compiled();
    let problem = operator_core::Problem {
        object: compiled.models[0].object.clone(),
        reason: operator_core::Reason::InvalidSpec,
        path: "spec.rollout".into(),
        message: "leaves no way to move".into(),
    };
    let problems = [problem.clone(), problem];
    let statuses = case.take_with(&compiled, Outcome::Refused(&problems));
    let stalled = of(&statuses.server.conditions, "Stalled");
    assert_eq!(stalled.message, "spec.rollout: leaves no way to move; spec.rollout: leaves no way to move");
    let ready = of(&statuses.models[0].1.conditions, "Ready");
    assert_eq!(ready.reason, "ServerNotReady");
    assert!(ready.message.contains("leaves no way"), "{}", ready.message);
    assert_eq!(statuses.server.manifest_hash, None, "the pods were told nothing");
}

#[test]
fn what_the_cluster_refuses_is_told_in_its_words() {
    let case = Case::new(1, vec![]);
    let compiled = case.compiled();
    let outcome = Outcome::Failed { reason: "ApplyRefused", message: "Deployment vision: invalid", is_final: true };
    let conditions = case.take_with(&compiled, outcome).server.conditions;
    assert_eq!(of(&conditions, "Stalled").message, "Deployment vision: invalid");
    assert_eq!(of(&conditions, "Ready").reason, "ApplyRefused");
}

#[test]
fn a_reconcile_that_fails_is_told_without_what_was_found_before_being_lost() {
    let mut case = Case::new(1, vec![model("a", json!({}))]).saying(1, &Phase::Ready, &[1]);
    case.deployment = all_ready(1);
    let before = case.take().server;
    let fail = |before: &TritonServerStatus, second| {
        status::with_failure(&case.server, before, before, "applying ConfigMap vision-models: no", &at(second))
    };
    let failed = fail(&before, 20);
    assert_eq!(
        line(&failed.conditions),
        "Ready=False/ReconcileFailed Available=True/MinimumReplicasAvailable ModelsLoaded=True/AllModelsLoaded \
         Reconciling=True/ReconcileFailed"
    );
    assert_eq!(of(&failed.conditions, "Ready").message, "applying ConfigMap vision-models: no");
    assert_eq!(of(&failed.conditions, "Ready").last_transition_time, at(20));
    assert_eq!(of(&failed.conditions, "Available"), of(&before.conditions, "Available"));
    assert_eq!((failed.ready_replicas, &failed.pods), (Some(1), &before.pods));
    assert_eq!(fail(&failed, 40), failed, "the same failure is the same status");
    let told: Vec<_> = events::of_server(&before, &failed).into_iter().map(|it| (it.is_warning, it.reason)).collect();
    assert_eq!(told, [(true, "ReconcileFailed".to_owned())]);
    assert!(events::of_server(&failed, &failed).is_empty());
    // a first status, and one that could not be better by waiting
    assert_eq!(
        line(&fail(&TritonServerStatus::default(), 1).conditions),
        "Ready=False/ReconcileFailed Reconciling=True/ReconcileFailed"
    );
    let outcome = Outcome::Failed { reason: "ApplyRefused", message: "invalid", is_final: true };
    let stalled = case.take_with(&case.compiled(), outcome).server;
    assert!(condition::find(&fail(&stalled, 50).conditions, "Stalled").is_none());
}

#[test]
fn a_change_that_did_not_come_to_the_pods_is_not_loaded_while_the_former_content_serves() {
    let models = vec![model("a", json!({})), model("b", json!({}))];
    let mut case = Case::new(1, models).saying(1, &Phase::Ready, &[1]);
    case.deployment = all_ready(1);
    let compiled = case.compiled();
    case.deployment_before = Some(case.applied(&compiled).deployment.clone());
    case.manifest_before = Some(compiled.manifest);
    case.models[0] = model("a", json!({ "config": { "maxBatchSize": 32 } }));
    let message = "applying ConfigMap vision-models: denied";
    let outcome = Outcome::Failed { reason: "ApplyRefused", message, is_final: true };
    let models = case.take_with(&case.compiled(), outcome).models;
    let ready = of(&models[0].1.conditions, "Ready");
    assert_eq!((ready.status, ready.reason.as_str()), (ConditionStatus::False, "ServerNotReady"), "{ready:?}");
    assert!(ready.message.contains(message), "{}", ready.message);
    let counts =
        |at: usize| (models[at].1.loaded_replicas.clone().unwrap(), models[at].1.serving_replicas.clone().unwrap());
    assert_eq!(counts(0), ("0/1".to_owned(), "1/1".to_owned()));
    assert_eq!(counts(1), ("1/1".to_owned(), "1/1".to_owned()), "the other is as it was");
    assert_eq!(of(&models[1].1.conditions, "Ready").status, ConditionStatus::True);
}

#[test]
fn a_remark_is_told_of_the_server_and_not_of_its_models() {
    let mut case = Case::new(0, vec![model("a", json!({}))]);
    case.deployment = deployment(json!({}));
    let compiled = case.compiled();
    let mut resources = case.applied(&compiled);
    resources.remarks.push("no ServiceMonitor is made".to_owned());
    let statuses = case.take_with(&compiled, Outcome::Applied(&resources));
    let says = |conditions| of(conditions, "Ready").message.contains("no ServiceMonitor");
    assert!(says(&statuses.server.conditions) && !says(&statuses.models[0].1.conditions));
}

#[test]
fn what_is_refused_beside_the_pods_is_told_of_the_server_and_holds_no_model_up() {
    let mut case = Case::new(1, vec![model("a", json!({}))]).saying(1, &Phase::Ready, &[1]);
    case.deployment = all_ready(1);
    let compiled = case.compiled();
    let mut resources = case.applied(&compiled);
    let message = "applying HTTPRoute vision: spec.rules: wrong".to_owned();
    resources.refusal = Some(build::Refusal { reason: "ApplyRefused", message: message.clone(), is_final: true });
    let statuses = case.take_with(&compiled, Outcome::Applied(&resources));
    let ready = of(&statuses.server.conditions, "Ready");
    assert_eq!(
        (ready.status, &ready.reason, &ready.message),
        (ConditionStatus::False, &"ApplyRefused".to_owned(), &message)
    );
    assert_eq!(of(&statuses.server.conditions, "Stalled").message, message);
    assert_eq!(of(&statuses.server.conditions, "Available").status, ConditionStatus::True);
    assert_eq!(of(&statuses.models[0].1.conditions, "Ready").status, ConditionStatus::True);
}

#[test]
fn statuses_are_bounded_however_much_goes_wrong() {
    let words = "ä".repeat(4000);
    let failed = Phase::Failed { reason: "LoadFailed".into(), message: words, will_retry: true };
    let mut case = Case::new(40, vec![model("a", json!({}))]).saying(40, &failed, &[]);
    case.deployment = all_ready(40);
    let statuses = case.take();
    let status = &statuses.models[0].1;
    assert_eq!((status.failures.len(), status.replicas.as_ref().map(|counts| counts.failed)), (5, Some(40)));
    assert!(status.failures.iter().all(|failure| failure.message.len() <= 512));
    assert!(status.conditions.iter().all(|it| it.message.len() <= 1024));
    let schema = crds::definition::schema_of("TritonModel").unwrap();
    let most = schema["properties"]["status"]["properties"]["failures"]["maxItems"].as_u64().unwrap();
    assert_eq!(status.failures.len() as u64, most, "as many as the definition takes are listed");
    let words = "a".repeat(4000);
    let refused = [operator_core::Problem {
        object: case.compiled().models[0].object.clone(),
        reason: operator_core::Reason::InvalidSpec,
        path: "spec.rollout".into(),
        message: words,
    }];
    let statuses = case.take_with(&case.compiled(), Outcome::Refused(&refused));
    assert!(statuses.server.conditions.iter().all(|it| it.message.len() <= 1024));
    assert!(of(&statuses.server.conditions, "Stalled").message.ends_with('…'), "what is cut is marked");
}

#[test]
fn what_comes_from_elsewhere_is_one_line_that_shows_what_it_is() {
    let mut case = Case::new(1, vec![model("echo", json!({}))]);
    case.deployment = deployment(json!({ "replicas": 1, "updatedReplicas": 1 }));
    let words = "Traceback:\n  in initialize\n\u{1b}[31m\u{202e};";
    let phase = Phase::Failed { reason: "LoadFailed".into(), message: words.into(), will_retry: true };
    case.replicas = vec![replica(0, Some(&case.compiled().manifest.hash), &case.models, &phase, &[])];
    case.replicas[0].is_ready = false;
    let statuses = case.take();
    let (server, model) = (&statuses.server, &statuses.models[0].1);
    let mut texts: Vec<&str> =
        server.conditions.iter().chain(&model.conditions).map(|it| it.message.as_str()).collect();
    texts.extend(model.failures.iter().map(|it| it.message.as_str()));
    texts.extend(model.last_failure.iter().map(|it| it.message.as_str()));
    assert!(texts.iter().filter(|text| text.contains(r"in initialize \u{1b}[31m\u{202e}")).count() >= 4, "{texts:#?}");
    assert!(texts.iter().all(|text| !text.contains(|c: char| c.is_control() || c == '\u{202e}')), "{texts:#?}");
    assert!(texts.iter().all(|text| !text.contains(";;") && !text.contains("; ;")), "{texts:#?}");
}

#[test]
fn a_model_that_wants_more_memory_than_there_is_goes_on_and_is_not_under_way() {
    let memory = |name: &str, bytes: &str| model(name, json!({ "gpuMemory": bytes }));
    let mut case = Case::new(1, vec![memory("a", "4Gi"), memory("b", "4Gi")]);
    case.server.spec.gpu =
        serde_json::from_value(json!({ "count": 1, "memoryPerReplica": "10Gi", "memoryReserve": "0%" })).unwrap();
    let last = case.compiled().manifest;
    case.deployment = all_ready(1);
    case.models[0] = memory("a", "8Gi");
    let mut case = case.saying(1, &Phase::Ready, &[1]);
    let compiled = compile(&case.server, &case.models, &Observed { manifest: Some(last), ..Observed::default() });
    case.replicas[0].report.as_mut().unwrap().manifest_hash = Some(compiled.manifest.hash.clone());
    let resources = case.applied(&compiled);
    let statuses = case.take_with(&compiled, Outcome::Applied(&resources));
    let conditions = &statuses.models[0].1.conditions;
    let ready = of(conditions, "Ready");
    assert!(ready.message.ends_with("; what was loaded before goes on"), "{}", ready.message);
    assert_eq!(
        (ready.reason.as_str(), of(conditions, "FitsMemory").status),
        ("InsufficientGPUMemory", ConditionStatus::False)
    );
    assert!(condition::find(conditions, "Reconciling").is_none() && condition::find(conditions, "Stalled").is_none());
    assert_eq!(statuses.models[1].1.loaded_replicas.as_deref(), Some("1/1"));
}
