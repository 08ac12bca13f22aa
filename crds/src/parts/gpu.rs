//! Which GPUs each replica gets and how much of their memory models may claim.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ByteCount, schema};

/// GPUs of each replica, and the memory budget models are admitted against.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    (
        "has(self.count) != has(self.resourceClaims)",
        "GPUs are asked for either by count or by resourceClaims: write one of them",
    ),
    (
        "!has(self.resourceName) || !has(self.resourceClaims)",
        "resourceName belongs to count; resourceClaims name their devices themselves: remove resourceName",
    ),
])))]
pub struct Gpu {
    /// How many GPUs (or GPU slices) each replica gets. The operator asks for this many of `resourceName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub count: Option<i32>,
    /// The extended resource to ask for: nvidia.com/gpu, a MIG slice such as nvidia.com/mig-1g.10gb, or nvidia.com/gpu.shared where
    /// time-slicing renames it. Default: nvidia.com/gpu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"),
        length(max = 316)
    )]
    pub resource_name: Option<String>,
    /// GPUs by dynamic resource allocation (resource.k8s.io/v1, Kubernetes 1.34 and later), in place of `count`: claims of the
    /// server's namespace, or templates that each pod gets claims from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub resource_claims: Vec<GpuClaim>,
    /// Kinds of GPU that will do, as the nodes' label nvidia.com/gpu.product says, such as NVIDIA-L40S. With time-slicing or MIG
    /// the label may have an ending, such as Tesla-T4-SHARED. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub products: Vec<String>,
    /// GPU memory of one replica, over all of its GPUs. Models whose gpuMemory would exceed it (less memoryReserve) are
    /// not loaded and say InsufficientGPUMemory. Absent: models are not admitted by memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_per_replica: Option<ByteCount>,
    /// Share of memoryPerReplica kept free for contexts and fragmentation, such as 10%. Default: 10%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_reserve: Option<Percent>,
}

/// Devices that each replica gets by dynamic resource allocation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[(
    "has(self.resourceClaimName) != has(self.resourceClaimTemplateName)",
    "devices come either from resourceClaimName or from resourceClaimTemplateName: write one of them",
)])))]
pub struct GpuClaim {
    /// Its name within the pods.
    #[schemars(regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 63))]
    pub name: String,
    /// A ResourceClaim that all replicas share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub resource_claim_name: Option<String>,
    /// A ResourceClaimTemplate of which each replica gets a claim of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub resource_claim_template_name: Option<String>,
    /// One of the claim's requests. Default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 127))]
    pub request: Option<String>,
}

/// A whole number of hundredths, written with a percent sign: `10%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

/// What the text of a [`Percent`] must look like.
pub const PERCENT_PATTERN: &str = "^(100|[1-9]?[0-9])%$";

/// A text that is no share of a whole.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not a share: write a whole number from 0% to 100%")]
pub struct NotAPercent(String);

impl Percent {
    /// `hundredths` of a whole; more than 100 count as 100.
    pub const fn new(hundredths: u8) -> Self {
        Self(if hundredths > 100 { 100 } else { hundredths })
    }

    /// This share of `bytes`, rounded down.
    pub fn of(self, bytes: ByteCount) -> ByteCount {
        let share = u128::from(bytes.0) * u128::from(self.0) / 100;
        ByteCount(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

impl FromStr for Percent {
    type Err = NotAPercent;

    fn from_str(text: &str) -> Result<Self, NotAPercent> {
        text.strip_suffix('%')
            .filter(|number| number.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|number| number.parse().ok())
            .filter(|hundredths| *hundredths <= 100)
            .map(Self)
            .ok_or_else(|| NotAPercent(text.to_owned()))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Percent {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PERCENT_PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_whole_number_of_hundredths() {
        assert_eq!("10%".parse::<Percent>().unwrap().of(ByteCount(1000)), ByteCount(100));
        assert_eq!(Percent::new(100).of(ByteCount(u64::MAX)), ByteCount(u64::MAX));
        for text in ["10", "%", "101%", "-1%", "1.5%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
