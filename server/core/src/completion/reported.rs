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
    /// When what it reports of the request's time begins.
    since: Instant,
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

    /// Counts its end, or that of one of its turns, whose time is what no turn before has told. Call it once.
    pub fn ended(&self, outcome: Result<(), FailureReason>, marks: &Marks) {
        if let Some(events) = &self.events {
            let record = RequestRecord { received_at: self.since, ..self.record };
            let request = EndedRequest { record: &record, trace: None };
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
        Reporter { record: self.record, since: self.unreported_since, events: self.events.clone() }
    }

    /// A turn has ended that its backend reports by itself.
    pub(crate) fn turn_reported(&mut self, now: Instant) {
        self.unreported_since = now;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;
    use smallvec::SmallVec;

    use super::*;
    use crate::{
        batch::{Batch, Pending},
        error::Error,
        request::{InferRequest, VersionChoice},
    };

    /// Keeps what is counted; its clock shows what it is set to.
    struct Counted {
        now: Mutex<Instant>,
        /// Of each end that was counted, how long it took.
        ends: Mutex<Vec<(Result<(), FailureReason>, Duration)>>,
        executions: Mutex<u32>,
        again: Mutex<Option<Pending>>,
    }

    impl RequestEvents for Counted {
        fn batch_ended(&self, _: &[Pending], _: &[Reply], _: &Marks) {
            *self.executions.lock() += 1;
        }

        fn executed(&self, _: u64, _: &Marks) {
            *self.executions.lock() += 1;
        }

        fn responded(&self, _: &RequestRecord, _: u32, _: ResponseOutcome, _: &ResponseMarks) {}

        fn ended(
            &self,
            request: EndedRequest<'_>,
            outcome: Result<(), FailureReason>,
            _: Option<&Marks>,
            now: Instant,
        ) {
            self.ends.lock().push((outcome, now.saturating_duration_since(request.record.received_at)));
        }

        fn released(&self, _: usize) {}

        fn rescheduled(&self, request: Pending, _: Option<&Marks>) {
            *self.again.lock() = Some(request);
        }

        fn now(&self) -> Instant {
            *self.now.lock()
        }
    }

    const MS: Duration = Duration::from_millis(1);

    /// A request that came just now.
    fn began() -> (Arc<Counted>, Pending, Instant) {
        let start = Instant::now();
        let events = Counted {
            now: Mutex::new(start),
            ends: Mutex::default(),
            executions: Mutex::default(),
            again: Mutex::default(),
        };
        let events = Arc::new(events);
        let record = RequestRecord { received_at: start, queued_at: start, batch_size: 1 };
        let (completion, _) = Completion::new(record, events.clone(), 1);
        let request = InferRequest {
            model_name: "m".into(),
            model_version: VersionChoice::Latest,
            id: String::new(),
            inputs: SmallVec::new(),
            outputs: SmallVec::new(),
            parameters: Vec::new(),
            sequence: None,
            priority: 0,
            timeout: None,
            received_at: start,
            callers: None,
            trace: None,
        };
        (events, Pending { request, completion }, start)
    }

    /// The request's next turn, which begins so long after the request.
    fn next_turn(events: &Counted, pending: Pending, at: Instant, marks: Option<&Marks>) -> Pending {
        *events.now.lock() = at;
        pending.reschedule(marks);
        events.again.lock().take().unwrap()
    }

    #[test]
    fn a_turn_tells_the_time_that_none_before_has_told() {
        let (events, pending, start) = began();
        let ends_at = |pending: &Pending, at| pending.completion.reporter().ended(Ok(()), &Marks::at(start, at));
        ends_at(&pending, start + 3 * MS);
        let pending = next_turn(&events, pending, start + 3 * MS, None);
        let marks = Marks::at(start, start + 5 * MS);
        let pending = next_turn(&events, pending, start + 5 * MS, Some(&marks)); // counted by others, without its time
        ends_at(&pending, start + 10 * MS);
        assert_eq!(*events.ends.lock(), [(Ok(()), 3 * MS), (Ok(()), 7 * MS)], "10 ms together");
    }

    #[test]
    fn requests_that_are_refused_are_no_execution() {
        let (events, pending, start) = began();
        *events.now.lock() = start + 2 * MS;
        Batch::new(vec![pending], start).refuse(&Error::internal("no worker"));
        assert_eq!(
            (&*events.ends.lock(), *events.executions.lock()),
            (&vec![(Err(FailureReason::Backend), 2 * MS)], 0)
        );
        let (events, pending, start) = began();
        Batch::new(vec![pending], start).fail(&Error::internal("failed"), start);
        assert_eq!(*events.executions.lock(), 1);
    }
}
