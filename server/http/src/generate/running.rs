//! A request under way.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use server_core::{byte_budget::Reservation, error::Result, response::InferResponse, trace::Trace};
use server_engine::Inference;

use crate::tracing;

/// A request under way. Dropping it cancels the request.
pub(super) struct Running {
    pub(super) inference: Inference,
    /// What its inputs take of the byte budget, if they do not hold it themselves.
    pub(super) _held: Option<Reservation>,
    /// What is recorded of it.
    pub(super) trace: Option<Arc<Trace>>,
}

impl Running {
    /// The next response; `None` if nothing more comes.
    ///
    /// Source: Triton's traces, where an end that comes alone is one more response without one that is sent.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<InferResponse>>> {
        let was_last = self.inference.is_finished();
        let next = ready!(self.inference.poll_next(context));
        if next.is_some() || !was_last {
            tracing::answered(self.trace.as_ref());
        }
        Poll::Ready(next)
    }
}
