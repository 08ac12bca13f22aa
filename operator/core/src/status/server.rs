//! The status of a TritonServer: whether its pods are those asked for and serve, and what its models came to.

use crds::{
    TritonServerStatus,
    parts::{ConditionStatus, autoscaling::AutoscalingStatus, condition},
    server::{Endpoints, GpuMemoryStatus, ModelCounts},
};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    conditions::{Claim, Conditions, SCALED_TO_ZERO},
    model,
    pods::{self, unread},
    unready::Unready,
    view::{Outcome, Seen, View},
};
use crate::{
    Problem, Reason,
    build::Applied,
    build::Resources,
    labels, pod,
    replica::{Phase, Replica},
    text::joined,
};

/// Most models that are named for holding up pods.
const HELD_UP_MAX: usize = 3;

/// Whether the server is what was asked for.
#[derive(Clone, Debug)]
pub(super) struct Readiness {
    pub(super) ready: Claim,
    /// Waiting cannot help.
    pub(super) is_final: bool,
    /// It is not ready because it is not to be: nothing is under way.
    pub(super) is_at_rest: bool,
}

/// Whether the pods are those asked for and serve.
pub(super) fn readiness(seen: &Seen<'_>) -> Readiness {
    let no = |reason: &str, message: String, is_final| Readiness {
        ready: Claim::new(ConditionStatus::False, reason, message),
        is_final,
        is_at_rest: false,
    };
    match &seen.outcome {
        Outcome::Refused(problems) => {
            let only = problems.first().filter(|first| problems.iter().all(|problem| problem.reason == first.reason));
            let reason = only.map_or(Reason::InvalidSpec, |problem| problem.reason);
            no(&reason.to_string(), sentences(problems), reason.is_final())
        }
        Outcome::Failed { reason, message, is_final } => no(reason, (*message).to_owned(), *is_final),
        Outcome::Applied(Resources { refusal: Some(refusal), .. }) => {
            no(refusal.reason, refusal.message.clone(), refusal.is_final)
        }
        Outcome::Applied(resources) => {
            let deployment = &resources.deployment;
            let mut counts = Counts::of(deployment);
            counts.is_current |= is_no_change_of_ours(seen, deployment);
            of_deployment(deployment, counts, seen.replicas, resources.endpoint_slice.is_some(), seen.now)
        }
    }
}

/// Whether a generation of the Deployment that its controller has not seen is nothing that was asked for here: somebody else's
/// annotation counts as one, too. Then what was said before still holds until the controller says otherwise.
fn is_no_change_of_ours(seen: &Seen<'_>, deployment: &Deployment) -> bool {
    let is_ours = seen.deployment_before.is_none_or(|it| it.metadata.generation != deployment.metadata.generation);
    let ready = condition::find(&seen.before.conditions, "Ready");
    let was_ready = ready.is_some_and(|ready| {
        ready.status == ConditionStatus::True && ready.observed_generation == seen.server.metadata.generation
    });
    was_ready && !is_ours
}

/// What `Ready` says: how it stands, and what is not quite as asked for.
fn with_remarks(ready: &Claim, outcome: &Outcome<'_>, replicas: &[Replica]) -> Claim {
    let Outcome::Applied(resources) = outcome else { return ready.clone() };
    let unread = replicas.iter().filter(|replica| !replica.is_leaving).filter_map(unread);
    let sentences = [ready.message.clone()].into_iter().chain(resources.remarks.iter().cloned()).chain(unread);
    Claim { message: joined(sentences), ..ready.clone() }
}

/// Which replicas cannot be reached. The kubelet, or the node controller in its place, may call them ready for a while.
fn unreachable(replicas: &[Replica]) -> Option<String> {
    let unreachable = replicas.iter().filter(|replica| !replica.is_leaving).filter_map(|replica| {
        replica.unreachable.as_ref().map(|why| format!("{} cannot be reached: {why}", replica.name))
    });
    let all: Vec<_> = unreachable.collect();
    (!all.is_empty()).then(|| joined(all))
}

/// Which models a pod that is not ready could not load, so far: it may wait for them.
fn held_up(replicas: &[Replica]) -> Option<String> {
    let starting = replicas.iter().filter(|replica| !replica.is_leaving && !replica.is_ready);
    let failed = starting.flat_map(|replica| {
        let models = replica.report.iter().flat_map(|report| &report.models);
        models.filter_map(|(name, model)| match &model.phase {
            Phase::Failed { reason, message, .. } => {
                Some(format!("{} has not loaded model '{name}': {reason}: {message}", replica.name))
            }
            _ => None,
        })
    });
    let all: Vec<_> = failed.take(HELD_UP_MAX).collect();
    (!all.is_empty()).then(|| joined(all))
}

/// Which pods are out of the Service to reload models.
fn reloading(replicas: &[Replica]) -> Option<String> {
    let out = replicas.iter().filter(|replica| !replica.is_leaving && !replica.is_ready && replica.is_out());
    let names: Vec<&str> = out.map(|replica| replica.name.as_str()).collect();
    let message = || {
        let names = names.join(", ");
        format!(
            "{names} gets no requests while it unloads a model and loads what follows it (loadPolicy.order: UnloadFirst)"
        )
    };
    (!names.is_empty()).then(message)
}

/// The problems of a server in one text.
fn sentences(problems: &[Problem]) -> String {
    joined(problems.iter().map(ToString::to_string))
}

/// `is_woken`: a request starts a replica where there is none.
fn of_deployment(
    deployment: &Deployment,
    counts: Counts,
    replicas: &[Replica],
    is_woken: bool,
    now: &Time,
) -> Readiness {
    let wanted = wanted(deployment);
    let claim = |status, reason: &str, message: String| Readiness {
        ready: Claim::new(status, reason, message),
        is_final: false,
        is_at_rest: wanted == 0,
    };
    let is_seen = counts.is_current && counts.updated >= wanted && counts.all <= wanted;
    if is_seen && wanted == 0 {
        let message = match is_woken {
            true => "no replica runs while nobody asks: the next request starts one",
            false => "the spec asks for no replicas, and none run",
        };
        return claim(ConditionStatus::True, SCALED_TO_ZERO, message.into());
    }
    let unreachable = unreachable(replicas);
    if is_seen && counts.available >= wanted && unreachable.is_none() {
        let message = format!("{} of {wanted} replicas are ready", counts.ready);
        return claim(ConditionStatus::True, "AllReplicasReady", message);
    }
    let stage = Stage::of(&counts, wanted);
    let message = stage.message(&counts, wanted);
    let condition = |type_: &str| {
        deployment.status.iter().flat_map(|status| status.conditions.iter().flatten()).find(move |it| it.type_ == type_)
    };
    let overdue = condition("Progressing").is_some_and(|it| it.reason.as_deref() == Some("ProgressDeadlineExceeded"));
    let troubled = replicas.iter().find_map(|replica| {
        let trouble = replica.trouble.as_ref().filter(|_| !replica.is_leaving)?;
        Some((trouble.reason.clone(), format!("{}: {}", replica.name, trouble.message)))
    });
    let refused = condition("ReplicaFailure").filter(|it| it.status == "True").map(|it| {
        (it.reason.clone().unwrap_or_else(|| "ReplicaFailure".into()), it.message.clone().unwrap_or_default())
    });
    let unreachable = unreachable.map(|why| ("ReplicaUnreachable".to_owned(), why));
    let (mut reason, why) = match troubled.or(refused).or(unreachable) {
        Some((reason, why)) => (reason, Some(why)),
        None => match (stage, reloading(replicas)) {
            (Stage::Starting, Some(why)) => ("ReloadingModels".to_owned(), Some(why)),
            (Stage::Starting | Stage::Rolling | Stage::Ending, _) => {
                let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
                let unready = Unready::of(replicas, namespace, overdue, now);
                let reason = unready.reason.unwrap_or(stage.reason()).to_owned();
                let why = joined(held_up(replicas).into_iter().chain(unready.sentences));
                (reason, (!why.is_empty()).then_some(why))
            }
            (Stage::AboutToRoll | Stage::ScalingDown | Stage::Settling, _) => (stage.reason().to_owned(), None),
        },
    };
    let message = joined([message].into_iter().chain(why));
    if overdue {
        reason = "ProgressDeadlineExceeded".to_owned();
    }
    Readiness {
        ready: Claim::new(ConditionStatus::False, reason, message),
        is_final: overdue && counts.is_current,
        is_at_rest: false,
    }
}

/// What is under way with the pods of a Deployment that is not as it shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its controller has not seen the newest spec.
    AboutToRoll,
    /// Pods of an older template are replaced.
    Rolling,
    /// Pods of an older template are on their way out.
    Ending,
    /// There are more pods than shall be.
    ScalingDown,
    /// There are fewer that are ready.
    Starting,
    /// All are ready, some for a moment only.
    Settling,
}

impl Stage {
    fn of(counts: &Counts, wanted: i32) -> Self {
        let is_current = counts.is_current;
        match () {
            () if wanted == 0 => Self::ScalingDown,
            () if counts.updated < counts.all && !is_current => Self::AboutToRoll,
            () if counts.updated < counts.all && counts.updated < wanted => Self::Rolling,
            () if counts.updated < counts.all => Self::Ending,
            () if counts.all > wanted => Self::ScalingDown,
            () if counts.ready < wanted && (is_current || counts.all < wanted) => Self::Starting,
            () if is_current || counts.all == 0 => Self::Settling,
            () => Self::AboutToRoll,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::AboutToRoll | Self::Rolling | Self::Ending => "RollingPods",
            Self::ScalingDown => "ScalingDown",
            Self::Starting | Self::Settling => "StartingReplicas",
        }
    }

    fn message(self, counts: &Counts, wanted: i32) -> String {
        let ready = format!("{} of {wanted} replicas are ready", counts.ready.min(wanted));
        let surplus = counts.all - wanted;
        match self {
            Self::AboutToRoll => format!("{ready}, and their replacement has not begun yet"),
            Self::Rolling => format!("{ready}, {} pods have the newest pod template", counts.updated),
            Self::Ending => {
                format!("{ready}, {} with an older pod template have not ended yet", counts.all - counts.updated)
            }
            Self::ScalingDown if wanted == 0 && counts.all == 0 => {
                "no replicas are asked for, and none are left; the Deployment's controller has not seen its newest spec yet".into()
            }
            Self::ScalingDown if wanted == 0 => {
                format!("no replicas are asked for, and {} have not ended yet", counts.all)
            }
            Self::ScalingDown => format!("{ready}, and {surplus} more than are asked for have not ended yet"),
            Self::Starting => ready,
            Self::Settling if counts.available < wanted => {
                format!("{ready}, {} of them not yet long enough to be counted", wanted - counts.available)
            }
            Self::Settling => ready,
        }
    }
}

/// The status of the server in `view`.
pub(super) fn of(
    seen: &Seen<'_>,
    readiness: &Readiness,
    autoscaling: Option<(Claim, AutoscalingStatus)>,
    models: &[(&crds::TritonModel, crds::TritonModelStatus)],
    view: &View<'_>,
) -> TritonServerStatus {
    let generation = seen.server.metadata.generation;
    let deployment = view.deployment;
    let counts = deployment.map(Counts::of).unwrap_or_default();
    let loaded = models.iter().filter(|(_, status)| model::is_loaded(status)).count();
    let failed = models.iter().filter(|(_, status)| model::has_failed(status)).count();

    let mut conditions = Conditions::new(&seen.before.conditions, generation, view.now);
    conditions.set("Ready", &with_remarks(&readiness.ready, &seen.outcome, view.replicas));
    conditions.set("Available", &available(&counts, view));
    conditions.set("ModelsLoaded", &models_loaded(models, readiness.is_at_rest));
    if let Some((active, _)) = &autoscaling {
        conditions.set("AutoscalingActive", active);
    }
    let Claim { reason, message, .. } = &readiness.ready;
    let is_under_way = !readiness.ready.is_true() && !readiness.is_final && !readiness.is_at_rest;
    conditions.set_while(is_under_way, "Reconciling", reason, message);
    conditions.set_while(!readiness.ready.is_true() && readiness.is_final, "Stalled", reason, message);

    TritonServerStatus {
        observed_generation: generation,
        replicas: Some(counts.all),
        ready_replicas: Some(counts.ready),
        updated_replicas: Some(counts.updated),
        autoscaling: autoscaling.map(|(_, numbers)| numbers),
        selector: Some(labels::to_selector_text(&labels::selector(view.name))),
        manifest_hash: view.published.then(|| view.manifest.hash.clone()),
        image: deployment.and_then(image),
        image_digest: pods::image_digest(view.replicas),
        pods: pods::of_server(view),
        models: Some(ModelCounts { desired: whole(models.len()), loaded: whole(loaded), failed: whole(failed) }),
        gpu_memory: view.gpu_memory.map(|memory| GpuMemoryStatus {
            budget: Some(memory.budget),
            requested: Some(memory.requested),
            measured_max: pods::gpu_memory(view.replicas),
        }),
        endpoints: Some(Endpoints {
            http: Some(format!("{}://{}:{}", view.scheme, view.host, pod::HTTP_PORT)),
            grpc: Some(format!("{}:{}", view.host, pod::GRPC_PORT)),
            metrics: Some(format!("{}://{}:{}/metrics", view.scheme, view.host, pod::METRICS_PORT)),
        }),
        conditions: conditions.into_vec(),
    }
}

/// Replicas the Deployment is to have.
pub(super) fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The Deployment of what was applied.
pub(super) fn deployment(resources: &Resources<Applied>) -> &Deployment {
    &resources.deployment
}

/// Pods of a Deployment.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    all: i32,
    ready: i32,
    updated: i32,
    available: i32,
    /// The numbers speak of the newest spec.
    is_current: bool,
}

impl Counts {
    fn of(deployment: &Deployment) -> Self {
        let DeploymentStatus {
            replicas,
            ready_replicas,
            updated_replicas,
            available_replicas,
            observed_generation,
            ..
        } = deployment.status.clone().unwrap_or_default();
        Self {
            all: replicas.unwrap_or(0),
            ready: ready_replicas.unwrap_or(0),
            updated: updated_replicas.unwrap_or(0),
            available: available_replicas.unwrap_or(0),
            is_current: observed_generation.is_some() && observed_generation >= deployment.metadata.generation,
        }
    }
}

fn available(counts: &Counts, view: &View<'_>) -> Claim {
    match counts.ready {
        0 => {
            let is_at_rest = view.desired == 0 && view.deployment.is_some();
            let (reason, why) = if is_at_rest {
                (SCALED_TO_ZERO, "no replicas are asked for")
            } else {
                ("NoReplicaReady", "no replica is ready")
            };
            Claim::new(ConditionStatus::False, reason, why)
        }
        _ => Claim::new(ConditionStatus::True, "MinimumReplicasAvailable", "at least one replica is ready"),
    }
}

fn models_loaded(models: &[(&crds::TritonModel, crds::TritonModelStatus)], is_at_rest: bool) -> Claim {
    use ConditionStatus::{False, True};
    let names = |is: fn(&crds::TritonModelStatus) -> bool| {
        let names: Vec<_> = models
            .iter()
            .filter(|(_, status)| is(status))
            .map(|(model, _)| model.metadata.name.as_deref().unwrap_or_default())
            .collect();
        names.join(", ")
    };
    if models.is_empty() {
        return Claim::new(True, "NoModels", "no TritonModel names this server");
    }
    let failed = names(model::has_failed);
    if !failed.is_empty() {
        return Claim::new(False, "SomeModelsFailed", format!("failed: {failed}"));
    }
    let missing = names(|status| !model::is_loaded(status));
    if missing.is_empty() {
        Claim::new(True, "AllModelsLoaded", "every model is loaded on every replica")
    } else if is_at_rest {
        Claim::new(False, SCALED_TO_ZERO, "no replica runs, so none has a model loaded")
    } else {
        Claim::new(False, "ModelsLoading", format!("not yet loaded everywhere: {missing}"))
    }
}

fn image(deployment: &Deployment) -> Option<String> {
    let containers = &deployment.spec.as_ref()?.template.spec.as_ref()?.containers;
    containers.iter().find(|container| container.name == pod::SERVER_CONTAINER)?.image.clone()
}

fn whole(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
