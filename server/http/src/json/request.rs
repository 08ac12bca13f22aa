//! The JSON of an inference request, read in one pass: what it says, not yet what it means to a model.
//!
//! Elements of `data` become tensor bytes on the way if name, datatype and shape stand before them, as every client
//! writes it; otherwise they are read again once those are known. Mistakes are reported in Triton's order: first a broken
//! text, then `id`, `parameters`, `inputs`, `outputs`.

mod input;
mod members;
mod output;
mod region;
mod typed;

use server_core::{
    error::{Error, Result},
    request::Parameters,
};
use smallvec::SmallVec;

use super::{
    reader::{Kind, Parsed, Reader, document},
    value::{Value, text},
};

use self::{
    input::read_inputs,
    members::{Member, Members},
    output::read_outputs,
    typed::{boolean, missing, string, unable, unsigned},
};
pub(crate) use self::{
    input::{Content, Input},
    output::Output,
    region::Region,
};

/// What the message says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Message<'a> {
    pub(crate) id: String,
    pub(crate) controls: Controls,
    pub(crate) inputs: SmallVec<[Input<'a>; 2]>,
    pub(crate) outputs: SmallVec<[Output<'a>; 2]>,
}

/// The request's own parameters.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Controls {
    pub(crate) sequence_id: Option<SequenceId>,
    pub(crate) is_sequence_start: bool,
    pub(crate) is_sequence_end: bool,
    pub(crate) priority: u64,
    pub(crate) timeout_us: u64,
    /// Outputs that the request does not name go out as binary data.
    pub(crate) binary_data_output: bool,
    /// For the backend.
    pub(crate) custom: Parameters,
}

/// A correlation id as it was written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SequenceId {
    Number(u64),
    Text(String),
}

/// Reads the message.
///
/// Units: `max_input_size` in bytes, of one tensor made from `data`.
/// Errors: `Internal` for a text that is no JSON and for members that are missing or of the wrong type;
/// `InvalidArgument` for values that make no sense.
pub(crate) fn parse(text: &[u8], max_input_size: usize) -> Result<Message<'_>> {
    let mut message = Message::default();
    let mut members = Members::default();
    document(text, |reader| {
        if reader.kind() != Kind::Object {
            return reader.skip();
        }
        reader.object(|reader, name| match name {
            b"id" => members.read(Member::Id, reader, |reader| read_id(reader, &mut message.id)),
            b"parameters" => {
                members.read(Member::Parameters, reader, |reader| read_controls(reader, &mut message.controls))
            }
            b"inputs" => {
                members.read(Member::Inputs, reader, |reader| read_inputs(reader, &mut message.inputs, max_input_size))
            }
            b"outputs" => members.read(Member::Outputs, reader, |reader| read_outputs(reader, &mut message.outputs)),
            _ => reader.skip(),
        })
    })
    .map_err(|fault| fault.into_error())?;
    for member in [Member::Id, Member::Parameters, Member::Inputs, Member::Outputs] {
        if !members.check(member)? && member == Member::Inputs {
            return Err(missing("inputs"));
        }
    }
    Ok(message)
}

fn read_id(reader: &mut Reader<'_>, id: &mut String) -> Parsed<()> {
    *id = text(&string(reader, "id")?);
    Ok(())
}

fn read_controls(reader: &mut Reader<'_>, controls: &mut Controls) -> Parsed<()> {
    if reader.kind() != Kind::Object {
        return Err(Error::internal("failed to get request params.: attempt to get members for non-object").into());
    }
    reader.object(|reader, name| {
        match name {
            b"sequence_id" => controls.sequence_id = Some(sequence_id(reader)?),
            b"sequence_start" => controls.is_sequence_start = boolean(reader, "sequence_start")?,
            b"sequence_end" => controls.is_sequence_end = boolean(reader, "sequence_end")?,
            b"priority" => controls.priority = unsigned(reader, "priority")?,
            b"timeout" => controls.timeout_us = unsigned(reader, "timeout")?,
            b"binary_data_output" => controls.binary_data_output = boolean(reader, "binary_data_output")?,
            _ => {
                let value = Value::read(reader)?;
                controls.custom.push(custom_parameter(&text(name), &value)?);
            }
        }
        Ok(())
    })
}

/// A parameter for the backend.
///
/// Errors: `InvalidArgument` for reserved names and for values that are no scalars.
pub(crate) fn custom_parameter(name: &str, value: &Value<'_>) -> Result<(String, server_core::request::Parameter)> {
    if name.starts_with("triton_") {
        return Err(Error::invalid_argument(
            "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.",
        ));
    }
    let value = value.to_parameter().ok_or_else(|| {
        Error::invalid_argument(format!(
            "parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'."
        ))
    })?;
    Ok((name.to_owned(), value))
}

fn sequence_id(reader: &mut Reader<'_>) -> Parsed<SequenceId> {
    if reader.kind() == Kind::Number {
        let number = reader.number()?.as_u64().map(SequenceId::Number);
        return number.ok_or_else(|| unable("sequence_id", "string as string").into());
    }
    let id = string(reader, "sequence_id")?;
    if id.len() > 128 {
        return Err(Error::unsupported("string correlation ID cannot be longer than 128 characters").into());
    }
    Ok(SequenceId::Text(text(&id)))
}

#[cfg(test)]
mod tests;
