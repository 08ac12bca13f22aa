//! `TritonModel`: one model, where its files are, how it is served, and the server that serves it.

#![allow(clippy::duplicated_attributes, reason = "printer columns of one type")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::parts::{
    ByteCount, Condition, NameRef,
    config::ModelConfig,
    load::{LoadPolicy, Readiness},
    schema,
    source::{Checksum, Layout, ModelFormat, ModelSource},
    versions::Versions,
};

/// A TritonModel puts one model on a TritonServer of its namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "triton-operator.dev",
    version = "v1alpha1",
    kind = "TritonModel",
    plural = "tritonmodels",
    shortname = "tmod",
    category = "triton",
    namespaced,
    derive = "PartialEq",
    doc = "A TritonModel puts one model on a TritonServer of its namespace: where its files are and how it is served.",
    status = "TritonModelStatus",
    selectable = ".spec.serverRef.name",
    printcolumn(
        name = "Server",
        type_ = "string",
        json_path = ".spec.serverRef.name",
        description = "TritonServer that serves the model"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether every replica serves the model as asked for"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is ready or not"
    ),
    printcolumn(
        name = "Loaded",
        type_ = "string",
        json_path = ".status.loadedReplicas",
        description = "Replicas that serve the model as it is wanted now, of those there are"
    ),
    printcolumn(
        name = "Serving",
        type_ = "string",
        json_path = ".status.servingReplicas",
        description = "Replicas that serve the model, be it with its former content, of those there are"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.activeVersions",
        description = "Versions being served"
    ),
    printcolumn(
        name = "Format",
        type_ = "string",
        json_path = ".spec.format",
        description = "Kind of model",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(kube_core = "kube_core")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("!(has(self.config) && has(self.configPbtxt))", "a model has either config or configPbtxt: move everything into one of them"),
    ("has(self.modelName) == has(oldSelf.modelName)", "modelName can be neither added nor removed: clients know the model by it; make a new TritonModel"),
])))]
pub struct TritonModelSpec {
    /// The TritonServer that serves the model, in the same namespace. It need not exist yet. When it is changed the model
    /// is loaded there and then unloaded here.
    pub server_ref: NameRef,
    /// Name by which clients know the model, of at most 240 characters. It cannot be changed. Default: metadata.name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = MODEL_NAME_PATTERN),
        length(max = 240),
        extend("x-kubernetes-validations" = schema::rules(&[(
            "self == oldSelf",
            "modelName cannot be changed: clients know the model by it; make a new TritonModel",
        )]))
    )]
    pub model_name: Option<String>,
    /// Where the files of the model come from: exactly one of inline, configMap, pvc, http, s3, gcs, azure, huggingFace, oci.
    pub source: ModelSource,
    /// What the fetched files must be; others are not loaded (ChecksumMismatch).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// How the files are arranged: Repository (config.pbtxt and numbered folders), File (the bare files of one version) or
    /// Auto. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// Which of the versions in the source are served, and how requests are routed between them. Default: what config.pbtxt in the source says, else the highest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<Versions>,
    /// Kind of model: onnx, tensorrt, pytorch, tensorflow, openvino, python or ensemble. Names the backend where the
    /// configuration does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ModelFormat>,
    /// The model configuration in structured form. Fields given here win over a config.pbtxt in the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ModelConfig>,
    /// The model configuration as the text of a config.pbtxt, for what `config` cannot say. It replaces a config.pbtxt in
    /// the source as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262_144))]
    pub config_pbtxt: Option<String>,
    /// GPU memory the model takes on each replica, as an estimate. Counted against the server's gpu.memoryPerReplica; a
    /// model without it counts as 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory: Option<ByteCount>,
    /// Which models are placed first where GPU memory or the manifest is short: one of higher priority takes the place of one that
    /// serves. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Required: a replica that starts is ready only once this model is loaded; Optional: it is ready without it. A model
    /// added later never makes a replica unready. Default: Required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// How long a load may take and how often it is tried again. A new content comes to one replica first, and to the others once a
    /// server has lived on with it for `settleTime` after the load; one whose servers end before that twice is not loaded any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_policy: Option<LoadPolicy>,
}

/// What the name of a model may be: it becomes a folder and a part of addresses.
pub const MODEL_NAME_PATTERN: &str = "^[A-Za-z0-9_][A-Za-z0-9_.+-]*$";

/// Longest `spec.modelName`: it is the name of folders, with what is added to tell contents apart.
pub const MODEL_NAME_MAX: usize = 240;

/// Longest `metadata.name` of a TritonModel: it is used as a label value; the name clients use is `spec.modelName`.
pub const NAME_MAX: usize = 63;

/// What was last observed of a TritonModel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TritonModelStatus {
    /// The metadata.generation this status speaks of; -1 before the first look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Replicas that serve the model as it is wanted now, of those there are, such as 2/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_replicas: Option<String>,
    /// Replicas that answer requests for the model, of those there are, such as 3/3. It is more than loadedReplicas where the former content
    /// still serves: while a new one is on its way, and where that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_replicas: Option<String>,
    /// Versions being served on every replica that has the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub active_versions: Vec<i64>,
    /// Versions that shall be served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_versions: Vec<i64>,
    /// Hash of the content being served, as sha256:….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    /// How many replicas want, have, load and failed to load the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicaCounts>,
    /// Replicas on which the model failed, at most 5, in the order of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub failures: Vec<ReplicaFailure>,
    /// The model on each replica, at most 20: first those where it is not served as asked for, then in the order of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub pods: Vec<ModelOnPod>,
    /// Memory that the model was measured to take, where most; kept while no replica serves it. What it takes on GPUs is counted against the
    /// server's gpu.memoryPerReplica when further models are placed, if it is more than its gpuMemory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MeasuredMemory>,
    /// The newest failure, kept after it was overcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// Addresses of the model from inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<ModelUrls>,
    /// Ready, ServerResolved, FitsMemory, Servable; and, only while true, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::list_by_type::<Condition>")]
    pub conditions: Vec<Condition>,
}

/// How many replicas want, have, load and failed to load a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaCounts {
    /// Replicas that shall have it.
    pub desired: i32,
    /// Replicas that serve what was asked for.
    pub loaded: i32,
    /// Replicas that answer requests for it, be it with what was asked for before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<i32>,
    /// Replicas that fetch or load it.
    pub loading: i32,
    /// Replicas on which the newest attempt failed.
    pub failed: i32,
}

/// Memory that a model was measured to take on one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeasuredMemory {
    /// Memory of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<ByteCount>,
    /// Memory of the replica's GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<ByteCount>,
}

/// A model on one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelOnPod {
    /// Name of the pod.
    pub name: String,
    /// Loaded: it serves what is asked for; Unready: loaded, in a pod that gets no requests; Pending, Downloading, Loading; Held: it waits
    /// until other replicas have tried it; Failed, or Retrying: its reason is among failures; Unknown: the pod cannot be asked.
    pub state: String,
    /// Versions that serve there, be they the wanted ones or former ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub versions: Vec<i64>,
    /// Hash of the content that serves there, where it is not the one of the whole server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
}

/// One replica on which a model failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaFailure {
    /// Name of the pod.
    pub pod: String,
    /// State of the model there, such as LoadFailed.
    pub state: String,
    /// One word: why.
    pub reason: String,
    /// The server's own words, at most 512 bytes.
    #[schemars(length(max = 512))]
    pub message: String,
}

/// The newest failure of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastFailure {
    /// One word: why.
    pub reason: String,
    /// Version that failed, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The server's own words, at most 512 bytes.
    #[schemars(length(max = 512))]
    pub message: String,
    /// When it was first seen.
    pub time: Time,
}

/// Addresses of a model from inside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelUrls {
    /// Base address of the model over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Host and port of the gRPC interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
}
