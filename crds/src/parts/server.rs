//! Settings of the inference server process itself.

use k8s_openapi::api::core::v1::EnvVar;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, schema};

/// Settings of the inference server process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[(
    "[has(self.drainDelay) ? duration(self.drainDelay) : duration('5s'), has(self.drainTimeout) ? duration(self.drainTimeout) : duration('60s')].all(drain, drain + (has(self.exitTimeout) ? duration(self.exitTimeout) : duration('30s')) + duration('10s') <= duration('24h'))",
    "the longer of drainDelay and drainTimeout, exitTimeout, and 10s are more than 24h together: shorten them (a node that is emptied waits for its pods)",
)])))]
pub struct ServerOptions {
    /// The least important messages still written: Error, Warning, Info or Verbose. Default: Info.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// How often gauges such as GPU use are read anew. Default: 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_interval: Option<Duration>,
    /// How long requests under way may take to finish once the server was told to end. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_timeout: Option<Duration>,
    /// A server told to end serves on until no inference request has come for so long, so that clients can learn of its end first.
    /// Default: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_delay: Option<Duration>,
    /// How long it serves on at most while requests come that have nowhere else to go: the only replica serves until another one
    /// does. A rollout that has to end an old pod first waits for that, too. At most 24h, together with exitTimeout and 10s.
    /// Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<Duration>,
    /// Further flags of tritonserver, each as one item, such as --backend-config=onnxruntime,default-max-batch-size=8.
    /// Flags which the operator sets itself (model repository, ports, model control) are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 4096)))]
    pub extra_args: Vec<String>,
    /// Environment variables of the server process. A Secret they are filled from carries the label
    /// `triton-operator.dev/model-access: "true"`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub env: Vec<EnvVar>,
}

/// The least important messages still written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum LogLevel {
    /// Only what failed.
    Error,
    /// And what looks wrong.
    Warning,
    /// And what happened.
    #[default]
    Info,
    /// And each step.
    Verbose,
}
