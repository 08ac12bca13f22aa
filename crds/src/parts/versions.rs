//! Which versions of a model are served.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// Which of the versions in the source are served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    /// The rule by which versions are chosen; exactly one of latest, all, specific.
    pub policy: VersionPolicy,
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
