//! What is recorded of a request, one by one.

use std::time::Instant;

use bytes::Bytes;

use super::context::SpanId;
use crate::tensor::{DataType, Name, Shape};

/// A point that a request reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it: they are Triton's")]
pub enum Activity {
    RequestStart,
    QueueStart,
    ComputeStart,
    ComputeInputEnd,
    ComputeOutputStart,
    ComputeEnd,
    RequestEnd,
    InferResponseComplete,
    HttpRecvStart,
    HttpRecvEnd,
    HttpSendStart,
    HttpSendEnd,
    GrpcWaitReadStart,
    GrpcWaitReadEnd,
    GrpcSendStart,
    GrpcSendEnd,
    /// One that a backend has named.
    Custom(Name),
}

impl Activity {
    /// Its name in trace files and spans, e.g. `REQUEST_START`.
    pub fn name(&self) -> &str {
        match self {
            Self::RequestStart => "REQUEST_START",
            Self::QueueStart => "QUEUE_START",
            Self::ComputeStart => "COMPUTE_START",
            Self::ComputeInputEnd => "COMPUTE_INPUT_END",
            Self::ComputeOutputStart => "COMPUTE_OUTPUT_START",
            Self::ComputeEnd => "COMPUTE_END",
            Self::RequestEnd => "REQUEST_END",
            Self::InferResponseComplete => "INFER_RESPONSE_COMPLETE",
            Self::HttpRecvStart => "HTTP_RECV_START",
            Self::HttpRecvEnd => "HTTP_RECV_END",
            Self::HttpSendStart => "HTTP_SEND_START",
            Self::HttpSendEnd => "HTTP_SEND_END",
            Self::GrpcWaitReadStart => "GRPC_WAITREAD_START",
            Self::GrpcWaitReadEnd => "GRPC_WAITREAD_END",
            Self::GrpcSendStart => "GRPC_SEND_START",
            Self::GrpcSendEnd => "GRPC_SEND_END",
            Self::Custom(name) => name,
        }
    }
}

/// A place where tensors are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorActivity {
    /// An input, as it enters the queue.
    QueueInput,
    /// An output, as the backend has made it.
    BackendOutput,
}

impl TensorActivity {
    /// Its name in trace files.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueInput => "TENSOR_QUEUE_INPUT",
            Self::BackendOutput => "TENSOR_BACKEND_OUTPUT",
        }
    }
}

/// One thing that was recorded, of the part of that number.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Which model runs that part. Once for each, before its other events but those of the front end.
    Model {
        /// Number of the part.
        id: u64,
        /// Part that it is a child of; 0 for none.
        parent_id: u64,
        /// The span of the part.
        span: SpanId,
        /// The span around it: that of the whole request for the first part.
        parent_span: SpanId,
        /// The model.
        model: Name,
        /// Its version.
        version: u64,
        /// Id that the client gave; may be empty.
        request_id: String,
    },
    /// A point was reached.
    Time {
        /// Number of the part.
        id: u64,
        /// Which point.
        activity: Activity,
        /// When.
        at: Instant,
    },
    /// A tensor was there.
    Tensor {
        /// Number of the part.
        id: u64,
        /// Where.
        activity: TensorActivity,
        /// Its name.
        name: Name,
        /// Its type.
        data_type: DataType,
        /// Its shape.
        shape: Shape,
        /// A copy of its elements.
        data: Bytes,
    },
}
