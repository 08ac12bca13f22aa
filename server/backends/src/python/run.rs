//! A batch as a worker is given it and answers it, whatever channel it goes through.

use std::time::Instant;

use server_core::{
    batch::{Batch, Pending},
    completion::Marks,
    error::{Error, Result},
    responder::Reply,
};

use super::{
    channel::not_understood,
    decode::{Decoder, Outcome, released},
    encode::Message,
    marshal::Value,
    worker::{Failure, Shared},
};

/// The message that gives the requests to the worker, written into that memory. `in_call` is the number of an execution in the
/// middle of a call.
///
/// Errors: there is no memory to show their inputs in.
pub(super) fn message(memory: Vec<u8>, pending: &[Pending], in_call: Option<u64>, shared: &Shared) -> Result<Message> {
    let mut message = match in_call {
        None => Message::execute(memory, pending.len()),
        Some(execution) => Message::execute_in_call(execution, pending.len()),
    };
    for (slot, pending) in (0..).zip(pending) {
        message.request(slot, &pending.request, &shared.lent)?;
    }
    Ok(message)
}

/// What came of each request, as the worker answers it.
pub(super) fn outcomes(results: &Value<'_>, appended: &[u8], shared: &Shared) -> Result<Vec<Outcome>> {
    let released = released(appended)?;
    let decoder = Decoder::new(shared.output_names(), &shared.lent, &shared.outputs);
    let mut decoder = decoder.with_released(&released, results);
    let outcomes: Vec<Outcome> = results.items().iter().map(|result| decoder.outcome(result)).collect();
    shared.lent.release(released);
    Ok(outcomes)
}

/// Ends the requests of a batch that the worker got at `sent_at`.
pub(super) fn end(batch: Batch, outcomes: Result<Vec<Outcome>, Failure>, sent_at: Instant, shared: &Shared) {
    let end = Instant::now();
    let outcomes = outcomes.map_err(|failure| error(failure, shared)).and_then(|outcomes| {
        let fits = outcomes.len() == batch.pending().len();
        fits.then_some(outcomes).ok_or_else(|| not_understood("as many results as requests were expected"))
    });
    match outcomes {
        Ok(outcomes) => {
            let replies: Vec<Reply> = outcomes.into_iter().map(reply).collect();
            let marks = Marks { start: batch.start(), input_end: sent_at, output_start: end, end };
            batch.complete(replies, &marks);
        }
        Err(error) => batch.fail(&error, end),
    }
}

fn error(failure: Failure, shared: &Shared) -> Error {
    let instance = shared.name();
    match failure {
        Failure::Refused(text) => Error::internal(format!(
            "Failed to process the request(s) for model instance '{instance}', message: {text}"
        )),
        Failure::Gone => Error::internal(format!("Stub process '{instance}' is not healthy.")),
        Failure::Lost(error) => error,
    }
}

fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Response(reply) => reply,
        Outcome::Nothing | Outcome::Rescheduled => Err(Error::unsupported("response senders are not supported")),
    }
}
