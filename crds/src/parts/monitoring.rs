//! How Prometheus finds the server, and what it makes of what it finds.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Opaque, Switch, gpu::Percent, schema};

/// Objects made for the monitoring of the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[(
    "!has(self.podMonitor) || (has(self.podMonitor.enabled) && self.podMonitor.enabled == 'Never') || !has(self.serviceMonitor) || \
     (has(self.serviceMonitor.enabled) && self.serviceMonitor.enabled == 'Never')",
    "a ServiceMonitor and a PodMonitor together have each pod counted twice: remove one, or set its enabled to Never",
)])))]
pub struct Monitoring {
    /// A ServiceMonitor for the Prometheus operator: Prometheus finds the pods through their Service. Default: made if the cluster
    /// knows the kind and there is no podMonitor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_monitor: Option<Monitor>,
    /// A PodMonitor for the Prometheus operator in place of the ServiceMonitor: Prometheus finds the pods by their labels. Default:
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_monitor: Option<Monitor>,
    /// A PrometheusRule for the Prometheus operator: recording rules of queue latency, queued and pending requests and saturation,
    /// and alerts. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_rule: Option<PrometheusRule>,
}

/// A ServiceMonitor or PodMonitor made for the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Monitor {
    /// Whether it is made: Auto (if the cluster knows the kind), Always or Never. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<Switch>,
    /// How often Prometheus asks for metrics. Default: 15s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// Labels of the monitor, by which a Prometheus selects it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
    /// How Prometheus looks at the certificate of a server with `spec.tls`, as the Prometheus operator takes it: ca, serverName and so
    /// on. Default: `insecureSkipVerify: true`, for what the Secret holds only its owner knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_config: Option<Opaque>,
}

/// The PrometheusRule made for the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusRule {
    /// Whether it is made: Auto (if the cluster knows the kind), Always or Never. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<Switch>,
    /// Labels of the PrometheusRule, by which a Prometheus selects it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
    /// Whether it has alerts beside the recording rules. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<bool>,
    /// From where on alerts are raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<AlertThresholds>,
}

/// From where on alerts are raised.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertThresholds {
    /// Mean time that requests wait for execution, over 5 minutes (TritonServerQueueLatencyHigh). Default: 100ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_latency: Option<Duration>,
    /// Age of the oldest request that waits for execution (TritonServerPendingStuck). Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_request: Option<Duration>,
    /// Share of requests that the server rejects (TritonServerRequestsRejected). Default: 1%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Percent>,
    /// Share of gpu.memoryPerReplica, or else of the memory of the GPUs, that is used (TritonServerGPUMemoryNearBudget). Default: 90%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory: Option<Percent>,
}
