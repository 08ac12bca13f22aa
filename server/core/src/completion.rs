//! The end of a request: whoever holds its [`Completion`] owns it, answers through it any number of times, and finishes
//! once. Dropping it unfinished is an end too, and is answered and counted as one. What hangs on the end of requests
//! (statistics, response order, draining) learns of it through [`RequestEvents`].

mod reported;

use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::{
    error::Error,
    record::{ComputeTimes, FailureReason},
    request::InferRequest,
    responder::{BYTES_BEFORE_TURN, NotSent, Replies, Reply, Responder, reply_slot_of, unanswered},
    response::Outputs,
    sequence::{SlotRef, state::States},
    trace::{Activity, Trace},
};

pub use crate::record::{Marks, RequestRecord, ResponseMarks, ResponseOutcome};
pub use reported::Reporter;

/// A request that has ended by itself.
#[derive(Debug, Clone, Copy)]
pub struct EndedRequest<'a> {
    /// What is counted of it.
    pub record: &'a RequestRecord,
    /// What is recorded of it, if it is traced.
    pub trace: Option<&'a Trace>,
}

/// Receives the ends of requests before their callers do, so that a caller who asks for statistics finds itself
/// counted. One implementation per model version; every method may be called from any thread.
pub trait RequestEvents: Send + Sync {
    /// One execution ended all of `requests`; `replies` holds their ends in the same order.
    fn batch_ended(&self, requests: &[Pending], replies: &[Reply], marks: &Marks);

    /// One execution of so many rows ended, whose requests end by themselves.
    fn executed(&self, rows: u64, marks: &Marks);

    /// Response number `index`, from 0, of a request that ends by itself.
    fn responded(&self, record: &RequestRecord, index: u32, outcome: ResponseOutcome, marks: &ResponseMarks);

    /// A request ended by itself: well, or with the reason it is counted under. Without `marks` it never ran.
    fn ended(&self, request: EndedRequest<'_>, outcome: Result<(), FailureReason>, marks: Option<&Marks>, now: Instant);

    /// The last word of the request with that ticket, for its caller. Hands it over at once, unless the model promises
    /// an order.
    fn deliver(&self, ticket: Ticket, responder: Responder, reply: Option<Reply>) {
        let _ = ticket;
        hand_over(responder, reply);
    }

    /// The request with that ticket is about to send a response of several. A model that promises an order keeps its caller from
    /// reading until its turn comes.
    fn sends(&self, ticket: Ticket, responder: &mut Responder) {
        let _ = (ticket, responder);
    }

    /// The request with that ticket will say nothing more, and said nothing last.
    fn passed_over(&self, ticket: Ticket) {
        let _ = ticket;
    }

    /// So many requests are gone: their backends hold nothing of them any more.
    fn released(&self, count: usize);

    /// What ran in these sequence slots has ended, and its states are written: whatever waits for them may run. Said
    /// before the callers hear the last word, so that a caller who goes on finds its slot free.
    fn slots_released(&self, slots: &[SlotRef]) {
        let _ = slots;
    }

    /// The request goes back into the queue: an iterative model asked for another turn. The one that has ended is counted by
    /// `marks`, if there are any.
    fn rescheduled(&self, request: Pending, marks: Option<&Marks>);

    /// The time, for ends that no backend timed.
    fn now(&self) -> Instant;
}

/// Gives the last word to the caller.
pub fn hand_over(responder: Responder, reply: Option<Reply>) {
    match reply {
        Some(reply) => responder.finish(reply),
        None => responder.finish_empty(),
    }
}

/// Place of a request in the order in which the requests of its model left the queue, from 0.
pub type Ticket = u64;

/// A checked request with the way back to its caller. Dropped unanswered, it answers with an internal error.
pub struct Pending {
    /// Validated against the model; shapes are full, sizes match.
    pub request: InferRequest,
    /// The way back.
    pub completion: Completion,
}

/// The way back to one caller.
pub struct Completion {
    record: RequestRecord,
    events: Option<Arc<dyn RequestEvents>>,
    /// Taken by the last response.
    responder: Option<Responder>,
    ticket: Option<Ticket>,
    /// The sequence slot it runs in, until its last word.
    in_slot: Option<InSlot>,
    responses: u32,
    /// From when on no backend has reported of its time: since the request came, or since the last turn that was reported.
    unreported_since: Instant,
    /// What is recorded of the request, if it is traced.
    trace: Option<Arc<Trace>>,
    /// Nobody waits for it: it only fills a row of a batch.
    is_empty_row: bool,
}

/// A request of a sequence while it may run.
#[derive(Debug)]
pub struct InSlot {
    /// Where.
    pub slot: SlotRef,
    /// How many of its inputs its caller sent; those after them are the server's.
    pub own_inputs: usize,
    /// What is kept of its sequence, if the model keeps anything.
    pub states: Option<Arc<States>>,
}

impl Pending {
    /// Rows it contributes: the batch dimension, or 1 for models without one.
    pub fn batch_size(&self) -> u32 {
        self.completion.record().batch_size
    }

    /// When it entered the queue.
    pub fn queued_at(&self) -> Instant {
        self.completion.record().queued_at
    }

    /// Says the last word and releases the request.
    pub fn finish(mut self, reply: Option<Reply>, marks: &Marks) {
        self.completion.finish(reply, marks);
    }

    /// The last response, or the only one.
    pub fn respond(self, outputs: Outputs, marks: &Marks) {
        self.finish(Some(Ok(outputs)), marks);
    }

    /// Puts it back into the queue: an iterative model wants another turn for it. It has no limit to pass there, for it
    /// was let in before. The turn that has ended is counted by `marks`; without them its backend reports it by itself. Where the
    /// model's configuration does not say that it is iterative, the request fails.
    pub fn reschedule(mut self, marks: Option<&Marks>) {
        if let Some(events) = self.completion.events().cloned() {
            if marks.is_none() {
                self.completion.turn_reported(events.now());
            }
            events.rescheduled(self, marks);
        }
    }
}

impl Completion {
    /// The way back for a request that is about to be queued, and the caller's end of it. The reply slot holds
    /// `slot_bytes` of unread responses.
    pub fn new(record: RequestRecord, events: Arc<dyn RequestEvents>, slot_bytes: usize) -> (Self, Replies) {
        let (responder, replies) = reply_slot_of(slot_bytes);
        (
            Self {
                record,
                events: Some(events),
                responder: Some(responder),
                ticket: None,
                in_slot: None,
                responses: 0,
                unreported_since: record.received_at,
                trace: None,
                is_empty_row: false,
            },
            replies,
        )
    }

    /// A row of a batch that holds no request: it has no caller, and its end is counted nowhere.
    pub(crate) fn of_empty_row(record: RequestRecord) -> Self {
        Self {
            record,
            events: None,
            responder: None,
            ticket: None,
            in_slot: None,
            responses: 0,
            unreported_since: record.received_at,
            trace: None,
            is_empty_row: true,
        }
    }

    /// Has its execution and its end recorded.
    pub fn set_trace(&mut self, trace: Option<Arc<Trace>>) {
        self.trace = trace;
    }

    /// What is recorded of the request, if it is traced.
    pub fn trace(&self) -> Option<&Arc<Trace>> {
        self.trace.as_ref()
    }

    /// Whether it only fills a row of a batch, so that its outputs need not be made.
    pub fn is_empty_row(&self) -> bool {
        self.is_empty_row
    }

    pub(crate) fn events(&self) -> Option<&Arc<dyn RequestEvents>> {
        self.events.as_ref()
    }

    /// What is counted of the request.
    pub fn record(&self) -> &RequestRecord {
        &self.record
    }

    /// Whether its caller has left, so that work for it may be skipped.
    pub fn is_cancelled(&self) -> bool {
        self.responder.as_ref().is_none_or(Responder::is_abandoned)
    }

    /// Ready once the caller has left; before, the waker is woken when it does. Of this and [`Completion::poll_room`] the
    /// last call counts.
    pub fn poll_cancelled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.responder.as_mut().map_or(Poll::Ready(()), |responder| responder.poll_abandoned(context))
    }

    /// Ready once that reply would be taken, or the caller has left; before, the waker is woken when one of the two comes.
    pub fn poll_room(&mut self, reply: &Reply, context: &mut Context<'_>) -> Poll<()> {
        self.responder.as_mut().map_or(Poll::Ready(()), |responder| responder.poll_room(reply, context))
    }

    /// Why no response was taken for so long, for the error that its request ends with.
    pub fn why_no_room(&self, waited: Duration) -> String {
        if self.responder.as_ref().is_some_and(Responder::awaits_turn) {
            let most = BYTES_BEFORE_TURN >> 20;
            return format!(
                "the responses wait for those of a request ahead (preserve_ordering), and more than {most} MiB may not"
            );
        }
        format!("the responses before were not read for {} s", waited.as_secs())
    }

    /// Sends one response of several, or an error in place of one; the request goes on. Where its reader is behind, blocks
    /// for `patience` at most.
    ///
    /// Errors: the slot is still full then, and the reply comes back; or the caller has left, and the request is over but
    /// for its end. What was computed is counted even then.
    pub fn send(&mut self, reply: Reply, marks: &ResponseMarks, patience: Duration) -> Result<(), NotSent> {
        if let (Some(events), Some(ticket), Some(responder)) = (&self.events, self.ticket, &mut self.responder) {
            events.sends(ticket, responder);
        }
        if !self.wait_for_room(&reply, patience) {
            return Err(NotSent::Full(Box::new(reply)));
        }
        let (Some(events), Some(responder)) = (&self.events, &mut self.responder) else {
            return Err(NotSent::Abandoned);
        };
        let outcome = if reply.is_ok() { ResponseOutcome::Success } else { ResponseOutcome::Fail };
        events.responded(&self.record, self.responses, outcome, marks);
        self.responses = self.responses.saturating_add(1);
        if let (Some(trace), Ok(outputs)) = (&self.trace, &reply) {
            trace.outputs(outputs);
        }
        responder.send(reply)
    }

    /// Counts one response of several that turned out to be nothing, and is not sent.
    pub fn skip(&mut self, marks: &ResponseMarks) {
        self.count_response(ResponseOutcome::Empty, marks);
    }

    /// Ends a request whose caller has left: the response that would have been next is counted as cancelled, with the time
    /// that it took to clean up.
    pub fn cancel(&mut self, marks: &ResponseMarks) {
        self.count_response(ResponseOutcome::Cancelled, marks);
        self.end(FailureReason::Canceled, Error::cancelled(""), marks.end);
    }

    /// Says the last word: a response, an error, or the end alone, which is no response and is counted as none. The
    /// request's memory may be held on to; it is released when this is dropped.
    pub fn finish(&mut self, reply: Option<Reply>, marks: &Marks) {
        let outcome = match &reply {
            Some(Err(error)) => Err(FailureReason::of_backend(error)),
            _ => Ok(()),
        };
        self.finish_as(outcome, reply, marks);
    }

    /// The same for what a model says by itself: a request that it answered with an error was executed well, and only its response
    /// has failed. So Triton's Python backend counts.
    pub fn finish_sent(&mut self, reply: Option<Reply>, marks: &Marks) {
        self.finish_as(Ok(()), reply, marks);
    }

    fn finish_as(&mut self, outcome: Result<(), FailureReason>, reply: Option<Reply>, marks: &Marks) {
        let Some(mut responder) = self.responder.take() else { return };
        responder.took(ComputeTimes::of(marks));
        self.record_execution(reply.as_ref(), marks);
        let Some(events) = &self.events else { return hand_over(responder, reply) };
        if let Some(reply) = &reply {
            let outcome = if reply.is_ok() { ResponseOutcome::Success } else { ResponseOutcome::Fail };
            let last = ResponseMarks { start: marks.input_end, output_start: marks.output_start, end: marks.end };
            events.responded(&self.record, self.responses, outcome, &last);
        }
        let trace = self.trace.as_deref();
        events.ended(EndedRequest { record: &self.record, trace }, outcome, Some(marks), marks.end);
        self.say(responder, reply);
    }

    /// Ends a request that was not executed: it expired in its queue, its caller left, or nothing can execute it. One that has
    /// had responses, for its model is iterative, is counted among its responses too if its caller left.
    pub fn reject(mut self, reason: FailureReason, error: Error) {
        let Some(now) = self.events.as_ref().map(|events| events.now()) else { return };
        if reason == FailureReason::Canceled && self.responses > 0 {
            self.count_response(ResponseOutcome::Cancelled, &ResponseMarks { start: now, output_start: now, end: now });
        }
        self.end(reason, error, now);
    }

    /// The request enters the queue again at `now`, for another turn.
    pub fn requeue(&mut self, now: Instant) {
        self.record.queued_at = now;
    }

    /// Takes the request out of all accounts: it was not queued after all, and somebody else answers its caller.
    pub fn withdraw(mut self) {
        self.events = None;
        if let Some(responder) = self.responder.take() {
            responder.finish_empty();
        }
    }

    /// Gives the request its place in the order of requests.
    pub fn set_ticket(&mut self, ticket: Ticket) {
        self.ticket = Some(ticket);
    }

    /// Whether the request has its place in the order of requests.
    pub fn has_ticket(&self) -> bool {
        self.ticket.is_some()
    }

    /// Says in which sequence slot the request runs; returns what was said before.
    pub fn set_slot(&mut self, slot: Option<InSlot>) -> Option<InSlot> {
        std::mem::replace(&mut self.in_slot, slot)
    }

    /// The sequence slot it runs in.
    pub fn slot(&self) -> Option<SlotRef> {
        self.in_slot.as_ref().map(|entered| entered.slot)
    }

    /// How many of its inputs its caller sent, if the server added any.
    pub fn own_inputs(&self) -> Option<usize> {
        self.in_slot.as_ref().map(|entered| entered.own_inputs)
    }

    /// What is kept of its sequence, for the backend to renew before it says the last word.
    pub fn states(&self) -> Option<&States> {
        self.in_slot.as_ref()?.states.as_deref()
    }

    fn record_execution(&self, reply: Option<&Reply>, marks: &Marks) {
        let Some(trace) = &self.trace else { return };
        trace.executed(marks);
        if let Some(Ok(outputs)) = reply {
            trace.outputs(outputs);
        }
    }

    /// The request is over: what is recorded of it ends here, and not with the caller's part of it.
    fn end_trace(&mut self) {
        if let (Some(trace), Some(events)) = (self.trace.take(), &self.events) {
            trace.reached(Activity::RequestEnd, events.now());
        }
    }

    fn count_response(&mut self, outcome: ResponseOutcome, marks: &ResponseMarks) {
        if let (Some(events), Some(_)) = (&self.events, &self.responder) {
            events.responded(&self.record, self.responses, outcome, marks);
            self.responses = self.responses.saturating_add(1);
        }
    }

    /// Blocks until the reply fits, its reader has left, or `patience` is over: then `false`.
    fn wait_for_room(&mut self, reply: &Reply, patience: Duration) -> bool {
        let Some(responder) = &mut self.responder else { return true };
        if responder.poll_room(reply, &mut Context::from_waker(Waker::noop())).is_ready() {
            return true;
        }
        let Some(events) = self.events.as_ref().filter(|_| !patience.is_zero()) else { return false };
        let deadline = events.now() + patience;
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        while responder.poll_room(reply, &mut Context::from_waker(&waker)).is_pending() {
            let left = deadline.saturating_duration_since(events.now());
            if left.is_zero() {
                return false;
            }
            thread::park_timeout(left);
        }
        true
    }

    /// Whoever ran it let go of it: nobody waits for it any more, or there was a panic, or the backend forgot.
    fn end_unfinished(&mut self) {
        let (Some(events), Some(responder)) = (&self.events, &self.responder) else { return };
        let now = events.now();
        if responder.is_abandoned() {
            self.cancel(&ResponseMarks { start: now, output_start: now, end: now });
        } else {
            self.end(FailureReason::Backend, unanswered(), now);
        }
    }

    /// Ends the request with an error that no backend said.
    fn end(&mut self, reason: FailureReason, error: Error, now: Instant) {
        let Some(responder) = self.responder.take() else { return };
        if let Some(events) = &self.events {
            let trace = self.trace.as_deref();
            events.ended(EndedRequest { record: &self.record, trace }, Err(reason), None, now);
        }
        self.say(responder, Some(Err(error)));
    }

    fn say(&mut self, responder: Responder, reply: Option<Reply>) {
        if let (Some(entered), Some(events)) = (self.in_slot.take(), &self.events) {
            events.slots_released(&[entered.slot]);
        }
        match (&self.events, self.ticket.take()) {
            (Some(events), Some(ticket)) => events.deliver(ticket, responder, reply),
            _ => hand_over(responder, reply),
        }
    }
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.end_unfinished();
        self.end_trace();
        if let Some(events) = self.events.take() {
            if let Some(ticket) = self.ticket {
                events.passed_over(ticket);
            }
            events.released(1);
        }
    }
}

/// Says the last word of every request of a batch, all counted together before.
pub(crate) fn complete_all(requests: Vec<Pending>, replies: Vec<Reply>, marks: &Marks) {
    debug_assert_eq!(replies.len(), requests.len(), "one reply per request");
    let Some(events) = requests.iter().find_map(|request| request.completion.events.clone()) else { return };
    events.batch_ended(&requests, &replies, marks);
    let slots: SmallVec<[SlotRef; 8]> = requests.iter().filter_map(|request| request.completion.slot()).collect();
    if !slots.is_empty() {
        events.slots_released(&slots);
    }
    let count = requests.iter().filter(|request| !request.completion.is_empty_row).count();
    let times = ComputeTimes::of(marks);
    let mut replies = replies.into_iter();
    for mut request in requests {
        let reply = replies.next();
        let completion = &mut request.completion;
        completion.in_slot = None; // released together, above
        if let Some(mut responder) = completion.responder.take() {
            responder.took(times);
            let reply = reply.unwrap_or_else(|| Err(unanswered()));
            completion.record_execution(Some(&reply), marks);
            completion.say(responder, Some(reply));
        }
        completion.end_trace();
        completion.events = None; // released together, below
    }
    events.released(count);
}
