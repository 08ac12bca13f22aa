//! Pods that leave the Service before they reload models, in any order of what they read and do.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    Compiled, Manifest, ManifestModel,
    adopt_words::DrainOrder,
    replica::{ModelReport, Report},
    rollout::advance,
};

const NOW: Time = Time(Timestamp::UNIX_EPOCH);

/// A content of a model; one whose text begins with "bad" does not load.
fn content(name: &str, text: &str) -> ManifestModel {
    serde_json::from_value(json!({
        "name": name, "resource": name, "source": { "http": { "uri": text } }, "layout": "Auto",
        "config": { "text": "name: \"m\"", "precedence": "Fields" }, "readiness": "Required",
        "load": { "timeout": "60s", "retries": 9, "backoff": "1s", "order": "UnloadFirst" },
    }))
    .unwrap()
}

fn is_bad(entry: &ManifestModel) -> bool {
    matches!(&entry.source, crate::manifest::ManifestSource::Http { uri, .. } if uri.starts_with("bad"))
}

/// What an agent does with a model.
#[derive(Clone, Debug, Default, PartialEq)]
struct Work {
    follows: Option<ManifestModel>,
    serves: Option<ManifestModel>,
    /// Unloaded, or about to be.
    loads: bool,
    has_failed: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Pod {
    name: String,
    annotation: BTreeSet<String>,
    manifest: Option<Manifest>,
    words: BTreeSet<String>,
    models: BTreeMap<String, Work>,
    /// Its server is not ready.
    drains: bool,
    /// The kubelet's last word.
    is_ready: bool,
    /// What it unloaded while it got requests.
    unloaded_at_once: Vec<String>,
}

impl Pod {
    fn new(number: usize) -> Self {
        Self {
            name: format!("pod-{number}"),
            annotation: BTreeSet::new(),
            manifest: None,
            words: BTreeSet::new(),
            models: BTreeMap::new(),
            drains: false,
            is_ready: true,
            unloaded_at_once: Vec::new(),
        }
    }

    /// One step of its agent with each model.
    fn work(&mut self) {
        let Some(manifest) = self.manifest.clone() else { return };
        for entry in &manifest.models {
            let work = self.models.entry(entry.name.clone()).or_default();
            let word = entry.adopt_word();
            let may = entry.rollout.is_none() || self.words.contains(&word) || work.serves.is_none();
            let former = entry.rollout.as_ref().and_then(|rollout| rollout.former.as_deref().cloned());
            let wanted = if may { Some(ManifestModel { rollout: None, ..entry.clone() }) } else { former };
            if work.follows != wanted && !work.loads {
                work.follows = wanted;
                work.has_failed = false;
            }
            if work.loads {
                // unloaded only once the kubelet has seen that the server is not ready, where it drains
                if self.drains && self.is_ready {
                    continue;
                }
                let follows = work.follows.clone().unwrap();
                work.loads = false;
                work.has_failed = is_bad(&follows);
                if !work.has_failed {
                    work.serves = Some(follows);
                }
            } else if work.follows.is_some() && work.follows != work.serves {
                let word = work.follows.as_ref().unwrap().adopt_word();
                let order = if work.serves.is_some() { DrainOrder::of(&self.words, &word) } else { DrainOrder::None };
                // it is always said in the end
                work.loads = !matches!(order, DrainOrder::Hold | DrainOrder::Unsaid);
                self.drains |= matches!(order, DrainOrder::After(_));
                if order == DrainOrder::None && work.serves.is_some() && self.is_ready && !self.drains {
                    self.unloaded_at_once.push(entry.name.clone());
                }
            }
        }
        if self.models.values().all(|work| !work.loads) {
            self.drains = false;
        }
    }

    fn replica(&self) -> Replica {
        let report = |work: &Work| ModelReport {
            entry: work.follows.as_ref().map(ManifestModel::content_hash),
            phase: match work {
                Work { loads: true, .. } => Phase::Loading,
                Work { has_failed: true, .. } => {
                    Phase::Failed { reason: "LoadFailed".into(), message: "no".into(), will_retry: true }
                }
                Work { follows, serves, .. } if follows == serves => Phase::Ready,
                _ => Phase::Pending,
            },
            versions: if work.serves.is_some() { vec![1] } else { vec![] },
            ..ModelReport::default()
        };
        Replica {
            name: self.name.clone(),
            may_adopt: self.annotation.clone(),
            has_started: true,
            is_ready: self.is_ready,
            leaves_after: Duration::from_secs(18),
            report: Some(Report {
                manifest_hash: self.manifest.as_ref().map(|manifest| manifest.hash.clone()),
                adopts: Some(self.words.clone()),
                models: self.models.iter().map(|(name, work)| (name.clone(), report(work))).collect(),
                ..Report::default()
            }),
            ..Replica::default()
        }
    }
}

#[derive(Clone, Debug)]
struct Cluster {
    wanted: BTreeMap<String, ManifestModel>,
    last: Option<Manifest>,
    pods: Vec<Pod>,
    at_once: usize,
}

impl Cluster {
    fn new(pods: usize, at_once: usize) -> Self {
        let wanted = ["a", "b"].map(|name| (name.to_owned(), content(name, "good-0"))).into();
        let mut cluster = Self { wanted, last: None, pods: (0..pods).map(Pod::new).collect(), at_once };
        cluster.settle();
        cluster
    }

    fn reconcile(&mut self) {
        let replicas: Vec<_> = self.pods.iter().map(Pod::replica).collect();
        let manifest = Manifest::new("ml", "vision", self.wanted.values().cloned().collect());
        let compiled = Compiled { manifest, problems: vec![], models: vec![], gpu_memory: None };
        let around = Around { last: self.last.as_ref(), replicas: &replicas, at_once: self.at_once, now: &NOW };
        let (compiled, adopt) = advance(compiled, &around);
        self.last = Some(compiled.manifest);
        for pod in &mut self.pods {
            pod.annotation = adopt[&pod.name].clone();
        }
    }

    fn read(&mut self, at: usize) {
        self.pods[at].manifest.clone_from(&self.last);
        self.pods[at].words = self.pods[at].annotation.clone();
    }

    fn work(&mut self, at: usize) {
        self.pods[at].work();
        let out = self.pods.iter().filter(|pod| pod.drains || !pod.is_ready).count();
        assert!(out <= self.at_once.min(self.pods.len() - 1), "{out} pods are out at once: {self:#?}");
    }

    /// The kubelet asks the server.
    fn probe(&mut self, at: usize) {
        self.pods[at].is_ready = !self.pods[at].drains;
    }

    /// Everybody does everything.
    fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.reconcile();
            for at in 0..self.pods.len() {
                self.read(at);
                self.work(at);
                self.probe(at);
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..80 {
            let before = (self.last.clone(), self.pods.clone());
            self.rounds(1);
            if before == (self.last.clone(), self.pods.clone()) {
                return;
            }
        }
        panic!("it does not come to rest: {self:#?}");
    }
}

#[test]
fn words_are_read_back_for_their_content_only() {
    let words = |all: &[&str]| all.iter().map(|word| (*word).to_owned()).collect();
    let of = |all: &[&str]| DrainOrder::of(&words(all), "ab");
    assert_eq!(of(&["ab", "drain/18/ab"]), DrainOrder::After(Duration::from_secs(18)));
    assert_eq!(of(&["ab", "drain/18/ab", "hold/ab"]), DrainOrder::Hold);
    for none in [&["ab"][..], &["ab", "drain/18/abc", "hold/a"]] {
        assert_eq!(of(none), DrainOrder::None, "{none:?}");
    }
    for unsaid in [&[][..], &["a", "abc", "hold/a"], &["drain/x/ab", "drain/ab", "drain/-1/ab", "ab/drain"]] {
        assert_eq!(of(unsaid), DrainOrder::Unsaid, "{unsaid:?}");
    }
}

#[test]
fn a_pod_leaves_only_where_others_serve_the_model() {
    let mut one = Cluster::new(1, 1);
    one.wanted.insert("a".into(), content("a", "good-1"));
    one.reconcile();
    assert_eq!(one.pods[0].annotation, [content("a", "good-1").adopt_word()].into());
    let mut two = Cluster::new(2, 1);
    two.wanted.insert("a".into(), content("a", "good-1"));
    two.reconcile();
    let word = content("a", "good-1").adopt_word();
    assert_eq!(two.pods[0].annotation, [word.clone(), format!("drain/18/{word}")].into());
    assert!(two.pods[1].annotation.is_empty());
    // the other one does not serve that model
    two.pods[0].annotation.clear();
    two.pods[1].models.remove("a");
    two.last = Some(Manifest::new("ml", "vision", vec![content("a", "good-0"), content("b", "good-0")]));
    two.reconcile();
    assert!(!two.pods[0].annotation.iter().any(|word| word.contains('/')), "{:?}", two.pods[0]);
}

/// A content is changed again, or back, at every point of its rollout.
#[test]
fn pods_that_go_back_leave_the_service_one_after_the_other() {
    for pods in [2, 3] {
        for rounds in 0..12 {
            for then in ["good-0", "good-2", "bad-1"] {
                let mut cluster = Cluster::new(pods, 1);
                cluster.wanted.insert("a".into(), content("a", "good-1"));
                cluster.rounds(rounds);
                cluster.wanted.insert("a".into(), content("a", then));
                cluster.rounds(20);
                for pod in &cluster.pods {
                    assert!(pod.unloaded_at_once.is_empty(), "after {rounds} rounds, {then}: {pod:#?}");
                }
                cluster.wanted.insert("a".into(), content("a", "good-3"));
                cluster.settle();
                for pod in &cluster.pods {
                    assert!(pod.unloaded_at_once.is_empty() && pod.annotation.is_empty(), "{rounds}, {then}: {pod:#?}");
                    assert_eq!(pod.models["a"].serves, Some(content("a", "good-3")));
                }
            }
        }
    }
    // the only one has nobody to leave its callers to
    let mut one = Cluster::new(1, 1);
    one.wanted.insert("a".into(), content("a", "good-1"));
    one.rounds(2);
    one.wanted.insert("a".into(), content("a", "good-0"));
    one.settle();
    assert_eq!(one.pods[0].models["a"].serves, Some(content("a", "good-0")));
}

/// What serves on all pods is not given up for what served before it.
#[test]
fn a_change_before_a_content_has_settled_everywhere_goes_back_no_further_than_to_that() {
    let mut cluster = Cluster::new(2, 1);
    cluster.wanted.insert("a".into(), content("a", "good-1"));
    let now_serving =
        |cluster: &Cluster| cluster.pods.iter().all(|pod| pod.models["a"].serves == Some(content("a", "good-1")));
    for _ in 0..40 {
        if now_serving(&cluster) {
            break;
        }
        cluster.rounds(1);
    }
    assert!(now_serving(&cluster));
    // one of them has not shown yet that its server lives on with it
    let mut replicas: Vec<_> = cluster.pods.iter().map(Pod::replica).collect();
    let settle = |replica: &mut Replica, is_settled| {
        let report = replica.report.as_mut().unwrap().models.get_mut("a").unwrap();
        report.settled = Some(is_settled);
    };
    settle(&mut replicas[0], true);
    settle(&mut replicas[1], false);
    let rollout = |phase| crate::manifest::ModelRollout {
        phase,
        former: Some(Box::new(content("a", "good-0"))),
        crashes: BTreeMap::new(),
        failure: None,
    };
    for (phase, expect) in [(RolloutPhase::Spreading, "good-1"), (RolloutPhase::Trial, "good-0")] {
        let spreading = ManifestModel { rollout: Some(rollout(phase)), ..content("a", "good-1") };
        let last = Manifest::new("ml", "vision", vec![spreading, content("b", "good-0")]);
        let wanted = Manifest::new("ml", "vision", vec![content("a", "good-2"), content("b", "good-0")]);
        let compiled = Compiled { manifest: wanted, problems: vec![], models: vec![], gpu_memory: None };
        let (next, _) = advance(compiled, &Around { last: Some(&last), replicas: &replicas, at_once: 1, now: &NOW });
        let former = next.manifest.model("a").unwrap().rollout.clone().unwrap().former.unwrap();
        assert_eq!(*former, content("a", expect), "{phase:?}");
    }
}

#[test]
fn a_content_that_fails_again_and_again_lets_another_model_pass() {
    let mut cluster = Cluster::new(2, 1);
    cluster.wanted.insert("a".into(), content("a", "bad-1"));
    cluster.rounds(20);
    let work = &cluster.pods[0].models["a"];
    assert!(work.has_failed || work.loads, "{work:#?}");
    cluster.wanted.insert("b".into(), content("b", "good-1"));
    cluster.rounds(60);
    for pod in &cluster.pods {
        assert_eq!(pod.models["b"].serves, Some(content("b", "good-1")), "{pod:#?}");
        assert_eq!(pod.models["a"].serves, Some(content("a", "good-0")));
    }
}

/// A pod that is not ready for a reason of its own holds the others up for a while, and no longer.
#[test]
fn a_pod_that_does_not_become_ready_is_not_waited_for_without_end() {
    let mut cluster = Cluster::new(3, 1);
    cluster.wanted.insert("a".into(), content("a", "good-1"));
    let word = content("a", "good-1").adopt_word();
    let mut unready_for = |minutes: i64, words: &[String], phase: Phase| {
        let mut replicas: Vec<_> = cluster.pods.iter().map(Pod::replica).collect();
        replicas[2].is_ready = false;
        replicas[2].unready_since = Some(Time(NOW.0 - SignedDuration::from_mins(minutes)));
        replicas[2].may_adopt = words.iter().cloned().collect();
        // it has what is asked for
        let report = replicas[2].report.as_mut().unwrap().models.get_mut("a").unwrap();
        report.entry = Some(content("a", "good-1").content_hash());
        report.phase = phase;
        let manifest = Manifest::new("ml", "vision", cluster.wanted.values().cloned().collect());
        let compiled = Compiled { manifest, problems: vec![], models: vec![], gpu_memory: None };
        let (compiled, adopt) =
            advance(compiled, &Around { last: cluster.last.as_ref(), replicas: &replicas, at_once: 1, now: &NOW });
        cluster.last = Some(compiled.manifest);
        let leaves = adopt.values().take(2).flatten().any(|it| it.starts_with(DRAIN));
        (leaves, adopt["pod-2"].clone(), said_of_waiting(&replicas, &NOW))
    };
    let drains = [word.clone(), format!("drain/18/{word}")];
    for words in [&[word.clone()][..], &drains] {
        assert_eq!(unready_for(0, words, Phase::Ready).2, None, "it is not worth a word yet");
        let (leaves, _, said) = unready_for(4, words, Phase::Ready);
        assert!(!leaves);
        assert_eq!(
            said.unwrap(),
            "pod-2, not ready since 1969-12-31T23:56:00Z, is waited for until 1970-01-01T00:01:00Z"
        );
        let (leaves, adopts, said) = unready_for(5, words, Phase::Ready);
        assert!(leaves, "{words:?}");
        assert!(!adopts.iter().any(|it| it.starts_with(DRAIN)), "its turn is over: {adopts:?}");
        assert_eq!(said.unwrap(), "pod-2, not ready since 1969-12-31T23:55:00Z, is not waited for any more");
        for phase in [Phase::Downloading, Phase::Loading] {
            let (leaves, _, said) = unready_for(60, words, phase);
            assert!(!leaves, "one that starts is waited for");
            assert_eq!(said, None);
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Reconcile,
    Read(usize),
    Work(usize),
    Probe(usize),
    Change(&'static str, &'static str),
}

fn any_event() -> impl Strategy<Value = Event> {
    let texts = prop::sample::select(vec!["good-1", "good-2", "bad-1"]);
    prop_oneof![
        4 => Just(Event::Reconcile),
        4 => (0..4_usize).prop_map(Event::Read),
        8 => (0..4_usize).prop_map(Event::Work),
        4 => (0..4_usize).prop_map(Event::Probe),
        1 => (prop::sample::select(vec!["a", "b"]), texts).prop_map(|(name, text)| Event::Change(name, text)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn no_more_pods_are_out_than_may_be_and_all_of_them_come_back(
        pods in 1..4_usize,
        at_once in 1..3_usize,
        events in prop::collection::vec(any_event(), 0..150),
    ) {
        let mut cluster = Cluster::new(pods, at_once);
        for event in events {
            match event {
                Event::Reconcile => cluster.reconcile(),
                Event::Read(at) => cluster.read(at % pods),
                Event::Work(at) => cluster.work(at % pods),
                Event::Probe(at) => cluster.probe(at % pods),
                Event::Change(name, text) => drop(cluster.wanted.insert(name.into(), content(name, text))),
            }
        }
        for name in ["a", "b"] {
            cluster.wanted.insert(name.into(), content(name, "good-9"));
        }
        cluster.settle();
        for pod in &cluster.pods {
            prop_assert!(pod.is_ready && pod.annotation.is_empty(), "{:#?}", pod);
            prop_assert!(pod.models.values().all(|work| work.serves.is_some() && work.serves == work.follows));
        }
    }
}
