//! The status of a server: its pods, and what holds them up.

use crds::{TritonServerStatus, parts::ConditionStatus};
use k8s_openapi::api::apps::v1::Deployment;
use operator_core::{
    events,
    replica::{Phase, Replica, Trouble},
    status::Activity,
};
use serde_json::{Value, json};

use crate::case::{Case, all_ready, deployment, line, model, of, replica};

#[test]
fn a_server_is_ready_when_the_pods_of_its_newest_template_are() {
    let mut case = Case::new(2, vec![]);
    case.deployment =
        deployment(json!({ "replicas": 2, "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2 }));
    let rolling = case.take();
    assert_eq!(
        line(&rolling.server.conditions),
        "Ready=False/RollingPods Available=True/MinimumReplicasAvailable ModelsLoaded=True/NoModels Reconciling=True/RollingPods"
    );
    assert_eq!(rolling.activity, Activity::Waiting);
    case.deployment = all_ready(2);
    case.deployment["observedGeneration"] = json!(6);
    assert_eq!(of(&case.take().server.conditions, "Ready").status, ConditionStatus::False, "the numbers are old");
    case.deployment = all_ready(2);
    let ready = case.take();
    assert_eq!(
        line(&ready.server.conditions),
        "Ready=True/AllReplicasReady Available=True/MinimumReplicasAvailable ModelsLoaded=True/NoModels"
    );
    assert_eq!(ready.activity, Activity::Settled);
    assert_eq!(ready.server.observed_generation, Some(3));
    assert!(ready.server.conditions.iter().all(|it| it.observed_generation == Some(3) && !it.message.is_empty()));
}

#[test]
fn a_generation_that_is_nothing_of_ours_does_not_make_a_ready_server_unready() {
    let mut case = Case::new(2, vec![]);
    case.deployment = all_ready(2);
    case.before = Some(case.take());
    assert_eq!(of(&case.before.as_ref().unwrap().server.conditions, "Ready").status, ConditionStatus::True);

    // somebody annotates the Deployment; its controller has not come to it
    case.deployment["observedGeneration"] = json!(6);
    let generation = |generation| {
        let mut deployment = Deployment::default();
        deployment.metadata.generation = Some(generation);
        Some(deployment)
    };
    case.deployment_before = generation(7);
    let seen = case.take();
    assert_eq!(Some(&seen), case.before.as_ref(), "nothing new is said");

    // the same, by a change that was made in this very case
    case.deployment_before = generation(6);
    let ready = of(&case.take().server.conditions, "Ready").clone();
    assert_eq!((ready.status, ready.reason.as_str()), (ConditionStatus::False, "RollingPods"));
}

#[test]
fn a_pod_that_cannot_run_explains_a_server_that_is_not_ready() {
    let mut case = Case::new(1, vec![]);
    case.deployment = deployment(json!({ "replicas": 1, "updatedReplicas": 1 }));
    let words = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.";
    let trouble = Trouble { reason: "Unschedulable".into(), message: words.into() };
    case.replicas = vec![Replica { name: "vision-0".into(), trouble: Some(trouble), ..Replica::default() }];
    let ready = of(&case.take().server.conditions, "Ready").clone();
    assert_eq!((ready.reason.as_str(), ready.message.contains(words)), ("Unschedulable", true), "{}", ready.message);
}

#[test]
fn a_server_lists_its_replicas_and_what_runs_there_those_in_trouble_first() {
    let models = || vec![model("a", json!({})), model("b", json!({}))];
    let mut case = Case::new(30, models()).saying(30, &Phase::Ready, &[1]);
    case.deployment = all_ready(30);
    let digest = |of: char| Some(format!("sha256:{}", of.to_string().repeat(64)));
    for replica in &mut case.replicas {
        replica.node = Some("n1".into());
        replica.image_digest = digest('a');
    }
    let failure = Phase::Failed { reason: "LoadFailed".into(), message: "no such op".into(), will_retry: false };
    case.replicas[27].report.as_mut().unwrap().models.get_mut("b").unwrap().phase = failure;
    case.replicas[28].unreachable = Some("nothing comes from it".into());
    case.replicas[28].is_ready = false;
    let statuses = case.take();
    let names: Vec<_> = statuses.server.pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!((names.len(), &names[..3]), (20, &["vision-27", "vision-28", "vision-0"][..]));
    let pod = &statuses.server.pods[0];
    assert_eq!((pod.models_loaded, pod.models_failed, pod.ready, pod.node.as_deref()), (1, 1, true, Some("n1")));
    assert_eq!((&pod.image_digest, &statuses.server.image_digest), (&digest('a'), &digest('a')));
    assert_eq!(statuses.server.pods[1].message.as_deref(), Some("nothing comes from it"));
    assert_eq!(statuses.server.pods[2].message, None);

    // while two images run, neither is that of the server; a pod that leaves does not count
    case.replicas[3].image_digest = digest('b');
    assert_eq!(case.take().server.image_digest, None);
    case.replicas[3].is_leaving = true;
    let statuses = case.take();
    assert_eq!(statuses.server.image_digest, digest('a'));
    assert!(statuses.server.pods.iter().all(|pod| pod.name != "vision-3"));
}

#[test]
fn a_rollout_beyond_its_deadline_is_stalled() {
    let mut case = Case::new(1, vec![]);
    case.deployment = deployment(json!({ "replicas": 1, "updatedReplicas": 1, "conditions": [
        { "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded" },
    ] }));
    let conditions = case.take().server.conditions;
    assert_eq!(
        line(&conditions),
        "Ready=False/ProgressDeadlineExceeded Available=False/NoReplicaReady ModelsLoaded=True/NoModels \
         Stalled=True/ProgressDeadlineExceeded"
    );
}

#[test]
fn a_server_without_replicas_is_at_rest_and_so_are_its_models() {
    let mut case = Case::new(0, vec![model("a", json!({}))]);
    case.deployment = deployment(json!({}));
    let statuses = case.take();
    let ready = of(&statuses.server.conditions, "Ready");
    assert_eq!(
        (ready.status, ready.reason.as_str()),
        (ConditionStatus::True, "ScaledToZero"),
        "it is what was asked for"
    );
    for of_rest in ["Available", "ModelsLoaded"] {
        let condition = of(&statuses.server.conditions, of_rest);
        assert_eq!(
            (condition.status, condition.reason.as_str()),
            (ConditionStatus::False, "ScaledToZero"),
            "{of_rest}"
        );
    }
    let ready = of(&statuses.models[0].1.conditions, "Ready");
    assert_eq!((ready.status, ready.reason.as_str()), (ConditionStatus::False, "ScaledToZero"));
    assert_eq!(statuses.models[0].1.loaded_replicas.as_deref(), Some("0/0"));
    // nobody who waits for something to end waits for this
    let all = statuses.server.conditions.iter().chain(&statuses.models[0].1.conditions);
    assert!(
        all.clone().all(|it| it.type_ != "Reconciling" && it.type_ != "Stalled"),
        "{all:?}",
        all = all.collect::<Vec<_>>()
    );
    assert_eq!(statuses.activity, Activity::Settled);
    let told = events::of_server(&TritonServerStatus::default(), &statuses.server);
    assert!(told.iter().all(|event| !event.is_warning), "{told:?}");
    // nor is anybody warned who saw it serve
    let served = Case { deployment: all_ready(1), ..Case::new(1, vec![]) }.take();
    let told = events::of_server(&served.server, &statuses.server);
    assert!(
        told.iter().all(|event| !event.is_warning) && told.iter().any(|it| it.reason == "ScaledToZero"),
        "{told:?}"
    );
}

#[test]
fn a_report_that_was_not_read_is_told_of_its_replica() {
    let mut case = Case::new(1, vec![model("a", json!({}))]);
    case.deployment = all_ready(1);
    let why = "its agent's report has more than 1048576 bytes and is not read";
    let unread = Replica { name: "vision-0".into(), is_ready: true, unread: Some(why.into()), ..Replica::default() };
    case.replicas = vec![unread];
    let statuses = case.take();
    for conditions in [&statuses.server.conditions, &statuses.models[0].1.conditions] {
        assert!(of(conditions, "Ready").message.ends_with(&format!("vision-0: {why}")), "{conditions:?}");
    }
}

#[test]
fn a_replica_that_cannot_be_reached_is_named_while_its_kubelet_still_calls_it_ready() {
    let mut case = Case::new(2, vec![model("a", json!({}))]).saying(2, &Phase::Ready, &[1]);
    case.deployment = all_ready(2);
    case.second = 1;
    case.before = Some(case.take());
    assert_eq!(of(&case.before.as_ref().unwrap().server.conditions, "Ready").reason, "AllReplicasReady");
    case.second = 5;
    case.replicas[1].unreachable = Some("nothing comes from 10.0.2.5 on node n2".into());
    let cut_off = case.take();
    let ready = of(&cut_off.server.conditions, "Ready");
    assert_eq!((ready.status, ready.reason.as_str()), (ConditionStatus::False, "ReplicaUnreachable"));
    let words = "2 of 2 replicas are ready; vision-1 cannot be reached: nothing comes from 10.0.2.5 on node n2";
    assert_eq!(ready.message, words);
    assert_eq!(of(&cut_off.server.conditions, "Available").status, ConditionStatus::True);
    let told = operator_core::events::of_server(&case.before.as_ref().unwrap().server, &cut_off.server);
    assert_eq!(
        told.iter().map(|event| (event.is_warning, event.reason.as_str())).collect::<Vec<_>>(),
        [(true, "ReplicaUnreachable")]
    );
    // nothing in it moves while it lasts
    (case.before, case.second) = (Some(cut_off.clone()), 9);
    assert_eq!(case.take(), cut_off);
    case.replicas[1].is_leaving = true;
    assert_eq!(of(&case.take().server.conditions, "Ready").reason, "AllReplicasReady", "one that leaves is not missed");
}

#[test]
fn a_replica_whose_probe_never_succeeds_says_so_on_the_server_and_of_itself() {
    let mut case = Case::new(1, vec![model("a", json!({}))]).saying(1, &Phase::Ready, &[1]);
    case.deployment = deployment(json!({ "replicas": 1, "updatedReplicas": 1 }));
    let since = "2025-12-31T23:59:30Z";
    let pod = json!({
        "metadata": { "name": "vision-0" },
        "spec": { "containers": [{ "name": "server",
                                   "startupProbe": { "exec": { "command": ["triton-agent", "health", "ready"] } } }] },
        "status": {
            "conditions": [{ "type": "PodScheduled", "status": "True", "lastTransitionTime": since },
                           { "type": "Ready", "status": "False", "lastTransitionTime": since }],
            "containerStatuses": [{ "name": "server", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                                    "started": false, "state": { "running": { "startedAt": since } } }],
        },
    });
    let mut report = case.replicas[0].report.take().unwrap();
    (report.crashes, report.server_is_ready) = (Some(0), Some(true));
    case.replicas = vec![Replica { report: Some(report), ..Replica::of(&serde_json::from_value(pod).unwrap()) }];
    case.second = 29;
    let early = case.take();
    assert_eq!(of(&early.server.conditions, "Ready").reason, "StartingReplicas");
    assert_ne!(early.activity, Activity::Settled, "no event announces when it has lasted for long");

    (case.second, case.before) = (30, Some(early.clone()));
    let late = case.take();
    let words = "not ready since 2025-12-31T23:59:30Z: the start-up probe of container server (command triton-agent health ready) \
                 has not succeeded, though the server itself says that it is ready";
    let ready = of(&late.server.conditions, "Ready");
    let expect =
        format!("0 of 1 replicas are ready; vision-0 is {words}; kubectl describe pod vision-0 -n ml says more");
    assert_eq!((ready.reason.as_str(), ready.message.as_str()), ("ReplicaNotReady", expect.as_str()));
    assert_eq!(late.server.pods[0].message.as_deref(), Some(words));
    let of_model = of(&late.models[0].1.conditions, "Ready");
    assert!(of_model.message.ends_with("vision-0 has loaded it and is not ready yet"), "{}", of_model.message);
    let reasons: Vec<_> =
        events::of_server(&early.server, &late.server).into_iter().map(|event| event.reason).collect();
    assert_eq!(reasons, ["ReplicaNotReady"]);

    (case.second, case.before) = (59, Some(late.clone()));
    assert_eq!(case.take(), late, "nothing in it moves while it lasts");
}

#[test]
fn a_replica_that_waits_for_a_model_names_it_on_the_server() {
    let mut case = Case::new(1, vec![model("dead", json!({}))]);
    case.deployment = deployment(json!({ "replicas": 1, "updatedReplicas": 1 }));
    let phase = Phase::Failed { reason: "SourceNotFound".into(), message: "404".into(), will_retry: true };
    case.replicas = vec![replica(0, Some(&case.compiled().manifest.hash), &case.models, &phase, &[])];
    case.replicas[0].is_ready = false;
    let ready = of(&case.take().server.conditions, "Ready").clone();
    assert_eq!(
        (ready.reason.as_str(), ready.message.as_str()),
        ("StartingReplicas", "0 of 1 replicas are ready; vision-0 has not loaded model 'dead': SourceNotFound: 404")
    );
}

#[test]
fn what_is_under_way_with_the_pods_is_told_as_what_it_is() {
    let told = |wanted, status: Value, observed: i64| {
        let mut case = Case::new(wanted, vec![]);
        case.deployment = deployment(status);
        case.deployment["observedGeneration"] = json!(observed);
        let ready = of(&case.take().server.conditions, "Ready").clone();
        format!("{:?} {}: {}", ready.status, ready.reason, ready.message)
    };
    let counts = |all: i32, ready: i32, updated: i32, available: i32| json!({ "replicas": all, "readyReplicas": ready, "updatedReplicas": updated, "availableReplicas": available });
    let current = 7;
    for (wanted, status, observed, expect) in [
        // scaled down: before and after the Deployment's controller has come to it
        (
            1,
            counts(3, 3, 3, 3),
            6,
            "ScalingDown: 1 of 1 replicas are ready, and 2 more than are asked for have not ended yet",
        ),
        (
            1,
            counts(3, 3, 3, 3),
            current,
            "ScalingDown: 1 of 1 replicas are ready, and 2 more than are asked for have not ended yet",
        ),
        // scaled up
        (3, counts(1, 1, 1, 1), 6, "StartingReplicas: 1 of 3 replicas are ready"),
        (3, counts(3, 1, 3, 1), current, "StartingReplicas: 1 of 3 replicas are ready"),
        (
            3,
            counts(3, 3, 3, 2),
            current,
            "StartingReplicas: 3 of 3 replicas are ready, 1 of them not yet long enough to be counted",
        ),
        // another template
        (3, counts(3, 3, 3, 3), 6, "RollingPods: 3 of 3 replicas are ready, and their replacement has not begun yet"),
        (3, counts(4, 3, 1, 3), current, "RollingPods: 3 of 3 replicas are ready, 1 pods have the newest pod template"),
        (
            3,
            counts(4, 4, 3, 4),
            current,
            "RollingPods: 3 of 3 replicas are ready, 1 with an older pod template have not ended yet",
        ),
        // none
        (0, counts(2, 2, 2, 2), current, "ScalingDown: no replicas are asked for, and 2 have not ended yet"),
    ] {
        assert_eq!(told(wanted, status.clone(), observed), format!("False {expect}"), "{status}");
    }
}

#[test]
fn a_replica_that_reloads_a_model_out_of_the_service_is_named() {
    let mut case = Case::new(2, vec![model("echo", json!({}))]);
    case.deployment =
        deployment(json!({ "replicas": 2, "readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1 }));
    let mut case = case.saying(2, &Phase::Ready, &[1]);
    (case.replicas[1].is_ready, case.replicas[1].may_adopt) = (false, ["drain/18/0123456789abcdef".to_owned()].into());
    let ready = of(&case.take().server.conditions, "Ready").clone();
    assert_eq!(
        (ready.reason.as_str(), ready.message.as_str()),
        (
            "ReloadingModels",
            "1 of 2 replicas are ready; vision-1 gets no requests while it unloads a model and loads what follows it \
             (loadPolicy.order: UnloadFirst)"
        )
    );
}
