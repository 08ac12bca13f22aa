//! `TritonServer`: replicas of one inference server, the GPUs they get, and how they are replaced. The models they serve are
//! resources of their own that name the server.

#![allow(clippy::duplicated_attributes, reason = "printer columns of one type")]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint};
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::parts::{
    ByteCount, Condition, Opaque,
    access::{AgentOptions, ModelAccess, NetworkPolicyOptions},
    autoscaling::{Autoscaling, AutoscalingStatus},
    control::Control,
    gpu::Gpu,
    image::Image,
    monitoring::Monitoring,
    pod::{ModelStore, PodMetadata, SharedMemory},
    probes::Probes,
    rollout::{Disruption, Rollout},
    routes::Routes,
    schema,
    server::ServerOptions,
    service::ServiceOptions,
    tls::Tls,
};

/// A TritonServer runs replicas of the inference server. Models are TritonModel resources that name it; adding, changing
/// or removing one replaces no pods.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "triton-operator.dev",
    version = "v1alpha1",
    kind = "TritonServer",
    plural = "tritonservers",
    shortname = "tsrv",
    category = "triton",
    namespaced,
    derive = "PartialEq",
    doc = "A TritonServer runs replicas of the inference server on the GPUs it asks for. Models are TritonModel resources that name it.",
    status = "TritonServerStatus",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether every replica serves what was asked for"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        json_path = ".status.readyReplicas",
        description = "Replicas that are ready"
    ),
    printcolumn(
        name = "Models",
        type_ = "integer",
        json_path = ".status.models.loaded",
        description = "Models loaded on every replica"
    ),
    printcolumn(name = "GPU", type_ = "integer", json_path = ".spec.gpu.count", description = "GPUs of each replica"),
    printcolumn(
        name = "Image",
        type_ = "string",
        json_path = ".status.image",
        description = "Image the replicas run",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(kube_core = "kube_core")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[(
    "!has(self.replicas) || !has(self.autoscaling)",
    "replicas beside autoscaling: the load decides how many run, so remove replicas (autoscaling.minReplicas and maxReplicas are the bounds), or remove autoscaling",
)])))]
pub struct TritonServerSpec {
    /// The server's container image. Default: the image the operator was installed with. It is noted in status.image, and
    /// an update of the operator alone does not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// How many replicas run. Leave it out where something else sets the scale: `autoscaling`, or an
    /// autoscaler of your own. When it is taken out, the present number stays. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// Lets the load decide how many replicas run, by how long requests wait and how busy the models are. Default: `replicas` run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// CPU and memory of each replica; GPUs are asked for in `gpu`. Without a memory limit here it is 4Gi, with GPUs 16Gi for
    /// each, and never less than the memory request; a server above its limit is ended and started again. Set
    /// `limits.memory` for models that need more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// GPUs of each replica, and the memory budget models are admitted against. Absent: CPU only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// RuntimeClass of the pods, such as nvidia. Absent: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Labels a node must carry for a replica to run there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes the replicas accept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Affinity and anti-affinity to nodes and other pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How replicas spread over the cluster. Default: over nodes where that is possible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// PriorityClass of the pods; none of system-*, which are for the pods of the cluster itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Shared memory of the server's container (/dev/shm). Default: up to 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm: Option<SharedMemory>,
    /// Where fetched models are kept. Default: an emptyDir, fetched again by each new pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_store: Option<ModelStore>,
    /// What the models of the server may use: Secrets, claims, hosts. A model that names another Secret or claim is not loaded
    /// (AccessDenied).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_access: Option<ModelAccess>,
    /// Settings of the inference server process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerOptions>,
    /// Who may load and unload models, change log and trace settings and register shared memory: Private or Public. Private:
    /// only the pod itself, over a socket in it; the ports of the Service refuse these calls, so that nobody but TritonModel
    /// resources decides what is served. Public: whoever reaches these ports. Default: Private.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// The agent: the container beside the server that fetches and loads models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentOptions>,
    /// How often the kubelet asks and how many silent answers it bears. What it asks is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Probes>,
    /// How pods are replaced when their template changes. Changes of models replace no pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// The Service in front of the pods: 8000 (HTTP), 8001 (gRPC), 8002 (metrics).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceOptions>,
    /// TLS at the ports of the pods: HTTP, gRPC and metrics. Clients, and whatever leads from outside to the Service, have to speak it
    /// as well. A server that rests (autoscaling.minReplicas: 0) is woken by every connection then, also by those that only ask for its
    /// health. Default: none is spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Routes that lead from outside the cluster to the Service. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Routes>,
    /// The NetworkPolicy of the pods: who may reach which of their ports. Default: none is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicyOptions>,
    /// Objects made for the monitoring of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Monitoring>,
    /// The PodDisruptionBudget: how many replicas a drain of nodes may take at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption: Option<Disruption>,
    /// ServiceAccount of the pods. Absent: one named like the server is made. Its token is not mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Labels and annotations added to the pods; none of triton-operator.dev, and none that controllers of Kubernetes write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_metadata: Option<PodMetadata>,
    /// The last word about the pods: a strategic merge patch over their template, such as a sidecar, an init container (it runs once the
    /// agent has brought the models), a volume, environment from a ConfigMap. What the operator relies on, and rights that the pods
    /// do not have, are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<Opaque>,
    /// Runs no replica but keeps everything else. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// Longest `metadata.name` of a TritonServer: objects named after it add to its name.
pub const NAME_MAX: usize = 52;

/// What is wrong with a `metadata.name` that no Service can have.
pub const NOT_A_SERVICE: &str =
    "metadata.name names a Service as well: begin with a letter, and write - in place of dots";

/// What was last observed of a TritonServer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TritonServerStatus {
    /// The metadata.generation this status speaks of; -1 before the first look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Replicas that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Replicas that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Replicas of the newest template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_replicas: Option<i32>,
    /// What the autoscaler of the server last said; with spec.autoscaling only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingStatus>,
    /// Label selector of the pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Hash of the manifest of models the replicas are told to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_hash: Option<String>,
    /// Image of the newest pod template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Digest of the image that the replicas run, as sha256:…; absent while they run different ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// The replicas one by one, at most 20: first those that are not ready or on which a model failed, then in the order of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub pods: Vec<PodStatus>,
    /// How many models are wanted, loaded, failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<ModelCounts>,
    /// GPU memory of one replica: what may be claimed, what is claimed, what was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory: Option<GpuMemoryStatus>,
    /// Where the server is reached from inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// Ready, Available, ModelsLoaded; AutoscalingActive with spec.autoscaling; and, only while true, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::list_by_type::<Condition>")]
    pub conditions: Vec<Condition>,
}

/// One replica of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Name of the pod.
    pub name: String,
    /// Node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether it gets requests.
    pub ready: bool,
    /// Digest of the image its server runs, as sha256:….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Models it serves as they are wanted.
    pub models_loaded: i32,
    /// Models it could not load.
    pub models_failed: i32,
    /// What keeps it from running or from being asked, at most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub message: Option<String>,
}

/// How many models are wanted, loaded, failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelCounts {
    /// Models that name this server.
    pub desired: i32,
    /// Models loaded on every replica.
    pub loaded: i32,
    /// Models that were left out or failed on a replica.
    pub failed: i32,
}

/// GPU memory of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuMemoryStatus {
    /// What models may claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<ByteCount>,
    /// What the placed models claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<ByteCount>,
    /// The most any replica was seen to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_max: Option<ByteCount>,
}

/// Where the server is reached from inside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// Base address of the HTTP interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Host and port of the gRPC interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Address of the metrics page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
}
