//! What users are told, for what was seen: conditions as kstatus reads them, counts, failures, times.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use crds::{
    TritonModel, TritonModelStatus, TritonServer, TritonServerStatus,
    parts::{ByteCount, Condition, ConditionStatus, condition},
};
use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::Time};
use operator_core::{
    Compiled, Observed,
    build::{self, Applied, Resources},
    compile, events,
    manifest::{ModelRollout, RolloutFailure, RolloutPhase},
    replica::{Memory, ModelReport, Phase, Replica, Report, Trouble},
    status::{self, Activity, Outcome, Seen, Statuses},
    validated::{self, Settings},
};
use serde_json::{Value, json};

fn at(second: u8) -> Time {
    serde_json::from_value(json!(format!("2026-01-01T00:00:{second:02}Z"))).unwrap()
}

fn server(replicas: i32) -> TritonServer {
    serde_json::from_value(json!({
        "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonServer",
        "metadata": { "name": "vision", "namespace": "ml", "uid": "1", "generation": 3 },
        "spec": { "replicas": replicas },
    }))
    .unwrap()
}

fn model(name: &str, spec: Value) -> TritonModel {
    let mut all = json!({ "serverRef": { "name": "vision" }, "source": { "http": { "uri": "http://x/m.zip" } } });
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonModel",
        "metadata": { "name": name, "namespace": "ml", "generation": 2 }, "spec": all,
    }))
    .unwrap()
}

/// `status` of a Deployment of generation 7.
fn deployment(status: Value) -> Value {
    let mut all = json!({ "observedGeneration": 7 });
    all.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    all
}

fn all_ready(number: i32) -> Value {
    deployment(json!({
        "replicas": number, "readyReplicas": number, "updatedReplicas": number, "availableReplicas": number,
    }))
}

/// Writes the resources with their statuses to the file in `STATUSES`, a line each: `e2e/manifests` has delivery tools read them.
fn record(server: &TritonServer, models: &[TritonModel], statuses: &Statuses) {
    let Some(file) = std::env::var_os("STATUSES") else { return };
    let server = TritonServer { status: Some(statuses.server.clone()), ..server.clone() };
    let mut lines = serde_json::to_string(&server).unwrap() + "\n";
    for (model, (_, status)) in models.iter().zip(&statuses.models) {
        let model = TritonModel { status: Some(status.clone()), ..model.clone() };
        lines += &(serde_json::to_string(&model).unwrap() + "\n");
    }
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    std::io::Write::write_all(&mut file, lines.as_bytes()).unwrap();
}

/// One case at one server with its models.
struct Case {
    server: TritonServer,
    models: Vec<TritonModel>,
    deployment: Value,
    replicas: Vec<Replica>,
    before: Option<Statuses>,
    deployment_before: Option<Deployment>,
    autoscaler: Option<Value>,
    second: u8,
}

impl Case {
    fn new(replicas: i32, models: Vec<TritonModel>) -> Self {
        Self {
            server: server(replicas),
            models,
            deployment: json!({}),
            replicas: vec![],
            before: None,
            deployment_before: None,
            autoscaler: None,
            second: 1,
        }
    }

    fn compiled(&self) -> Compiled {
        compile(&self.server, &self.models, &Observed::default())
    }

    fn applied(&self, compiled: &Compiled) -> Resources<Applied> {
        let settings = Settings { image: "triton:1".into(), ..Settings::default() };
        let validated = validated::validate(&self.server, compiled, &Observed::default(), &settings).unwrap();
        let prepared = build::build(&validated);
        let mut live: Deployment = prepared.deployment.clone();
        live.metadata.generation = Some(7);
        live.status = serde_json::from_value(self.deployment.clone()).unwrap();
        prepared.applied(live, None)
    }

    fn take(&self) -> Statuses {
        let compiled = self.compiled();
        let resources = self.applied(&compiled);
        self.take_with(&compiled, Outcome::Applied(&resources))
    }

    fn take_with(&self, compiled: &Compiled, outcome: Outcome<'_>) -> Statuses {
        let (server, models) = match &self.before {
            Some(before) => (before.server.clone(), before.models.iter().map(|(_, status)| status.clone()).collect()),
            None => (TritonServerStatus::default(), vec![TritonModelStatus::default(); self.models.len()]),
        };
        let models: Vec<_> = self.models.iter().zip(models).collect();
        let statuses = status::statuses(&Seen {
            server: &self.server,
            models: &models,
            before: &server,
            compiled,
            outcome,
            manifest_before: None,
            deployment_before: self.deployment_before.as_ref(),
            autoscaler: self.autoscaler.as_ref(),
            replicas: &self.replicas,
            now: &at(self.second),
        });
        record(&self.server, &self.models, &statuses);
        statuses
    }

    /// Replicas that all say `phase` of each model, of the present manifest.
    fn saying(mut self, replicas: usize, phase: &Phase, versions: &[i64]) -> Self {
        let hash = self.compiled().manifest.hash;
        self.replicas = (0..replicas).map(|at| replica(at, Some(&hash), &self.models, phase, versions)).collect();
        self
    }
}

fn replica(at: usize, hash: Option<&str>, models: &[TritonModel], phase: &Phase, versions: &[i64]) -> Replica {
    let report = ModelReport { phase: phase.clone(), versions: versions.to_vec(), ..ModelReport::default() };
    Replica {
        name: format!("vision-{at}"),
        is_ready: true,
        report: Some(Report {
            manifest_hash: hash.map(str::to_owned),
            models: models.iter().map(|model| (model.metadata.name.clone().unwrap(), report.clone())).collect(),
            ..Report::default()
        }),
        ..Replica::default()
    }
}

/// Conditions in one line: `Ready=True/Loaded Servable=False/NoActiveVersion`.
fn line(conditions: &[Condition]) -> String {
    let all: Vec<_> = conditions.iter().map(|it| format!("{}={:?}/{}", it.type_, it.status, it.reason)).collect();
    all.join(" ")
}

fn of<'a>(conditions: &'a [Condition], type_: &str) -> &'a Condition {
    condition::find(conditions, type_).unwrap()
}

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
    assert_eq!(of(&statuses.server.conditions, "Available").status, ConditionStatus::False);
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
        Some(RolloutFailure { reason: reason.into(), message: "no such op".into(), pod: "vision-0".into() })
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

/// A server that the load scales, and the autoscaler that says so.
fn autoscaled(engine: &str, autoscaler: Value) -> Case {
    let mut case = Case::new(1, vec![]).saying(1, &Phase::Ready, &[]);
    case.server.spec.replicas = None;
    let autoscaling = json!({ "engine": engine, "minReplicas": 1, "maxReplicas": 4 });
    case.server.spec.autoscaling = serde_json::from_value(autoscaling).unwrap();
    case.deployment = all_ready(1);
    case.autoscaler = Some(json!({ "status": autoscaler }));
    case
}

fn conditions_of_autoscaler(conditions: &[(&str, &str, &str, &str)]) -> Value {
    conditions
        .iter()
        .map(|(type_, status, reason, message)| {
            json!({ "type": type_, "status": status, "reason": reason, "message": message })
        })
        .collect()
}

const WORKS: [(&str, &str, &str, &str); 3] = [
    ("AbleToScale", "True", "ReadyForNewScale", "m"),
    ("ScalingActive", "True", "ValidMetricFound", "m"),
    ("ScalingLimited", "False", "DesiredWithinRange", "m"),
];

#[track_caller]
fn check_autoscaling(engine: &str, conditions: &[(&str, &str, &str, &str)], expect: &str, message: &str) {
    let case = autoscaled(engine, json!({ "conditions": conditions_of_autoscaler(conditions) }));
    let statuses = case.take();
    let active = of(&statuses.server.conditions, "AutoscalingActive");
    assert_eq!(format!("{:?}/{}", active.status, active.reason), expect);
    assert!(active.message.contains(message), "{}", active.message);
    assert_eq!(of(&statuses.server.conditions, "Ready").status, ConditionStatus::True);
}

#[test]
fn an_autoscaler_that_cannot_measure_says_why_and_what_helps() {
    check_autoscaling("Operator", &[], "Unknown/NotLookedAt", "has not looked");
    check_autoscaling("Operator", &WORKS, "True/Active", "1 to 4 replicas");
    let broken = |at: usize, with| {
        let mut all = WORKS;
        all[at] = with;
        all
    };
    let no_metric = ("ScalingActive", "False", "FailedGetPodsMetric", "no metrics returned from custom metrics API");
    check_autoscaling("Operator", &broken(1, no_metric), "False/FailedGetPodsMetric", "metrics API switched on");
    check_autoscaling("Operator", &broken(1, no_metric), "False/FailedGetPodsMetric", "no metrics returned");
    check_autoscaling(
        "PrometheusAdapter",
        &broken(1, no_metric),
        "False/FailedGetPodsMetric",
        "prometheus-adapter.yaml",
    );
    let ambiguous =
        ("ScalingActive", "False", "AmbiguousSelector", "pods are controlled by multiple HPAs: [ml/a ml/b]");
    check_autoscaling("Operator", &broken(1, ambiguous), "False/AmbiguousSelector", "remove the other");
    let disabled = ("ScalingActive", "False", "ScalingDisabled", "scaling is disabled");
    check_autoscaling("Operator", &broken(1, disabled), "False/ScaledToZero", "no replica runs");
    let denied = ("AbleToScale", "False", "FailedGetScale", "deployments.apps is forbidden");
    check_autoscaling("Operator", &broken(0, denied), "False/FailedGetScale", "is forbidden");
    check_autoscaling("Operator", &[denied], "False/FailedGetScale", "is forbidden");
    let limited = ("ScalingLimited", "True", "TooManyReplicas", "m");
    check_autoscaling("Operator", &broken(2, limited), "True/MaximumReached", "maxReplicas, 4");
    let fewest = ("ScalingLimited", "True", "TooFewReplicas", "m");
    check_autoscaling("Operator", &broken(2, fewest), "True/Active", "1 to 4 replicas");
}

/// Until replicas were ready for as long as it takes to measure them, an autoscaler without a metric is no fault, and is looked at again.
#[test]
fn nobody_is_warned_of_a_metric_that_could_not_be_measured_yet() {
    let no_metric = ("ScalingActive", "False", "FailedGetPodsMetric", "no metrics returned from custom metrics API");
    let conditions = json!({ "conditions": conditions_of_autoscaler(&[WORKS[0], no_metric]) });
    let check = |engine: &str, ready: &[Option<u8>], second: u8, expect: &str, message: &str| {
        let mut case = autoscaled(engine, conditions.clone());
        let one = case.replicas.pop().unwrap();
        case.replicas = ready
            .iter()
            .map(|since| Replica { is_ready: since.is_some(), ready_since: since.map(at), ..one.clone() })
            .collect();
        case.second = second;
        let after = case.take();
        let active = of(&after.server.conditions, "AutoscalingActive");
        assert_eq!(format!("{:?}/{}", active.status, active.reason), expect);
        assert!(active.message.contains(message), "{}", active.message);
        let told = events::of_server(&TritonServerStatus::default(), &after.server);
        let is_warned = told.iter().any(|event| event.reason == "FailedGetPodsMetric");
        assert_eq!(is_warned, expect.starts_with("False"), "{told:?}");
        if !is_warned {
            assert_ne!(after.activity, Activity::Settled, "no event announces when it is over");
        }
    };
    check("Operator", &[None], 59, "Unknown/NotMeasuredYet", "no replica is ready");
    check("Operator", &[Some(10)], 39, "Unknown/NotMeasuredYet", "within 30 s");
    check("Operator", &[Some(10)], 40, "False/FailedGetPodsMetric", "metrics API switched on");
    check("Operator", &[None, Some(10), Some(38)], 40, "False/FailedGetPodsMetric", "metrics API switched on");
    check("PrometheusAdapter", &[Some(0)], 59, "Unknown/NotMeasuredYet", "within 120 s");
}

#[test]
fn an_autoscaler_of_keda_says_what_keda_says() {
    // the surroundings of these tests know no ScaledObject
    check_autoscaling("KEDA", &[], "False/ScaledObjectMissing", "no ScaledObject is made");
    let mut suspended = autoscaled("Operator", json!({}));
    suspended.server.spec.suspend = Some(true);
    let statuses = suspended.take();
    assert!(condition::find(&statuses.server.conditions, "AutoscalingActive").is_none());
    assert_eq!(statuses.server.autoscaling, None);
}

#[test]
fn a_decision_of_the_autoscaler_is_told_once() {
    let numbers = |desired: i32, time: &str| {
        json!({
            "conditions": conditions_of_autoscaler(&WORKS), "currentReplicas": 2, "desiredReplicas": desired,
            "lastScaleTime": time,
        })
    };
    let mut case = autoscaled("Operator", numbers(2, "2026-01-01T00:00:00Z"));
    let mut step = |autoscaler: Value| {
        case.autoscaler = Some(json!({ "status": autoscaler }));
        let after = case.take();
        let before =
            case.before.replace(after.clone()).map_or_else(TritonServerStatus::default, |before| before.server);
        let told = events::of_server(&before, &after.server);
        (after.server.autoscaling.unwrap(), told.into_iter().map(|it| (it.reason, it.note)).collect::<Vec<_>>())
    };
    let (status, _) = step(numbers(2, "2026-01-01T00:00:00Z"));
    assert_eq!((status.min_replicas, status.max_replicas, status.current_replicas), (1, 4, Some(2)));
    let (status, told) = step(numbers(4, "2026-01-01T00:01:00Z"));
    assert_eq!(status.last_scale_time.as_deref(), Some("2026-01-01T00:01:00Z"));
    assert_eq!(told, [("Rescaled".to_owned(), "from 2 to 4 replicas, as the load asked for".to_owned())]);
    assert_eq!(step(numbers(4, "2026-01-01T00:01:00Z")).1, []);
    let broken = conditions_of_autoscaler(&[WORKS[0], ("ScalingActive", "False", "FailedGetPodsMetric", "no metrics")]);
    let told = step(json!({ "conditions": broken })).1;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, "FailedGetPodsMetric");
    assert_eq!(step(json!({ "conditions": broken })).1, []);
    assert_eq!(step(numbers(4, "2026-01-01T00:01:00Z")).1.len(), 1);
}
