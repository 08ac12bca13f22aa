//! One run of a step.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::{request::Sequence, tensor::Tensor};

/// One run of a step that was started.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the step.
    pub step: usize,
    pub(super) iteration: usize,
    /// Batch of its request; 0 if its model has no batch dimension.
    pub(super) rows: u32,
    pub(super) sequence: Option<Arc<Sequence>>,
}

/// What a run asks its model.
#[derive(Debug)]
pub struct StepInputs {
    /// Tensors under the model's names, in the model's shapes.
    pub inputs: SmallVec<[Tensor; 2]>,
    /// The sequence that the request belongs to.
    pub sequence: Option<Sequence>,
}
