//! What one batch under way needs on the GPU and for it.

use server_core::tensor::{DataType, Shape};

use super::{graphs::Key, place::Place, raw::Context};
use crate::cuda::{CudaError, Event, Graph, HostMemory, Stream};

/// A context for one profile.
pub(super) struct Profiled {
    /// Number of the profile.
    pub(super) number: usize,
    /// Runs the engine with it.
    pub(super) context: Context,
}

/// What a GPU does for an instance, in three orders.
pub(super) struct Streams {
    /// Inputs.
    pub(super) input: Stream,
    /// Runs.
    pub(super) compute: Stream,
    /// Results, if not on `compute`.
    pub(super) output: Option<Stream>,
}

/// Memory and moments of one batch under way.
pub(super) struct Lane {
    /// For each tensor of the engine.
    pub(super) places: Vec<Place>,
    /// Host memory for each output, in the order in which runs count them.
    pub(super) results: Vec<HostMemory>,
    /// Inputs are on the GPU.
    pub(super) fed: Event,
    /// The run begins.
    pub(super) begun: Event,
    /// Outputs are computed.
    pub(super) computed: Event,
    /// Results are on the host.
    pub(super) done: Event,
    /// For each context.
    pub(super) graphs: Vec<Vec<Captured>>,
    /// What the run that is under way answers.
    pub(super) answers: Vec<Answer>,
}

/// A run that was captured.
pub(super) struct Captured {
    /// Which batches take it.
    pub(super) key: Key,
    /// The run.
    pub(super) graph: Graph,
    /// For each tensor; empty for inputs.
    pub(super) shapes: Vec<Shape>,
}

/// One output of a run.
pub(super) struct Answer {
    /// Its number.
    pub(super) output: usize,
    /// Its type.
    pub(super) data_type: DataType,
    /// Where it is read.
    pub(super) content: Content,
}

/// Where an output is read when its run has ended.
pub(super) enum Content {
    /// In host memory, so many bytes of that shape.
    Copied(Shape, usize),
    /// A shape tensor: the number of the tensor, and of the rows of the batch.
    Shape(usize, Option<i64>),
}

impl Streams {
    /// The stream of results.
    pub(super) fn output(&self) -> &Stream {
        self.output.as_ref().unwrap_or(&self.compute)
    }

    /// Waits until nothing is under way, whatever went wrong.
    ///
    /// Errors: the first thing that did.
    pub(super) fn synchronize(&self) -> Result<(), CudaError> {
        let ended = [&self.input, &self.compute, self.output()].map(Stream::synchronize); // all of them
        ended.into_iter().collect()
    }
}

impl Lane {
    /// Has the run wait for its inputs, and marks when it begins.
    pub(super) fn begin(&self, streams: &Streams) -> Result<(), CudaError> {
        self.fed.record(&streams.input)?;
        streams.compute.wait_for(&self.fed)?;
        self.begun.record(&streams.compute)
    }

    /// Has the copies of results wait for the run.
    pub(super) fn end(&self, streams: &Streams) -> Result<(), CudaError> {
        let Some(output) = &streams.output else { return Ok(()) };
        self.computed.record(&streams.compute)?;
        output.wait_for(&self.computed)
    }
}
