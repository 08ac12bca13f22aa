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
    let mut id = None;
    let mut controls = None;
    let mut inputs = None;
    let mut outputs = None;
    document(text, |reader| {
        if reader.kind() != Kind::Object {
            return reader.skip();
        }
        reader.object(|reader, name| {
            match name {
                b"id" if id.is_none() => id = Some(reader.attempt(read_id)?),
                b"parameters" if controls.is_none() => controls = Some(reader.attempt(read_controls)?),
                b"inputs" if inputs.is_none() => {
                    inputs = Some(reader.attempt(|reader| read_inputs(reader, max_input_size))?);
                }
                b"outputs" if outputs.is_none() => outputs = Some(reader.attempt(read_outputs)?),
                _ => reader.skip()?,
            }
            Ok(())
        })
    })
    .map_err(|fault| fault.into_error())?;
    Ok(Message {
        id: id.transpose()?.unwrap_or_default(),
        controls: controls.transpose()?.unwrap_or_default(),
        inputs: inputs.transpose()?.ok_or_else(|| missing("inputs"))?,
        outputs: outputs.transpose()?.unwrap_or_default(),
    })
}

fn read_id(reader: &mut Reader<'_>) -> Parsed<String> {
    let id = string(reader, "id")?;
    Ok(text(&id))
}

fn read_controls(reader: &mut Reader<'_>) -> Parsed<Controls> {
    if reader.kind() != Kind::Object {
        return Err(Error::internal("failed to get request params.: attempt to get members for non-object").into());
    }
    let mut controls = Controls::default();
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
    })?;
    Ok(controls)
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

fn read_inputs<'a>(reader: &mut Reader<'a>, max_input_size: usize) -> Parsed<SmallVec<[Input<'a>; 2]>> {
    let mut inputs = SmallVec::new();
    array(reader, "inputs", |reader| {
        inputs.push(read_input(reader, max_input_size)?);
        Ok(())
    })?;
    Ok(inputs)
}

/// Members of an input as they come.
#[derive(Default)]
struct Draft<'a> {
    name: Option<Result<Cow<'a, [u8]>>>,
    data_type: Option<Result<Option<DataType>>>,
    shape: Option<Result<Shape>>,
    data: Option<Data<'a>>,
    parameters: Option<Result<InputParameters>>,
}

enum Data<'a> {
    Read(elements::Elements),
    /// To be read once datatype and shape are known.
    Raw(&'a [u8]),
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
            match name {
                b"name" if draft.name.is_none() => {
                    draft.name = Some(reader.attempt(|reader| string(reader, "name"))?);
                }
                b"datatype" if draft.data_type.is_none() => {
                    draft.data_type = Some(reader.attempt(read_data_type)?);
                }
                b"shape" if draft.shape.is_none() => draft.shape = Some(reader.attempt(read_shape)?),
                b"parameters" if draft.parameters.is_none() => {
                    draft.parameters = Some(reader.attempt(read_input_parameters)?);
                }
                b"data" if draft.data.is_none() => draft.data = Some(draft.read_data(reader, max_input_size)?),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
    } else {
        reader.skip()?;
    }
    Ok(draft.finish(max_input_size)?)
}

impl<'a> Draft<'a> {
    /// Reads `data` at once if all that is needed for it is known and in order.
    fn read_data(&self, reader: &mut Reader<'a>, max_input_size: usize) -> Parsed<Data<'a>> {
        if let (Some(Ok(_)), Some(Ok(Some(data_type))), Some(Ok(shape)), None) =
            (&self.name, &self.data_type, &self.shape, &self.parameters)
            && let Some(expected) = directly_readable(*data_type, shape, max_input_size)
        {
            return elements::read(reader, *data_type, expected).map(Data::Read);
        }
        reader.raw().map(Data::Raw)
    }

    /// Puts the members together, in Triton's order of mistakes.
    fn finish(self, max_input_size: usize) -> Result<Input<'a>> {
        let parameters = self.parameters.transpose()?.unwrap_or_default();
        check_only_one_content(self.data.is_some(), &parameters)?;
        let name = lossy(self.name.ok_or_else(|| missing("name"))??);
        let data_type = self.data_type.ok_or_else(|| missing("datatype"))??;
        let shape = self.shape.ok_or_else(|| missing("shape"))??;
        let data_type =
            data_type.ok_or_else(|| Error::invalid_argument(format!("invalid datatype for input {name}")))?;
        let count = check_extents(&name, data_type, &shape)?;
        let content = match (self.data, parameters) {
            (Some(data), _) => Content::Data(take_data(data, &name, data_type, count, max_input_size)?),
            (None, InputParameters { binary_data_size: Some(size), .. }) => Content::Binary(size),
            (None, InputParameters { shared_memory_region, .. }) => {
                Content::SharedMemory(shared_memory_region.unwrap_or_default())
            }
        };
        Ok(Input { name, data_type, shape, content })
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

fn read_data_type(reader: &mut Reader<'_>) -> Parsed<Option<DataType>> {
    let name = string(reader, "datatype")?;
    Ok(std::str::from_utf8(&name).ok().and_then(DataType::from_wire_name))
}

fn read_shape(reader: &mut Reader<'_>) -> Parsed<Shape> {
    let mut shape = Shape::new();
    array(reader, "shape", |reader| {
        let extent = unsigned(reader, "shape")?;
        shape.push(i64::try_from(extent).unwrap_or(-1)); // beyond any tensor: refused as an invalid dimension
        Ok(())
    })?;
    Ok(shape)
}

fn read_input_parameters(reader: &mut Reader<'_>) -> Parsed<InputParameters> {
    let mut parameters = InputParameters::default();
    if reader.kind() != Kind::Object {
        reader.skip()?;
        return Ok(parameters);
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
    })?;
    Ok(parameters)
}

// === outputs ===

fn read_outputs<'a>(reader: &mut Reader<'a>) -> Parsed<SmallVec<[Output<'a>; 2]>> {
    let mut outputs = SmallVec::new();
    array(reader, "outputs", |reader| {
        outputs.push(read_output(reader)?);
        Ok(())
    })?;
    Ok(outputs)
}

#[derive(Default)]
struct OutputParameters {
    binary_data: Option<bool>,
    classification: Option<u64>,
    shared_memory_region: Option<String>,
}

fn read_output<'a>(reader: &mut Reader<'a>) -> Parsed<Output<'a>> {
    let mut name = None;
    let mut parameters = OutputParameters::default();
    if reader.kind() == Kind::Object {
        reader.object(|reader, member| {
            match member {
                b"name" if name.is_none() => name = Some(reader.attempt(|reader| string(reader, "name"))?),
                b"parameters" => parameters = read_output_parameters(reader)?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
    } else {
        reader.skip()?;
    }
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
    Ok(Output {
        name: lossy(name.ok_or_else(|| missing("name"))??),
        is_binary: binary_data.unwrap_or(false),
        classification: u32::try_from(classification.unwrap_or(0)).unwrap_or(u32::MAX),
        shared_memory_region,
    })
}

fn read_output_parameters(reader: &mut Reader<'_>) -> Parsed<OutputParameters> {
    let mut parameters = OutputParameters::default();
    if reader.kind() != Kind::Object {
        reader.skip()?;
        return Ok(parameters);
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
    })?;
    Ok(parameters)
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
