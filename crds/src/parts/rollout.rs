//! How pods are replaced, and how many may be missing meanwhile.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, schema};

/// How pods are replaced when their template changes. Changes of models replace no pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[(
    "!has(self.maxSurge) || !has(self.maxUnavailable) || self.maxSurge + self.maxUnavailable > 0",
    "maxSurge 0 and maxUnavailable 0 leave a rollout no way to move: raise one of them",
)])))]
pub struct Rollout {
    /// RollingUpdate replaces pods a few at a time; Recreate removes all of them first. Default: RollingUpdate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<RolloutStrategy>,
    /// Pods above `replicas` during a rollout. Default: 1, so that each old pod serves until a new one does; 0 with a model store on
    /// a claim, and with GPUs as soon as the scheduler finds no spare one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_surge: Option<i32>,
    /// Pods that may be missing during a rollout. Default: 0 where there are pods above `replicas`, else 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_unavailable: Option<i32>,
    /// How long a rollout may stand still before the server says so. Default: 30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline: Option<Duration>,
}

/// How pods are replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum RolloutStrategy {
    /// A few at a time.
    #[default]
    RollingUpdate,
    /// All at once: the old ones end before the new ones start.
    Recreate,
}

/// The PodDisruptionBudget of the server: how many replicas a drain of nodes may take at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disruption {
    /// Whether a budget is made. With one replica none is made: it would block the drain of its node. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Replicas that may be missing at once. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_unavailable: Option<i32>,
}
