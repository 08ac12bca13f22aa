//! What calls are answered with.

use server_core::{
    error::{Error, Result},
    request::Parameter,
    response::InferResponse,
};

use super::super::{
    encode::Message,
    memory::InputLeases,
    wire::{answer, result},
};

/// It is done, and there is nothing to say of it.
pub(super) fn done() -> Message {
    let mut message = ok();
    message.writer.none();
    message
}

/// Yes or no.
pub(super) fn yes(is_so: bool) -> Message {
    let mut message = ok();
    message.writer.bool(is_so);
    message
}

/// A number.
pub(super) fn number(value: f64) -> Message {
    let mut message = ok();
    message.writer.float(value);
    message
}

/// It failed; the text begins with `prefix`.
pub(super) fn failed(error: &Error, prefix: &str) -> Message {
    let mut message = Message::default();
    message.writer.tuple(3);
    message.writer.uint(answer::FAILED);
    message.writer.str(&format!("{prefix}{}", error.message));
    message.writer.int(error.code as i64);
    message
}

/// One response, or the end of them; with `is_last` nothing more comes.
pub(super) fn response(reply: Option<Result<InferResponse>>, is_last: bool, leases: &InputLeases) -> Message {
    let error = match reply {
        None => {
            let mut message = outcome(is_last);
            message.writer.tuple(1);
            message.writer.uint(result::NOTHING);
            return message;
        }
        Some(Ok(response)) => match outputs(&response, is_last, leases) {
            Ok(message) => return message,
            Err(error) => error,
        },
        Some(Err(error)) => error,
    };
    let mut message = outcome(is_last);
    message.writer.tuple(3);
    message.writer.uint(result::ERROR);
    message.writer.str(&error.message);
    message.writer.int(error.code as i64);
    message
}

fn outputs(response: &InferResponse, is_last: bool, leases: &InputLeases) -> Result<Message> {
    let mut message = outcome(is_last);
    message.writer.tuple(3);
    message.writer.uint(result::OUTPUTS);
    message.writer.tuple(response.outputs.len());
    for tensor in &response.outputs {
        message.tensor(tensor, leases)?;
    }
    let writer = &mut message.writer;
    if response.parameters.is_empty() {
        writer.none();
        return Ok(message);
    }
    writer.begin_dict();
    for (key, value) in response.parameters.iter() {
        writer.str(key);
        match value {
            Parameter::Bool(value) => writer.bool(*value),
            Parameter::Int(value) => writer.int(*value),
            Parameter::Uint(value) => writer.uint(*value),
            Parameter::Double(value) => writer.float(*value),
            Parameter::String(value) => writer.str(value),
        }
    }
    writer.end_dict();
    Ok(message)
}

fn ok() -> Message {
    let mut message = Message::default();
    message.writer.tuple(2);
    message.writer.uint(answer::OK);
    message
}

fn outcome(is_last: bool) -> Message {
    let mut message = ok();
    message.writer.tuple(2);
    message.writer.bool(is_last);
    message
}
