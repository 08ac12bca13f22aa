//! `TRITONBACKEND_Request` and its inputs. A request is the library's from `Execute` until it releases it.

use std::{
    ffi::{CString, c_void},
    ptr,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use server_core::{
    error::{Error, Result},
    request::{CorrelationId, InferRequest, Parameter},
    tensor::Tensor,
};

use super::{answering::Answering, new_state::NewState};
use crate::{
    abi::{
        Handle, Out, Text,
        export::exports,
        handle::{Part, objects},
        numbers::{DataType, MemoryType, ParameterType, release_flag, request_flag},
        objects::{Attributes, BufferAttributes, text},
    },
    server::InferenceTrace,
};

objects! { 8: Request => "TRITONBACKEND_Request" }

/// One request.
pub(crate) struct Request {
    /// What is asked.
    pub(crate) request: InferRequest,
    /// The way back.
    pub(crate) answering: Arc<Answering>,
    texts: OnceLock<Texts>,
    /// States that are being made.
    pub(crate) states: Mutex<Vec<NewState>>,
    /// What the library was given to look at: gone with the request.
    attributes: Mutex<Vec<Handle<BufferAttributes>>>,
    trace: OnceLock<Handle<InferenceTrace>>,
}

/// Texts of a request as C reads them.
struct Texts {
    id: CString,
    correlation_id: CString,
    /// Names, and values that are texts.
    parameters: Vec<(CString, Option<CString>, Option<i64>)>,
}

/// An input of a request.
pub(crate) struct Input;

impl Part for Input {
    const NAME: &'static str = "TRITONBACKEND_Input";
}

impl Request {
    /// A request that is about to be run.
    pub(crate) fn new(request: InferRequest, answering: Arc<Answering>) -> Self {
        let (texts, states, attributes) = (OnceLock::new(), Mutex::default(), Mutex::default());
        Self { request, answering, texts, states, attributes, trace: OnceLock::new() }
    }

    fn texts(&self) -> &Texts {
        self.texts.get_or_init(|| {
            let request = &self.request;
            let correlation_id = match request.sequence.as_ref().map(|sequence| &sequence.id) {
                Some(CorrelationId::Text(id)) => text(id),
                _ => CString::default(),
            };
            let parameters = request.parameters.iter().map(|(name, value)| match value {
                Parameter::String(value) => (text(name), Some(text(value)), None),
                Parameter::Uint(value) => (text(name), None, Some(i64::try_from(*value).unwrap_or(i64::MAX))),
                _ => (text(name), None, None),
            });
            Texts { id: text(&request.id), correlation_id, parameters: parameters.collect() }
        })
    }

    /// Attributes for the library to look at as long as the request lives.
    fn attributes_of(&self, byte_size: usize) -> Handle<BufferAttributes> {
        let handle = Handle::new(BufferAttributes(Mutex::new(Attributes::of_host(byte_size))));
        self.attributes.lock().push(handle);
        handle
    }

    /// What is recorded of it, for the library to add to as long as the request lives; null if nothing is.
    fn trace(&self) -> Handle<InferenceTrace> {
        let recorded = self.request.trace.as_ref();
        recorded.map_or(Handle::NULL, |trace| *self.trace.get_or_init(|| Handle::new(InferenceTrace::of(trace))))
    }

    fn input(&self, index: u32) -> Result<&Tensor> {
        let count = self.request.inputs.len();
        self.request
            .inputs
            .get(index as usize)
            .ok_or_else(|| Error::invalid_argument(format!("out of bounds index {index}: request has {count} inputs")))
    }

    /// The names of the outputs that are wanted: all that the model has, unless the caller named some.
    fn output_name(&self, index: u32) -> Option<Text> {
        let (model, index) = (&self.answering.model, index as usize);
        if self.request.outputs.is_empty() {
            return model.with_config(|config| config.output.get(index).map(|output| model.name_of(&output.name)));
        }
        self.request.outputs.get(index).map(|output| model.name_of(&output.name))
    }

    fn output_count(&self) -> usize {
        let asked_for = self.request.outputs.len();
        if asked_for == 0 { self.answering.model.with_config(|config| config.output.len()) } else { asked_for }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        for handle in self.attributes.get_mut().drain(..) {
            let _ = handle.take(); // the library deleted it, which is not its to do
        }
        if let Some(trace) = self.trace.take() {
            let _ = trace.take(); // as above
        }
    }
}

/// The bytes of a tensor.
fn bytes_of(tensor: &Tensor) -> &[u8] {
    tensor.data.as_host().unwrap_or_default()
}

/// Where bytes begin, as C likes it: null if there are none.
fn address_of(bytes: &[u8]) -> *const c_void {
    if bytes.is_empty() { ptr::null() } else { bytes.as_ptr().cast() }
}

fn properties(
    input: Handle<Request, Input>,
    name: Out<Text>,
    data_type: Out<DataType>,
    shape: Out<*const i64>,
    dims_count: Out<u32>,
    byte_size: Out<u64>,
    buffer_count: Out<u32>,
) -> Result<()> {
    let (request, index) = input.part_of()?;
    let tensor = request.input(index as u32)?;
    name.set_if_wanted_with(|| request.answering.model.name_of(&tensor.name));
    data_type.set_if_wanted(DataType::of(tensor.data_type));
    shape.set_if_wanted(tensor.shape.as_ptr());
    dims_count.set_if_wanted(tensor.shape.len() as u32);
    byte_size.set_if_wanted(tensor.data.len() as u64);
    buffer_count.set_if_wanted(u32::from(!tensor.data.is_empty()));
    Ok(())
}

fn buffer_of(
    input: Handle<Request, Input>,
    index: u32,
    buffer: Out<*const c_void>,
    byte_size: Out<u64>,
    memory_type: Out<MemoryType>,
    memory_type_id: Out<i64>,
) -> Result<()> {
    let (request, number) = input.part_of()?;
    let tensor = request.input(number as u32)?;
    // behind the only piece there is nothing, which is no error in Triton either
    let bytes = if index == 0 { bytes_of(tensor) } else { &[] };
    buffer.set(address_of(bytes))?;
    byte_size.set_if_wanted(bytes.len() as u64);
    memory_type.set_if_wanted(MemoryType::CPU);
    memory_type_id.set_if_wanted(0);
    Ok(())
}

exports! {
    /// Its id, or an empty text.
    fn TRITONBACKEND_RequestId(request: Handle<Request>, id: Out<Text>) {
        id.set(Text::of(&request.get()?.texts().id))
    }

    /// Whether its caller has left.
    fn TRITONBACKEND_RequestIsCancelled(request: Handle<Request>, is_cancelled: Out<bool>) {
        is_cancelled.set(request.get()?.answering.is_cancelled())
    }

    /// The number of its sequence, or 0.
    fn TRITONBACKEND_RequestCorrelationId(request: Handle<Request>, id: Out<u64>) {
        let request = request.get()?;
        match request.request.sequence.as_ref().map(|sequence| &sequence.id) {
            None => id.set(0),
            Some(CorrelationId::Number(number)) => id.set(*number),
            Some(CorrelationId::Text(_)) => {
                Err(Error::invalid_argument("correlation ID in request is not an unsigned int")
                    .with_request_id(&request.request.id))
            }
        }
    }

    /// The name of its sequence.
    fn TRITONBACKEND_RequestCorrelationIdString(request: Handle<Request>, id: Out<Text>) {
        let request = request.get()?;
        match request.request.sequence.as_ref().map(|sequence| &sequence.id) {
            Some(CorrelationId::Text(_)) => id.set(Text::of(&request.texts().correlation_id)),
            _ => Err(Error::invalid_argument("correlation ID in request is not a string")
                .with_request_id(&request.request.id)),
        }
    }

    /// Whether it begins or ends its sequence.
    fn TRITONBACKEND_RequestFlags(request: Handle<Request>, flags: Out<u32>) {
        let request = request.get()?;
        let sequence = request.request.sequence.as_ref();
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        flags.set(sequence.map_or(0, |sequence| {
            flag(sequence.is_start, request_flag::SEQUENCE_START) | flag(sequence.is_end, request_flag::SEQUENCE_END)
        }))
    }

    /// How long it may wait, or 0.
    fn TRITONBACKEND_InferenceRequestTimeoutMicroseconds(request: Handle<Request>, timeout: Out<u64>) {
        let request = request.get()?;
        let microseconds = request.request.timeout.map_or(0, |timeout| timeout.as_micros());
        timeout.set(u64::try_from(microseconds).unwrap_or(u64::MAX))
    }

    /// How many parameters it has.
    fn TRITONBACKEND_RequestParameterCount(request: Handle<Request>, count: Out<u32>) {
        count.set(request.get()?.request.parameters.len() as u32)
    }

    /// A parameter: its name, its type and the address of its value.
    fn TRITONBACKEND_RequestParameter(
        request: Handle<Request>,
        index: u32,
        key: Out<Text>,
        kind: Out<ParameterType>,
        value: Out<*const c_void>,
    ) {
        let request = request.get()?;
        let (parameters, texts) = (&request.request.parameters, request.texts());
        let at = index as usize;
        let (Some((_, parameter)), Some((name, as_text, as_number))) = (parameters.get(at), texts.parameters.get(at)) else {
            let text = format!("out of bounds index {index}: request has {} parameters", parameters.len());
            return Err(Error::invalid_argument(text));
        };
        let (type_of, address) = match (parameter, as_text, as_number) {
            (Parameter::String(_), Some(text), _) => (ParameterType::STRING, text.as_ptr().cast()),
            (Parameter::Int(number), ..) => (ParameterType::INT, ptr::from_ref(number).cast()),
            (Parameter::Uint(_), _, Some(number)) => (ParameterType::INT, ptr::from_ref(number).cast()),
            (Parameter::Bool(value), ..) => (ParameterType::BOOL, ptr::from_ref(value).cast()),
            (Parameter::Double(value), ..) => (ParameterType::DOUBLE, ptr::from_ref(value).cast()),
            (Parameter::Uint(number), ..) => {
                let text = format!("parameter {name:?} is {number}, which is more than the interface can carry");
                return Err(Error::unsupported(text));
            }
            (Parameter::String(_), None, _) => return Err(Error::internal("a text is missing")),
        };
        key.set(Text::of(name))?;
        kind.set(type_of)?;
        value.set(address)
    }

    /// How many inputs it has.
    fn TRITONBACKEND_RequestInputCount(request: Handle<Request>, count: Out<u32>) {
        count.set(request.get()?.request.inputs.len() as u32)
    }

    /// The name of an input.
    fn TRITONBACKEND_RequestInputName(request: Handle<Request>, index: u32, name: Out<Text>) {
        let request = request.get()?;
        name.set(Text::NULL)?;
        name.set(request.answering.model.name_of(&request.input(index)?.name))
    }

    /// The input of that name.
    fn TRITONBACKEND_RequestInput(handle: Handle<Request>, name: Text, input: Out<Handle<Request, Input>>) {
        let request = handle.get()?;
        let name = name.get()?;
        input.set(Handle::NULL)?;
        let index = request.request.inputs.iter().position(|tensor| *tensor.name == *name).ok_or_else(|| {
            Error::invalid_argument(format!("unknown request input name {name}")).with_request_id(&request.request.id)
        })?;
        input.set(handle.part(index)?)
    }

    /// The input of that number.
    fn TRITONBACKEND_RequestInputByIndex(handle: Handle<Request>, index: u32, input: Out<Handle<Request, Input>>) {
        let request = handle.get()?;
        input.set(Handle::NULL)?;
        request.input(index)?;
        input.set(handle.part(index as usize)?)
    }

    /// How many outputs are wanted.
    fn TRITONBACKEND_RequestOutputCount(request: Handle<Request>, count: Out<u32>) {
        count.set(request.get()?.output_count() as u32)
    }

    /// The name of an output that is wanted.
    fn TRITONBACKEND_RequestOutputName(request: Handle<Request>, index: u32, name: Out<Text>) {
        let request = request.get()?;
        name.set(Text::NULL)?;
        let found = request.output_name(index).ok_or_else(|| {
            let count = request.output_count();
            Error::invalid_argument(format!("out of bounds index {index}: request has {count} requested outputs"))
        })?;
        name.set(found)
    }

    /// Where the memory of an output will lie: on the host.
    fn TRITONBACKEND_RequestOutputBufferProperties(
        request: Handle<Request>,
        _name: Text,
        _byte_size: Out<usize>,
        memory_type: Out<MemoryType>,
        memory_type_id: Out<i64>,
    ) {
        request.get()?;
        memory_type.set(MemoryType::CPU)?;
        memory_type_id.set(0)
    }

    /// Gives the request back: for good, or into the queue.
    fn TRITONBACKEND_RequestRelease(request: Handle<Request>, release_flags: u32) {
        match release_flags {
            release_flag::ALL => request.take()?.answering.released(),
            release_flag::RESCHEDULE => {
                let rescheduled = request.get()?;
                rescheduled.answering.reschedule(rescheduled.request.clone())?;
                request.take()?;
            }
            other => {
                request.get()?;
                return Err(Error::invalid_argument(format!("request cannot be released with flags {other}")));
            }
        }
        Ok(())
    }

    /// The trace of the request; null if there is none.
    fn TRITONBACKEND_RequestTrace(request: Handle<Request>, trace: Out<Handle<InferenceTrace>>) {
        let request = request.get()?;
        trace.set(request.trace())
    }

    /// What an input is. What the library does not want to know may be null.
    fn TRITONBACKEND_InputProperties(
        input: Handle<Request, Input>,
        name: Out<Text>,
        data_type: Out<DataType>,
        shape: Out<*const i64>,
        dims_count: Out<u32>,
        byte_size: Out<u64>,
        buffer_count: Out<u32>,
    ) {
        properties(input, name, data_type, shape, dims_count, byte_size, buffer_count)
    }

    /// What an input is: the same for every host policy.
    fn TRITONBACKEND_InputPropertiesForHostPolicy(
        input: Handle<Request, Input>,
        _host_policy_name: Text,
        name: Out<Text>,
        data_type: Out<DataType>,
        shape: Out<*const i64>,
        dims_count: Out<u32>,
        byte_size: Out<u64>,
        buffer_count: Out<u32>,
    ) {
        properties(input, name, data_type, shape, dims_count, byte_size, buffer_count)
    }

    /// The bytes of an input, which lie in one piece: none for any other index.
    fn TRITONBACKEND_InputBuffer(
        input: Handle<Request, Input>,
        index: u32,
        buffer: Out<*const c_void>,
        byte_size: Out<u64>,
        memory_type: Out<MemoryType>,
        memory_type_id: Out<i64>,
    ) {
        buffer_of(input, index, buffer, byte_size, memory_type, memory_type_id)
    }

    /// The bytes of an input: the same for every host policy.
    fn TRITONBACKEND_InputBufferForHostPolicy(
        input: Handle<Request, Input>,
        _host_policy_name: Text,
        index: u32,
        buffer: Out<*const c_void>,
        byte_size: Out<u64>,
        memory_type: Out<MemoryType>,
        memory_type_id: Out<i64>,
    ) {
        buffer_of(input, index, buffer, byte_size, memory_type, memory_type_id)
    }

    /// The bytes of an input, and where they lie.
    fn TRITONBACKEND_InputBufferAttributes(
        input: Handle<Request, Input>,
        index: u32,
        buffer: Out<*const c_void>,
        attributes: Out<Handle<BufferAttributes>>,
    ) {
        let (request, number) = input.part_of()?;
        let size = if index == 0 { bytes_of(request.input(number as u32)?).len() } else { 0 };
        buffer_of(input, index, buffer, Out::NOWHERE, Out::NOWHERE, Out::NOWHERE)?;
        attributes.set(request.attributes_of(size))
    }
}
