//! How the number of replicas follows the load: by what is measured, between which bounds, and who does it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Opaque, schema};

/// What the text of a name in `models` must look like: names are compared as values of a label.
pub const MODEL_PATTERN: &str = "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";
/// Longest name in `models`.
pub const MODEL_MAX: usize = 63;

/// Lets the load decide how many replicas run. The operator makes the autoscaler of its Deployment; `spec.replicas` is left out
/// then. Switched on, the replicas there are stay; switched off as well, until spec.replicas says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    (
        "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
        "minReplicas is above maxReplicas: lower the one or raise the other",
    ),
    (
        "!has(self.scaleToZero) || (has(self.minReplicas) && self.minReplicas == 0)",
        "scaleToZero has no effect while minReplicas is not 0: set minReplicas to 0, or remove scaleToZero",
    ),
    (
        "!has(self.prometheus) || (has(self.engine) && self.engine == 'KEDA')",
        "prometheus is asked by KEDA only: set engine to KEDA, or remove prometheus",
    ),
    (
        "!has(self.metrics) || !has(self.metrics.raw) || !has(self.engine) || self.engine != 'KEDA'",
        "metrics.raw are for a HorizontalPodAutoscaler, which KEDA makes itself: set engine to Operator or PrometheusAdapter, or remove raw",
    ),
])))]
pub struct Autoscaling {
    /// Who measures: Operator (a HorizontalPodAutoscaler that asks the operator's own metrics API), PrometheusAdapter (the same
    /// one, asking prometheus-adapter) or KEDA (a ScaledObject). Default: Operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<AutoscalingEngine>,
    /// The fewest replicas. 0: none while nobody asks, which needs the operator's activator, or KEDA. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: Option<i32>,
    /// The most replicas.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// What is measured. The metric that asks for most replicas decides. Default: queueLatency and saturation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<AutoscalingMetrics>,
    /// How fast it may scale, as a HorizontalPodAutoscaler (autoscaling/v2) takes it. Default: up at once, doubling or 2 pods every 30 s; down to the
    /// most that 300 s asked for, 1 pod a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Opaque>,
    /// When a server of minReplicas 0 goes to rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_to_zero: Option<ScaleToZero>,
    /// The Prometheus that KEDA asks. Absent: KEDA asks the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<AutoscalingPrometheus>,
}

/// Who measures the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum AutoscalingEngine {
    /// A HorizontalPodAutoscaler that asks the operator.
    #[default]
    Operator,
    /// A HorizontalPodAutoscaler that asks prometheus-adapter.
    PrometheusAdapter,
    /// A ScaledObject of KEDA.
    #[serde(rename = "KEDA")]
    Keda,
}

/// What is measured, over the models of a server. Where none is given: queueLatency and saturation with their defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingMetrics {
    /// How long requests wait for execution, on average. It is about 0 until replicas are saturated and rises steeply then: use it
    /// together with saturation, or replicas come and go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_latency: Option<QueueLatencyTarget>,
    /// How many requests wait for execution, on average over the last seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_requests: Option<RequestsTarget>,
    /// How many requests wait for execution now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_requests: Option<RequestsTarget>,
    /// How much of the time the instances of a model execute, of the model where it is most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturation: Option<SaturationTarget>,
    /// Further metrics, as a HorizontalPodAutoscaler (autoscaling/v2) takes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub raw: Vec<Opaque>,
}

/// Time in the queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueLatencyTarget {
    /// The mean to stay below, 1ms or more. Default: 20ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = schema::rules(&[(
        "self.matches('[1-9]')",
        "no time at all is nothing to stay below: 1ms is the least, or leave it out",
    )])))]
    pub target: Option<Duration>,
    /// Names, as clients use them, of the models that count. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(regex(pattern = MODEL_PATTERN), length(min = 1, max = MODEL_MAX)))]
    pub models: Vec<String>,
}

/// Requests that wait.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestsTarget {
    /// How many each replica is to have on average. Default: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub target_per_replica: Option<i32>,
    /// Names, as clients use them, of the models that count. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(regex(pattern = MODEL_PATTERN), length(min = 1, max = MODEL_MAX)))]
    pub models: Vec<String>,
}

/// How busy instances are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SaturationTarget {
    /// Percent of the time to stay below. Default: 70.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub target_percent: Option<i32>,
    /// Names, as clients use them, of the models that count. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(regex(pattern = MODEL_PATTERN), length(min = 1, max = MODEL_MAX)))]
    pub models: Vec<String>,
}

/// When a server goes to rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScaleToZero {
    /// How long no request may have come. Default: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Duration>,
}

/// The Prometheus that KEDA asks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingPrometheus {
    /// Its address, such as http://prometheus.monitoring:9090.
    #[schemars(regex(pattern = r"^https?://[^\s]+$"), length(max = 2048))]
    pub server_address: String,
}

/// What is known of the autoscaler of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingStatus {
    /// The fewest replicas.
    pub min_replicas: i32,
    /// The most replicas.
    pub max_replicas: i32,
    /// Replicas the autoscaler found when it looked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_replicas: Option<i32>,
    /// Replicas the autoscaler asked for last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<i32>,
    /// When the autoscaler last changed the number of replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_scale_time: Option<String>,
}
