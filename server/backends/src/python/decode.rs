//! Answers of a worker as the server reads them.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use server_core::{
    batching::pack::OutputReshape,
    buffer::Buffer,
    error::{Code, Error, Result},
    request::{Parameter, Parameters},
    response::Outputs as Response,
    tensor::{DataType, Name, Shape, Tensor, byte_count, element_count, shape_text, strings},
};
use server_proto::inference::{ModelConfig, ModelOutput};

use super::{
    channel::not_understood,
    encode::type_of,
    marshal::{self, Value},
    memory::{InUse, InputLeases, Outputs},
    wire::{place, result},
};

/// What came of one request when its batch ended.
#[expect(clippy::large_enum_variant, reason = "there is one per request, and it is moved once")]
pub(super) enum Outcome {
    /// Its response, or an error that the model gave in its place.
    Response(Result<Response>),
    /// It was not executed to its end.
    Failed(Error),
    /// None yet, or it was answered already: its response sender does that.
    Nothing,
    /// It is to have another turn.
    Rescheduled,
}

/// What a worker says of a request at any time.
#[expect(clippy::large_enum_variant, reason = "there is one per response, and it is moved once or twice")]
pub(super) enum Word {
    /// A response, or an error that the model gave in its place; and whether it is the last.
    Response(Result<Response>, bool),
    /// It was not executed to its end.
    Failed(Error),
    /// Nothing more comes.
    Ended,
    /// It is to have another turn.
    Rescheduled,
    /// The model has forgotten it.
    Dropped,
}

impl Word {
    /// Whether the worker says nothing more of the request.
    pub(super) fn is_last(&self) -> bool {
        !matches!(self, Self::Response(_, false))
    }
}

/// An output of the model, as its configuration has it.
#[derive(Debug)]
pub(super) struct KnownOutput {
    pub(super) name: Name,
    pub(super) reshape: Option<OutputReshape>,
}

impl KnownOutput {
    /// Those of a model.
    pub(super) fn all_of(config: &ModelConfig) -> Arc<[Self]> {
        let of = |output: &ModelOutput| Self {
            name: Name::from(output.name.as_str()),
            reshape: OutputReshape::of(config, output),
        };
        config.output.iter().map(of).collect()
    }
}

/// Reads what a worker answers. Tensors that lie in the same segment share it.
pub(super) struct Decoder<'a> {
    instance: &'a str,
    /// Those that the model's configuration has.
    known: &'a [KnownOutput],
    pub(super) leases: &'a InputLeases,
    pub(super) outputs: &'a Outputs,
    in_use: HashMap<u64, InUse>,
    /// Inputs that nobody looks at any more, and how many outputs are parts of them.
    released: HashMap<u64, usize>,
}

impl<'a> Decoder<'a> {
    /// `instance` is what errors call the worker; `known` are the model's outputs.
    pub(super) fn new(
        instance: &'a str,
        known: &'a [KnownOutput],
        leases: &'a InputLeases,
        outputs: &'a Outputs,
    ) -> Self {
        Self { instance, known, leases, outputs, in_use: HashMap::new(), released: HashMap::new() }
    }

    /// Nobody looks at these inputs any more, says the answer with these results. Outputs that are parts of other inputs are
    /// copied, for they may be written yet.
    pub(super) fn with_released(mut self, handles: &[u64], results: &Value<'_>) -> Self {
        self.released = handles.iter().map(|handle| (*handle, 0)).collect();
        for tensor in results.items().iter().filter_map(|result| result.items().get(1)).flat_map(Value::items) {
            let data = tensor.items().get(3).map_or(&[][..], Value::items);
            if let [kind, handle, ..] = data
                && kind.number() == Some(place::IN_INPUT)
                && let Some(count) = handle.number().and_then(|handle| self.released.get_mut(&handle))
            {
                *count += 1;
            }
        }
        self
    }

    /// What came of one request.
    pub(super) fn outcome(&mut self, value: &Value<'_>) -> Outcome {
        let items = value.items();
        match (items.first().and_then(Value::number), items) {
            (Some(result::NOTHING), _) => Outcome::Nothing,
            (Some(result::RESCHEDULED), _) => Outcome::Rescheduled,
            (Some(result::ERROR), [_, text, code]) => Outcome::Response(Err(error(text, code))),
            (Some(result::RAISED), [_, text]) => Outcome::Failed(raised(self.instance, text.text())),
            (Some(result::OUTPUTS), [_, tensors, parameters]) => Outcome::Response(self.response(tensors, parameters)),
            _ => Outcome::Failed(not_understood("no such result")),
        }
    }

    /// What the worker says of one request.
    pub(super) fn word(&mut self, value: &Value<'_>, is_last: bool) -> Word {
        if value.items().first().and_then(Value::number) == Some(result::DROPPED) {
            return Word::Dropped;
        }
        match self.outcome(value) {
            Outcome::Response(reply) => Word::Response(reply, is_last),
            Outcome::Failed(error) if is_last => Word::Failed(error),
            Outcome::Failed(error) => Word::Response(Err(error), false), // the worker goes on with it
            Outcome::Nothing => Word::Ended,
            Outcome::Rescheduled => Word::Rescheduled,
        }
    }

    fn response(&mut self, tensors: &Value<'_>, parameters: &Value<'_>) -> Result<Response> {
        let tensors = tensors.items().iter().map(|tensor| self.output(tensor)).collect::<Result<_>>()?;
        Ok(Response { tensors, parameters: read_parameters(parameters)?.into() })
    }

    /// One output, in the shape that its caller knows.
    ///
    /// Errors: as below; or it has another number of elements than that shape.
    fn output(&mut self, value: &Value<'_>) -> Result<Tensor> {
        let mut tensor = self.tensor(value)?;
        let known = self.known.iter().find(|known| known.name == tensor.name);
        if let Some(reshape) = known.and_then(|known| known.reshape.as_ref()) {
            let shape = reshape.undo(&tensor.shape);
            if element_count(&shape) != element_count(&tensor.shape) {
                return Err(Error::internal(format!(
                    "output tensor shape does not match size of output for '{}': the model gave shape {}, the \
                     configuration says {}",
                    tensor.name,
                    shape_text(&tensor.shape),
                    shape_text(&shape)
                )));
            }
            tensor.shape = shape;
        }
        Ok(tensor)
    }

    /// One tensor.
    ///
    /// Errors: its bytes are not as many as its shape and type say.
    pub(super) fn tensor(&mut self, value: &Value<'_>) -> Result<Tensor> {
        let [name, kind, shape, data] = value.items() else { return Err(not_understood("no such tensor")) };
        let name = name.text();
        let data_type = kind.number().and_then(type_of).ok_or_else(|| not_understood("no such type"))?;
        let extents = shape.items().iter().map(|extent| extent.number().and_then(|extent| i64::try_from(extent).ok()));
        let shape: Shape = extents.collect::<Option<_>>().ok_or_else(|| not_understood("no such shape"))?;
        let data = self.data(data)?;
        let fits = match byte_count(data_type, &shape) {
            Some(count) => data.len() == count,
            None => data_type == DataType::Bytes && has_elements(data.as_host().unwrap_or_default(), &shape),
        };
        if !fits {
            return Err(Error::internal(format!(
                "output '{name}' of type {data_type} and shape {} cannot have {} bytes",
                shape_text(&shape),
                data.len()
            )));
        }
        let known = self.known.iter().find(|known| *known.name == *name);
        let name = known.map_or_else(|| Name::from(name), |known| known.name.clone());
        Ok(Tensor { name, data_type, shape, data })
    }

    fn data(&mut self, value: &Value<'_>) -> Result<Buffer> {
        if let Value::Bytes(bytes) = value {
            return Ok(Buffer::unique(Bytes::copy_from_slice(bytes)));
        }
        let numbers: Option<Vec<u64>> = value.items().iter().map(Value::number).collect();
        let Some([kind, number, offset, length]) = numbers.as_deref() else {
            return Err(not_understood("no such data"));
        };
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let (offset, length) = (size(*offset), size(*length));
        match *kind {
            place::IN_INPUT => {
                let part = self.leases.part(*number, offset..offset.saturating_add(length))?;
                Ok(match self.released.get(number) {
                    None => self.leases.copy(&part),
                    Some(1) => Buffer::unique(part),
                    Some(_) => part.into(),
                })
            }
            place::IN_SEGMENT => {
                let in_use = match self.in_use.get(number) {
                    Some(in_use) => in_use.clone(),
                    None => self.outputs.message(*number)?,
                };
                let bytes = in_use.view(offset, length)?;
                self.in_use.insert(*number, in_use);
                Ok(Buffer::unique(bytes))
            }
            _ => Err(not_understood("no such place")),
        }
    }
}

fn has_elements(data: &[u8], shape: &[i64]) -> bool {
    let Some(expected) = element_count(shape) else { return false };
    let mut count = 0;
    strings::elements(data).all(|element| {
        count += 1;
        element.is_ok()
    }) && count == expected
}

/// Inputs that nobody looks at any more, as what was appended to an answer says.
///
/// Errors: it cannot be read.
pub(super) fn released(appended: &[u8]) -> Result<Vec<u64>> {
    if appended.is_empty() {
        return Ok(Vec::new());
    }
    let (handles, _) = marshal::read(appended).map_err(not_understood)?;
    Ok(handles.items().iter().filter_map(Value::number).collect())
}

/// The error of requests whose `execute` has raised an exception, described in `text`.
///
/// Source: recorded answers, `python_raises`.
pub(super) fn raised(instance: &str, text: &str) -> Error {
    Error::internal(format!("Failed to process the request(s) for model '{instance}', message: {text}"))
}

/// An error as the model words it.
fn error(text: &Value<'_>, code: &Value<'_>) -> Error {
    let code = match code.number() {
        Some(0) => Code::Unknown,
        Some(2) => Code::NotFound,
        Some(3) => Code::InvalidArgument,
        Some(4) => Code::Unavailable,
        Some(5) => Code::Unsupported,
        Some(6) => Code::AlreadyExists,
        Some(7) => Code::Cancelled,
        _ => Code::Internal,
    };
    Error::new(code, text.text().to_owned())
}

/// Parameters of a request or response: a dictionary, or nothing.
///
/// Errors: one is of no type that parameters have.
pub(super) fn read_parameters(value: &Value<'_>) -> Result<Parameters> {
    let Value::Dict(entries) = value else { return Ok(Vec::new()) };
    let entry = |(key, value): &(Value<'_>, Value<'_>)| {
        let value = match value {
            Value::Bool(value) => Parameter::Bool(*value),
            Value::Int(value) => Parameter::Int(*value),
            Value::Uint(value) => Parameter::Uint(*value),
            Value::Float(value) => Parameter::Double(*value),
            Value::Str(value) => Parameter::String((*value).to_owned()),
            _ => return Err(not_understood("no such parameter")),
        };
        Ok((key.text().to_owned(), value))
    };
    entries.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use server_shm::{Limits, Segment, SegmentPool};

    use super::{super::marshal::Writer, *};

    /// The results of one request: outputs of 100 bytes, each a part of an input.
    fn results(parts: &[(u64, u64)]) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.tuple(1);
        writer.tuple(3);
        writer.uint(result::OUTPUTS);
        writer.tuple(parts.len());
        for (handle, offset) in parts {
            writer.tuple(4);
            writer.str("OUT");
            writer.int(DataType::Uint8 as i64 + 1);
            writer.tuple(1);
            writer.int(100);
            writer.tuple(4);
            [place::IN_INPUT, *handle, *offset, 100].into_iter().for_each(|number| writer.uint(number));
        }
        writer.none();
        writer.into_bytes()
    }

    /// Whether each output lies where the input does, and whether nobody else has it.
    fn check(parts: &[(u64, u64)], released: &[u64], expected: &[(bool, bool)]) {
        let pool = SegmentPool::new(Limits::default());
        let leases = InputLeases::new(pool.clone(), 0);
        for number in 1..=2 {
            let mut writable = pool.take(1000).unwrap();
            writable.fill(number);
            assert_eq!(leases.lease(&Buffer::unique(writable.freeze(1000))).unwrap().handle, u64::from(number));
        }
        let bytes = results(parts);
        let (value, _) = marshal::read(&bytes).unwrap();
        let outputs = Outputs::default();
        let mut decoder = Decoder::new("m_0", &[], &leases, &outputs).with_released(released, &value);
        let Outcome::Response(response) = decoder.outcome(&value.items()[0]) else { panic!("it is a response") };
        let tensors = response.unwrap().tensors;
        let found: Vec<_> =
            tensors.iter().map(|tensor| (Segment::of(&tensor.data).is_some(), tensor.data.take_unique())).collect();
        assert_eq!(found, expected);
        for (tensor, (handle, _)) in tensors.iter().zip(parts) {
            assert_eq!(tensor.data.as_host(), Some(&[*handle as u8; 100][..]));
        }
    }

    #[test]
    fn an_output_that_is_part_of_an_input_is_passed_on_if_nobody_looks_at_the_input_any_more() {
        check(&[(1, 0)], &[1], &[(true, true)]);
        check(&[(1, 200), (2, 0)], &[1, 2], &[(true, true), (true, true)]);
        // two outputs that may overlap are of both
        check(&[(1, 0), (1, 50)], &[1], &[(true, false), (true, false)]);
        // the model may still write into it
        check(&[(1, 0), (2, 0)], &[2], &[(false, true), (true, true)]);
    }

    #[test]
    fn what_is_appended_to_an_answer_is_read_or_refused() {
        assert!(released(&[]).unwrap().is_empty());
        let mut writer = Writer::default();
        writer.tuple(2);
        writer.int(5);
        writer.uint(1 << 40);
        assert_eq!(released(&writer.into_bytes()).unwrap(), [5, 1 << 40]);
        released(b"(").unwrap_err();
    }
}
