//! The parts of TensorFlow's messages that are read and written here; what else a file holds is skipped.
//!
//! Source: `saved_model.proto`, `meta_graph.proto`, `tensor_shape.proto`, `config.proto`, `rewriter_config.proto`.

use std::collections::BTreeMap;

/// What `saved_model.pb` holds.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SavedModel {
    /// One for each set of tags.
    #[prost(message, repeated, tag = "2")]
    pub(super) meta_graphs: Vec<MetaGraph>,
}

/// A graph and what may be asked of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MetaGraph {
    #[prost(message, optional, tag = "1")]
    pub(super) info: Option<MetaInfo>,
    /// By name.
    #[prost(btree_map = "string, message", tag = "5")]
    pub(super) signatures: BTreeMap<String, SignatureDef>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MetaInfo {
    #[prost(string, repeated, tag = "4")]
    pub(super) tags: Vec<String>,
}

/// One way to ask a graph.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SignatureDef {
    /// By the name that callers know.
    #[prost(btree_map = "string, message", tag = "1")]
    pub(super) inputs: BTreeMap<String, TensorInfo>,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(super) outputs: BTreeMap<String, TensorInfo>,
}

/// A tensor of the graph.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TensorInfo {
    /// `OPERATION:INDEX`; empty if it consists of several tensors, as one without most of its elements does.
    #[prost(string, tag = "1")]
    pub(super) name: String,
    /// TensorFlow's number.
    #[prost(int32, tag = "2")]
    pub(super) data_type: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) shape: Option<TensorShape>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    pub(super) extents: Vec<Extent>,
    #[prost(bool, tag = "3")]
    pub(super) has_unknown_rank: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Extent {
    /// -1 for any.
    #[prost(int64, tag = "1")]
    pub(super) size: i64,
}

/// `ConfigProto`: how a session is set up.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SessionConfig {
    /// Most devices of a kind.
    #[prost(btree_map = "string, int32", tag = "1")]
    pub(super) device_count: BTreeMap<String, i32>,
    #[prost(int32, tag = "2")]
    pub(super) intra_op_threads: i32,
    #[prost(int32, tag = "5")]
    pub(super) inter_op_threads: i32,
    #[prost(message, optional, tag = "6")]
    pub(super) gpu: Option<GpuOptions>,
    #[prost(bool, tag = "7")]
    pub(super) allow_soft_placement: bool,
    #[prost(bool, tag = "9")]
    pub(super) use_per_session_threads: bool,
    #[prost(message, optional, tag = "10")]
    pub(super) graph: Option<GraphOptions>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GpuOptions {
    #[prost(double, tag = "1")]
    pub(super) per_process_memory_fraction: f64,
    #[prost(bool, tag = "4")]
    pub(super) allow_growth: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GraphOptions {
    #[prost(message, optional, tag = "3")]
    pub(super) optimizer: Option<OptimizerOptions>,
    #[prost(message, optional, tag = "10")]
    pub(super) rewriter: Option<RewriterConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OptimizerOptions {
    /// XLA: -1 off, 1 and 2 on, 0 as the library's flags say.
    #[prost(int32, tag = "5")]
    pub(super) global_jit_level: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RewriterConfig {
    /// 1 for on.
    #[prost(int32, tag = "23")]
    pub(super) auto_mixed_precision: i32,
}
