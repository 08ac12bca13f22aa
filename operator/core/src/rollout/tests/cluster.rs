//! A cluster of plain values: pods that read manifest and annotation whenever they come to it, agents that do what those say, an
//! operator that may end between any two writes.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde_json::json;

use super::super::*;
use crate::{
    ManifestModel,
    manifest::{ManifestSource, ModelRollout, RolloutPhase},
    replica::{ModelReport, Phase, Replica, Report},
};

/// No pod here says since when it is not ready.
pub(super) const NOW: Time = Time(Timestamp::UNIX_EPOCH);

/// A content: what its name begins with is what becomes of a load.
pub(super) fn content(uri: &str) -> ManifestModel {
    serde_json::from_value(json!({
        "name": "m", "resource": "m", "source": { "http": { "uri": uri } }, "layout": "Auto",
        "config": { "text": "name: \"m\"", "precedence": "Fields" }, "readiness": "Required",
        "load": { "timeout": "60s", "retries": 0, "backoff": "1s" },
    }))
    .unwrap()
}

/// A pod and its agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pod {
    pub(super) name: String,
    age: u32,
    pub(super) annotation: BTreeSet<String>,
    pub(super) is_ready: bool,
    /// What it has read.
    pub(super) manifest: Option<Manifest>,
    pub(super) adopts: BTreeSet<String>,
    /// The entry it follows, and how far it is with it.
    entry: Option<ManifestModel>,
    pub(super) phase: Phase,
    pub(super) crashes: BTreeMap<String, u32>,
    pub(super) serving: Option<ManifestModel>,
    /// What it goes back to when its server ends, and whether that lives on with what it serves.
    before: Option<ManifestModel>,
    pub(super) settled: bool,
}

impl Pod {
    /// What an agent serves of the model of its manifest.
    fn wanted(&self) -> Option<ManifestModel> {
        let entry = self.manifest.as_ref()?.model("m")?;
        let Some(rollout) = &entry.rollout else { return Some(entry.clone()) };
        let serves_former = self.serving.is_some();
        let may = self.adopts.contains(&entry.adopt_word()) && rollout.phase != RolloutPhase::Quarantined;
        if may || (rollout.phase == RolloutPhase::Spreading && !serves_former) {
            return Some(ManifestModel { rollout: None, ..entry.clone() });
        }
        rollout.former.as_deref().cloned()
    }

    /// One step of its agent. Returns the content whose load it began.
    fn work(&mut self) -> Option<String> {
        let wanted = self.wanted();
        if wanted.as_ref().map(ManifestModel::content_hash) != self.entry.as_ref().map(ManifestModel::content_hash) {
            self.entry = wanted;
            let serves = self.serving.as_ref().map(ManifestModel::content_hash);
            let is_served = serves.is_some() && serves == self.entry.as_ref().map(ManifestModel::content_hash);
            self.phase = if is_served { Phase::Ready } else { Phase::Pending };
            self.settled |= !is_served;
            if self.entry.is_none() {
                self.serving = None;
            }
        }
        let mut began = None;
        if let Some(entry) = self.entry.clone() {
            let hash = entry.content_hash();
            let crashes = self.crashes.get(&hash).copied().unwrap_or(0);
            match self.phase {
                Phase::Pending => {
                    self.phase = Phase::Loading;
                    began = Some(hash);
                }
                Phase::Loading if uri(&entry).starts_with("good") || uri(&entry).starts_with("late") => {
                    (self.phase, self.settled) = (Phase::Ready, false);
                    self.before = self.serving.replace(entry);
                }
                Phase::Ready if self.settled => {}
                Phase::Ready if uri(&entry).starts_with("good") => self.settled = true,
                Phase::Ready => {
                    self.serving = self.before.take();
                    self.crashes.insert(hash, crashes + 1);
                    self.phase = if crashes + 1 >= CRASHES_MAX { failed("ServerCrashed") } else { Phase::Pending };
                }
                Phase::Loading if uri(&entry).starts_with("bad") => self.phase = failed("LoadFailed"),
                Phase::Loading => {
                    self.crashes.insert(hash, crashes + 1);
                    let gives_up = crashes + 1 >= CRASHES_MAX;
                    self.phase = if gives_up { failed("ServerCrashed") } else { Phase::Pending };
                }
                _ => {}
            }
        }
        let is_proven = |manifest: &Manifest| manifest.model("m").is_some_and(|model| model.rollout.is_none());
        let waits = self.manifest.as_ref().is_none_or(is_proven) && self.serving.is_none();
        self.is_ready |= !waits;
        began
    }

    fn replica(&self) -> Replica {
        let report = self.entry.as_ref().map(|entry| {
            let hash = entry.content_hash();
            let crashes = self.crashes.get(&hash).copied().unwrap_or(0);
            let settled = (self.phase == Phase::Ready && !self.settled).then_some(false);
            ModelReport { phase: self.phase.clone(), crashes, settled, entry: Some(hash), ..ModelReport::default() }
        });
        let needs_memory = |entry: &&ManifestModel| uri(entry) == "crash-memory" && !self.crashes.is_empty();
        let rollout = self.manifest.as_ref().and_then(|manifest| manifest.model("m")?.rollout.as_ref());
        // the kubelet tells of ends when all is over
        let is_told_late = rollout.is_some_and(|rollout| rollout.phase == RolloutPhase::Quarantined)
            && self.crashes.contains_key(&content("crash-memory-late").content_hash());
        let has_ended = is_told_late || self.entry.as_ref().filter(needs_memory).is_some();
        let memory_end = has_ended.then(|| "it needed more memory".to_owned());
        let mut replica = Replica {
            memory_end,
            restarts: if is_told_late { 2 } else { 0 },
            name: self.name.clone(),
            created: serde_json::from_value(json!(format!("2026-01-01T00:{:02}:00Z", self.age % 60))).ok(),
            has_started: true,
            may_adopt: self.annotation.clone(),
            is_ready: self.is_ready,
            report: self.manifest.as_ref().map(|manifest| Report {
                manifest_hash: Some(manifest.hash.clone()),
                adopts: Some(self.adopts.clone()),
                crashes: Some(0),
                models: report.map(|report| ("m".to_owned(), report)).into_iter().collect(),
                ..Report::default()
            }),
            ..Replica::default()
        };
        replica.explain_ends();
        replica
    }
}

pub(super) fn uri(entry: &ManifestModel) -> &str {
    match &entry.source {
        ManifestSource::Http { uri, .. } => uri,
        _ => "",
    }
}

pub(super) fn failed(reason: &str) -> Phase {
    Phase::Failed { reason: reason.into(), message: "the server's words".into(), will_retry: false }
}

#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) wanted: ManifestModel,
    pub(super) last: Option<Manifest>,
    pub(super) pods: Vec<Pod>,
    made: u32,
    pub(super) at_once: usize,
    /// Contents that have settled on some pod, ever.
    settled: BTreeSet<String>,
    /// Writes of the operator.
    pub(super) writes: u32,
}

impl Cluster {
    /// The operator has its turn, then each pod, which reads at once what the operator wrote.
    pub(super) fn step(&mut self) {
        self.reconcile(false);
        for at in 0..self.pods.len() {
            self.pods[at].manifest = self.last.clone();
            self.pods[at].adopts = self.pods[at].annotation.clone();
            self.work(at);
        }
    }

    pub(super) fn new(uri: &str, pods: u32) -> Self {
        let mut cluster = Self {
            wanted: content(uri),
            last: None,
            pods: vec![],
            made: 0,
            at_once: 1,
            settled: BTreeSet::new(),
            writes: 0,
        };
        (0..pods).for_each(|_| cluster.add());
        cluster
    }

    pub(super) fn add(&mut self) {
        self.made += 1;
        self.pods.push(Pod { name: format!("pod-{:02}", self.made), age: self.made, ..Pod::default() });
    }

    /// A reconcile; one that is broken off publishes the manifest and annotates no pod.
    pub(super) fn reconcile(&mut self, is_broken_off: bool) {
        let replicas: Vec<_> = self.pods.iter().map(Pod::replica).collect();
        let around = Around { last: self.last.as_ref(), replicas: &replicas, at_once: self.at_once, now: &NOW };
        let (compiled, adopt) = advance(compiled(vec![self.wanted.clone()]), &around);
        self.writes += u32::from(self.last.as_ref() != Some(&compiled.manifest));
        self.last = Some(compiled.manifest);
        for pod in self.pods.iter_mut().filter(|_| !is_broken_off) {
            self.writes += u32::from(pod.annotation != adopt[&pod.name]);
            pod.annotation = adopt[&pod.name].clone();
        }
    }

    pub(super) fn work(&mut self, at: usize) {
        let began = self.pods[at].work();
        if let Some(hash) = began.filter(|hash| !self.settled.contains(hash)) {
            let tries_it = |pod: &&Pod| {
                pod.entry.as_ref().is_some_and(|entry| entry.content_hash() == hash) && pod.phase != Phase::Pending
            };
            let trying: Vec<_> = self.pods.iter().filter(tries_it).map(|pod| pod.name.as_str()).collect();
            assert!(trying.len() < 2, "{trying:?} try a content that has settled nowhere");
        }
        let settled = self.pods.iter().filter(|pod| pod.settled).filter_map(|pod| pod.serving.as_ref());
        self.settled.extend(settled.map(ManifestModel::content_hash));
    }

    /// Everybody does everything, often enough to come to rest.
    pub(super) fn settle(&mut self) {
        for _ in 0..60 {
            let before = (self.writes, self.pods.clone());
            self.step();
            if before == (self.writes, self.pods.clone()) {
                return;
            }
        }
        panic!("it does not come to rest: {self:?}");
    }

    pub(super) fn rollout(&self) -> Option<&ModelRollout> {
        self.last.as_ref()?.model("m")?.rollout.as_ref()
    }

    pub(super) fn serving(&self) -> Vec<&str> {
        self.pods.iter().map(|pod| pod.serving.as_ref().map_or("", uri)).collect()
    }

    pub(super) fn phase(&self) -> Option<RolloutPhase> {
        self.rollout().map(|rollout| rollout.phase)
    }
}

pub(super) fn compiled(models: Vec<ManifestModel>) -> Compiled {
    let manifest = Manifest::new("ml", "vision", models);
    Compiled { manifest, problems: vec![], models: vec![], gpu_memory: None }
}
