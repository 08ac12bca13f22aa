//! Rollouts in a cluster of plain values, whose pods and operator do their steps in any order.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod cluster;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use self::cluster::{Cluster, NOW, Pod, compiled, content, failed, uri};
use super::*;
use crate::{
    ManifestModel,
    manifest::{ManifestTrace, RolloutPhase},
    replica::{ModelReport, Phase, Replica, Report},
    source_rules::SourceRules,
};

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
            cluster.step();
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
