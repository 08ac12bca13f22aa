//! The JSON of an inference request, read in one pass: what it says, not yet what it means to a model.
//!
//! Elements of `data` become tensor bytes on the way if name, datatype and shape stand before them, as every client
//! writes it; otherwise they are read again once those are known. Mistakes are told in Triton's order: first a broken
//! text, then `id`, `parameters`, `inputs`, `outputs`.

use std::borrow::Cow;

use server_core::{
    error::{Error, Result},
    request::Parameters,
    tensor::{DataType, Shape, element_count, shape_text},
};
use smallvec::SmallVec;

use super::{
    elements,
    reader::{Kind, Parsed, Reader, document},
    value::{Value, text},
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
    /// Outputs nobody named go out as binary data.
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

/// One input.
#[derive(Debug, PartialEq)]
pub(crate) struct Input<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) data_type: DataType,
    pub(crate) shape: Shape,
    pub(crate) content: Content,
}

/// Where an input's bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// They stood in the JSON.
    Data(Vec<u8>),
    /// That many follow the JSON.
    Binary(u64),
    /// In the shared memory region of that name.
    SharedMemory(String),
}

/// One requested output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Output<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) is_binary: bool,
    pub(crate) classification: u32,
    /// Where the caller wants it, instead of in the response.
    pub(crate) shared_memory_region: Option<String>,
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

/// Members that are looked for, of the message and of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Member {
    Id,
    Parameters,
    Inputs,
    Outputs,
    Name,
    DataType,
    Shape,
    Data,
}

/// Which members were seen, and what was wrong with them. They are read in the order of the text, but Triton's order
/// decides which mistake is told.
#[derive(Default)]
struct Members {
    seen: u8,
    mistakes: Vec<(Member, Error)>,
}

impl Members {
    /// Reads a member; of several with one name, the first.
    #[inline]
    fn read<'a>(
        &mut self,
        member: Member,
        reader: &mut Reader<'a>,
        read: impl FnOnce(&mut Reader<'a>) -> Parsed<()>,
    ) -> Parsed<()> {
        let bit = 1 << member as u8;
        if self.seen & bit != 0 {
            return reader.skip();
        }
        self.seen |= bit;
        reader.attempt(read, |error| self.mistakes.push((member, error)))
    }

    /// Whether the member was there. Errors: it was wrong.
    #[inline]
    fn check(&mut self, member: Member) -> Result<bool> {
        if let Some(index) = self.mistakes.iter().position(|(other, _)| *other == member) {
            return Err(self.mistakes.swap_remove(index).1);
        }
        Ok(self.seen & (1 << member as u8) != 0)
    }

    fn has(&self, member: Member) -> bool {
        self.seen & (1 << member as u8) != 0
    }
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

// === inputs ===

fn read_inputs<'a>(
    reader: &mut Reader<'a>,
    inputs: &mut SmallVec<[Input<'a>; 2]>,
    max_input_size: usize,
) -> Parsed<()> {
    array(reader, "inputs", |reader| {
        inputs.push(read_input(reader, max_input_size)?);
        Ok(())
    })
}

/// An input while its members come.
#[derive(Default)]
struct Draft<'a> {
    members: Members,
    name: Cow<'a, [u8]>,
    /// `None` also if there is no such type.
    data_type: Option<DataType>,
    shape: Shape,
    data: Data<'a>,
    parameters: InputParameters,
}

enum Data<'a> {
    Read(elements::Elements),
    /// To be read once datatype and shape are known.
    Raw(&'a [u8]),
}

impl Default for Data<'_> {
    fn default() -> Self {
        Self::Raw(&[])
    }
}

#[derive(Default)]
struct InputParameters {
    binary_data_size: Option<u64>,
    shared_memory_region: Option<String>,
}

fn read_input<'a>(reader: &mut Reader<'a>, max_input_size: usize) -> Parsed<Input<'a>> {
    let mut draft = Draft::default();
    if reader.kind() == Kind::Object {
        reader.object(|reader, name| {
            let Draft { members, name: input_name, data_type, shape, data, parameters } = &mut draft;
            match name {
                b"name" => members.read(Member::Name, reader, |reader| {
                    *input_name = string(reader, "name")?;
                    Ok(())
                }),
                b"datatype" => members.read(Member::DataType, reader, |reader| {
                    let name = string(reader, "datatype")?;
                    *data_type = std::str::from_utf8(&name).ok().and_then(DataType::from_wire_name);
                    Ok(())
                }),
                b"shape" => members.read(Member::Shape, reader, |reader| read_shape(reader, shape)),
                b"parameters" => {
                    members.read(Member::Parameters, reader, |reader| read_input_parameters(reader, parameters))
                }
                b"data" => {
                    let known = members.mistakes.is_empty() && members.has(Member::Name) && members.has(Member::Shape);
                    let data_type = data_type.filter(|_| known && !members.has(Member::Data));
                    let directly =
                        data_type.zip(data_type.and_then(|kind| directly_readable(kind, shape, max_input_size)));
                    match directly {
                        Some((data_type, expected)) => {
                            *data = Data::Read(elements::read(reader, data_type, expected)?);
                            members.seen |= 1 << Member::Data as u8;
                            Ok(())
                        }
                        None => members.read(Member::Data, reader, |reader| {
                            *data = Data::Raw(reader.raw()?);
                            Ok(())
                        }),
                    }
                }
                _ => reader.skip(),
            }
        })?;
    } else {
        reader.skip()?;
    }
    Ok(draft.finish(max_input_size)?)
}

impl<'a> Draft<'a> {
    /// Puts the members together, in Triton's order of mistakes.
    fn finish(mut self, max_input_size: usize) -> Result<Input<'a>> {
        let members = &mut self.members;
        members.check(Member::Parameters)?;
        let has_data = members.has(Member::Data);
        check_only_one_content(has_data, &self.parameters)?;
        for (member, field) in [(Member::Name, "name"), (Member::DataType, "datatype"), (Member::Shape, "shape")] {
            if !members.check(member)? {
                return Err(missing(field));
            }
        }
        let name = lossy(self.name);
        let data_type =
            self.data_type.ok_or_else(|| Error::invalid_argument(format!("invalid datatype for input {name}")))?;
        let count = check_extents(&name, data_type, &self.shape)?;
        let content = match self.parameters {
            _ if has_data => Content::Data(take_data(self.data, &name, data_type, count, max_input_size)?),
            InputParameters { binary_data_size: Some(size), .. } => Content::Binary(size),
            InputParameters { shared_memory_region, .. } => {
                Content::SharedMemory(shared_memory_region.unwrap_or_default())
            }
        };
        Ok(Input { name, data_type, shape: self.shape, content })
    }
}

/// How many elements to read, if nothing is wrong with the type and the shape.
fn directly_readable(data_type: DataType, shape: &[i64], max_input_size: usize) -> Option<usize> {
    let count = usize::try_from(element_count(shape)?).ok().filter(|&count| count > 0)?;
    let fits = match data_type {
        DataType::Fp16 | DataType::Bf16 => false,
        DataType::Bytes => true, // measured afterwards
        _ => count.checked_mul(data_type.byte_size()?)? <= max_input_size,
    };
    fits.then_some(count)
}

/// The bytes of an input given as `data`.
fn take_data(data: Data<'_>, name: &str, data_type: DataType, count: usize, max_input_size: usize) -> Result<Vec<u8>> {
    if count == 0 {
        return Ok(Vec::new()); // whatever stands there
    }
    if matches!(data_type, DataType::Fp16 | DataType::Bf16) {
        return Err(Error::invalid_argument(format!(
            "receiving {data_type} data via JSON is not supported. Please use the binary data format for input {name}"
        )));
    }
    let check_size = |size: usize| {
        if size <= max_input_size {
            return Ok(());
        }
        Err(Error::invalid_argument(format!(
            "JSON input '{name}' has a byte_size ({size} bytes) that exceeds the maximum allowed value of \
             {max_input_size} bytes. Use --http-max-input-size to increase the limit."
        )))
    };
    if let Some(element_size) = data_type.byte_size() {
        check_size(count.saturating_mul(element_size))?;
    }
    let elements = match data {
        Data::Read(elements) => elements,
        Data::Raw(text) => {
            elements::read(&mut Reader::new(text), data_type, count).map_err(|fault| fault.into_error())?
        }
    };
    if data_type == DataType::Bytes {
        check_size(elements.bytes.len())?; // too few or too many are counted against the model
    } else if elements.count != count {
        return Err(Error::internal("Failed to parse 'data' field: shape does not match true shape"));
    }
    Ok(elements.bytes)
}

fn check_only_one_content(has_data: bool, parameters: &InputParameters) -> Result<()> {
    let set = [
        (has_data, " 'data'"),
        (parameters.binary_data_size.is_some(), " 'binary_data_size'"),
        (parameters.shared_memory_region.is_some(), " 'shared_memory_region'"),
    ];
    if set.iter().filter(|(is_set, _)| *is_set).count() == 1 {
        return Ok(());
    }
    let names: String = set.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
    let found = if names.is_empty() { " no field is set".to_owned() } else { format!(" set{names}") };
    Err(Error::invalid_argument(format!(
        "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', \
         'shared_memory_region' in 'parameters'. But{found}"
    )))
}

/// The number of elements, if the extents make sense for the type.
fn check_extents(name: &str, data_type: DataType, shape: &[i64]) -> Result<usize> {
    if shape.iter().any(|&extent| extent < 0) {
        return Err(Error::invalid_argument(format!(
            "invalid shape for input '{name}': shape {} contains one or more invalid dimensions",
            shape_text(shape)
        )));
    }
    let Some(count) = element_count(shape) else {
        return Err(Error::invalid_argument(format!(
            "invalid shape for input '{name}': shape {} causes total element count to exceed maximum size of {}",
            shape_text(shape),
            i64::MAX
        )));
    };
    let element_size = data_type.byte_size().unwrap_or(1);
    let size = i64::try_from(element_size).ok().and_then(|size| count.checked_mul(size));
    if size.is_none() {
        return Err(Error::invalid_argument(format!(
            "byte size overflow for input '{name}': element count ({count}) * data type size ({element_size}) exceeds \
             maximum allowed size ({})",
            i64::MAX
        )));
    }
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

fn read_shape(reader: &mut Reader<'_>, shape: &mut Shape) -> Parsed<()> {
    array(reader, "shape", |reader| {
        let extent = unsigned(reader, "shape")?;
        shape.push(i64::try_from(extent).unwrap_or(-1)); // beyond any tensor: refused as an invalid dimension
        Ok(())
    })
}

fn read_input_parameters(reader: &mut Reader<'_>, parameters: &mut InputParameters) -> Parsed<()> {
    if reader.kind() != Kind::Object {
        return reader.skip();
    }
    reader.object(|reader, name| {
        match name {
            b"binary_data_size" => parameters.binary_data_size = Some(unsigned(reader, "binary_data_size")?),
            b"shared_memory_region" => {
                parameters.shared_memory_region = Some(text(&string(reader, "shared_memory_region")?));
            }
            b"shared_memory_offset" => _ = unsigned(reader, "shared_memory_offset")?,
            b"shared_memory_byte_size" => _ = unsigned(reader, "shared_memory_byte_size")?,
            _ => reader.skip()?,
        }
        Ok(())
    })
}

// === outputs ===

fn read_outputs<'a>(reader: &mut Reader<'a>, outputs: &mut SmallVec<[Output<'a>; 2]>) -> Parsed<()> {
    array(reader, "outputs", |reader| {
        outputs.push(read_output(reader)?);
        Ok(())
    })
}

#[derive(Default)]
struct OutputParameters {
    binary_data: Option<bool>,
    classification: Option<u64>,
    shared_memory_region: Option<String>,
}

fn read_output<'a>(reader: &mut Reader<'a>) -> Parsed<Output<'a>> {
    let mut members = Members::default();
    let mut name = Cow::default();
    let mut parameters = OutputParameters::default();
    if reader.kind() == Kind::Object {
        reader.object(|reader, member| match member {
            b"name" => members.read(Member::Name, reader, |reader| {
                name = string(reader, "name")?;
                Ok(())
            }),
            b"parameters" => {
                members.read(Member::Parameters, reader, |reader| read_output_parameters(reader, &mut parameters))
            }
            _ => reader.skip(),
        })?;
    } else {
        reader.skip()?;
    }
    members.check(Member::Parameters)?;
    let OutputParameters { binary_data, classification, shared_memory_region } = parameters;
    if shared_memory_region.is_some() {
        let conflict = match (classification, binary_data) {
            (Some(_), _) => Some("classification"),
            (None, Some(true)) => Some("binary_data"),
            _ => None,
        };
        if let Some(conflict) = conflict {
            return Err(Error::invalid_argument(format!(
                "Output can't set both 'shared_memory_region' and '{conflict}'"
            ))
            .into());
        }
    }
    if !members.check(Member::Name)? {
        return Err(missing("name").into());
    }
    Ok(Output {
        name: lossy(name),
        is_binary: binary_data.unwrap_or(false),
        classification: u32::try_from(classification.unwrap_or(0)).unwrap_or(u32::MAX),
        shared_memory_region,
    })
}

fn read_output_parameters(reader: &mut Reader<'_>, parameters: &mut OutputParameters) -> Parsed<()> {
    if reader.kind() != Kind::Object {
        return reader.skip();
    }
    reader.object(|reader, name| {
        match name {
            b"binary_data" => parameters.binary_data = Some(boolean(reader, "binary_data")?),
            b"classification" => {
                let Kind::Number = reader.kind() else {
                    reader.skip()?;
                    return Err(wrong_type("Unable to set 'classification'", NOT_UNSIGNED).into());
                };
                let count = reader.number()?.as_u64();
                let count = count.ok_or_else(|| wrong_type("Unable to set 'classification'", NOT_UNSIGNED))?;
                parameters.classification = Some(count);
            }
            b"shared_memory_region" => {
                parameters.shared_memory_region = Some(text(&string(reader, "shared_memory_region")?));
            }
            b"shared_memory_offset" => _ = unsigned(reader, "shared_memory_offset")?,
            b"shared_memory_byte_size" => _ = unsigned(reader, "shared_memory_byte_size")?,
            _ => reader.skip()?,
        }
        Ok(())
    })
}

// === values of one type ===

const NOT_UNSIGNED: &str = "unsigned-integer as unsigned-integer";

fn array<'a>(reader: &mut Reader<'a>, field: &str, element: impl FnMut(&mut Reader<'a>) -> Parsed<()>) -> Parsed<()> {
    if reader.kind() != Kind::Array {
        reader.skip()?;
        return Err(unable(field, "array as array").into());
    }
    reader.array(element)
}

fn string<'a>(reader: &mut Reader<'a>, field: &str) -> Parsed<Cow<'a, [u8]>> {
    if reader.kind() != Kind::String {
        reader.skip()?;
        return Err(unable(field, "string as string").into());
    }
    reader.string()
}

fn boolean(reader: &mut Reader<'_>, field: &str) -> Parsed<bool> {
    if reader.kind() == Kind::Bool {
        return Ok(reader.word()? == Some(true));
    }
    reader.skip()?;
    Err(unable(field, "boolean as boolean").into())
}

fn unsigned(reader: &mut Reader<'_>, field: &str) -> Parsed<u64> {
    if reader.kind() != Kind::Number {
        reader.skip()?;
        return Err(unable(field, NOT_UNSIGNED).into());
    }
    reader.number()?.as_u64().ok_or_else(|| unable(field, NOT_UNSIGNED).into())
}

#[cold]
fn unable(field: &str, other: &str) -> Error {
    wrong_type(&format!("Unable to parse '{field}'"), other)
}

#[cold]
fn wrong_type(what: &str, other: &str) -> Error {
    Error::internal(format!("{what}: attempt to access JSON non-{other}"))
}

#[cold]
fn missing(field: &str) -> Error {
    Error::internal(format!("Unable to parse '{field}': attempt to access non-existing object member '{field}'"))
}

fn lossy(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(text(&bytes)),
    }
}

#[cfg(test)]
mod tests;
