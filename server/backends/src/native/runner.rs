//! The contract with a runtime: what a run is fed, and what it answers.

use bytes::Bytes;
use server_core::{
    error::Result,
    tensor::{DataType, Shape},
};
use smallvec::SmallVec;

use super::input::Fed;

/// The outputs of one run. More than eight cost an allocation each time.
pub(crate) type Values<V> = SmallVec<[V; 8]>;

/// A loaded model with the names of its tensors, ready to run. Owned by one instance, which runs one batch at a time.
pub(crate) trait Runner: Send {
    /// What one run answers per output. It may borrow from the runner, and from what the run was fed.
    type Value<'a>: Value
    where
        Self: 'a;

    /// Runs the model and computes the outputs `wanted`, in that order. Inputs come with their number and outputs as theirs, both in
    /// the order of [`super::Tensors`]; optional inputs that are absent are not among the inputs.
    ///
    /// Errors: whatever the runtime finds wrong, in its words. The runner is as good as before.
    fn run<'a>(&'a mut self, fed: &'a [(usize, Fed<'a>)], wanted: &[usize]) -> Result<Values<Self::Value<'a>>>;

    /// Whether `run` is as good on another thread than the one that made the runner: then a quick model is run by the thread that
    /// brings the request. Not so for a runtime that keeps threads or memory for each thread that calls it.
    fn runs_on_any_thread(&self) -> bool {
        true
    }

    /// Whether a part of a batch can run by itself. If not, a batch that fails is not taken apart: all its requests get the error.
    fn runs_parts(&self) -> bool {
        true
    }
}

/// One output of a run.
pub(crate) trait Value {
    /// Its type, `None` for one that no response can carry, and its shape.
    ///
    /// Errors: it is no tensor.
    fn describe(&self) -> Result<(Option<DataType>, Shape)>;

    /// Its elements, in host memory, row by row. Not asked of strings.
    ///
    /// Errors: they are not there.
    fn bytes(&self) -> Result<&[u8]>;

    /// The same as shared bytes, without a copy: what it owns lives until the last holder drops them. Memory that it only borrows,
    /// from the runner or from what the run was `fed` (a model may hand an input on as an output, see [`lies_in`]), is copied.
    ///
    /// Errors: as those of [`Value::bytes`].
    fn into_bytes(self, fed: &[(usize, Fed<'_>)]) -> Result<Bytes>;

    /// Replaces `content` by the strings of the tensor, end to end, and `starts` by where each begins.
    ///
    /// Errors: the tensor holds no strings.
    fn read_strings(&self, content: &mut Vec<u8>, starts: &mut Vec<usize>) -> Result<()>;
}

/// Whether that address is in memory that a run was fed: an output there is borrowed.
pub(crate) fn lies_in(fed: &[(usize, Fed<'_>)], address: usize) -> bool {
    fed.iter().any(|(_, fed)| match fed {
        Fed::Numbers { bytes, .. } => {
            bytes.as_ptr_range().start.addr() <= address && address < bytes.as_ptr_range().end.addr()
        }
        Fed::Strings { .. } => false, // a runtime copies strings into objects of its own
    })
}
