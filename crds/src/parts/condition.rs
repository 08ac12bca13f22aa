//! A condition as kstatus reads it. Our own type and not the generated one: that one changes its optional fields with the
//! Kubernetes version compiled for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// One observation about an object: what is claimed, whether it holds, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the condition is about, in CamelCase: `Ready`, `Available`.
    #[serde(rename = "type")]
    #[schemars(length(max = 316))]
    pub type_: String,
    /// Whether it holds: `True`, `False` or `Unknown`.
    pub status: ConditionStatus,
    /// One word in CamelCase, for programs: why the status is what it is.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// A sentence for people: the thing, the limit and the cure.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// The `metadata.generation` this observation was made about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// When `status` last changed.
    pub last_transition_time: Time,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be said yet. Also what a word of a later version reads as.
    #[serde(other)]
    Unknown,
}

/// Finds the condition of one type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}
