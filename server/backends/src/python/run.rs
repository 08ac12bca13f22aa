//! A batch as a worker is given it and answers it, whatever channel it goes through.

use std::{mem, sync::Arc, time::Instant};

use server_core::{
    batch::{Batch, Execution},
    completion::Marks,
    error::{Error, Result},
};
use server_shm::Segment;

use super::{
    busy::Busy,
    channel::not_understood,
    decode::{Outcome, raised, released},
    encode::Message,
    exchange::{Failure, not_healthy},
    marshal::Value,
    open_requests::Placed,
    shared::Shared,
};

/// A batch whose requests are in the worker's slots, until the worker answers for it.
pub(super) struct Running {
    placed: Placed,
    execution: Execution,
    sent_at: Instant,
    /// Segments that its message speaks of.
    pub(super) segments: Vec<Arc<Segment>>,
    _busy: Busy,
}

/// Puts a batch of [`super::open_requests::SLOTS`] requests at most into slots, and writes the message that gives it to the
/// worker into `memory`; `in_call` is the number of an execution in the middle of a call. Waits while there are too few slots.
/// `None` if the batch has failed.
pub(super) fn begin(batch: Batch, in_call: Option<u64>, memory: &mut Vec<u8>, shared: &Shared) -> Option<Running> {
    let placed = match shared.requests.reserve(batch.pending().len()) {
        Ok(placed) => placed,
        Err(error) => {
            batch.refuse(&error);
            return None;
        }
    };
    let count = batch.pending().len();
    let mut message = match in_call {
        None => Message::execute(mem::take(memory), count),
        Some(execution) => Message::execute_in_call(execution, count),
    };
    for (&slot, pending) in placed.slots.iter().zip(batch.pending()) {
        if let Some(trace) = &pending.request.trace {
            shared.calls.note_trace(trace);
        }
        if let Err(error) = message.request(slot, &pending.request, &shared.leases) {
            shared.requests.give_back(&placed);
            batch.refuse(&error);
            return None;
        }
    }
    let Message { writer, segments, .. } = message;
    *memory = writer.into_bytes();
    let (pending, execution) = batch.into_pending();
    let sent_at = Instant::now();
    shared.requests.put(&placed, pending, shared.is_decoupled(), execution.start(), sent_at);
    Some(Running { placed, execution, sent_at, segments, _busy: Busy::begin() })
}

/// What came of each request, as the worker answers it.
pub(super) fn outcomes(results: &Value<'_>, appended: &[u8], shared: &Shared) -> Result<Answer> {
    let received_at = Some(Instant::now());
    let released = released(appended)?;
    let mut decoder = shared.decoder().with_released(&released, results);
    let outcomes: Vec<Outcome> = results.items().iter().map(|result| decoder.outcome(result)).collect();
    shared.leases.release(released);
    Ok(Answer { received_at, outcomes })
}

/// What a worker has answered to a batch.
#[derive(Default)]
pub(super) struct Answer {
    /// When it came; its tensors were taken apart from then on.
    received_at: Option<Instant>,
    /// Of each request.
    outcomes: Vec<Outcome>,
}

/// Ends the requests of a batch that are over; those of which nothing came yet go on. If the worker is lost, all its requests
/// end, and the reason is returned.
pub(super) fn end(running: Running, answer: Result<Answer, Failure>, shared: &Shared) -> Option<Error> {
    let Running { placed, execution, sent_at, .. } = running;
    let count = placed.slots.len();
    let received_at = answer.as_ref().ok().and_then(|answer| answer.received_at);
    let (outcomes, lost) = match answer {
        Ok(Answer { outcomes, .. }) if outcomes.len() == count => (outcomes, None),
        Ok(_) => lost_with(not_understood("as many results as requests were expected"), count),
        Err(Failure::Refused(text)) => {
            let error = raised(shared.name(), &text);
            shared.log_failure(&text);
            (all_failed(&error, count), None)
        }
        Err(failure) => lost_with(reason(failure, shared), count),
    };
    let end = Instant::now();
    let output_start = received_at.unwrap_or(end);
    let marks = Marks { start: execution.start(), input_end: sent_at, output_start, end };
    end_requests(&placed, outcomes, execution, &marks, shared);
    if let Some(error) = &lost {
        shared.requests.lost(error);
    }
    lost
}

/// Why a worker did not do what it was told.
pub(super) fn reason(failure: Failure, shared: &Shared) -> Error {
    match failure {
        Failure::Refused(text) => raised(shared.name(), &text),
        Failure::Gone => not_healthy(shared.name()),
        Failure::Lost(error) => error,
    }
}

fn end_requests(placed: &Placed, outcomes: Vec<Outcome>, execution: Execution, marks: &Marks, shared: &Shared) {
    let taken = shared.requests.take(placed, |index| !matches!(outcomes.get(index), Some(Outcome::Nothing)));
    let over = outcomes.into_iter().filter(|outcome| !matches!(outcome, Outcome::Nothing));
    let mut ended = Vec::with_capacity(taken.len());
    let mut replies = Vec::with_capacity(taken.len());
    let (mut answered_with_errors, mut again) = (Vec::new(), Vec::new());
    for taken in taken.into_iter().zip(over) {
        match taken {
            (Some(pending), Outcome::Response(Err(error))) => answered_with_errors.push((pending, error)),
            (Some(pending), Outcome::Response(reply)) => {
                ended.push(pending);
                replies.push(reply);
            }
            (Some(pending), Outcome::Failed(error)) => {
                ended.push(pending);
                replies.push(Err(error));
            }
            (Some(pending), Outcome::Rescheduled) => again.push(pending),
            _ => {} // it has ended by itself
        }
    }
    if ended.len() == placed.slots.len() && !shared.is_decoupled() {
        return Batch::new(ended, marks.start).complete(replies, marks);
    }
    execution.ended(marks);
    ended.into_iter().zip(replies).for_each(|(pending, reply)| pending.finish(Some(reply), marks));
    for (mut pending, error) in answered_with_errors {
        pending.completion.finish_sent(Some(Err(error)), marks);
    }
    again.into_iter().for_each(|pending| pending.reschedule(Some(marks)));
}

/// Ends the requests of a batch that was not given to the worker, for that is gone.
pub(super) fn gone(batch: Batch, shared: &Shared) {
    batch.refuse(&not_healthy(shared.name()));
}

fn lost_with(error: Error, count: usize) -> (Vec<Outcome>, Option<Error>) {
    (all_failed(&error, count), Some(error))
}

fn all_failed(error: &Error, count: usize) -> Vec<Outcome> {
    (0..count).map(|_| Outcome::Failed(error.clone())).collect()
}
