//! Rollouts in a cluster of plain values: pods that read manifest and annotation whenever they come to it, agents that do what
//! those say, an operator that may end between any two writes.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    ManifestModel,
    manifest::{ManifestTrace, ModelRollout, RolloutPhase},
    replica::{ModelReport, Phase, Replica, Report},
    source_rules::SourceRules,
};

/// No pod here says since when it is not ready.
const NOW: Time = Time(Timestamp::UNIX_EPOCH);

/// A content: what its name begins with is what becomes of a load.
fn content(uri: &str) -> ManifestModel {
    serde_json::from_value(json!({
        "name": "m", "resource": "m", "source": { "http": { "uri": uri } }, "layout": "Auto",
        "config": { "text": "name: \"m\"", "precedence": "Fields" }, "readiness": "Required",
        "load": { "timeout": "60s", "retries": 0, "backoff": "1s" },
    }))
    .unwrap()
}

/// A pod and its agent.
#[derive(Clone, Debug, Default, PartialEq)]
struct Pod {
    name: String,
    age: u32,
    annotation: BTreeSet<String>,
    is_ready: bool,
    /// What it has read.
    manifest: Option<Manifest>,
    adopts: BTreeSet<String>,
    /// The entry it follows, and how far it is with it.
    entry: Option<ManifestModel>,
    phase: Phase,
    crashes: BTreeMap<String, u32>,
    serving: Option<ManifestModel>,
    /// What it goes back to when its server ends, and whether that lives on with what it serves.
    before: Option<ManifestModel>,
    settled: bool,
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

fn uri(entry: &ManifestModel) -> &str {
    match &entry.source {
        crate::manifest::ManifestSource::Http { uri, .. } => uri,
        _ => "",
    }
}

fn failed(reason: &str) -> Phase {
    Phase::Failed { reason: reason.into(), message: "the server's words".into(), will_retry: false }
}

#[derive(Clone, Debug)]
struct Cluster {
    wanted: ManifestModel,
    last: Option<Manifest>,
    pods: Vec<Pod>,
    made: u32,
    at_once: usize,
    /// Contents that have settled on some pod, ever.
    settled: BTreeSet<String>,
    /// Writes of the operator.
    writes: u32,
}

impl Cluster {
    /// The operator has its turn, then each pod, which reads at once what the operator wrote.
    fn step(&mut self) {
        self.reconcile(false);
        for at in 0..self.pods.len() {
            self.pods[at].manifest = self.last.clone();
            self.pods[at].adopts = self.pods[at].annotation.clone();
            self.work(at);
        }
    }

    fn new(uri: &str, pods: u32) -> Self {
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

    fn add(&mut self) {
        self.made += 1;
        self.pods.push(Pod { name: format!("pod-{:02}", self.made), age: self.made, ..Pod::default() });
    }

    /// A reconcile; one that is broken off publishes the manifest and annotates no pod.
    fn reconcile(&mut self, is_broken_off: bool) {
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

    fn work(&mut self, at: usize) {
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
    fn settle(&mut self) {
        for _ in 0..60 {
            let before = (self.writes, self.pods.clone());
            self.reconcile(false);
            for at in 0..self.pods.len() {
                self.pods[at].manifest = self.last.clone();
                self.pods[at].adopts = self.pods[at].annotation.clone();
                self.work(at);
            }
            if before == (self.writes, self.pods.clone()) {
                return;
            }
        }
        panic!("it does not come to rest: {self:?}");
    }

    fn rollout(&self) -> Option<&ModelRollout> {
        self.last.as_ref()?.model("m")?.rollout.as_ref()
    }

    fn serving(&self) -> Vec<&str> {
        self.pods.iter().map(|pod| pod.serving.as_ref().map_or("", uri)).collect()
    }

    fn phase(&self) -> Option<RolloutPhase> {
        self.rollout().map(|rollout| rollout.phase)
    }
}

fn compiled(models: Vec<ManifestModel>) -> Compiled {
    let manifest = Manifest::new("ml", "vision", models);
    Compiled { manifest, problems: vec![], models: vec![], gpu_memory: None }
}

#[test]
fn a_good_content_is_proven_and_leaves_no_trace() {
    let mut cluster = Cluster::new("good-1", 3);
    cluster.settle();
    cluster.wanted = content("good-2");
    cluster.settle();
    assert_eq!((cluster.serving(), cluster.phase()), (vec!["good-2"; 3], None));
    assert!(cluster.pods.iter().all(|pod| pod.annotation.is_empty()));
    let before = cluster.writes;
    cluster.settle();
    assert_eq!(cluster.writes, before, "nothing is written when nothing happens");
}

#[test]
fn what_sources_may_use_is_published_with_the_contents() {
    let mut all = compiled(vec![content("good-1")]);
    let rules = SourceRules { secrets: Some(vec![]), ..SourceRules::default() };
    all.manifest = all.manifest.with_sources(rules.clone());
    let next = advance(all, &Around { last: None, replicas: &[], at_once: 1, now: &NOW }).0.manifest;
    assert_eq!(next.sources, rules);
    assert!(Manifest::from_json(&next.to_json()).is_ok(), "and hashed with them");
}

#[test]
fn a_pod_has_read_a_manifest_with_the_trace_in_it() {
    let trace =
        ManifestTrace { collector: "http://collector:4318".into(), id: "0af7651916cd43dd8448eb211c80319c".into() };
    let mut all = compiled(vec![content("good-1")]);
    all.manifest = all.manifest.with_trace(Some(trace));
    let last = all.manifest.clone();
    let report = Report { manifest_hash: Some(last.hash.clone()), ..Report::default() };
    let may_adopt = BTreeSet::from([last.models[0].adopt_word()]);
    let pod = Replica { name: "pod-01".into(), may_adopt, report: Some(report), ..Replica::default() };
    let (next, adopt) = advance(all, &Around { last: Some(&last), replicas: &[pod], at_once: 1, now: &NOW });
    assert_eq!(next.manifest, last, "the trace is published");
    assert_eq!(adopt["pod-01"], BTreeSet::new(), "what is proven needs no word any more");
}

#[test]
fn what_fails_on_the_canary_stops_there() {
    let quarantined = |uri| (uri, RolloutPhase::Quarantined, 2);
    for (uri, phase, crashes) in [("bad", RolloutPhase::Stopped, 0), quarantined("crash"), quarantined("late")] {
        let mut cluster = Cluster::new("good-1", 3);
        cluster.settle();
        cluster.wanted = content(uri);
        cluster.settle();
        assert_eq!((cluster.serving(), cluster.phase()), (vec!["good-1"; 3], Some(phase)));
        let rollout = cluster.rollout().unwrap();
        assert_eq!((rollout.crash_count(), rollout.failure.as_ref().unwrap().pod.as_str()), (crashes, "pod-01"));
        // a new pod serves what is proven
        cluster.add();
        cluster.settle();
        assert_eq!((cluster.serving(), cluster.phase()), (vec!["good-1"; 4], Some(phase)));
        // repaired
        cluster.wanted = content("good-3");
        cluster.settle();
        assert_eq!((cluster.serving(), cluster.phase()), (vec!["good-3"; 4], None));
    }
}

#[test]
fn the_kubelet_may_say_later_than_the_agent_that_a_content_needs_too_much_memory() {
    for first in ["good-1", "crash-memory-late"] {
        let mut cluster = Cluster::new(first, 2);
        cluster.settle();
        cluster.wanted = content("crash-memory-late");
        let mut told = vec![];
        for _ in 0..40 {
            cluster.step();
            let rollout = cluster.rollout().filter(|rollout| rollout.phase == RolloutPhase::Quarantined);
            told.extend(rollout.and_then(|rollout| rollout.failure.clone()).map(|failure| failure.reason));
        }
        told.dedup();
        let expected: &[&str] = if first == "good-1" { &["ServerCrashed", "OOMKilled"] } else { &["OOMKilled"] };
        assert_eq!(told, expected, "{first}");
        let failure = cluster.rollout().unwrap().failure.clone().unwrap();
        assert!(failure.message.starts_with("it needed more memory; "), "{failure:?}");
        assert_eq!(failure.reported_restarts, None);
    }
}

#[test]
fn a_content_that_needs_too_much_memory_is_stopped_for_that_and_not_for_a_crash() {
    let mut cluster = Cluster::new("good-1", 2);
    cluster.settle();
    cluster.wanted = content("crash-memory");
    let mut told = std::collections::BTreeSet::new();
    for _ in 0..40 {
        cluster.step();
        let failure = cluster.rollout().and_then(|rollout| rollout.failure.clone());
        told.extend(failure.map(|failure| (failure.reason, failure.message.starts_with("it needed more memory; "))));
    }
    assert_eq!(cluster.phase(), Some(RolloutPhase::Quarantined));
    assert_eq!(told, [("OOMKilled".to_owned(), true)].into());
}

#[test]
fn crashes_of_a_pod_that_is_gone_still_count() {
    let mut cluster = Cluster::new("good-1", 2);
    cluster.settle();
    cluster.wanted = content("crash");
    while cluster.rollout().is_none_or(|rollout| rollout.crash_count() == 0) {
        cluster.reconcile(false);
        for at in 0..2 {
            cluster.pods[at].manifest = cluster.last.clone();
            cluster.pods[at].adopts = cluster.pods[at].annotation.clone();
            if cluster.pods[at].crashes.is_empty() {
                cluster.work(at);
            }
        }
    }
    cluster.pods.remove(0);
    cluster.add();
    cluster.settle();
    assert_eq!(cluster.phase(), Some(RolloutPhase::Quarantined));
    let crashed: u32 = cluster.pods.iter().flat_map(|pod| pod.crashes.values()).sum();
    assert_eq!((crashed, cluster.serving()), (1, vec!["good-1"; 2]), "one more, on another pod");
}

#[test]
fn a_content_spreads_once_it_has_settled_and_is_proven_once_it_has_everywhere() {
    let mut cluster = Cluster::new("good-1", 2);
    cluster.settle();
    cluster.wanted = content("good-2");
    let mut phases = vec![];
    for _ in 0..40 {
        cluster.step();
        let state = |pod: &Pod| match pod.serving.as_ref().map(uri) {
            Some("good-2") if pod.settled => 's',
            Some("good-2") => 'n',
            _ => 'o',
        };
        let seen = (cluster.phase(), cluster.pods.iter().map(state).collect::<String>());
        if phases.last() != Some(&seen) {
            phases.push(seen);
        }
    }
    // what the operator says is what it saw before the pods went on
    let expected = [
        (Some(RolloutPhase::Trial), "oo"),
        (Some(RolloutPhase::Trial), "no"),
        (Some(RolloutPhase::Trial), "so"),
        (Some(RolloutPhase::Spreading), "so"),
        (Some(RolloutPhase::Spreading), "sn"),
        (Some(RolloutPhase::Spreading), "ss"),
        (None, "ss"),
    ];
    assert_eq!(phases, expected.map(|(phase, pods)| (phase, pods.to_owned())));
}

#[test]
fn a_repair_is_tried_where_servers_end_with_the_former_content() {
    let (old, new) = (content("good-1"), content("good-2"));
    let last =
        advance(compiled(vec![old.clone()]), &Around { last: None, replicas: &[], at_once: 1, now: &NOW }).0.manifest;
    let mut proven = last.clone();
    proven.models[0].rollout = None;
    let pod = |ends_servers| {
        let report = ModelReport { entry: Some(old.content_hash()), ends_servers, ..ModelReport::default() };
        let report = Report {
            adopts: Some(BTreeSet::new()),
            models: BTreeMap::from([("m".to_owned(), report)]),
            ..Report::default()
        };
        Replica { name: "pod".into(), has_started: true, report: Some(report), ..Replica::default() }
    };
    let chosen = |ends_servers| {
        let around = Around { last: Some(&proven), replicas: &[pod(ends_servers)], at_once: 1, now: &NOW };
        advance(compiled(vec![new.clone()]), &around).1["pod"].clone()
    };
    assert_eq!(chosen(false), BTreeSet::new(), "it is on its way to the former one");
    assert_eq!(chosen(true), BTreeSet::from([new.adopt_word()]));
}

#[test]
fn a_first_content_that_fails_holds_nothing_and_is_forgotten_with_the_resource() {
    let mut cluster = Cluster::new("bad", 2);
    cluster.settle();
    assert_eq!(cluster.phase(), Some(RolloutPhase::Stopped));
    assert!(cluster.pods.iter().all(|pod| pod.is_ready));
    assert_eq!(cluster.pods.iter().filter(|pod| pod.phase == failed("LoadFailed")).count(), 1);
    let none = Around { last: cluster.last.as_ref(), replicas: &[], at_once: 1, now: &NOW };
    assert!(advance(compiled(vec![]), &none).0.manifest.models.is_empty());
}

#[test]
fn no_more_ready_pods_than_may_be_missing_work_on_a_content_at_once() {
    for at_once in [1, 2] {
        let mut cluster = Cluster::new("good-1", 6);
        cluster.settle();
        cluster.at_once = at_once;
        cluster.wanted = content("good-2");
        let mut most = 0;
        for _ in 0..60 {
            cluster.reconcile(false);
            for at in 0..cluster.pods.len() {
                cluster.pods[at].manifest = cluster.last.clone();
                cluster.pods[at].adopts = cluster.pods[at].annotation.clone();
                cluster.work(at);
            }
            most = most.max(cluster.pods.iter().filter(|pod| pod.phase == Phase::Loading).count());
        }
        assert_eq!((most, cluster.phase()), (at_once, None));
    }
}

#[test]
fn the_former_content_needs_no_trial() {
    let mut cluster = Cluster::new("good-1", 3);
    cluster.settle();
    cluster.wanted = content("bad");
    cluster.settle();
    cluster.wanted = content("good-1");
    cluster.reconcile(false);
    assert_eq!(cluster.phase(), None);
}

#[test]
fn an_older_agent_is_judged_by_the_manifest_it_follows() {
    let manifest =
        advance(compiled(vec![content("good-1")]), &Around { last: None, replicas: &[], at_once: 1, now: &NOW })
            .0
            .manifest;
    let older = |follows: &str| {
        let report = ModelReport { phase: Phase::Ready, ..ModelReport::default() };
        let report = Report {
            manifest_hash: Some(follows.to_owned()),
            models: BTreeMap::from([("m".to_owned(), report)]),
            ..Report::default()
        };
        Replica { name: "old".into(), is_ready: true, report: Some(report), ..Replica::default() }
    };
    let phase = |follows: &str| {
        let around = Around { last: Some(&manifest), replicas: &[older(follows)], at_once: 1, now: &NOW };
        let after = advance(compiled(vec![content("good-1")]), &around).0.manifest;
        after.models[0].rollout.as_ref().map(|rollout| rollout.phase)
    };
    assert_eq!(phase("another"), Some(RolloutPhase::Trial));
    assert_eq!(phase(&manifest.hash), None);
}

#[test]
fn contents_that_do_not_fit_beside_their_former_ones_wait_for_room() {
    let model = |name: &str, text: char| ManifestModel {
        name: name.into(),
        resource: name.into(),
        source: crate::manifest::ManifestSource::Inline {
            files: BTreeMap::from([("1/model.py".to_owned(), text.to_string().repeat(300_000))]),
        },
        ..content("x")
    };
    let all = |text| ["a", "b", "c"].map(|name| model(name, text)).to_vec();
    let last = Manifest::new("ml", "vision", all('1'));
    let next =
        advance(compiled(all('2')), &Around { last: Some(&last), replicas: &[], at_once: 1, now: &NOW }).0.manifest;
    let begun: Vec<_> = next.models.iter().filter(|model| model.rollout.is_some()).map(|model| &model.name).collect();
    assert!(begun.is_empty() || next.to_json().len() < 1_048_576);
    assert!(next.to_json().len() < 1_048_576, "{}", next.to_json().len());
    // a single one that never fits goes on without being staged
    let big = |text: char| ManifestModel {
        source: crate::manifest::ManifestSource::Inline {
            files: BTreeMap::from([("1/model.py".to_owned(), text.to_string().repeat(700_000))]),
        },
        ..content("x")
    };
    let last = Manifest::new("ml", "vision", vec![big('1')]);
    let next = advance(compiled(vec![big('2')]), &Around { last: Some(&last), replicas: &[], at_once: 1, now: &NOW })
        .0
        .manifest;
    assert_eq!(next, Manifest::new("ml", "vision", vec![big('2')]));
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    Reconcile,
    BrokenOff,
    ReadManifest(usize),
    ReadAnnotation(usize),
    Work(usize),
    Replace(usize),
    Add,
    Change(&'static str),
}

fn any_event() -> impl Strategy<Value = Event> {
    let uris = prop::sample::select(vec!["good-1", "good-2", "bad-1", "crash-1", "crash-2", "late-1", "late-2"]);
    prop_oneof![
        6 => Just(Event::Reconcile),
        1 => Just(Event::BrokenOff),
        6 => (0..8_usize).prop_map(Event::ReadManifest),
        6 => (0..8_usize).prop_map(Event::ReadAnnotation),
        12 => (0..8_usize).prop_map(Event::Work),
        1 => (0..8_usize).prop_map(Event::Replace),
        1 => Just(Event::Add),
        2 => uris.prop_map(Event::Change),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_one_pod_tries_first_and_what_was_proven_is_kept(
        pods in 1..4_u32,
        at_once in 1..3_usize,
        events in prop::collection::vec(any_event(), 0..120),
        end in prop::sample::select(vec!["good-9", "bad-9", "crash-9", "late-9"]),
    ) {
        let mut cluster = Cluster::new("good-0", pods);
        cluster.at_once = at_once;
        cluster.settle();
        for event in events {
            let count = cluster.pods.len();
            match event {
                Event::Reconcile => cluster.reconcile(false),
                Event::BrokenOff => cluster.reconcile(true),
                Event::ReadManifest(at) => cluster.pods[at % count].manifest = cluster.last.clone(),
                Event::ReadAnnotation(at) => {
                    let pod = &mut cluster.pods[at % count];
                    pod.adopts = pod.annotation.clone();
                }
                Event::Work(at) => cluster.work(at % count),
                Event::Replace(at) => {
                    cluster.pods.remove(at % count);
                    cluster.add();
                }
                Event::Add if count < 6 => cluster.add(),
                Event::Add => {}
                Event::Change(uri) => cluster.wanted = content(uri),
            }
            prop_assert!(cluster.rollout().is_none_or(|rollout| rollout.former.is_some()), "what was proven is lost");
        }
        cluster.wanted = content(end);
        cluster.settle();
        let rollout = cluster.rollout();
        match end {
            "good-9" => prop_assert_eq!((cluster.phase(), cluster.serving()), (None, vec!["good-9"; cluster.pods.len()])),
            _ => {
                let former = uri(rollout.unwrap().former.as_ref().unwrap());
                prop_assert!(former.starts_with("good"), "{} was never proven", former);
                // the pod that fails goes on with what it served, which may be a content that no other pod has come to
                let failing = &rollout.unwrap().failure.as_ref().unwrap().pod;
                for pod in &cluster.pods {
                    let serving = pod.serving.as_ref().map_or("", uri);
                    let is_right = serving == former || (end == "bad-9" && pod.name == *failing && serving.starts_with("good"));
                    prop_assert!(is_right, "{} serves {serving:?}, not {former}", pod.name);
                }
                let phase = if end == "bad-9" { RolloutPhase::Stopped } else { RolloutPhase::Quarantined };
                prop_assert_eq!(cluster.phase(), Some(phase));
                let tried = cluster.pods.iter().filter(|pod| !pod.crashes.contains_key(&content(end).content_hash()));
                prop_assert!(end == "bad-9" || tried.count() + 1 >= cluster.pods.len(), "one pod tried it");
            }
        }
        let writes = cluster.writes;
        cluster.settle();
        prop_assert_eq!(cluster.writes, writes);
    }
}
