//! Pieces of the server's pods: shared memory, where models are kept, labels.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ByteCount, reference::NAME_PATTERN, schema};

/// Shared memory of the server's container (`/dev/shm`), for clients in the same pod and for libraries that Python models use. What
/// passes between the server and its Python models lies in memory of their own and needs none of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedMemory {
    /// Upper limit; what is used counts as memory of the pod. Default: 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<ByteCount>,
}

/// Where fetched models are kept: at most one kind. Default: an emptyDir without a limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[(
    "!(has(self.emptyDir) && has(self.persistentVolumeClaim))",
    "modelStore is either emptyDir or persistentVolumeClaim: remove one",
)])))]
pub struct ModelStore {
    /// Kept with the pod, fetched again by each new pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirStore>,
    /// Kept on a claim of the namespace: once for all replicas, and found again by the pods that come after. More than one replica
    /// needs a claim that many can mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimStore>,
}

/// A model store that lives with its pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDirStore {
    /// Upper limit on the node's disk; a pod above it is evicted. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<ByteCount>,
}

/// A model store on a PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimStore {
    /// Name of the claim, in the server's namespace.
    #[schemars(regex(pattern = NAME_PATTERN), length(min = 1, max = 253))]
    pub claim_name: String,
}

/// Labels and annotations added to the pods. Those the operator sets itself win.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodMetadata {
    /// Labels added to each pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Annotations added to each pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}
