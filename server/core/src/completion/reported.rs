//! Requests and executions whose times their backend reports by itself, before or after it has answered: so they are counted
//! apart from the answers.

use std::{any::Any, sync::Arc, time::Instant};

use super::{Completion, EndedRequest, Marks, RequestEvents, RequestRecord, ResponseMarks, ResponseOutcome};
use crate::{
    responder::{NotSent, Reply},
    stats::{ComputeTimes, FailureReason},
};

/// Counts a request that is answered with [`Completion::send_unreported`] and [`Completion::finish_unreported`]. It may outlive
/// the request.
#[derive(Clone)]
pub struct Reporter {
    record: RequestRecord,
    events: Option<Arc<dyn RequestEvents>>,
}

impl Reporter {
    /// What is counted of the request.
    pub fn record(&self) -> &RequestRecord {
        &self.record
    }

    /// Counts its response number `index`, from 0.
    pub fn responded(&self, index: u32, outcome: ResponseOutcome, marks: &ResponseMarks) {
        if let Some(events) = &self.events {
            events.responded(&self.record, index, outcome, marks);
        }
    }

    /// Counts its end. Call it once.
    pub fn ended(&self, outcome: Result<(), FailureReason>, marks: &Marks) {
        if let Some(events) = &self.events {
            let request = EndedRequest { record: &self.record, trace: None };
            events.ended(request, outcome, Some(marks), marks.end);
        }
    }

    /// Counts an execution of so many rows that the request was part of.
    pub fn executed(&self, rows: u64, marks: &Marks) {
        if let Some(events) = &self.events {
            events.executed(rows, marks);
        }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.events.as_ref().map_or_else(|| self.record.queued_at, |events| events.now())
    }
}

impl Completion {
    /// What counts the request apart from its answers.
    pub fn reporter(&self) -> Reporter {
        Reporter { record: self.record, events: self.events.clone() }
    }

    /// Sends one response of several, which is not counted.
    ///
    /// Errors: the slot is full, and the reply comes back; or the caller has left.
    pub fn send_unreported(&mut self, reply: Reply) -> Result<(), NotSent> {
        let Some(responder) = &mut self.responder else { return Err(NotSent::Abandoned) };
        if let (Some(events), Some(ticket)) = (&self.events, self.ticket) {
            events.sends(ticket, responder);
        }
        responder.send(reply)?;
        self.responses = self.responses.saturating_add(1);
        Ok(())
    }

    /// Lets more responses wait to be read, see [`crate::responder::Responder::widen`].
    pub fn widen(&mut self, bytes: usize, responses: usize, permit: Box<dyn Any + Send>) {
        if let Some(responder) = &mut self.responder {
            responder.widen(bytes, responses, permit);
        }
    }

    /// Records when the request was executed, as its backend reports it, if it is traced.
    pub fn record_reported(&self, marks: &Marks) {
        if let Some(trace) = &self.trace {
            trace.executed(marks);
        }
    }

    /// Says the last word as [`Completion::finish`] does, and counts nothing: the caller hears of `marks`.
    pub fn finish_unreported(&mut self, reply: Option<Reply>, marks: &Marks) {
        if let Some(mut responder) = self.responder.take() {
            responder.took(ComputeTimes::of(marks));
            if let (Some(trace), Some(Ok(outputs))) = (&self.trace, &reply) {
                trace.outputs(outputs);
            }
            self.say(responder, reply);
        }
    }
}
