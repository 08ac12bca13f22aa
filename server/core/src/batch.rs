//! What an instance is handed: requests that run together, each with the way back to its caller.

use std::{sync::Arc, time::Instant};

pub use crate::completion::Pending;
use crate::{
    completion::{RequestEvents, complete_all},
    error::Error,
    record::{FailureReason, Marks},
    responder::Reply,
};

/// Requests that run together. The sum of their batch sizes fits the model. A row of a model with sequences may hold no
/// request ([`Completion::is_empty_row`]): it has inputs like the others, is answered like them, and nobody reads it.
pub struct Batch {
    pending: Vec<Pending>,
    start: Instant,
}

impl Batch {
    /// Made where an instance is run: the requests of one model, at least one, and the moment they are handed over.
    pub fn new(pending: Vec<Pending>, start: Instant) -> Self {
        Self { pending, start }
    }

    /// The requests, in queue order.
    pub fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// Rows of all requests together.
    pub fn batch_size(&self) -> u32 {
        self.pending.iter().map(Pending::batch_size).sum()
    }

    /// When it was handed over: `Marks::start`.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Answers every request, in order, and counts one execution: one lock for all of them. Statistics first, callers
    /// after.
    pub fn complete(self, replies: Vec<Reply>, marks: &Marks) {
        complete_all(self.pending, replies, marks);
    }

    /// Gives up the batch for its requests, which end by themselves, now or later, on any thread. The execution is
    /// counted through the other part.
    pub fn into_pending(self) -> (Vec<Pending>, Execution) {
        let rows = u64::from(self.batch_size());
        let events = self.pending.iter().find_map(|pending| pending.completion.events().cloned());
        (self.pending, Execution { events, rows, start: self.start })
    }

    /// Answers every request with the same error, where none was executed.
    pub fn refuse(self, error: &Error) {
        for Pending { completion, .. } in self.pending {
            completion.reject(FailureReason::of_backend(error), error.clone());
        }
    }

    /// Answers every request with the same error, and counts an execution.
    pub fn fail(self, error: &Error, now: Instant) {
        let replies = self.pending.iter().map(|_| Err(error.clone())).collect();
        let marks = Marks::at(self.start, now);
        self.complete(replies, &marks);
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("requests", &self.pending.len()).field("batch_size", &self.batch_size()).finish()
    }
}

/// One execution whose requests end by themselves.
pub struct Execution {
    events: Option<Arc<dyn RequestEvents>>,
    rows: u64,
    start: Instant,
}

impl Execution {
    /// When the batch was handed over: `Marks::start`.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Counts it. Call it when the instance is done with the batch, however its requests ended.
    pub fn ended(self, marks: &Marks) {
        if let Some(events) = &self.events {
            events.executed(self.rows, marks);
        }
    }
}
