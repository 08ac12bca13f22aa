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

/// What comes first when a model gets new content: its load, or the unload of what serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum LoadOrder {
    /// The new content is loaded while the old one serves, which leaves once the new one serves: no request is lost, and memory
    /// holds both for a while.
    #[default]
    LoadThenUnload,
    /// The old content leaves before the new one is loaded: for models that do not fit into memory twice. A replica does not serve
    /// the model meanwhile; if the load fails, the old content is loaded again.
    UnloadFirst,
}

/// Patience with a model: how long a load may take and how often it is tried again, and in which order contents change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadPolicy {
    /// How long one fetch and one load may take before they count as failed. Default: 10m for a load; a fetch without a limit of its
    /// own goes on for as long as its source brings data at a fair rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// How new content takes the place of old: LoadThenUnload loads it while the old one serves, UnloadFirst has the old one leave
    /// before, for a model that does not fit into memory twice. Where other replicas serve the model, one after the other leaves the
    /// Service first; where none does, requests for the model are answered with 404 meanwhile. Default: LoadThenUnload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<LoadOrder>,
    /// How long a server has to live on with new content after its load, before that goes on to the other replicas: longer for faults
    /// that show late, shorter to be done sooner. What ends a server within it is held against the content. Up to 1h. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle_time: Option<Duration>,
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
