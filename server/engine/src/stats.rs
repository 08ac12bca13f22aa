//! What hangs on the end of a model's requests: its counters, the order of its responses, and the count of requests in
//! flight. One lock per batch, none per request.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use server_core::batching::queue::Removal;
use server_core::{
    batch::Pending,
    completion::{
        EndedRequest, Marks, RequestEvents, RequestRecord, ResponseMarks, ResponseOutcome, Ticket, hand_over,
    },
    error::Error,
    footprint::Footprint,
    responder::{Reply, Responder},
    sequence::SlotRef,
    stats::{FailureReason, ModelCounters, ModelSnapshot},
};
use server_scheduler::Scheduler;

use crate::{
    response_order::ResponseOrder,
    series::{Replaced, Series},
};

/// The counters of one model version, and whom else its requests concern when they end.
pub(crate) struct ModelStats {
    counters: Mutex<ModelCounters>,
    /// Whether distributions are kept beside.
    has_latencies: bool,
    is_decoupled: bool,
    /// Requests may have several turns.
    is_iterative: bool,
    order: Option<ResponseOrder>,
    scheduler: Arc<Scheduler>,
    replaced: Replaced,
}

impl ModelStats {
    /// `counters` carries the labels; `order` is there where the model promises one.
    pub(crate) fn new(
        counters: ModelCounters,
        is_decoupled: bool,
        is_iterative: bool,
        order: Option<ResponseOrder>,
        scheduler: Arc<Scheduler>,
    ) -> Self {
        let (has_latencies, replaced) = (counters.has_latencies(), Replaced::default());
        Self { counters: Mutex::new(counters), has_latencies, is_decoupled, is_iterative, order, scheduler, replaced }
    }

    /// The counters now.
    pub(crate) fn snapshot(&self) -> ModelSnapshot {
        let pending = self.scheduler.pending() as u64;
        ModelSnapshot { pending, ..self.counters.lock().snapshot() }
    }

    /// The versions that this one has replaced.
    pub(crate) fn replaced(&self) -> &Replaced {
        &self.replaced
    }

    /// Executions so far.
    pub(crate) fn executions(&self) -> u64 {
        self.counters.lock().executions()
    }

    /// What the count of a request touches.
    pub(crate) fn footprint(&self, footprint: &mut Footprint) {
        footprint.add(self);
        self.counters.lock().footprint(footprint);
    }

    /// The load took so long.
    pub(crate) fn loaded(&self, took: Duration) {
        self.counters.lock().loaded(took);
    }

    /// Counts what no instance sees.
    pub(crate) fn count(&self, count: impl FnOnce(&mut ModelCounters)) {
        count(&mut self.counters.lock());
    }

    /// Counts a request that never entered the queue.
    pub(crate) fn refused(&self) {
        self.counters.lock().record_refusal();
    }
}

impl Series for ModelStats {
    fn metrics(&self) -> ModelSnapshot {
        let (load, pending) = (Some(self.scheduler.load()), self.scheduler.pending() as u64);
        let counters = self.counters.lock().metrics(Instant::now());
        let mut snapshot = ModelSnapshot { load, pending, ..counters };
        self.replaced.add_to(&mut snapshot);
        snapshot
    }

    fn is_final(&self) -> bool {
        self.replaced.is_final() && self.scheduler.has_ended()
    }
}

/// Counts and answers a request that ended in the queue.
pub(crate) fn end_removed(pending: Pending, removal: Removal) {
    let (reason, error) = match removal {
        Removal::Expired => (FailureReason::Rejected, Error::unavailable("Request timeout expired")),
        Removal::SequenceExpired => {
            let text = "timeout of the corresponding sequence has been expired";
            (FailureReason::Rejected, Error::unavailable(text))
        }
        Removal::Abandoned => (FailureReason::Canceled, Error::cancelled("")),
        Removal::NotStarted => {
            let text = "the request that starts this sequence was cancelled before it ran: start the sequence again";
            (FailureReason::Canceled, Error::cancelled(text))
        }
    };
    pending.completion.reject(reason, error);
}

impl RequestEvents for ModelStats {
    fn batch_ended(&self, requests: &[Pending], replies: &[Reply], marks: &Marks) {
        let now_ms = now_ms();
        self.counters.lock().record_execution(requests, replies, marks, now_ms);
    }

    fn executed(&self, rows: u64, marks: &Marks) {
        let now_ms = now_ms();
        self.counters.lock().record_batch(rows, marks, now_ms);
    }

    fn responded(&self, record: &RequestRecord, index: u32, outcome: ResponseOutcome, marks: &ResponseMarks) {
        let is_response = matches!(outcome, ResponseOutcome::Success | ResponseOutcome::Fail);
        let is_first = self.has_latencies && index == 0 && is_response;
        if !self.is_decoupled && !is_first {
            return;
        }
        let mut counters = self.counters.lock();
        if self.is_decoupled {
            counters.record_response(index, outcome, marks);
        }
        if is_first {
            counters.record_first_response(record.received_at, marks.end);
        }
    }

    fn ended(
        &self,
        request: EndedRequest<'_>,
        outcome: Result<(), FailureReason>,
        marks: Option<&Marks>,
        now: Instant,
    ) {
        let now_ms = now_ms();
        let mut counters = self.counters.lock();
        match (outcome, marks) {
            (Ok(()), Some(marks)) => counters.record_end(request, marks, now_ms),
            (Ok(()), None) => counters.record_end(request, &Marks::at(now, now), now_ms),
            (Err(reason), _) => {
                counters.record_failure(reason, request.record.received_at, now);
                if reason == FailureReason::Rejected {
                    counters.record_first_response(request.record.received_at, now); // nothing came before
                }
            }
        }
    }

    fn deliver(&self, ticket: Ticket, responder: Responder, reply: Option<Reply>) {
        match &self.order {
            None => hand_over(responder, reply),
            Some(order) => self.advance(order.ended(ticket, Some((responder, reply)))),
        }
    }

    fn sends(&self, ticket: Ticket, responder: &mut Responder) {
        if let Some(order) = &self.order {
            order.sends(ticket, responder);
        }
    }

    fn passed_over(&self, ticket: Ticket) {
        if let Some(order) = &self.order {
            self.advance(order.ended(ticket, None));
        }
    }

    fn released(&self, count: usize) {
        self.scheduler.released(count);
    }

    fn slots_released(&self, slots: &[SlotRef]) {
        self.scheduler.slots_released(slots);
    }

    fn rescheduled(&self, mut request: Pending, marks: Option<&Marks>) {
        if let Some(marks) = marks.filter(|_| self.is_iterative) {
            self.counters.lock().record_turn(request.completion.record(), marks, now_ms());
        }
        let now = Instant::now();
        request.completion.requeue(now);
        if let Err(request) = self.scheduler.put_back(request, now) {
            let text = "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is not \
                        configured to handle such a flag.";
            request.completion.reject(FailureReason::Backend, Error::internal(text));
        }
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl ModelStats {
    fn advance(&self, were_held: bool) {
        if were_held {
            self.scheduler.order_advanced();
        }
    }
}

/// The time, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
