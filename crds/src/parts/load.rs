//! How a model is loaded and what its absence means for the server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, schema};

/// Whether a fresh replica waits for the model before it takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum Readiness {
    /// A replica that starts is ready only once this model is loaded.
    #[default]
    Required,
    /// A replica is ready without this model.
    Optional,
}

/// Patience with a model: how long a load may take and how often it is tried again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadPolicy {
    /// How long one load may take before it counts as failed. Default: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// What follows a failed fetch or load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// How often and how soon a failed fetch or load is tried again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How many times it is tried again; 0 means not at all. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub limit: Option<i32>,
    /// Pause before the first new attempt; it doubles each time, up to 5m. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Duration>,
}
