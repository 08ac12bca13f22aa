//! The contract with a runtime: what a run is fed, and what it answers.

use bytes::Bytes;
use server_core::{
    batch::Pending,
    error::Result,
    tensor::{DataType, Shape},
};
use smallvec::SmallVec;

use super::input::Input;

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

/// One input of a run.
#[derive(Clone)]
pub(crate) enum Fed<'a> {
    /// Elements of a fixed size.
    Numbers {
        /// Their type.
        data_type: DataType,
        /// Of the whole batch, as the model takes it; empty for a scalar.
        shape: Shape,
        /// As many as type and shape say. They lie where a request left them, aligned to their type, or gathered and aligned to 64.
        bytes: &'a [u8],
    },
    /// Byte strings.
    Strings {
        /// Of the whole batch.
        shape: Shape,
        /// Row by row. A request may bring fewer than the shape says, which the runtime refuses.
        elements: Strings<'a>,
    },
}

impl Fed<'_> {
    /// The shape of the whole batch.
    pub(crate) fn shape(&self) -> &Shape {
        match self {
            Self::Numbers { shape, .. } | Self::Strings { shape, .. } => shape,
        }
    }

    /// The bytes of its elements; none are counted for strings.
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Numbers { bytes, .. } => bytes.len(),
            Self::Strings { .. } => 0,
        }
    }
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

/// The elements of a BYTES input over all requests of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Strings<'a> {
    pub(super) requests: &'a [Pending],
    pub(super) input: &'a Input,
    /// Where requests mostly have it among their inputs.
    pub(super) position: usize,
    /// No more than so many.
    pub(super) most: usize,
}

impl<'a> Strings<'a> {
    /// Element by element.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let Self { requests, input, position, most } = *self;
        requests.iter().flat_map(move |pending| input.strings(pending, position)).take(most)
    }
}
