//! Step 5 of a reconcile: what was applied and what the pods say become the statuses of the server and of its models. Rules
//! of kstatus: `Ready` speaks of this very generation; `Reconciling` and `Stalled` are there only while they hold; the time
//! of a condition moves only with its status. Nothing in a status changes while nothing happens.

mod autoscaling;
mod conditions;
mod failure;
mod model;
mod pods;
mod progress;
mod server;
mod unready;
mod view;

use std::ptr;

use crds::{TritonModel, TritonModelStatus, TritonServerStatus};

use self::view::{Content, View};
pub use self::{
    failure::{RECONCILE_FAILED, with_failure},
    model::without_server,
    progress::{is_progress_of_model, is_progress_of_server},
    view::{Outcome, Seen},
};
use crate::{
    Compiled, ManifestModel, ObjectRef, names,
    replica::{Phase, Replica},
    tls,
};

/// The statuses after a reconcile.
#[derive(Clone, Debug, PartialEq)]
pub struct Statuses {
    /// Of the server.
    pub server: TritonServerStatus,
    /// Of its models.
    pub models: Vec<(ObjectRef, TritonModelStatus)>,
    /// How soon to reconcile again.
    pub activity: Activity,
}

/// How soon a server has to be reconciled again, if no event comes meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing is under way.
    Settled,
    /// Cluster or pods are at work, and send events.
    Waiting,
    /// Every node has to learn that a pod began or ceased to get requests, of which no event comes.
    Propagating,
}

/// The statuses of a server and its models.
pub fn statuses(seen: &Seen<'_>) -> Statuses {
    let readiness = server::readiness(seen);
    let (deployment, manifest, published) = match &seen.outcome {
        Outcome::Applied(resources) => (Some(server::deployment(resources)), &seen.compiled.manifest, true),
        Outcome::Refused(_) | Outcome::Failed { .. } => {
            let manifest = seen.manifest_before.unwrap_or(&seen.compiled.manifest);
            (seen.deployment_before, manifest, seen.manifest_before.is_some())
        }
    };
    let name = seen.server.metadata.name.as_deref().unwrap_or_default();
    let view = View {
        name,
        host: format!("{name}.{}.svc", names::namespace(seen.server)),
        scheme: tls::scheme(&seen.server.spec),
        desired: deployment.map_or(0, server::wanted),
        manifest,
        contents: manifest
            .models
            .iter()
            .map(|entry| {
                let hash = entry.content_hash();
                let word = hash[..ManifestModel::ADOPT_WORD].to_owned();
                let next = seen.compiled.manifest.model(&entry.name);
                let is_wanted = next.is_some_and(|next| ptr::eq(next, entry) || next.content_hash() == hash);
                let content = Content { hash, word, is_wanted, rollout: entry.rollout.as_ref() };
                (entry.name.as_str(), content)
            })
            .collect(),
        published,
        deployment,
        replicas: seen.replicas,
        gpu_memory: seen.compiled.gpu_memory,
        refusal: match &seen.outcome {
            Outcome::Applied(_) => None,
            Outcome::Refused(_) | Outcome::Failed { .. } => Some(readiness.ready.message.clone()),
        },
        readiness: readiness.ready.clone(),
        now: seen.now,
    };
    let models: Vec<(&TritonModel, TritonModelStatus)> = seen
        .models
        .iter()
        .filter_map(|(resource, before)| {
            let object = names::object(*resource);
            let compiled = compiled_model(seen.compiled, &object)?;
            Some((*resource, model::of(resource, compiled, before, &view)))
        })
        .collect();
    let autoscaling = autoscaling::of(seen);
    let is_measured_soon = autoscaling.as_ref().is_some_and(|(claim, _)| autoscaling::is_awaited(claim));
    let server = server::of(seen, &readiness, autoscaling, &models, &view);
    let is_settled = (readiness.ready.is_true() || readiness.is_final || readiness.is_at_rest)
        && models.iter().all(|(_, status)| model::is_loaded(status) || is_at_rest(status));
    let activity = if seen.replicas.iter().any(|replica| replica.is_recent(seen.now)) {
        Activity::Propagating
    } else if is_settled && !is_measured_soon && !seen.replicas.iter().any(|replica| is_busy(replica, &manifest.hash)) {
        Activity::Settled
    } else {
        Activity::Waiting
    };
    let models = models.into_iter().map(|(model, status)| (names::object(model), status)).collect();
    Statuses { server, models, activity }
}

/// Whether a pod is at work on its models.
fn is_busy(replica: &Replica, manifest_hash: &str) -> bool {
    let Some(report) = replica.report.as_ref().filter(|_| !replica.is_leaving) else { return false };
    let is_behind = report.manifest_hash.as_deref().is_some_and(|hash| hash != manifest_hash);
    is_behind
        || report
            .models
            .values()
            .any(|model| matches!(model.phase, Phase::Pending | Phase::Downloading | Phase::Loading | Phase::Unloading))
}

/// Whether nothing is under way for a model.
fn is_at_rest(status: &TritonModelStatus) -> bool {
    crds::parts::condition::find(&status.conditions, "Reconciling").is_none()
}

fn compiled_model<'a>(compiled: &'a Compiled, object: &ObjectRef) -> Option<&'a crate::compile::CompiledModel> {
    compiled.models.binary_search_by(|model| model.object.cmp(object)).ok().map(|at| &compiled.models[at])
}
