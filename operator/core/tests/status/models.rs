//! The status of a model from its first sight to its last replica.

use crds::{
    TritonModel, TritonModelStatus,
    parts::{ByteCount, ConditionStatus},
};
use operator_core::{
    Observed, compile,
    replica::{Memory, ModelReport, Phase, Replica},
    status::{self, Activity},
};
use serde_json::json;

use crate::case::{Case, all_ready, at, deployment, line, model, of, replica};

#[test]
fn a_model_is_ready_once_the_nodes_know_where_to_send_requests() {
    let mut case = Case::new(1, vec![model("echo", json!({}))]);
    case.deployment = all_ready(1);
    let mut case = case.saying(1, &Phase::Ready, &[1]);
    let mut ready = |second, ready_since: Option<u8>, gone_since: Option<u8>| {
        case.second = second;
        case.replicas[0].ready_since = ready_since.map(at);
        case.replicas.truncate(1);
        case.replicas.extend(gone_since.map(|second| Replica {
            name: "vision-old".into(),
            is_leaving: true,
            leaving_since: Some(at(second)),
            ..Replica::default()
        }));
        let statuses = case.take();
        let ready = of(&statuses.models[0].1.conditions, "Ready").clone();
        case.before = Some(statuses.clone());
        (ready.status == ConditionStatus::True, statuses.activity)
    };
    assert_eq!(ready(10, Some(9), None), (false, Activity::Propagating));
    assert_eq!(ready(11, Some(9), None), (true, Activity::Settled));
    // what is ready stays so while pods come and go
    assert!(ready(20, Some(9), Some(19)).0);
    case.before = None;
    let mut ready = |gone_since| {
        case.second = 30;
        case.replicas.truncate(1);
        case.replicas.push(Replica { is_leaving: true, leaving_since: Some(at(gone_since)), ..Replica::default() });
        of(&case.take().models[0].1.conditions, "Ready").status
    };
    assert_eq!(
        ready(29),
        ConditionStatus::False,
        "an old pod may still be sent requests that only the new one can answer"
    );
    assert_eq!(ready(28), ConditionStatus::True);
}

#[test]
fn a_model_lists_its_replicas_with_the_versions_that_serve_there() {
    let models = || vec![model("a", json!({}))];
    let mut case = Case::new(30, models()).saying(30, &Phase::Ready, &[1, 2]);
    case.deployment = all_ready(30);
    let of = |case: &mut Case, at: usize| case.replicas[at].report.as_mut().unwrap().models.remove("a").unwrap();
    for at in 0..30 {
        let report = ModelReport { serving: Some(format!("sha256:{}", "a".repeat(64))), ..of(&mut case, at) };
        case.replicas[at].report.as_mut().unwrap().models.insert("a".into(), report);
    }
    let pods = case.take().models[0].1.pods.clone();
    assert!(pods.iter().all(|pod| pod.state == "Loaded" && pod.content_hash.is_none()), "{pods:?}");

    let failure = Phase::Failed { reason: "LoadFailed".into(), message: "no such op".into(), will_retry: true };
    let other = format!("sha256:{}", "b".repeat(64));
    let report = ModelReport { phase: failure, versions: vec![1], serving: Some(other.clone()), ..of(&mut case, 29) };
    case.replicas[29].report.as_mut().unwrap().models.insert("a".into(), report);
    case.replicas[28].report = None;
    let pods = case.take().models[0].1.pods.clone();
    assert_eq!(pods.len(), 20);
    let shown: Vec<_> =
        pods[..3].iter().map(|pod| (pod.name.as_str(), pod.state.as_str(), &pod.versions[..])).collect();
    assert_eq!(
        shown,
        [("vision-28", "Unknown", &[][..]), ("vision-29", "Retrying", &[1]), ("vision-0", "Loaded", &[1, 2])]
    );
    assert_eq!(pods[1].content_hash, Some(other), "where contents differ, each is named");
}

#[test]
fn measured_memory_is_shown_kept_and_found_by_whoever_comes_next() {
    let gib = |number: u64| number << 30;
    let created = |mut model: TritonModel, second: u8| {
        model.metadata.creation_timestamp = Some(at(second));
        model
    };
    let modest = || created(model("modest", json!({ "gpuMemory": "1Gi" })), 1);
    let exact = || created(model("exact", json!({ "gpuMemory": "2Gi" })), 2);
    let late = |memory: &str| created(model("late", json!({ "gpuMemory": memory })), 3);
    let mut case = Case::new(2, vec![modest(), exact()]).saying(2, &Phase::Ready, &[1]);
    case.server.spec.gpu =
        serde_json::from_value(json!({ "count": 1, "memoryPerReplica": "10Gi", "memoryReserve": "0%" })).unwrap();
    case.deployment = all_ready(2);
    let hash = case.compiled().manifest.hash;
    for (at, replica) in case.replicas.iter_mut().enumerate() {
        let report = replica.report.as_mut().unwrap();
        report.manifest_hash = Some(hash.clone());
        let measured = |cpu, gpu| Some(Memory { cpu, gpu });
        report.models.get_mut("modest").unwrap().memory = measured(gib(1), gib(5 + at as u64)); // more than it claims
        report.models.get_mut("exact").unwrap().memory = measured(0, gib(1)); // less than it claims
    }
    let statuses = case.take();
    let memory = statuses.models[0].1.memory.clone().unwrap();
    assert_eq!((memory.cpu, memory.gpu), (Some(ByteCount(gib(1))), Some(ByteCount(gib(6)))), "where it is most");
    assert_eq!(statuses.models[1].1.memory.as_ref().unwrap().cpu, None);
    let of_server = statuses.server.gpu_memory.clone().unwrap();
    assert_eq!((of_server.requested, of_server.measured_max), (Some(ByteCount(gib(3))), Some(ByteCount(gib(7)))));

    // 6 (measured) + 2 (claimed) of 10 are taken
    let placed = case.compiled().manifest;
    for (model, (_, status)) in case.models.iter_mut().zip(&statuses.models) {
        model.status = Some(status.clone());
    }
    let observed = Observed { manifest: Some(placed), ..Observed::default() };
    let names = |models: &[TritonModel]| {
        let compiled = compile(&case.server, models, &observed);
        let problems: Vec<String> = compiled.problems.iter().map(ToString::to_string).collect();
        (compiled.manifest.models.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>(), problems)
    };
    let with = |memory: &str| [case.models.clone(), vec![late(memory)]].concat();
    assert_eq!(names(&with("2Gi")).0, ["exact", "late", "modest"]);
    let (placed, problems) = names(&with("3Gi"));
    assert_eq!(placed, ["exact", "modest"]);
    assert!(problems[0].contains("2Gi of 10Gi are free, as measured, on TritonServer vision"), "{problems:?}");
    // nobody who serves is put out by what was measured, be it more than there is
    let mut heavy = case.models.clone();
    heavy[0].status.as_mut().unwrap().memory.as_mut().unwrap().gpu = Some(ByteCount(gib(40)));
    assert_eq!(names(&heavy).0, ["exact", "modest"]);

    // while nobody serves it, what was measured before stays
    case.before = Some(statuses);
    case.replicas.clear();
    assert_eq!(case.take().models[0].1.memory, Some(memory));
}

#[test]
fn versions_that_requests_are_routed_to_and_that_are_not_served_are_told() {
    let check = |versions: serde_json::Value, expect: &str| {
        let mut case =
            Case::new(2, vec![model("a", json!({ "versions": versions }))]).saying(2, &Phase::Ready, &[1, 2]);
        case.deployment = all_ready(2);
        let statuses = case.take();
        let ready = of(&statuses.models[0].1.conditions, "Ready");
        assert_eq!((ready.reason.as_str(), ready.message.as_str()), ("Loaded", expect));
    };
    let cure = "others get those requests: have the source hold them and the policy name them, or take them out of spec.versions";
    check(json!({ "weights": { "1": 90, "2": 10 } }), "2 of 2 replicas serve it");
    check(
        json!({ "weights": { "1": 90, "3": 10 } }),
        &format!("2 of 2 replicas serve it; version 3 of spec.versions is not served, so {cure}"),
    );
    check(
        json!({ "policy": { "all": {} }, "canary": { "version": 7 }, "shadow": { "8": 50 } }),
        &format!("2 of 2 replicas serve it; versions 7, 8 of spec.versions are not served, so {cure}"),
    );
}

#[test]
fn a_model_goes_from_pending_to_loaded_and_the_times_move_with_it() {
    let models = || vec![model("a", json!({}))];
    let mut case = Case::new(2, models()).saying(2, &Phase::Downloading, &[]);
    case.deployment = deployment(json!({ "replicas": 2, "updatedReplicas": 2 }));
    let loading = case.take();
    assert_eq!(loading.activity, Activity::Waiting);
    assert_eq!(
        line(&loading.models[0].1.conditions),
        "Ready=False/Downloading ServerResolved=True/Found FitsMemory=True/Admitted Servable=False/NoActiveVersion \
         Reconciling=True/Downloading"
    );
    let mut case = Case::new(2, models()).saying(2, &Phase::Ready, &[1, 3]);
    case.deployment = all_ready(2);
    case.second = 9;
    case.before = Some(loading);
    let loaded = case.take();
    let status = &loaded.models[0].1;
    assert_eq!(
        line(&status.conditions),
        "Ready=True/Loaded ServerResolved=True/Found FitsMemory=True/Admitted Servable=True/ActiveVersionLoaded"
    );
    assert_eq!(of(&status.conditions, "Ready").last_transition_time, at(9));
    assert_eq!(of(&status.conditions, "ServerResolved").last_transition_time, at(1), "it was true before");
    assert_eq!((status.loaded_replicas.as_deref(), &status.active_versions), (Some("2/2"), &vec![1, 3]));
    assert_eq!(
        loaded.server.models.as_ref().map(|counts| (counts.desired, counts.loaded, counts.failed)),
        Some((1, 1, 0))
    );

    case.second = 30;
    case.before = Some(loaded.clone());
    assert_eq!(case.take(), loaded, "nothing happened, nothing is written");
}

#[test]
fn a_model_is_ready_only_where_requests_come() {
    let mut case = Case::new(2, vec![model("a", json!({}))]).saying(2, &Phase::Ready, &[1]);
    case.replicas[1].is_ready = false;
    let conditions = case.take().models[0].1.conditions.clone();
    let ready = of(&conditions, "Ready");
    let words = "1 of 2 replicas serve it; vision-1 has loaded it and is not ready yet";
    assert_eq!((ready.reason.as_str(), ready.message.as_str()), ("ServerNotReady", words));
    assert_eq!(of(&conditions, "Servable").status, ConditionStatus::True);
    case.replicas[0].is_ready = false;
    assert_eq!(of(&case.take().models[0].1.conditions, "Servable").status, ConditionStatus::False);
}

#[test]
fn a_server_without_an_agent_is_believed_by_its_index() {
    let mut case = Case::new(1, vec![model("a", json!({}))]);
    case.deployment = all_ready(1);
    case.replicas = vec![replica(0, None, &case.models, &Phase::Ready, &[4])];
    assert_eq!(of(&case.take().models[0].1.conditions, "Ready").reason, "Loaded");
}

#[test]
fn a_model_without_a_server_waits_and_says_for_whom() {
    let lonely = model("a", json!({}));
    let status = status::without_server(&lonely, &TritonModelStatus::default(), &at(1));
    assert_eq!(
        line(&status.conditions),
        "Ready=False/ServerNotFound ServerResolved=False/ServerNotFound FitsMemory=Unknown/ServerNotFound \
         Servable=False/ServerNotFound"
    );
    assert_eq!(of(&status.conditions, "Ready").message, "TritonServer vision does not exist in namespace ml");
}

#[test]
fn a_model_whose_name_another_one_has_does_not_say_what_that_one_serves() {
    let twin = model("twin", json!({ "modelName": "echo" }));
    let mut case = Case::new(2, vec![model("echo", json!({})), twin]);
    case.deployment = all_ready(2);
    let case = case.saying(2, &Phase::Ready, &[1]);
    let statuses = case.take();
    let of_model = |at: usize| (&statuses.models[at].0.name, &statuses.models[at].1);
    let (name, echo) = of_model(0);
    assert_eq!(
        (name.as_str(), echo.loaded_replicas.as_deref(), &echo.active_versions[..]),
        ("echo", Some("2/2"), &[1][..])
    );
    let (name, twin) = of_model(1);
    assert_eq!(
        (name.as_str(), twin.loaded_replicas.as_deref(), &twin.active_versions[..]),
        ("twin", Some("0/2"), &[][..])
    );
    assert_eq!(
        (of(&twin.conditions, "Ready").reason.as_str(), of(&twin.conditions, "Servable").status),
        ("NameConflict", ConditionStatus::False)
    );
    assert!(twin.content_hash.is_none() && twin.target_versions.is_empty());
    assert!(twin.urls.as_ref().unwrap().http.as_ref().unwrap().ends_with("/v2/models/echo"));
}
