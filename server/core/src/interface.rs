//! What a loaded model version takes and gives, compiled once from its configuration so that requests are checked
//! without touching protobuf.

use crate::{
    request::VersionChoice,
    tensor::{DataType, Name, Shape},
};

/// One input of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSpec {
    /// Name in the configuration.
    pub name: Name,
    /// Element type.
    pub data_type: DataType,
    /// Extents without the batch dimension; `-1` is any.
    pub dims: Shape,
    /// What the runtime is given instead of `dims`, without the batch dimension.
    pub reshape: Option<Shape>,
    /// May be absent from a request.
    pub is_optional: bool,
    /// Requests of different shapes may share a batch.
    pub allow_ragged_batch: bool,
}

/// One output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// Name in the configuration.
    pub name: Name,
    /// Element type.
    pub data_type: DataType,
    /// Extents without the batch dimension; `-1` is any.
    pub dims: Shape,
    /// What the runtime gives instead of `dims`, without the batch dimension.
    pub reshape: Option<Shape>,
    /// Names of classes, one per index; empty without `label_filename`.
    pub labels: Vec<String>,
}

/// What a model version takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Name on the wire.
    pub model_name: Name,
    /// Concrete version.
    pub version: u64,
    /// 0: no batch dimension. Else: inputs and outputs carry one, of at most this extent.
    pub max_batch_size: u32,
    /// In the order of the configuration.
    pub inputs: Vec<InputSpec>,
    /// In the order of the configuration.
    pub outputs: Vec<OutputSpec>,
    /// Answers any number of responses per request.
    pub is_decoupled: bool,
}

/// What metadata endpoints tell of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelMetadata {
    /// Name on the wire.
    pub name: Name,
    /// Ready versions, ascending; only the one asked for if one was.
    pub versions: Vec<u64>,
    /// `platform` of the configuration, or its backend's name.
    pub platform: String,
    /// Name, type and full shape (`-1` in front when batching) of each input.
    pub inputs: Vec<TensorMetadata>,
    /// The same of each output.
    pub outputs: Vec<TensorMetadata>,
}

/// Name, type and full shape of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMetadata {
    /// Name in the configuration.
    pub name: Name,
    /// Element type.
    pub data_type: DataType,
    /// Full shape; `-1` is any.
    pub shape: Shape,
}

/// A model and a version as an endpoint names them.
#[derive(Debug, Clone, Copy)]
pub struct ModelId<'a> {
    /// Name on the wire.
    pub name: &'a str,
    /// Version asked for.
    pub version: VersionChoice,
}
