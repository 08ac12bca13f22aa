//! The status of a TritonModel: where its replicas stand, one by one, and what that means together.

mod progress;
mod standing;

use crds::{
    TritonModel, TritonModelStatus,
    model::{LastFailure, ModelOnPod, ModelUrls, ReplicaCounts, ReplicaFailure},
    parts::{Condition, ConditionStatus, condition, load::LoadOrder},
};

use self::standing::{Standing, standing};
use super::{
    conditions::{Claim, Conditions, SCALED_TO_ZERO},
    pods,
    view::View,
};
use crate::{
    Reason,
    compile::{CompiledModel, Placement},
    manifest::{RolloutFailure, RolloutPhase},
    names, pod,
    replica::{ModelReport, Replica},
    rollout::drains,
    text::{cut, joined},
    versions,
};

/// Most replicas whose failures are listed.
const FAILURES_MAX: usize = 5;
/// Longest message of a replica.
const FAILURE_MESSAGE_MAX: usize = 512;

/// The status of a model whose server does not exist.
pub fn without_server(
    model: &TritonModel,
    before: &TritonModelStatus,
    now: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time,
) -> TritonModelStatus {
    let generation = model.metadata.generation;
    let server = &model.spec.server_ref.name;
    let message = format!("TritonServer {server} does not exist in namespace {}", names::namespace(model));
    let missing = |status| Claim::new(status, Reason::ServerNotFound.to_string(), message.clone());
    let mut conditions = Conditions::new(&before.conditions, generation, now);
    conditions.set("Ready", &missing(ConditionStatus::False));
    conditions.set("ServerResolved", &missing(ConditionStatus::False));
    conditions.set("FitsMemory", &missing(ConditionStatus::Unknown));
    conditions.set("Servable", &missing(ConditionStatus::False));
    TritonModelStatus {
        observed_generation: generation,
        loaded_replicas: Some("0/0".into()),
        serving_replicas: Some("0/0".into()),
        target_versions: targets(model, &[]),
        replicas: Some(ReplicaCounts::default()),
        last_failure: before.last_failure.clone(),
        conditions: conditions.into_vec(),
        ..TritonModelStatus::default()
    }
}

/// The status of a model of the server in `view`.
pub(super) fn of(
    model: &TritonModel,
    compiled: &CompiledModel,
    before: &TritonModelStatus,
    view: &View<'_>,
) -> TritonModelStatus {
    let generation = model.metadata.generation;
    let wire_name = compiled.name.as_str();
    // what the pods say of a name is about whoever has it
    let nameless = CompiledModel { name: String::new(), ..compiled.clone() };
    let is_of_another = view.manifest.model(wire_name).is_some_and(|entry| entry.resource != compiled.object.name);
    let compiled = if is_of_another { &nameless } else { compiled };
    let replicas: Vec<&Replica> = view.replicas.iter().filter(|replica| !replica.is_leaving).collect();
    let reports: Vec<(&Replica, Option<&ModelReport>)> =
        replicas.iter().map(|replica| (*replica, report(replica, &compiled.name))).collect();
    let was_loaded = condition::find(&before.conditions, "Ready")
        .is_some_and(|ready| ready.status == ConditionStatus::True && ready.observed_generation == generation);
    let standings: Vec<(&Replica, Standing<'_>)> =
        replicas.iter().map(|replica| (*replica, standing(replica, &compiled.name, was_loaded, view))).collect();

    let does_serve = |report: &ModelReport| !report.versions.is_empty();
    let serves = reports.iter().filter(|(replica, report)| replica.is_ready && report.is_some_and(does_serve)).count();
    let counts = count(&standings, serves, view.desired);
    let versions = served_versions(reports.iter().filter_map(|(_, report)| *report));
    let mut ready = ready(compiled, &standings, &counts, was_loaded, view);
    if let Some(remark) = unserved_shares(model, &versions).filter(|_| ready.is_true()) {
        ready.message = joined([ready.message, remark]);
    }
    let is_final = is_final(compiled, &standings, view);
    let failures = failures(&compiled.name, &standings, view);

    let mut conditions = Conditions::new(&before.conditions, generation, view.now);
    conditions.set("Ready", &ready);
    conditions.set(
        "ServerResolved",
        &Claim::new(ConditionStatus::True, "Found", format!("TritonServer {} exists", view.name)),
    );
    conditions.set("FitsMemory", &fits_memory(compiled));
    conditions.set("Servable", &servable(serves, &counts, view));
    let is_at_rest = ready.reason == SCALED_TO_ZERO || is_refused_room(compiled);
    let is_under_way = !ready.is_true() && !is_final && !is_at_rest;
    conditions.set_while(is_under_way, "Reconciling", &ready.reason, &ready.message);
    conditions.set_while(!ready.is_true() && is_final, "Stalled", &ready.reason, &ready.message);

    TritonModelStatus {
        observed_generation: generation,
        loaded_replicas: Some(format!("{}/{}", counts.loaded, counts.desired)),
        serving_replicas: Some(format!("{}/{}", counts.serving.unwrap_or(0), counts.desired)),
        target_versions: targets(model, if ready.is_true() { &versions } else { &[] }),
        active_versions: versions,
        pods: on_pods(&standings, &reports),
        memory: pods::memory(reports.iter().filter_map(|(_, report)| report.as_ref()?.memory))
            .or_else(|| before.memory.clone()),
        content_hash: served_content(reports.iter().filter_map(|(_, report)| *report)),
        replicas: Some(counts),
        last_failure: last_failure(&failures, &ready, is_final, before, view),
        failures,
        urls: Some(ModelUrls {
            http: Some(format!("{}://{}:{}/v2/models/{wire_name}", view.scheme, view.host, pod::HTTP_PORT)),
            grpc: Some(format!("{}:{}", view.host, pod::GRPC_PORT)),
        }),
        conditions: conditions.into_vec(),
    }
}

/// Whether a model's status says that it serves what is asked for everywhere.
pub(super) fn is_loaded(status: &TritonModelStatus) -> bool {
    find(&status.conditions, "Ready").is_some_and(|ready| ready.status == ConditionStatus::True)
}

/// Whether a model's status says that something went wrong with it.
pub(super) fn has_failed(status: &TritonModelStatus) -> bool {
    !status.failures.is_empty()
        || find(&status.conditions, "Stalled").is_some()
        || find(&status.conditions, "FitsMemory").is_some_and(|fits| fits.status == ConditionStatus::False)
}

fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    condition::find(conditions, type_)
}

fn report<'a>(replica: &'a Replica, name: &str) -> Option<&'a ModelReport> {
    replica.report.as_ref()?.models.get(name)
}

/// `serves`: how many replicas serve any content of the model.
fn count(standings: &[(&Replica, Standing<'_>)], serves: usize, desired: i32) -> ReplicaCounts {
    let number = |is: fn(&Standing<'_>) -> bool| {
        i32::try_from(standings.iter().filter(|(_, standing)| is(standing)).count()).unwrap_or(i32::MAX)
    };
    ReplicaCounts {
        desired,
        loaded: number(|standing| matches!(standing, Standing::Loaded | Standing::Settling)).min(desired),
        serving: Some(i32::try_from(serves).unwrap_or(i32::MAX).min(desired)),
        loading: number(|standing| matches!(standing, Standing::Downloading | Standing::Loading)),
        failed: number(|standing| matches!(standing, Standing::Failed { .. })),
    }
}

fn ready(
    compiled: &CompiledModel,
    standings: &[(&Replica, Standing<'_>)],
    counts: &ReplicaCounts,
    was_loaded: bool,
    view: &View<'_>,
) -> Claim {
    use ConditionStatus::{False, True};
    match &compiled.placement {
        Placement::LeftOut { reason, message } => return Claim::new(False, reason.to_string(), message.clone()),
        Placement::Kept { reason, message } => {
            let message = format!("{message}; what was loaded before goes on");
            return Claim::new(False, reason.to_string(), message);
        }
        Placement::Placed => {}
    }
    if let Some(why) = stopped(&compiled.name, standings, view) {
        return why;
    }
    let failed = standings.iter().find_map(|(replica, standing)| match standing {
        Standing::Failed { reason, message, .. } => Some((replica, *reason, *message)),
        _ => None,
    });
    if let Some((replica, reason, message)) = failed {
        return Claim::new(False, reason, format!("{}: {message}", replica.name));
    }
    let served = format!("{} of {} replicas serve it", counts.loaded, counts.desired);
    if is_at_rest(view) {
        let message = format!("TritonServer {} is at rest: it has no replicas", view.name);
        return Claim::new(False, SCALED_TO_ZERO, message);
    }
    if counts.desired > 0 && counts.loaded >= counts.desired {
        // whoever sees that it is ready sends a request at once, through a Service that may lead nowhere yet
        let is_known = was_loaded || !view.replicas.iter().any(|replica| replica.is_recent(view.now));
        if is_known {
            return Claim::new(True, Reason::Loaded.to_string(), served);
        }
        let message = format!("{served}; not every node routes requests to them yet");
        return Claim::new(False, Reason::ServerNotReady.to_string(), message);
    }
    if let Some(why) = &view.refusal {
        return Claim::new(False, Reason::ServerNotReady.to_string(), format!("TritonServer {}: {why}", view.name));
    }
    let rollout = view.contents.get(compiled.name.as_str()).and_then(|content| content.rollout);
    if let Some((reason, how)) = progress::under_way(standings, rollout) {
        let waiting =
            waiting(&compiled.name, standings, view).map_or_else(String::new, |waiting| format!("; {waiting}"));
        return Claim::new(False, reason.to_string(), format!("{served}; {how}{waiting}"));
    }
    let unread = standings.iter().filter(|(_, standing)| matches!(standing, Standing::Silent));
    if let Some(why) = unread.filter_map(|(replica, _)| pods::unread(replica)).next() {
        return Claim::new(False, Reason::ServerNotReady.to_string(), format!("{served}; {why}"));
    }
    let message = format!("{served}; TritonServer {}: {}", view.name, view.readiness.message);
    Claim::new(False, Reason::ServerNotReady.to_string(), message)
}

/// Which replicas hold others up that have to leave the Service first.
fn waiting(name: &str, standings: &[(&Replica, Standing<'_>)], view: &View<'_>) -> Option<String> {
    let is_unloaded_first = view.manifest.model(name).is_some_and(|entry| entry.load.order == LoadOrder::UnloadFirst);
    let waits = is_unloaded_first
        && standings.iter().any(|(_, standing)| matches!(standing, Standing::Held | Standing::Pending));
    drains::said_of_waiting(view.replicas, view.now).filter(|_| waits)
}

/// What stands against a content that a pod has failed with.
fn stopped(name: &str, standings: &[(&Replica, Standing<'_>)], view: &View<'_>) -> Option<Claim> {
    let rollout = view.contents.get(name)?.rollout?;
    let RolloutFailure { reason, message, pod, reported_restarts: _ } = rollout.failure.as_ref()?;
    let message = message.trim_end_matches([';', '\n', ' ']);
    let text = format!("{pod}: {message}{}", progress::containment(pod, standings, rollout));
    Some(Claim::new(ConditionStatus::False, reason.clone(), text))
}

/// Whether the server has no replicas and is to have none.
fn is_at_rest(view: &View<'_>) -> bool {
    view.readiness.reason == SCALED_TO_ZERO
}

/// Whether waiting cannot help.
fn is_final(compiled: &CompiledModel, standings: &[(&Replica, Standing<'_>)], view: &View<'_>) -> bool {
    let rollout = view.contents.get(compiled.name.as_str()).and_then(|content| content.rollout);
    if rollout.is_some_and(|rollout| rollout.phase == RolloutPhase::Quarantined) {
        return true;
    }
    match &compiled.placement {
        Placement::LeftOut { reason, .. } | Placement::Kept { reason, .. } => reason.is_final(),
        Placement::Placed => {
            let mut failed = standings
                .iter()
                .filter_map(|(_, standing)| match standing {
                    Standing::Failed { will_retry, .. } => Some(*will_retry),
                    _ => None,
                })
                .peekable();
            failed.peek().is_some() && failed.all(|will_retry| !will_retry)
        }
    }
}

fn is_refused_room(compiled: &CompiledModel) -> bool {
    let (Placement::LeftOut { reason, .. } | Placement::Kept { reason, .. }) = &compiled.placement else {
        return false;
    };
    *reason == Reason::InsufficientGPUMemory
}

fn fits_memory(compiled: &CompiledModel) -> Claim {
    match &compiled.placement {
        Placement::LeftOut { reason: reason @ Reason::InsufficientGPUMemory, message }
        | Placement::Kept { reason: reason @ Reason::InsufficientGPUMemory, message } => {
            Claim::new(ConditionStatus::False, reason.to_string(), message.clone())
        }
        Placement::Placed | Placement::Kept { .. } => Claim::new(ConditionStatus::True, "Admitted", "the model fits"),
        Placement::LeftOut { reason, .. } => {
            let message = "the model is not in the manifest, so its memory was not checked";
            Claim::new(ConditionStatus::Unknown, reason.to_string(), message)
        }
    }
}

fn servable(serves: usize, counts: &ReplicaCounts, view: &View<'_>) -> Claim {
    let ReplicaCounts { desired, loaded, serving, .. } = counts;
    let serving = serving.unwrap_or(0);
    let wanted = if *loaded < serving { format!(", {loaded} of them as it is wanted now") } else { String::new() };
    match serves {
        0 => Claim::new(ConditionStatus::False, "NoActiveVersion", "no replica serves any version of it"),
        _ => Claim::new(
            ConditionStatus::True,
            "ActiveVersionLoaded",
            format!("{serving} of {desired} replicas of TritonServer {} serve a version of it{wanted}", view.name),
        ),
    }
}

/// Versions that every replica serves, of those that serve any.
fn served_versions<'a>(reports: impl Iterator<Item = &'a ModelReport>) -> Vec<i64> {
    let mut serving = reports.filter(|report| !report.versions.is_empty());
    let Some(first) = serving.next() else { return vec![] };
    let rest: Vec<_> = serving.collect();
    first
        .versions
        .iter()
        .copied()
        .filter(|version| rest.iter().all(|report| report.versions.contains(version)))
        .collect()
}

/// What to say of versions that requests are to be routed to and that are not `served`.
fn unserved_shares(model: &TritonModel, served: &[i64]) -> Option<String> {
    let routed = model.spec.versions.as_ref().map(versions::named)?;
    let absent: Vec<String> =
        routed.into_iter().filter(|version| !served.contains(version)).map(|version| version.to_string()).collect();
    let (noun, verb) = if absent.len() == 1 { ("version", "is") } else { ("versions", "are") };
    (!absent.is_empty()).then(|| {
        format!(
            "{noun} {} of spec.versions {verb} not served, so others get those requests: have the source hold them and the policy name \
             them, or take them out of spec.versions",
            absent.join(", ")
        )
    })
}

/// The content every replica serves, if it is one and the same.
fn served_content<'a>(reports: impl Iterator<Item = &'a ModelReport>) -> Option<String> {
    let mut contents = reports.filter_map(|report| report.serving.as_ref());
    let first = contents.next()?;
    contents.all(|other| other == first).then(|| first.clone())
}

/// Versions the resource names, or those that turned out to be what it asks for.
fn targets(model: &TritonModel, loaded: &[i64]) -> Vec<i64> {
    let policy = model.spec.versions.as_ref().and_then(versions::policy);
    let specific = policy.and_then(|policy| policy.specific);
    let mut versions = specific.map_or_else(|| loaded.to_vec(), |specific| specific.versions);
    versions.sort_unstable();
    versions
}

/// The model on each replica.
fn on_pods(standings: &[(&Replica, Standing<'_>)], reports: &[(&Replica, Option<&ModelReport>)]) -> Vec<ModelOnPod> {
    let all = standings.iter().zip(reports).map(|((replica, standing), (_, report))| ModelOnPod {
        name: replica.name.clone(),
        state: standing.word().to_owned(),
        versions: report.map(|report| report.versions.clone()).unwrap_or_default(),
        content_hash: report.and_then(|report| report.serving.clone()),
    });
    pods::of_model(all.collect(), served_content(reports.iter().filter_map(|(_, report)| *report)).as_deref())
}

fn failures(name: &str, standings: &[(&Replica, Standing<'_>)], view: &View<'_>) -> Vec<ReplicaFailure> {
    let mut failures: Vec<_> = standings
        .iter()
        .filter_map(|(replica, standing)| match standing {
            Standing::Failed { reason, message, will_retry } => Some(ReplicaFailure {
                pod: replica.name.clone(),
                state: if *will_retry { "Retrying" } else { "Failed" }.into(),
                reason: (*reason).to_owned(),
                message: cut(message, FAILURE_MESSAGE_MAX),
            }),
            _ => None,
        })
        .take(FAILURES_MAX)
        .collect();
    // a pod that had to put a content down again does not speak of it any more
    let rollout = view.contents.get(name).and_then(|content| content.rollout);
    if let Some((rollout, failure)) = rollout.and_then(|rollout| Some((rollout, rollout.failure.as_ref()?)))
        && failures.is_empty()
    {
        let is_final = rollout.phase == RolloutPhase::Quarantined;
        failures.push(ReplicaFailure {
            pod: failure.pod.clone(),
            state: if is_final { "Failed" } else { "Retrying" }.into(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
        });
    }
    failures
}

/// The newest failure; one that lasts keeps the time at which it was first seen.
fn last_failure(
    failures: &[ReplicaFailure],
    ready: &Claim,
    is_final: bool,
    before: &TritonModelStatus,
    view: &View<'_>,
) -> Option<LastFailure> {
    let (reason, message) = match failures.first() {
        Some(failure) => (failure.reason.clone(), failure.message.clone()),
        None if is_final => (ready.reason.clone(), cut(&ready.message, FAILURE_MESSAGE_MAX)),
        None => return before.last_failure.clone(),
    };
    match &before.last_failure {
        Some(last) if last.reason == reason && last.message == message => Some(last.clone()),
        _ => Some(LastFailure { reason, version: None, message, time: view.now.clone() }),
    }
}
