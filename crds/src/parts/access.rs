//! What the models of a server may use, and who may reach the server: the owner of a server decides, not whoever may write a model.

use k8s_openapi::api::{core::v1::ResourceRequirements, networking::v1::NetworkPolicyPeer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// What the models of the server may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelAccess {
    /// Secrets that sources of models may name. Each must carry the label `triton-operator.dev/model-access: "true"`; those that do are
    /// mounted into the pods from the start. One that is made or labelled later replaces the pods once. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub secrets: Vec<String>,
    /// PersistentVolumeClaims that sources of models may name. Those that exist are mounted, read-only, from the start. Default:
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub claims: Vec<String>,
    /// Hosts that models may be fetched from: names, *.name for every name below one, addresses, or ranges of addresses such as
    /// 10.0.0.0/8. Redirects are held to it as well. Absent: any host whose address the operator's settings allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 64),
        inner(regex(pattern = HOST_PATTERN), length(min = 1, max = 253)),
        extend("x-kubernetes-validations" = schema::rules(&[(
            "self.all(host, !host.contains('/') || isCIDR(host))",
            "a range of addresses is an address and the length of its prefix, such as 10.0.0.0/8 or fd00::/8",
        )]))
    )]
    pub hosts: Option<Vec<String>>,
    /// Whether pods may be replaced to mount what a model needs and they do not have yet: a ConfigMap above 256 KiB, a claim that
    /// was made after them. Otherwise such a model waits until they are replaced for another reason. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_pod_restart: Option<bool>,
}

/// What an item of `hosts` must look like: a name, `*.` and a name, an address, or a range of addresses.
pub const HOST_PATTERN: &str =
    r"^((\*\.)?[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|[0-9A-Fa-f:.]+/[0-9]{1,3})$";

/// The agent: the container beside the server that fetches and loads models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentOptions {
    /// Its CPU and memory. Without a memory limit here it is 256Mi, and never less than the memory request. Limits of CPU and memory
    /// equal to the requests, here and in `resources` of the server, give the pods the QoS class Guaranteed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// The NetworkPolicy of the pods. Needs a network that enforces NetworkPolicies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicyOptions {
    /// Whether one is made. The port of the agent (8003) is then open to the operator's namespace only. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Who may reach inference (8000 and 8001). Default: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub clients: Vec<NetworkPolicyPeer>,
    /// Who may reach the metrics (8002). Default: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub monitoring: Vec<NetworkPolicyPeer>,
}
