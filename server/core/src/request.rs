//! One inference request in the server's own words: no protocol, no transport.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

pub use crate::parameters::{Parameter, Parameters};
use crate::{
    caller::Caller,
    error::{Error, Result},
    tensor::{Name, Tensor},
    trace::Trace,
};

/// Which version of a model a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum VersionChoice {
    /// The highest version that is ready.
    #[default]
    Latest,
    /// This one.
    Exact(u64),
}

impl VersionChoice {
    /// Reads a version as clients write it: empty is the latest, else an integer that is not negative.
    ///
    /// Errors: `InvalidArgument` in Triton's words for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::Latest);
        }
        match text.parse::<i64>() {
            Ok(number) => u64::try_from(number).map(Self::Exact).map_err(|_| {
                Error::invalid_argument(format!(
                    "invalid model version specified '{text}' , version should be an integral value > 0"
                ))
            }),
            // "stol" is what Triton's number reader says of any text it cannot read.
            Err(_) => Err(Error::invalid_argument(format!(
                "failed to get model version from specified version string '{text}' (details: stol), \
                 version should be an integral value > 0"
            ))),
        }
    }
}

/// Identity of a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CorrelationId {
    /// A number; 0 means none.
    Number(u64),
    /// A text of at most 128 bytes; empty means none.
    Text(String),
}

/// A request's place in its sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Whose sequence.
    pub id: CorrelationId,
    /// First of its sequence.
    pub is_start: bool,
    /// Last of its sequence.
    pub is_end: bool,
}

impl Sequence {
    /// The sequence that a request speaks of: flags count without an id too, which is 0 then: none.
    pub fn of(id: Option<CorrelationId>, is_start: bool, is_end: bool) -> Option<Self> {
        if id.is_none() && !is_start && !is_end {
            return None;
        }
        Some(Self { id: id.unwrap_or(CorrelationId::Number(0)), is_start, is_end })
    }
}

/// Memory of a client that an output is written to: a part of a shared-memory region.
pub trait OutputMemory: Send + Sync + fmt::Debug {
    /// Length in bytes.
    fn byte_size(&self) -> usize;

    /// Writes the bytes from its start; what lies behind them stays as it is.
    ///
    /// Errors: there are more bytes than it has; or the region cannot be written any more.
    fn write(&self, bytes: &[u8]) -> Result<()>;
}

/// Where the caller wants an output instead of in the response.
#[derive(Debug, Clone)]
pub struct OutputWindow(pub Arc<dyn OutputMemory>);

impl PartialEq for OutputWindow {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for OutputWindow {}

/// An output the caller wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedOutput {
    /// Its name in the model's configuration.
    pub name: Name,
    /// Answer with the `n` top classes as text instead of the values; 0 answers with the values.
    pub classification: u32,
    /// Write the values there, and send only type and shape; `None` sends the values.
    pub window: Option<OutputWindow>,
}

impl RequestedOutput {
    /// The values of an output, in the response.
    pub fn values(name: impl Into<Name>) -> Self {
        Self { name: name.into(), classification: 0, window: None }
    }
}

/// One inference request. Made by a front end, checked by [`crate::check`], run by a scheduler.
#[derive(Debug, Clone)]
pub struct InferRequest {
    /// Model asked for.
    pub model_name: Name,
    /// Version asked for.
    pub model_version: VersionChoice,
    /// The caller's own id, echoed in the response; may be empty.
    pub id: String,
    /// Tensors in the order given.
    pub inputs: SmallVec<[Tensor; 2]>,
    /// Outputs wanted, in the order of the answer; empty asks for all, in the order of the configuration.
    pub outputs: SmallVec<[RequestedOutput; 2]>,
    /// Parameters that are not the server's own: for the backend.
    pub parameters: Parameters,
    /// Set when the caller gave a sequence id or flag.
    pub sequence: Option<Sequence>,
    /// 1 is the most urgent; 0 asks for the model's default.
    pub priority: u64,
    /// How long it may wait in the queue; `None` asks for the model's default.
    pub timeout: Option<Duration>,
    /// When its first byte was understood: the start of `nv_inference_request_duration_us`.
    pub received_at: Instant,
    /// The model instances that wait for it; `None` for a request that no model asked for.
    pub callers: Option<Arc<Caller>>,
    /// What is recorded of it; `None` for a request that is not traced.
    pub trace: Option<Arc<Trace>>,
}

impl InferRequest {
    /// Bytes of all inputs.
    pub fn input_bytes(&self) -> usize {
        self.inputs.iter().map(|tensor| tensor.data.len()).sum()
    }
}
