//! A question to a worker and its answer, through any of its channels.

use std::sync::Arc;

use server_core::error::{Error, Result};
use server_shm::Segment;

use super::{
    channel::{Broken, Channel, Message, not_understood},
    decode::released,
    marshal::Value,
    shared::Shared,
    wire::answer,
};

/// Why the worker did not do what it was told.
#[derive(Debug)]
pub(super) enum Failure {
    /// It says so.
    Refused(String),
    /// It is gone.
    Gone,
    /// It is gone, or out of its mind: it is of no further use.
    Lost(Error),
}

/// Has a worker do something through one of its channels, and reads what it answers. Blocks until it has.
pub(super) fn ask<R>(
    channel: &mut Channel,
    shared: &Shared,
    message: &[u8],
    segments: &[Arc<Segment>],
    read: impl FnOnce(&Value<'_>, &[u8], &Shared) -> Result<R>,
) -> Result<R, Failure> {
    let answer = channel.send(message, segments).and_then(|()| channel.receive(&shared.outputs));
    read_answer(&answer.map_err(failure)?, shared, read)
}

/// Why nothing came through a channel.
pub(super) fn failure(broken: Broken) -> Failure {
    match broken {
        Broken::Failed(error) => Failure::Lost(error),
        Broken::Closed => Failure::Gone,
    }
}

/// Reads what a worker has answered.
pub(super) fn read_answer<R>(
    answer: &Message<'_>,
    shared: &Shared,
    read: impl FnOnce(&Value<'_>, &[u8], &Shared) -> Result<R>,
) -> Result<R, Failure> {
    let (value, appended) = answer.read().map_err(Failure::Lost)?;
    match value.items() {
        [Value::Int(kind), value] if kind.unsigned_abs() == answer::OK => {
            read(value, appended, shared).map_err(Failure::Lost)
        }
        [Value::Int(kind), text, _code] if kind.unsigned_abs() == answer::FAILED => {
            shared.leases.release(released(appended).map_err(Failure::Lost)?);
            Err(Failure::Refused(text.text().to_owned()))
        }
        _ => Err(Failure::Lost(not_understood("no such answer"))),
    }
}

/// The error of requests whose worker is gone.
///
/// Source: Triton Python backend, its words for a stub process that is gone.
pub(super) fn not_healthy(name: &str) -> Error {
    Error::internal(format!("Stub process '{name}' is not healthy."))
}
