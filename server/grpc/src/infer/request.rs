//! A received message becomes the server's own request. Strings and tensors are moved, not copied.
//!
//! Whether the request fits its model is checked elsewhere, except for a data type the server does not have.

use std::time::Instant;

use bytes::Bytes;
use prost::{
    DecodeError, Message,
    encoding::{WireType, decode_key, decode_varint},
};
use server_core::{
    buffer::Buffer,
    error::{Error, Result},
    input_memory::InputPlacement,
    interface::{Interface, ModelId},
    request::{InferRequest, VersionChoice},
    tensor::{DataType, Name, Shape, Tensor},
};
use server_engine::{Engine, ModelHandle, SharedMemory, failures};
use server_proto::inference::{ModelInferRequest, model_infer_request::InferInputTensor};
use smallvec::SmallVec;
use tonic::Status;

use super::{
    contents,
    outputs::{self, Classes},
    parameters::{self, RequestParameters},
    region::region,
};

/// The parts of a message.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// For the engine.
    pub(crate) request: InferRequest,
    /// Which outputs are classified.
    pub(crate) classes: Classes,
    /// Whether the client wants an empty final response.
    pub(crate) wants_empty_final: bool,
}

/// More bytes than this, raw tensors apart, are decoded and converted on the blocking pool: about a millisecond of work.
const MAX_INLINE: usize = 256 << 10;
/// Fields that say which model a message is for.
const MODEL_NAME: u32 = 1;
const MODEL_VERSION: u32 = 2;
/// Field of the raw tensors.
const RAW_INPUT_CONTENTS: u32 = 7;
/// Fields looked at to find the raw tensors of a message.
const MAX_FIELDS: usize = 64;

/// Whether decoding and converting a message takes so long that it belongs on the blocking pool. Raw tensors take no time:
/// they are slices of it.
pub(crate) fn is_long(message: &[u8]) -> bool {
    message.len() > MAX_INLINE && message.len() - raw_len(message) > MAX_INLINE
}

/// Bytes of the raw tensors among the first fields.
fn raw_len(mut message: &[u8]) -> usize {
    let mut total = 0;
    for _ in 0..MAX_FIELDS {
        let Ok((field, WireType::LengthDelimited)) = decode_key(&mut message) else { break };
        let length = decode_varint(&mut message).ok().and_then(|length| usize::try_from(length).ok());
        let Some((skipped, rest)) = length.and_then(|length| message.split_at_checked(length)) else { break };
        if field == RAW_INPUT_CONTENTS {
            total += skipped.len();
        }
        message = rest;
    }
    total
}

/// Where a message with that beginning is best received: in the memory of the model it names, with the first raw tensor where
/// numbers of any type may begin. `None` if the model does not care, or no raw tensors follow.
pub(crate) fn placement(engine: &Engine, beginning: &[u8]) -> Option<InputPlacement> {
    let Beginning { model_name, model_version, tensors_at } = Beginning::read(beginning)?;
    let version = VersionChoice::parse(model_version).ok()?;
    let memory = engine.model(ModelId { name: model_name, version }).ok()?.input_memory()?;
    Some(InputPlacement { memory, tensors_at })
}

/// What the beginning of a message says, in the order in which fields are written.
#[derive(Debug, PartialEq, Eq)]
struct Beginning<'a> {
    model_name: &'a str,
    model_version: &'a str,
    /// Where the first raw tensor begins.
    tensors_at: usize,
}

impl<'a> Beginning<'a> {
    /// `None` if the raw tensors do not begin in there.
    fn read(beginning: &'a [u8]) -> Option<Self> {
        let (mut model_name, mut model_version) = ("", "");
        let mut rest = beginning;
        for _ in 0..MAX_FIELDS {
            let Ok((field, WireType::LengthDelimited)) = decode_key(&mut rest) else { return None };
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            if field == RAW_INPUT_CONTENTS {
                return Some(Self { model_name, model_version, tensors_at: beginning.len() - rest.len() });
            }
            let (content, after) = rest.split_at_checked(length)?;
            match field {
                MODEL_NAME => model_name = std::str::from_utf8(content).ok()?,
                MODEL_VERSION => model_version = std::str::from_utf8(content).ok()?,
                _ => {}
            }
            rest = after;
        }
        None
    }
}

/// Decodes a message. Its raw tensors are slices of the bytes.
///
/// Errors: `Internal`, as gRPC has it, for bytes that are no such message.
pub(crate) fn decode(message: Bytes) -> Result<ModelInferRequest, Status> {
    ModelInferRequest::decode(message).map_err(|error| malformed(&error))
}

/// The status of a call whose message cannot be decoded.
#[cold]
pub(crate) fn malformed(error: &DecodeError) -> Status {
    Status::internal(error.to_string())
}

/// The model a message names.
///
/// Errors: the version is not a number, the model is unknown or not ready.
pub(crate) fn model(engine: &Engine, message: &ModelInferRequest) -> Result<ModelHandle> {
    let version = VersionChoice::parse(&message.model_version);
    let found = version.and_then(|version| engine.model(ModelId { name: &message.model_name, version }));
    failures::log(failures::logged_id(&message.id), found)
}

/// Makes a request of a message.
///
/// Errors: `InvalidArgument` for parameters and contents that contradict each other; those of [`SharedMemory::input`] and
/// [`SharedMemory::output`].
/// Source: Triton's order: parameters, inputs, outputs.
pub(crate) fn prepare(
    interface: &Interface,
    shared_memory: &SharedMemory,
    message: ModelInferRequest,
    received_at: Instant,
) -> Result<Prepared> {
    let logged_id = failures::logged_id(&message.id);
    failures::log(logged_id, read(interface, shared_memory, message, received_at))
}

fn read(
    interface: &Interface,
    shared_memory: &SharedMemory,
    message: ModelInferRequest,
    received_at: Instant,
) -> Result<Prepared> {
    let RequestParameters { sequence, priority, timeout, wants_empty_final, others } =
        parameters::read(message.parameters)?;
    let inputs = inputs(interface, shared_memory, &message.id, message.inputs, message.raw_input_contents)?;
    let (outputs, classes) = outputs::read(interface, shared_memory, message.outputs)?;
    let request = InferRequest {
        model_name: interface.model_name.clone(),
        model_version: VersionChoice::parse(&message.model_version)?,
        id: message.id,
        inputs,
        outputs,
        parameters: others,
        sequence,
        priority,
        timeout,
        received_at,
        callers: None,
        trace: None,
    };
    Ok(Prepared { request, classes, wants_empty_final })
}

fn inputs(
    interface: &Interface,
    shared_memory: &SharedMemory,
    id: &str,
    inputs: Vec<InferInputTensor>,
    raw: Vec<Bytes>,
) -> Result<SmallVec<[Tensor; 2]>> {
    let is_raw = !raw.is_empty();
    let mut raw = raw.into_iter();
    let mut tensors = SmallVec::with_capacity(inputs.len());
    for (position, input) in inputs.into_iter().enumerate() {
        let spec = interface.input_near(position, &input.name);
        let data_type = match spec {
            Some(spec) if spec.data_type.wire_name() == input.datatype => Some(spec.data_type),
            _ => DataType::from_wire_name(&input.datatype),
        };
        let data = match (region(&input.name, &input.parameters)?, input.contents) {
            (Some(_), Some(_)) => return Err(contents_with_region(interface, &input.name)),
            (Some(part), None) => shared_memory.input(&part, data_type)?,
            (None, Some(_)) if is_raw => return Err(contents_with_raw(interface, &input.name)),
            (None, Some(contents)) => {
                Buffer::unique(contents::bytes(contents, data_type, &input.name, &interface.model_name)?)
            }
            (None, None) => Buffer::unique(raw.next().ok_or_else(|| no_data(interface, &input.name))?),
        };
        let data_type = data_type.ok_or_else(|| unknown_type(interface, id, &input.name))?;
        // The model's own name saves an allocation; it is the same text.
        let name = spec.map_or_else(|| Name::from(input.name.as_str()), |spec| spec.name.clone());
        tensors.push(Tensor { name, data_type, shape: Shape::from_slice(&input.shape), data });
    }
    Ok(tensors)
}

#[cold]
fn contents_with_region(interface: &Interface, input: &str) -> Error {
    let model = &interface.model_name;
    Error::invalid_argument(format!(
        "unexpected 'content' provided when using shared memory for input tensor '{input}' for model '{model}'"
    ))
}

#[cold]
fn contents_with_raw(interface: &Interface, input: &str) -> Error {
    let model = &interface.model_name;
    Error::invalid_argument(format!(
        "contents field must not be specified when using raw_input_contents for '{input}' for model '{model}'"
    ))
}

#[cold]
fn no_data(interface: &Interface, input: &str) -> Error {
    let model = &interface.model_name;
    Error::invalid_argument(format!("unable to find data for input tensor '{input}' for model '{model}' in request."))
}

/// The error of the check for a data type the server does not have.
#[cold]
fn unknown_type(interface: &Interface, id: &str, input: &str) -> Error {
    let model = &interface.model_name;
    match interface.input(input) {
        None => Error::invalid_argument(format!("unexpected inference input '{input}' for model '{model}'")),
        Some(spec) => Error::invalid_argument(format!(
            "inference input '{input}' data-type is '<invalid>', but model '{model}' expects '{}'",
            spec.data_type
        ))
        .with_request_id(id),
    }
}

/// What is read of a message before it is decoded.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    /// Looks at the message as those do who place it and decide where it is decoded.
    pub(crate) fn peek(message: &[u8]) {
        assert!(super::raw_len(message) <= message.len());
        let _ = super::is_long(message);
        if let Some(beginning) = super::Beginning::read(message) {
            assert!(beginning.tensors_at <= message.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use server_core::{
        error::Code,
        interface::{InputSpec, OutputSpec},
        request::{CorrelationId, Parameter, RequestedOutput, Sequence},
    };
    use server_proto::inference::{
        InferParameter, InferTensorContents, infer_parameter::ParameterChoice,
        model_infer_request::InferRequestedOutputTensor,
    };

    use super::*;

    fn model() -> Interface {
        let input = |name: &str| InputSpec {
            name: name.into(),
            data_type: DataType::Fp32,
            dims: Shape::from_slice(&[1]),
            reshape: None,
            is_optional: false,
            allow_ragged_batch: false,
            takes_any_shape: false,
        };
        Interface {
            model_name: "m".into(),
            version: 2,
            max_batch_size: 0,
            inputs: vec![input("a"), input("b")],
            outputs: vec![OutputSpec {
                name: "x".into(),
                data_type: DataType::Fp32,
                dims: Shape::from_slice(&[1]),
                reshape: None,
                labels: vec![],
            }],
            is_decoupled: false,
            has_sequences: false,
        }
    }

    #[test]
    fn only_what_must_be_converted_makes_a_message_long() {
        let raw_of = |length: usize| ModelInferRequest {
            raw_input_contents: vec![vec![0; length].into(), vec![0; 3].into()],
            ..raw(&["a", "b"], &[])
        };
        assert!(!is_long(&raw_of(0).encode_to_vec()));
        assert!(!is_long(&raw_of(4 * MAX_INLINE).encode_to_vec()));
        let mut typed = raw(&["a"], &[]);
        let contents = |length| Some(InferTensorContents { fp32_contents: vec![0.0; length], ..Default::default() });
        typed.inputs[0].contents = contents(10);
        assert!(!is_long(&typed.encode_to_vec()));
        typed.inputs[0].contents = contents(MAX_INLINE / 4 + 10);
        assert!(is_long(&typed.encode_to_vec()));
        let many =
            ModelInferRequest { raw_input_contents: vec![vec![0; MAX_INLINE / 100].into(); 200], ..Default::default() };
        assert!(is_long(&many.encode_to_vec()));
        // Bytes that are no message are refused by the decoder, wherever it runs.
        assert!(is_long(&vec![0xff; MAX_INLINE + 1]));
    }

    #[test]
    fn the_beginning_of_a_message_says_its_model_and_where_its_tensors_begin() {
        let mut message = raw(&["a", "b"], &[b"first", b"second"]);
        message.model_version = "3".into();
        message.id = "7".into();
        let encoded = message.encode_to_vec();
        let first = encoded.windows(5).position(|window| window == b"first").unwrap();
        let expected = Beginning { model_name: "m", model_version: "3", tensors_at: first };
        assert_eq!(Beginning::read(&encoded[..first]), Some(expected));
        for end in 0..first {
            assert_eq!(Beginning::read(&encoded[..end]), None, "{end} bytes");
        }
        message.raw_input_contents.clear();
        assert_eq!(Beginning::read(&message.encode_to_vec()), None);
        // fields in another order, as no client writes them
        let reversed = [&encoded[first - 2..], &encoded[..first - 2]].concat();
        assert_eq!(Beginning::read(&reversed).unwrap().model_name, "");
        assert_eq!(Beginning::read(&[0x0a, 1, 0xff, 0x3a, 1]), None);
        assert_eq!(Beginning::read(&[0xff; 100]), None);
    }

    fn tensor(name: &str) -> InferInputTensor {
        InferInputTensor { name: name.into(), datatype: "FP32".into(), shape: vec![1], ..Default::default() }
    }

    fn raw(names: &[&str], raw: &[&'static [u8]]) -> ModelInferRequest {
        ModelInferRequest {
            model_name: "m".into(),
            inputs: names.iter().map(|name| tensor(name)).collect(),
            raw_input_contents: raw.iter().map(|bytes| Bytes::from_static(bytes)).collect(),
            ..Default::default()
        }
    }

    fn with(message: ModelInferRequest, key: &str, choice: ParameterChoice) -> ModelInferRequest {
        let mut message = message;
        message.inputs[0].parameters.insert(key.into(), InferParameter { parameter_choice: Some(choice) });
        message
    }

    fn region_name() -> ParameterChoice {
        ParameterChoice::StringParam("r".into())
    }

    #[track_caller]
    fn fails(message: ModelInferRequest, code: Code, expected: &str) {
        let error = prepare(&model(), &SharedMemory::default(), message, Instant::now()).unwrap_err();
        assert_eq!((error.code, &*error.message), (code, expected));
    }

    #[test]
    fn everything_a_message_says_arrives() {
        let mut message = raw(&["b", "a"], &[b"\x01\0\0\0", b"\x02\0\0\0", b"ignored"]);
        message.model_version = "2".into();
        message.id = "7".into();
        message.outputs = vec![InferRequestedOutputTensor { name: "x".into(), ..Default::default() }];
        for (key, choice) in [
            ("sequence_id", ParameterChoice::Int64Param(42)),
            ("sequence_end", ParameterChoice::BoolParam(true)),
            ("priority", ParameterChoice::Uint64Param(3)),
            ("timeout", ParameterChoice::Int64Param(1500)),
            ("custom", ParameterChoice::DoubleParam(0.5)),
        ] {
            message.parameters.insert(key.into(), InferParameter { parameter_choice: Some(choice) });
        }
        let wire = message.raw_input_contents[0].as_ptr();
        let received_at = Instant::now();
        let Prepared { request, wants_empty_final, .. } =
            prepare(&model(), &SharedMemory::default(), message, received_at).unwrap();
        assert_eq!((&*request.model_name, request.model_version, &*request.id), ("m", VersionChoice::Exact(2), "7"));
        let names: Vec<_> = request.inputs.iter().map(|input| &*input.name).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!((request.inputs[0].data_type, &request.inputs[0].shape[..]), (DataType::Fp32, &[1][..]));
        assert_eq!(request.inputs[0].data.as_host().map(<[u8]>::as_ptr), Some(wire), "copied on the way");
        assert_eq!(request.inputs[1].data.as_host(), Some(b"\x02\0\0\0".as_slice()));
        assert_eq!(request.outputs[..], [RequestedOutput::values("x")]);
        let sequence = Sequence { id: CorrelationId::Number(42), is_start: false, is_end: true };
        assert_eq!((request.sequence, request.priority), (Some(sequence), 3));
        assert_eq!(request.timeout, Some(std::time::Duration::from_micros(1500)));
        assert_eq!(request.parameters, [("custom".to_owned(), Parameter::Double(0.5))]);
        assert_eq!((request.received_at, wants_empty_final), (received_at, false));
    }

    #[test]
    fn raw_and_typed_contents_do_not_mix() {
        let mut message = raw(&["a", "b"], &[b"\0\0\0\0"]);
        message.inputs[1].contents = Some(InferTensorContents { fp32_contents: vec![1.0], ..Default::default() });
        let expected = "contents field must not be specified when using raw_input_contents for 'b' for model 'm'";
        fails(message, Code::InvalidArgument, expected);
    }

    #[test]
    fn an_input_without_data_is_named() {
        let expected = "unable to find data for input tensor 'b' for model 'm' in request.";
        fails(raw(&["a", "b"], &[b"\0\0\0\0"]), Code::InvalidArgument, expected);
        let expected = "unable to find data for input tensor 'a' for model 'm' in request.";
        fails(raw(&["a", "b"], &[]), Code::InvalidArgument, expected);
    }

    #[test]
    fn shared_memory_parameters_are_read_and_no_region_is_there() {
        let size = ("shared_memory_byte_size", ParameterChoice::Int64Param(4));
        let mut message = with(raw(&["a"], &[]), "shared_memory_region", region_name());
        fails(
            message.clone(),
            Code::InvalidArgument,
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor 'a'",
        );
        message = with(message, size.0, size.1);
        fails(message.clone(), Code::NotFound, "Unable to find shared memory region: 'r'");
        message.inputs[0].contents = Some(InferTensorContents::default());
        let expected = "unexpected 'content' provided when using shared memory for input tensor 'a' for model 'm'";
        fails(message, Code::InvalidArgument, expected);
    }

    #[test]
    fn a_type_nobody_knows_is_told_in_the_words_of_the_check() {
        let mut message = raw(&["a", "b"], &[b"\0\0\0\0", b"\0\0\0\0"]);
        message.inputs[1].datatype = "FP31".into();
        message.id = "7".into();
        let expected = "[request id: 7] inference input 'b' data-type is '<invalid>', but model 'm' expects 'FP32'";
        fails(message.clone(), Code::InvalidArgument, expected);
        message.inputs[1].name = "c".into();
        fails(message, Code::InvalidArgument, "unexpected inference input 'c' for model 'm'");
    }
}
