//! The part of a model configuration most models need, in the resource's own notation. Everything else is written as
//! `configPbtxt`. Field names are those of `config.pbtxt` in camelCase, lists in the plural.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// The model configuration in structured form. Fields given here win over a config.pbtxt in the source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelConfig {
    /// Backend that runs the model, such as onnxruntime or python. Default: that of `format`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub backend: Option<String>,
    /// Platform of the model, such as onnxruntime_onnx: the older way to name a backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub platform: Option<String>,
    /// What runs the backend, where it is not its library: model.py for PyTorch models that are written in Python.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime: Option<String>,
    /// File name of the model within a version folder. Default: that of the backend, such as model.onnx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub default_model_filename: Option<String>,
    /// Largest batch the model takes; 0 for a model without a batch dimension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_batch_size: Option<i32>,
    /// Inputs of the model. Absent: as the model file has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub inputs: Vec<ModelInput>,
    /// Outputs of the model. Absent: as the model file has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub outputs: Vec<ModelOutput>,
    /// Where and how many times the model is instantiated. Absent: one instance per GPU, or one on the CPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub instance_groups: Vec<InstanceGroup>,
    /// Joins requests into batches. Absent: each request runs by itself. Write {} for batching with defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic_batching: Option<DynamicBatching>,
    /// Parameters handed to the backend.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub parameters: BTreeMap<String, String>,
}

/// One input of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelInput {
    /// Name of the input.
    #[schemars(length(min = 1, max = 1024))]
    pub name: String,
    /// Type of its elements, such as TYPE_FP32.
    pub data_type: DataType,
    /// Its dimensions without the batch dimension; -1 for one of any length.
    #[schemars(length(min = 1, max = 32), inner(range(min = -1)))]
    pub dims: Vec<i64>,
    /// Shape the model itself wants, where it differs from dims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reshape: Option<Reshape>,
    /// Whether requests may leave this input out. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// One output of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelOutput {
    /// Name of the output.
    #[schemars(length(min = 1, max = 1024))]
    pub name: String,
    /// Type of its elements, such as TYPE_FP32.
    pub data_type: DataType,
    /// Its dimensions without the batch dimension; -1 for one of any length.
    #[schemars(length(min = 1, max = 32), inner(range(min = -1)))]
    pub dims: Vec<i64>,
    /// Shape the model itself gives, where it differs from dims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reshape: Option<Reshape>,
    /// File beside config.pbtxt with one label per line, for classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub label_filename: Option<String>,
}

/// A shape of the model itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reshape {
    /// The dimensions; none for a scalar.
    #[schemars(length(max = 32), inner(range(min = -1)))]
    pub shape: Vec<i64>,
}

/// Where and how many times the model is instantiated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceGroup {
    /// KIND_AUTO, KIND_GPU, KIND_CPU or KIND_MODEL. Default: KIND_AUTO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<InstanceKind>,
    /// Instances on each GPU named, or on the CPU. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub count: Option<i32>,
    /// GPUs by number, as the replica sees them. Absent: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 0)))]
    pub gpus: Vec<i32>,
}

/// What an instance runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(clippy::enum_variant_names, reason = "the words of config.pbtxt")]
#[schemars(transform = schema::without_description)]
pub enum InstanceKind {
    /// A GPU where there is one and the backend can use it, else the CPU.
    #[default]
    #[serde(rename = "KIND_AUTO")]
    KindAuto,
    /// A GPU.
    #[serde(rename = "KIND_GPU")]
    KindGpu,
    /// The CPU.
    #[serde(rename = "KIND_CPU")]
    KindCpu,
    /// The model decides.
    #[serde(rename = "KIND_MODEL")]
    KindModel,
}

/// Joins requests into batches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DynamicBatching {
    /// Batch sizes worth sending at once, each at most maxBatchSize.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1)))]
    pub preferred_batch_size: Vec<i32>,
    /// How long a request may wait for others, in microseconds. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_queue_delay_microseconds: Option<i64>,
    /// Whether responses leave in the order their requests came. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preserve_ordering: Option<bool>,
}

/// Type of a tensor's elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are Triton's own and say what they are")]
#[schemars(transform = schema::without_description)]
pub enum DataType {
    #[serde(rename = "TYPE_BOOL")]
    Bool,
    #[serde(rename = "TYPE_UINT8")]
    Uint8,
    #[serde(rename = "TYPE_UINT16")]
    Uint16,
    #[serde(rename = "TYPE_UINT32")]
    Uint32,
    #[serde(rename = "TYPE_UINT64")]
    Uint64,
    #[serde(rename = "TYPE_INT8")]
    Int8,
    #[serde(rename = "TYPE_INT16")]
    Int16,
    #[serde(rename = "TYPE_INT32")]
    Int32,
    #[serde(rename = "TYPE_INT64")]
    Int64,
    #[serde(rename = "TYPE_FP16")]
    Fp16,
    #[default]
    #[serde(rename = "TYPE_FP32")]
    Fp32,
    #[serde(rename = "TYPE_FP64")]
    Fp64,
    #[serde(rename = "TYPE_STRING")]
    String,
    #[serde(rename = "TYPE_BF16")]
    Bf16,
}
