//! The responses of one request as server-sent events, pulled as the client takes them.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use server_engine::Inference;

use super::{event, flat};

/// Events still to come. Dropping it, as happens when the client leaves, cancels the request.
pub(crate) struct EventStream {
    first: Option<Bytes>,
    inference: Inference,
}

impl EventStream {
    /// A stream whose first event is there already.
    pub(super) fn new(first: Bytes, inference: Inference) -> Self {
        Self { first: Some(first), inference }
    }

    /// The next event; `None` after the last one.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let response = ready!(self.inference.poll_next(context));
        Poll::Ready(response.map(|response| event(response.and_then(|response| flat(&response)))))
    }
}
