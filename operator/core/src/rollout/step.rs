//! The next step of one model's rollout: the entry to publish, and the pods that may serve it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    judge::{self, Content, Sighting},
    pods,
};
use crate::{
    Manifest, ManifestModel,
    manifest::{ModelRollout, RolloutPhase},
    replica::{Phase, Replica},
};

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

/// One model's next step.
pub(super) struct Step {
    /// The entry to publish.
    pub(super) entry: ManifestModel,
    /// [`ManifestModel::adopt_word`] of the entry.
    pub(super) word: String,
    /// Pods that may serve it, by name; all if it is proven.
    pub(super) pods: BTreeSet<String>,
    /// The content was not in the last manifest.
    pub(super) is_new: bool,
}

impl Step {
    pub(super) fn of(mut entry: ManifestModel, last: Option<&Manifest>, around: &Around<'_>) -> Self {
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
        let pods = entry.rollout.as_ref().map(|rollout| pods::pods(rollout, &sightings, around.at_once));
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
    let is_staying = |replica: &&Replica| !replica.is_leaving && (replica.is_ready || replica.is_out());
    let mut staying = around.replicas.iter().filter(is_staying).peekable();
    is_well && staying.peek().is_some() && staying.all(serves)
}

fn is_served(around: &Around<'_>, name: &str, hash: &str) -> bool {
    let reports = around.replicas.iter().filter_map(|replica| replica.report.as_ref()?.models.get(name));
    let mut here = reports.filter(|report| report.entry.as_deref() == Some(hash));
    here.any(|report| report.phase == Phase::Ready)
}
