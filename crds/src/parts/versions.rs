//! Which versions of a model are served, and which of them runs a request that names none.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::schema;

/// Largest weight of a version.
pub const WEIGHT_MAX: i32 = 10_000;

/// Most versions that weights or shadow name.
pub const ROUTED_MAX: usize = 64;

/// Which of the versions in the source are served, and how requests that name no version are routed between them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[(
    "has(self.policy) || has(self.weights)",
    "versions has a policy or weights: say which versions are served",
)])))]
pub struct Versions {
    /// The rule by which versions are chosen; exactly one of latest, all, specific. Default: the versions that weights, canary
    /// and shadow name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<VersionPolicy>,
    /// How requests that name no version are split: weights by version number, such as {"1": 90, "2": 10}. Changed without
    /// loading anything anew. Default: all of them go to the highest version that is neither canary nor shadow.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "weights")]
    pub weights: BTreeMap<String, i32>,
    /// Runs marked requests that name no version, whatever the weights say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Versions that get copies of requests that name no version; their answers are dropped. Percent of the requests by version
    /// number, such as {"3": 100}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "percents")]
    pub shadow: BTreeMap<String, i32>,
}

/// A version for marked requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// Version that runs them.
    #[schemars(range(min = 1))]
    pub version: i64,
    /// Name of the HTTP header, gRPC metadata or request parameter that marks a request, in lower case. Default: canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[a-z0-9_-]+$"), length(max = 128))]
    pub key: Option<String>,
    /// Value that marks a request. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub value: Option<String>,
}

fn weights(_: &mut SchemaGenerator) -> Schema {
    by_version(0, WEIGHT_MAX)
}

fn percents(_: &mut SchemaGenerator) -> Schema {
    by_version(1, 100)
}

/// Numbers by version. That the keys are version numbers is for the operator to check: a rule over keys of any length costs an API
/// server more than it grants.
fn by_version(min: i32, max: i32) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": { "type": "integer", "format": "int32", "minimum": min, "maximum": max },
        "minProperties": 1,
        "maxProperties": ROUTED_MAX,
    })
}

/// The rule by which versions are chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[(
    "(has(self.latest) ? 1 : 0) + (has(self.all) ? 1 : 0) + (has(self.specific) ? 1 : 0) == 1",
    "a version policy is exactly one of latest, all or specific",
)])))]
pub struct VersionPolicy {
    /// The highest version numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<LatestVersions>,
    /// Every version in the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<AllVersions>,
    /// Just the versions named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specific: Option<SpecificVersions>,
}

/// The highest version numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LatestVersions {
    /// How many of them. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub num: Option<i32>,
}

/// Every version in the source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AllVersions {}

/// Just the versions named.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpecificVersions {
    /// Version numbers, each 1 or more.
    #[schemars(length(min = 1, max = 64), inner(range(min = 1)))]
    pub versions: Vec<i64>,
}
