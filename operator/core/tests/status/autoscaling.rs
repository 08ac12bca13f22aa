//! What a server says of whatever scales it.

use crds::{
    TritonServerStatus,
    parts::{ConditionStatus, condition},
};
use operator_core::{
    events,
    replica::{Phase, Replica},
    status::Activity,
};
use serde_json::{Value, json};

use crate::case::{Case, all_ready, at, of};

/// A server that the load scales, and the autoscaler that says so.
fn autoscaled(engine: &str, autoscaler: Value) -> Case {
    let mut case = Case::new(1, vec![]).saying(1, &Phase::Ready, &[]);
    case.server.spec.replicas = None;
    let autoscaling = json!({ "engine": engine, "minReplicas": 1, "maxReplicas": 4 });
    case.server.spec.autoscaling = serde_json::from_value(autoscaling).unwrap();
    case.deployment = all_ready(1);
    case.autoscaler = Some(json!({ "status": autoscaler }));
    case
}

fn conditions_of_autoscaler(conditions: &[(&str, &str, &str, &str)]) -> Value {
    conditions
        .iter()
        .map(|(type_, status, reason, message)| {
            json!({ "type": type_, "status": status, "reason": reason, "message": message })
        })
        .collect()
}

const WORKS: [(&str, &str, &str, &str); 3] = [
    ("AbleToScale", "True", "ReadyForNewScale", "m"),
    ("ScalingActive", "True", "ValidMetricFound", "m"),
    ("ScalingLimited", "False", "DesiredWithinRange", "m"),
];

#[track_caller]
fn check_autoscaling(engine: &str, conditions: &[(&str, &str, &str, &str)], expect: &str, message: &str) {
    let case = autoscaled(engine, json!({ "conditions": conditions_of_autoscaler(conditions) }));
    let statuses = case.take();
    let active = of(&statuses.server.conditions, "AutoscalingActive");
    assert_eq!(format!("{:?}/{}", active.status, active.reason), expect);
    assert!(active.message.contains(message), "{}", active.message);
    assert_eq!(of(&statuses.server.conditions, "Ready").status, ConditionStatus::True);
}

#[test]
fn an_autoscaler_that_cannot_measure_says_why_and_what_helps() {
    check_autoscaling("Operator", &[], "Unknown/NotLookedAt", "has not looked");
    check_autoscaling("Operator", &WORKS, "True/Active", "1 to 4 replicas");
    let broken = |at: usize, with| {
        let mut all = WORKS;
        all[at] = with;
        all
    };
    let no_metric = ("ScalingActive", "False", "FailedGetPodsMetric", "no metrics returned from custom metrics API");
    check_autoscaling(
        "Operator",
        &broken(1, no_metric),
        "False/FailedGetPodsMetric",
        "metricsApi.enabled among the values of its chart",
    );
    check_autoscaling("Operator", &broken(1, no_metric), "False/FailedGetPodsMetric", "no metrics returned");
    check_autoscaling(
        "PrometheusAdapter",
        &broken(1, no_metric),
        "False/FailedGetPodsMetric",
        "prometheus-adapter.yaml",
    );
    let ambiguous =
        ("ScalingActive", "False", "AmbiguousSelector", "pods are controlled by multiple HPAs: [ml/a ml/b]");
    check_autoscaling("Operator", &broken(1, ambiguous), "False/AmbiguousSelector", "remove the other");
    let disabled = ("ScalingActive", "False", "ScalingDisabled", "scaling is disabled");
    check_autoscaling("Operator", &broken(1, disabled), "False/ScaledToZero", "no replica runs");
    let denied = ("AbleToScale", "False", "FailedGetScale", "deployments.apps is forbidden");
    check_autoscaling("Operator", &broken(0, denied), "False/FailedGetScale", "is forbidden");
    check_autoscaling("Operator", &[denied], "False/FailedGetScale", "is forbidden");
    let limited = ("ScalingLimited", "True", "TooManyReplicas", "m");
    check_autoscaling("Operator", &broken(2, limited), "True/MaximumReached", "maxReplicas, 4");
    let fewest = ("ScalingLimited", "True", "TooFewReplicas", "m");
    check_autoscaling("Operator", &broken(2, fewest), "True/Active", "1 to 4 replicas");
}

/// Until replicas were ready for as long as it takes to measure them, an autoscaler without a metric is no fault, and is looked at again.
#[test]
fn nobody_is_warned_of_a_metric_that_could_not_be_measured_yet() {
    let no_metric = ("ScalingActive", "False", "FailedGetPodsMetric", "no metrics returned from custom metrics API");
    let conditions = json!({ "conditions": conditions_of_autoscaler(&[WORKS[0], no_metric]) });
    let check = |engine: &str, ready: &[Option<u8>], second: u8, expect: &str, message: &str| {
        let mut case = autoscaled(engine, conditions.clone());
        let one = case.replicas.pop().unwrap();
        case.replicas = ready
            .iter()
            .map(|since| Replica { is_ready: since.is_some(), ready_since: since.map(at), ..one.clone() })
            .collect();
        case.second = second;
        let after = case.take();
        let active = of(&after.server.conditions, "AutoscalingActive");
        assert_eq!(format!("{:?}/{}", active.status, active.reason), expect);
        assert!(active.message.contains(message), "{}", active.message);
        let told = events::of_server(&TritonServerStatus::default(), &after.server);
        let is_warned = told.iter().any(|event| event.reason == "FailedGetPodsMetric");
        assert_eq!(is_warned, expect.starts_with("False"), "{told:?}");
        if !is_warned {
            assert_ne!(after.activity, Activity::Settled, "no event announces when it is over");
        }
    };
    check("Operator", &[None], 59, "Unknown/NotMeasuredYet", "no replica is ready");
    check("Operator", &[Some(10)], 39, "Unknown/NotMeasuredYet", "within 30 s");
    check("Operator", &[Some(10)], 40, "False/FailedGetPodsMetric", "metricsApi.enabled among the values of its chart");
    check(
        "Operator",
        &[None, Some(10), Some(38)],
        40,
        "False/FailedGetPodsMetric",
        "metricsApi.enabled among the values of its chart",
    );
    check("PrometheusAdapter", &[Some(0)], 59, "Unknown/NotMeasuredYet", "within 120 s");
}

#[test]
fn an_autoscaler_of_keda_says_what_keda_says() {
    // the surroundings of these tests know no ScaledObject
    check_autoscaling("KEDA", &[], "False/ScaledObjectMissing", "no ScaledObject is made");
    let mut suspended = autoscaled("Operator", json!({}));
    suspended.server.spec.suspend = Some(true);
    let statuses = suspended.take();
    assert!(condition::find(&statuses.server.conditions, "AutoscalingActive").is_none());
    assert_eq!(statuses.server.autoscaling, None);
}

#[test]
fn a_decision_of_the_autoscaler_is_told_once() {
    let numbers = |desired: i32, time: &str| {
        json!({
            "conditions": conditions_of_autoscaler(&WORKS), "currentReplicas": 2, "desiredReplicas": desired,
            "lastScaleTime": time,
        })
    };
    let mut case = autoscaled("Operator", numbers(2, "2026-01-01T00:00:00Z"));
    let mut step = |autoscaler: Value| {
        case.autoscaler = Some(json!({ "status": autoscaler }));
        let after = case.take();
        let before =
            case.before.replace(after.clone()).map_or_else(TritonServerStatus::default, |before| before.server);
        let told = events::of_server(&before, &after.server);
        (after.server.autoscaling.unwrap(), told.into_iter().map(|it| (it.reason, it.note)).collect::<Vec<_>>())
    };
    let (status, _) = step(numbers(2, "2026-01-01T00:00:00Z"));
    assert_eq!((status.min_replicas, status.max_replicas, status.current_replicas), (1, 4, Some(2)));
    let (status, told) = step(numbers(4, "2026-01-01T00:01:00Z"));
    assert_eq!(status.last_scale_time.as_deref(), Some("2026-01-01T00:01:00Z"));
    assert_eq!(told, [("Rescaled".to_owned(), "from 2 to 4 replicas, as the load asked for".to_owned())]);
    assert_eq!(step(numbers(4, "2026-01-01T00:01:00Z")).1, []);
    let broken = conditions_of_autoscaler(&[WORKS[0], ("ScalingActive", "False", "FailedGetPodsMetric", "no metrics")]);
    let told = step(json!({ "conditions": broken })).1;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, "FailedGetPodsMetric");
    assert_eq!(step(json!({ "conditions": broken })).1, []);
    assert_eq!(step(numbers(4, "2026-01-01T00:01:00Z")).1.len(), 1);
}
