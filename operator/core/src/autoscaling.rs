//! How a server is scaled, every default decided: the measures with their targets, the bounds, who scales, and how fast.

use std::time::Duration;

use crds::{
    TritonServerSpec,
    parts::{
        Opaque,
        autoscaling::{Autoscaling, AutoscalingEngine, AutoscalingMetrics, RequestsTarget},
    },
};
use serde_json::{Map, Value, json};

use crate::{
    defaults::{MIN_REPLICAS, QUEUE_LATENCY_TARGET, REQUESTS_TARGET, SATURATION_TARGET, SCALE_TO_ZERO_AFTER},
    kind::Kind,
    load::Metric,
};

/// A measure and what replicas are added above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What is measured.
    pub metric: Metric,
    /// In the unit of the metric: microseconds, requests or percent.
    pub value: u64,
    /// The models that count, by the names that clients use; none: all.
    pub models: Vec<String>,
}

/// How a server is scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Autoscale {
    /// Who measures.
    pub engine: AutoscalingEngine,
    /// The fewest replicas; 0 for a server that rests.
    pub min_replicas: i32,
    /// The most replicas, at least 1.
    pub max_replicas: i32,
    /// What is measured, at least one measure unless there are [`raw`](Self::raw) ones.
    pub targets: Vec<Target>,
    /// Further metrics, for a HorizontalPodAutoscaler.
    pub raw: Vec<Opaque>,
    /// How fast, for a HorizontalPodAutoscaler.
    pub behavior: Value,
    /// How long no request may have come before the last replica ends, where `min_replicas` is 0.
    pub rest_after: Duration,
    /// The Prometheus that KEDA asks; none: it asks the operator.
    pub prometheus: Option<String>,
}

impl Autoscale {
    /// How `spec` wants to be scaled; none where it sets the number itself or is suspended, so that nobody is to scale it.
    pub fn of(spec: &TritonServerSpec) -> Option<Self> {
        let autoscaling = spec.autoscaling.as_ref().filter(|_| spec.suspend != Some(true))?;
        let Autoscaling { engine, min_replicas, max_replicas, metrics, behavior, scale_to_zero, prometheus } =
            autoscaling.clone();
        let metrics = metrics.unwrap_or_default();
        Some(Self {
            engine: engine.unwrap_or_default(),
            min_replicas: min_replicas.unwrap_or(MIN_REPLICAS),
            max_replicas,
            targets: targets(&metrics),
            raw: metrics.raw,
            behavior: with_defaults(behavior.unwrap_or_default()),
            rest_after: scale_to_zero.and_then(|it| it.after).map_or(SCALE_TO_ZERO_AFTER, Into::into),
            prometheus: prometheus.map(|it| it.server_address),
        })
    }

    /// What object scales it.
    pub fn kind(&self) -> Kind {
        match self.engine {
            AutoscalingEngine::Operator | AutoscalingEngine::PrometheusAdapter => Kind::HorizontalPodAutoscaler,
            AutoscalingEngine::Keda => Kind::ScaledObject,
        }
    }

    /// Fewest replicas of a server that does not rest.
    pub fn least(&self) -> i32 {
        self.min_replicas.max(1)
    }
}

fn targets(metrics: &AutoscalingMetrics) -> Vec<Target> {
    let AutoscalingMetrics { queue_latency, queued_requests, pending_requests, saturation, raw } = metrics;
    let has_none = queue_latency.is_none()
        && queued_requests.is_none()
        && pending_requests.is_none()
        && saturation.is_none()
        && raw.is_empty();
    // Waiting begins where replicas are saturated, so a latency alone would let them go and come; saturation holds those that are
    // needed.
    let default = |given: bool| given || has_none;
    let mut targets = vec![];
    if default(queue_latency.is_some()) {
        let latency = queue_latency.clone().unwrap_or_default();
        let target = latency.target.map_or(QUEUE_LATENCY_TARGET, Into::into);
        let value = u64::try_from(target.as_micros()).unwrap_or(u64::MAX).max(1);
        targets.push(Target { metric: Metric::QueueLatency, value, models: latency.models });
    }
    for (metric, requests) in [(Metric::QueuedRequests, queued_requests), (Metric::PendingRequests, pending_requests)] {
        if let Some(RequestsTarget { target_per_replica, models }) = requests.clone() {
            targets.push(Target { metric, value: positive(target_per_replica.unwrap_or(REQUESTS_TARGET)), models });
        }
    }
    if default(saturation.is_some()) {
        let saturation = saturation.clone().unwrap_or_default();
        let value = positive(saturation.target_percent.unwrap_or(SATURATION_TARGET));
        targets.push(Target { metric: Metric::Saturation, value, models: saturation.models });
    }
    targets
}

fn positive(number: i32) -> u64 {
    u64::try_from(number).unwrap_or(0).max(1)
}

/// What the user says about each direction, and ours where he says nothing of it.
fn with_defaults(behavior: Opaque) -> Value {
    let mut all = Map::from_iter([
        (
            "scaleUp".to_owned(),
            json!({
                "stabilizationWindowSeconds": 0,
                "selectPolicy": "Max",
                "policies": [
                    { "type": "Percent", "value": 100, "periodSeconds": 30 },
                    { "type": "Pods", "value": 2, "periodSeconds": 30 },
                ],
            }),
        ),
        (
            "scaleDown".to_owned(),
            json!({
                "stabilizationWindowSeconds": 300,
                "selectPolicy": "Max",
                "policies": [{ "type": "Pods", "value": 1, "periodSeconds": 60 }],
            }),
        ),
    ]);
    all.extend(behavior.0);
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn autoscale(autoscaling: Value) -> Autoscale {
        let spec: TritonServerSpec = serde_json::from_value(json!({ "autoscaling": autoscaling })).unwrap();
        Autoscale::of(&spec).unwrap()
    }

    #[track_caller]
    fn check(metrics: Value, expect: &[(Metric, u64, &[&str])]) {
        let targets = autoscale(json!({ "maxReplicas": 4, "metrics": metrics })).targets;
        let found: Vec<(Metric, u64, Vec<&str>)> = targets
            .iter()
            .map(|target| (target.metric, target.value, target.models.iter().map(String::as_str).collect()))
            .collect();
        let expect: Vec<_> = expect.iter().map(|(metric, value, models)| (*metric, *value, models.to_vec())).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn without_a_metric_waiting_and_saturation_are_measured() {
        check(json!({}), &[(Metric::QueueLatency, 20_000, &[]), (Metric::Saturation, 70, &[])]);
        let raw = json!({ "raw": [{ "type": "Resource" }] });
        check(raw, &[]);
    }

    #[test]
    fn what_is_given_is_measured_and_nothing_else() {
        check(json!({ "queueLatency": {} }), &[(Metric::QueueLatency, 20_000, &[])]);
        check(
            json!({
                "queuedRequests": {}, "pendingRequests": { "targetPerReplica": 9, "models": ["a", "b"] },
                "queueLatency": { "target": "1s500ms", "models": ["a"] }, "saturation": { "targetPercent": 50 },
            }),
            &[
                (Metric::QueueLatency, 1_500_000, &["a"]),
                (Metric::QueuedRequests, 4, &[]),
                (Metric::PendingRequests, 9, &["a", "b"]),
                (Metric::Saturation, 50, &[]),
            ],
        );
        // a target of nothing would divide by nothing
        check(json!({ "queueLatency": { "target": "0s" } }), &[(Metric::QueueLatency, 1, &[])]);
    }

    #[test]
    fn a_direction_that_the_user_does_not_speak_of_keeps_its_default() {
        let up = json!({ "policies": [{ "type": "Pods", "value": 9, "periodSeconds": 15 }] });
        let behavior = autoscale(json!({ "maxReplicas": 4, "behavior": { "scaleUp": up } })).behavior;
        assert_eq!(behavior["scaleUp"], up);
        assert_eq!(behavior["scaleDown"]["stabilizationWindowSeconds"], 300);
    }

    #[test]
    fn a_server_that_is_suspended_or_sets_its_number_is_not_scaled() {
        let of = |spec: Value| Autoscale::of(&serde_json::from_value(spec).unwrap());
        assert_eq!(of(json!({ "replicas": 2 })), None);
        assert_eq!(of(json!({ "suspend": true, "autoscaling": { "maxReplicas": 2 } })), None);
        assert_eq!(of(json!({ "autoscaling": { "maxReplicas": 2 } })).unwrap().least(), 1);
    }
}
