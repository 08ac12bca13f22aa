//! Words for what the agent and the process say.

use std::{net::Ipv4Addr, time::Duration};

use operator_core::Reason;

use super::*;

fn view(models: &[(&str, Phase)]) -> View {
    let model = |(name, phase): &(&str, Phase)| {
        let versions = if *phase == Phase::Ready { vec![1] } else { Vec::new() };
        ((*name).to_owned(), ModelState { phase: phase.clone(), versions, ..ModelState::default() })
    };
    View {
        title: "vision".into(),
        ports: Ports { address: Ipv4Addr::LOCALHOST.into(), http: 8000, grpc: 8001, metrics: 8002 },
        status: Status::Running,
        state: State {
            manifest_hash: "h".into(),
            server_is_live: true,
            server_is_ready: true,
            is_settled: false,
            models: models.iter().map(model).collect(),
            ..State::default()
        },
        manifest_hash: "h".into(),
    }
}

fn failure(message: &str, will_retry: bool) -> Phase {
    Phase::Failed(Failure { reason: Reason::LoadFailed, message: message.into(), attempts: 1, will_retry })
}

#[track_caller]
fn check(reporter: &mut Reporter, views: &[View], expect: &[&str]) {
    let lines: Vec<String> = reporter.changes(views).into_iter().map(|line| line.text).collect();
    assert_eq!(lines, expect);
}

#[test]
fn each_thing_is_told_once() {
    let mut reporter = Reporter::default();
    let coming = view(&[("digits", Phase::Downloading { bytes: 0, total: None })]);
    check(&mut reporter, std::slice::from_ref(&coming), &["digits: downloading"]);
    let further = view(&[("digits", Phase::Downloading { bytes: 9, total: None })]);
    check(&mut reporter, &[further], &[]);
    check(&mut reporter, &[view(&[("digits", Phase::Loading)])], &["digits: loading"]);
    let ready = view(&[("digits", Phase::Ready)]);
    let line = "Ready: http://127.0.0.1:8000  grpc 127.0.0.1:8001  metrics http://127.0.0.1:8002/metrics  (vision)";
    check(&mut reporter, std::slice::from_ref(&ready), &["digits: ready, version 1", line]);
    check(&mut reporter, std::slice::from_ref(&ready), &[]);
    let mut down = ready.clone();
    down.status = Status::Restarting;
    check(&mut reporter, &[down], &[]);
    check(&mut reporter, &[ready], &[line]);
}

#[test]
fn a_failed_model_says_why_and_what_goes_on_serving() {
    let mut reporter = Reporter::default();
    let mut bad = view(&[("a", Phase::Ready), ("b", failure("it is bad", true))]);
    bad.state.models.get_mut("b").unwrap().versions = vec![1, 2];
    let words = "failed, LoadFailed: it is bad; versions 1, 2 goes on serving; tried once so far, trying again";
    let words = words.replace("goes", "go");
    check(
        &mut reporter,
        std::slice::from_ref(&bad),
        &[
            "a: ready, version 1",
            &format!("b: {words}"),
            "Serving, except what failed (b): http://127.0.0.1:8000  grpc 127.0.0.1:8001  metrics \
             http://127.0.0.1:8002/metrics  (vision)",
        ],
    );
    assert!(table(&[bad], (200, 24))[2].ends_with(&words));
}

#[test]
fn a_failure_is_told_again_only_when_it_changes_or_is_given_up() {
    let mut reporter = Reporter::default();
    let failing = |message: &str, will_retry| {
        let mut view = view(&[("a", failure(message, will_retry))]);
        view.state.server_is_ready = false;
        [view]
    };
    let retrying = "; tried once so far, trying again";
    check(&mut reporter, &failing("no;", true), &[&format!("a: failed, LoadFailed: no{retrying}")]);
    check(&mut reporter, &[view(&[("a", Phase::Loading)])], &["a: loading"]);
    check(&mut reporter, &failing("no;", true), &[]);
    check(&mut reporter, &failing("other", true), &[&format!("a: failed, LoadFailed: other{retrying}")]);
    check(&mut reporter, &failing("other", false), &["a: failed, LoadFailed: other"]);
}

#[test]
fn while_a_required_model_is_missing_nothing_is_called_ready() {
    let mut reporter = Reporter::default();
    let mut missing = view(&[("a", failure("no", false))]);
    missing.state.server_is_ready = false;
    check(&mut reporter, &[missing], &["a: failed, LoadFailed: no"]);
    // nor while the state is about an older manifest
    let mut stale = view(&[("a", Phase::Ready)]);
    stale.manifest_hash = "newer".into();
    check(&mut reporter, &[stale], &["a: ready, version 1"]);
}

#[test]
fn the_table_fits_the_screen() {
    let views = [view(&[
        ("digits", Phase::Ready),
        ("resnet", Phase::Downloading { bytes: 25_000_000, total: Some(100_000_000) }),
        ("x", failure("a\nb", false)),
    ])];
    let lines = table(&views, (60, 24));
    assert_eq!(lines[1], "  digits  ready  version 1");
    assert_eq!(lines[2], "  resnet  downloading  [#####...............]  25.0 MB of 1…");
    assert_eq!(lines[3], "  x       failed, LoadFailed: a b");
    assert!(lines.iter().all(|line| line.chars().count() <= 60));
    assert_eq!(table(&views, (60, 3))[1..], ["  digits  ready  version 1", "  … and 2 more"]);
}

#[test]
fn a_death_is_told_with_its_last_words() {
    let died = Event::Exited {
        how: "exited with status 1".into(),
        last_lines: vec!["error: no".into()],
        pause: Duration::from_secs(2),
    };
    assert_eq!(
        event("vision", &died),
        ["vision: the server exited with status 1: error: no; it is started again in 2 s", "vision | error: no"]
    );
}
