//! How a new content of a model comes to the pods of its server: to one first (the canary), then to the others, and no further
//! once it fails. Pure: from the entries wanted, the manifest published last and what the pods report to the manifest to publish
//! and the contents each pod may adopt. Nothing is remembered elsewhere, so an operator that starts anew, or a pod that comes
//! or goes at any moment, leads to the same next step. Each model is judged alone.
//!
//! | what is seen of a content that is not proven | its phase | pods that may serve it |
//! |---|---|---|
//! | it has settled on no pod | `Trial` | the canary |
//! | it has settled on a pod | `Spreading` | those that have it, and a few others at a time |
//! | it has settled on every ready pod, and on one at least | none: it is proven | all |
//! | a pod failed with it, or the end of a server is held against it once | `Stopped` | those that have it |
//! | it has settled on that pod, the pod has gone back, or is gone | one of the first three | |
//! | the ends of [`CRASHES_MAX`] server processes are held against it, on whichever pods | `Quarantined` | none |
//! | the resource asks for another content | that one begins: `Trial`, or proven if it is the former one | |
//!
//! It settles on a pod whose server has lived on with it for a while, which the agent decides: what ends a server shortly after its load,
//! or at its first requests, does so on the canary. An agent that says nothing of that is taken to mean that it serves it.
//!
//! The former content is the one that was proven before, or one that has settled on a pod and serves on all. Pods that may not serve the new one serve it, and a pod is given the
//! new one only when it has come to an end with the former, so that it has something to go back to; or when servers end again and again
//! with the former, for then there is nothing to go back to. Quarantine ends only with
//! the content. Pods whose agent is too old to be told adopt everything at once.

mod adopt;
pub(crate) mod drains;
mod judge;
mod room;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use self::adopt::from_text;
use self::judge::{Content, Sighting};
pub use self::{adopt::to_text, drains::DrainOrder};
use crds::TritonServerSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    Compiled, Manifest, ManifestModel, Reason,
    compile::Placement,
    manifest::{ModelRollout, RolloutPhase},
    replica::{Phase, Replica},
    surge::RollingUpdate,
};

/// Server processes that a content may take down before no pod may serve it any more. The agents count as far.
pub const CRASHES_MAX: u32 = 2;

/// What the rollouts of a server depend on.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The manifest published last.
    pub last: Option<&'a Manifest>,
    /// The pods with what they report.
    pub replicas: &'a [Replica],
    /// Ready pods that may be at work on a content at the same time once a pod serves it; at least one is taken.
    pub at_once: usize,
    /// The time now.
    pub now: &'a Time,
}

/// How many ready pods of a server may be at work on a content at the same time: as many as may be missing.
pub fn at_once(server: &TritonServerSpec) -> usize {
    usize::try_from(RollingUpdate::of(server, false).unavailable).unwrap_or(0).max(1)
}

/// By pod: the contents in rollout it may serve, as [`ManifestModel::adopt_word`]s. Pods that leave are not in it.
pub type Adopt = BTreeMap<String, BTreeSet<String>>;

/// Takes the rollouts of all models one step further: `compiled` holds each model as it is asked for and comes back with the
/// manifest to publish. A content that cannot begin yet is left as it was, which its placement says.
pub fn advance(mut compiled: Compiled, around: &Around<'_>) -> (Compiled, Adopt) {
    let Manifest { namespace, server, models, sources, trace, .. } = compiled.manifest;
    let last = around.last.filter(|last| last.namespace == namespace && last.server == server);
    let mut steps: Vec<Step> = models.into_iter().map(|entry| Step::of(entry, last, around)).collect();
    let waiting = room::make_room(&mut steps, last, around);
    let mut adopt = adopt::decide(&steps, around);
    drains::add(&mut adopt, &steps, around);
    let entries = steps.into_iter().map(|step| step.entry).collect();
    let manifest = Manifest::new(namespace, server, entries).with_sources(sources);
    // the hash that pods report is that of all of it
    compiled.manifest = manifest.with_trace(trace).or_unchanged(last);
    for model in &mut compiled.models {
        if model.placement == Placement::Placed && waiting.contains(&model.name) {
            let message = "the manifest has no room for it beside the former content while other models are rolled out: it \
                           begins when they are done";
            model.placement = Placement::Kept { reason: Reason::Pending, message: message.into() };
        }
    }
    let adopt = adopt::with_unread(adopt, &compiled.manifest, around.replicas);
    (compiled, adopt)
}

/// One model's next step.
struct Step {
    /// The entry to publish.
    entry: ManifestModel,
    /// [`ManifestModel::adopt_word`] of the entry.
    word: String,
    /// Pods that may serve it, by name; all if it is proven.
    pods: BTreeSet<String>,
    /// The content was not in the last manifest.
    is_new: bool,
}

impl Step {
    fn of(mut entry: ManifestModel, last: Option<&Manifest>, around: &Around<'_>) -> Self {
        let hash = entry.content_hash();
        let word = hash[..ManifestModel::ADOPT_WORD].to_owned();
        let last_entry = last.and_then(|last| last.model(&entry.name));
        let last_hash = last_entry.map(ManifestModel::content_hash);
        let is_new = last_hash.as_ref() != Some(&hash);
        let before = match (last_entry, &last_hash) {
            (Some(last), _) if !is_new => last.rollout.clone(),
            (Some(last), Some(last_hash)) if last.resource == entry.resource => {
                let former = proven(last, || is_served(around, &last.name, last_hash));
                let is_former = former.as_ref().is_some_and(|former| former.content_hash() == hash);
                let has_arrived = || has_arrived(last, last_hash, around);
                (!is_former).then(|| begun(former.map(|former| if has_arrived() { itself(last) } else { former })))
            }
            // what another resource made under that name leaves with it
            _ => Some(begun(None)),
        };
        let Some(before) = before else {
            entry.rollout = None;
            return Self { entry, word, pods: BTreeSet::new(), is_new };
        };
        // an agent that does not name the entry follows the manifest as a whole
        let published = last.filter(|_| !is_new).map(|last| last.hash.as_str());
        let former = before.former.as_ref().map(|former| former.content_hash());
        let content = Content { hash: &hash, word: &word, former: former.as_deref() };
        let sightings: Vec<Sighting<'_>> = around
            .replicas
            .iter()
            .filter(|replica| !replica.is_leaving)
            .map(|replica| Sighting::of(replica, &entry.name, &content, published))
            .collect();
        entry.rollout = judge::judge(before, &sightings);
        let pods = entry.rollout.as_ref().map(|rollout| adopt::pods(rollout, &sightings, around.at_once));
        Self { entry, word, pods: pods.unwrap_or_default(), is_new }
    }
}

fn begun(former: Option<ManifestModel>) -> ModelRollout {
    let former = former.map(Box::new);
    ModelRollout { phase: RolloutPhase::Trial, former, crashes: BTreeMap::new(), failure: None }
}

/// What a pod goes on with while the content after `last` is not proven. Where nothing was, that is `last` itself if a pod
/// serves it and it has crashed none: it must not end there for a content that nobody has tried.
fn proven(last: &ManifestModel, is_served: impl FnOnce() -> bool) -> Option<ManifestModel> {
    match &last.rollout {
        None => Some(itself(last)),
        Some(ModelRollout { former: Some(former), .. }) => Some((**former).clone()),
        Some(rollout) => (rollout.crashes.is_empty() && is_served()).then(|| itself(last)),
    }
}

fn itself(last: &ManifestModel) -> ManifestModel {
    ManifestModel { rollout: None, ..last.clone() }
}

/// Whether `last` has settled on a pod and serves on all, and nothing stands against it. Should another content come before it has settled
/// everywhere, going back further than to it would have every pod load what none of them serves any more.
fn has_arrived(last: &ManifestModel, hash: &str, around: &Around<'_>) -> bool {
    let is_well = last.rollout.as_ref().is_some_and(|rollout| {
        rollout.phase == RolloutPhase::Spreading && rollout.crashes.is_empty() && rollout.failure.is_none()
    });
    let serves = |replica: &Replica| {
        let report = replica.report.as_ref().and_then(|report| report.models.get(&last.name));
        report.is_some_and(|report| {
            report.entry.as_deref() == Some(hash) && report.phase == Phase::Ready && report.crashes == 0
        })
    };
    let is_staying = |replica: &&Replica| !replica.is_leaving && (replica.is_ready || drains::is_out(replica));
    let mut staying = around.replicas.iter().filter(is_staying).peekable();
    is_well && staying.peek().is_some() && staying.all(serves)
}

fn is_served(around: &Around<'_>, name: &str, hash: &str) -> bool {
    let reports = around.replicas.iter().filter_map(|replica| replica.report.as_ref()?.models.get(name));
    let mut here = reports.filter(|report| report.entry.as_deref() == Some(hash));
    here.any(|report| report.phase == Phase::Ready)
}

#[cfg(test)]
mod tests;
