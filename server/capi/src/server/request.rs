//! `TRITONSERVER_InferenceRequest`: a request that a library makes and sends. It may be changed and sent again once it was
//! released.

use std::{
    ffi::{CString, c_void},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use server_core::{
    buffer::Buffer,
    error::{Error, Result},
    request::{CorrelationId, InferRequest, Parameter, RequestedOutput, Sequence, VersionChoice},
    tensor::{DataType as CoreDataType, Shape, Tensor},
};

use super::{
    Server,
    allocator::{Allocator, ResponseAllocator, UserPointer},
    delete,
    infer::Flight,
    response::InferenceResponse,
};
use crate::abi::{
    Array, Handle, Out, Text,
    export::exports,
    handle::objects,
    numbers::{DataType, MemoryType, request_flag},
    objects::{BufferAttributes, text},
};

objects! { 26: InferenceRequest => "TRITONSERVER_InferenceRequest" }

pub(crate) type ReleaseFn = unsafe extern "C" fn(Handle<InferenceRequest>, u32, *mut c_void);
pub(crate) type ResponseFn = unsafe extern "C" fn(Handle<InferenceResponse>, u32, *mut c_void);

/// A request, until the library deletes it.
pub(crate) struct InferenceRequest {
    pub(crate) model: String,
    version: VersionChoice,
    pub(super) settings: Mutex<Settings>,
    pub(super) flight: Mutex<Option<Arc<Flight>>>,
    /// It is being sent, and has no flight yet.
    pub(super) is_sending: AtomicBool,
}

/// What a library says of a request.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) id: CString,
    flags: u32,
    correlation_number: u64,
    correlation_text: Option<CString>,
    priority: u64,
    timeout_us: u64,
    inputs: Vec<Input>,
    outputs: Vec<String>,
    parameters: Vec<(String, Parameter)>,
    pub(super) released: Option<(ReleaseFn, UserPointer)>,
    pub(super) responded: Option<Responded>,
    pub(super) was_cancelled: bool,
}

/// Where responses go.
#[derive(Clone, Copy)]
pub(super) struct Responded {
    pub(super) allocator: Allocator,
    pub(super) function: ResponseFn,
    pub(super) user: UserPointer,
}

struct Input {
    name: String,
    data_type: CoreDataType,
    shape: Shape,
    data: Vec<Piece>,
}

/// Memory of a library, which stays as it is until the request is released.
#[derive(Clone, Copy)]
struct Piece {
    base: UserPointer,
    byte_size: usize,
}

/// Memory of a library that is read until it is dropped.
struct Borrowed<T> {
    piece: Piece,
    _until: T,
}

impl<T> AsRef<[u8]> for Borrowed<T> {
    #[allow(unsafe_code)]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the header binds the library to leave the memory as it is until the request is released, which `_until` puts off.
        unsafe { std::slice::from_raw_parts(self.piece.base.0.cast(), self.piece.byte_size) }
    }
}

impl Piece {
    /// The bytes, without a copy; `until` is dropped when nobody reads them any more.
    fn borrowed_until<T: Send + 'static>(self, until: T) -> Bytes {
        Bytes::from_owner(Borrowed { piece: self, _until: until })
    }
}

impl InferenceRequest {
    /// The request for the model, whose tensors hold clones of `until` for as long as they read the library's memory.
    pub(super) fn to_core<T: Clone + Send + 'static>(&self, settings: &Settings, until: &T) -> InferRequest {
        let inputs = settings.inputs.iter().map(|input| {
            let data = match &input.data[..] {
                // whoever keeps it longer than the request lasts copies it, or the library would wait for its memory
                [only] if input.data_type != CoreDataType::Bytes => {
                    Buffer::of_client(only.borrowed_until(until.clone()))
                }
                // strings are parsed, so they must stay what they are
                pieces => Buffer::unique(
                    pieces.iter().map(|piece| piece.borrowed_until(until.clone())).collect::<Vec<_>>().concat(),
                ),
            };
            let (name, shape) = (input.name.as_str().into(), input.shape.clone());
            Tensor { name, data_type: input.data_type, shape, data }
        });
        let correlation_id = match &settings.correlation_text {
            Some(id) => Some(CorrelationId::Text(id.to_string_lossy().into_owned())),
            None => Some(settings.correlation_number).filter(|id| *id != 0).map(CorrelationId::Number),
        };
        let is = |flag| settings.flags & flag != 0;
        let (is_start, is_end) = (is(request_flag::SEQUENCE_START), is(request_flag::SEQUENCE_END));
        InferRequest {
            model_name: self.model.as_str().into(),
            model_version: self.version,
            id: settings.id.to_string_lossy().into_owned(),
            inputs: inputs.collect(),
            outputs: settings.outputs.iter().map(|name| RequestedOutput::values(name.as_str())).collect(),
            parameters: settings.parameters.clone(),
            sequence: Sequence::of(correlation_id, is_start, is_end),
            priority: settings.priority,
            timeout: Some(settings.timeout_us).filter(|us| *us > 0).map(Duration::from_micros),
            received_at: Instant::now(),
            callers: None, // both are said when it is sent
            trace: None,
        }
    }

    /// Changes what it says.
    ///
    /// Errors: it is under way.
    fn change<T>(&self, change: impl FnOnce(&mut Settings) -> Result<T>) -> Result<T> {
        let flight = self.flight.lock();
        if flight.is_some() || self.is_sending.load(SeqCst) {
            return Err(Error::invalid_argument("the request is under way: it can be changed once it was released"));
        }
        change(&mut self.settings.lock())
    }

    /// Errors: as those of [`InferenceRequest::change`].
    fn set(&self, set: impl FnOnce(&mut Settings)) -> Result<()> {
        self.change(|settings| {
            set(settings);
            Ok(())
        })
    }

    fn append(&self, name: Text, base: *const c_void, byte_size: usize, memory_type: MemoryType) -> Result<()> {
        let name = name.get()?;
        if memory_type == MemoryType::GPU {
            return Err(Error::unsupported(format!(
                "input '{name}' is in memory of a GPU; tensors lie in memory of the host here, so copy it there first"
            )));
        }
        if byte_size > isize::MAX as usize || (base.is_null() && byte_size > 0) {
            return Err(Error::invalid_argument(format!("input '{name}' has no {byte_size} bytes at {base:p}")));
        }
        self.change(|settings| {
            let piece = Piece { base: UserPointer(base.cast_mut()), byte_size };
            settings.input(&name)?.data.extend((byte_size > 0).then_some(piece));
            Ok(())
        })
    }
}

impl Settings {
    fn input(&mut self, name: &str) -> Result<&mut Input> {
        let found = self.inputs.iter_mut().find(|input| input.name == name);
        found.ok_or_else(|| Error::invalid_argument(format!("input '{name}' does not exist in request")))
    }

    fn set_parameter(&mut self, key: Text, value: Parameter) -> Result<()> {
        let key = key.get()?.into_owned();
        self.parameters.retain(|(known, _)| *known != key);
        self.parameters.push((key, value));
        Ok(())
    }
}

exports! {
    /// A request for a model; version -1 is the highest that is ready.
    fn TRITONSERVER_InferenceRequestNew(
        request: Out<Handle<InferenceRequest>>,
        server: Handle<Server>,
        model_name: Text,
        model_version: i64,
    ) {
        let (name, version) = (model_name.get()?.into_owned(), super::models::version(model_version)?);
        server.get()?.host()?.find_model(&name, version)?;
        let (settings, flight) = (Mutex::default(), Mutex::default());
        let is_sending = AtomicBool::new(false);
        request.set(Handle::new(InferenceRequest { model: name, version, settings, flight, is_sending }))
    }

    /// Deletes a request, which must not be under way.
    fn TRITONSERVER_InferenceRequestDelete(request: Handle<InferenceRequest>) {
        if !request.is_null() {
            request.get()?.change(|_| Ok(()))?;
        }
        delete(request)
    }

    /// Its id.
    fn TRITONSERVER_InferenceRequestId(request: Handle<InferenceRequest>, id: Out<Text>) {
        id.set(Text::of(&request.get()?.settings.lock().id))
    }

    /// Gives it an id.
    fn TRITONSERVER_InferenceRequestSetId(request: Handle<InferenceRequest>, id: Text) {
        let id = text(&id.get()?);
        request.get()?.set(|settings| settings.id = id)
    }

    /// Whether it begins or ends a sequence.
    fn TRITONSERVER_InferenceRequestFlags(request: Handle<InferenceRequest>, flags: Out<u32>) {
        flags.set(request.get()?.settings.lock().flags)
    }

    /// Says whether it begins or ends a sequence.
    fn TRITONSERVER_InferenceRequestSetFlags(request: Handle<InferenceRequest>, flags: u32) {
        request.get()?.set(|settings| settings.flags = flags)
    }

    /// The number of its sequence, or 0.
    fn TRITONSERVER_InferenceRequestCorrelationId(request: Handle<InferenceRequest>, id: Out<u64>) {
        let request = request.get()?;
        let settings = request.settings.lock();
        if settings.correlation_text.is_some() {
            return Err(Error::invalid_argument("given request's correlation id is not an unsigned int"));
        }
        id.set(settings.correlation_number)
    }

    /// The name of its sequence.
    fn TRITONSERVER_InferenceRequestCorrelationIdString(request: Handle<InferenceRequest>, id: Out<Text>) {
        let request = request.get()?;
        let settings = request.settings.lock();
        let name = settings.correlation_text.as_deref();
        id.set(Text::of(name.ok_or_else(|| Error::invalid_argument("given request's correlation id is not a string"))?))
    }

    /// Says which sequence it belongs to.
    fn TRITONSERVER_InferenceRequestSetCorrelationId(request: Handle<InferenceRequest>, id: u64) {
        request.get()?.change(|settings| {
            settings.correlation_text = None;
            settings.correlation_number = id;
            Ok(())
        })
    }

    /// Says which sequence it belongs to.
    fn TRITONSERVER_InferenceRequestSetCorrelationIdString(request: Handle<InferenceRequest>, id: Text) {
        const MOST_BYTES: usize = 128;
        let id = text(&id.get()?);
        if id.as_bytes().len() > MOST_BYTES {
            return Err(Error::invalid_argument(format!("string correlation ID cannot be longer than {MOST_BYTES} characters")));
        }
        request.get()?.set(|settings| settings.correlation_text = Some(id))
    }

    /// Nobody waits for it any more: its last response says so, unless it has been there.
    fn TRITONSERVER_InferenceRequestCancel(request: Handle<InferenceRequest>) {
        let request = request.get()?;
        request.settings.lock().was_cancelled = true;
        let flight = request.flight.lock().clone();
        if let Some(flight) = flight {
            flight.cancel();
        }
        Ok(())
    }

    /// Whether it was cancelled.
    fn TRITONSERVER_InferenceRequestIsCancelled(request: Handle<InferenceRequest>, is_cancelled: Out<bool>) {
        is_cancelled.set(request.get()?.settings.lock().was_cancelled)
    }

    /// Its priority, 0 for the model's default.
    fn TRITONSERVER_InferenceRequestPriority(request: Handle<InferenceRequest>, priority: Out<u32>) {
        priority.set(u32::try_from(request.get()?.settings.lock().priority).unwrap_or(u32::MAX))
    }

    /// Its priority, 0 for the model's default.
    fn TRITONSERVER_InferenceRequestPriorityUInt64(request: Handle<InferenceRequest>, priority: Out<u64>) {
        priority.set(request.get()?.settings.lock().priority)
    }

    /// Gives it a priority.
    fn TRITONSERVER_InferenceRequestSetPriority(request: Handle<InferenceRequest>, priority: u32) {
        request.get()?.set(|settings| settings.priority = priority.into())
    }

    /// Gives it a priority.
    fn TRITONSERVER_InferenceRequestSetPriorityUInt64(request: Handle<InferenceRequest>, priority: u64) {
        request.get()?.set(|settings| settings.priority = priority)
    }

    /// How long it may wait, in microseconds, 0 for the model's default.
    fn TRITONSERVER_InferenceRequestTimeoutMicroseconds(request: Handle<InferenceRequest>, timeout_us: Out<u64>) {
        timeout_us.set(request.get()?.settings.lock().timeout_us)
    }

    /// Says how long it may wait, in microseconds.
    fn TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(request: Handle<InferenceRequest>, timeout_us: u64) {
        request.get()?.set(|settings| settings.timeout_us = timeout_us)
    }

    /// Adds an input, without data yet.
    fn TRITONSERVER_InferenceRequestAddInput(
        request: Handle<InferenceRequest>,
        name: Text,
        data_type: DataType,
        shape: Array<i64>,
        dim_count: u64,
    ) {
        let name = name.get()?.into_owned();
        let shape = Shape::from_slice(shape.shape(dim_count)?);
        let no_type = || Error::invalid_argument(format!("input '{name}' has no type of that number: {}", data_type.0));
        let data_type = data_type.to_core().ok_or_else(no_type)?;
        request.get()?.change(|settings| {
            if settings.inputs.iter().any(|input| input.name == name) {
                return Err(Error::invalid_argument(format!("input '{name}' already exists in request")));
            }
            settings.inputs.push(Input { name, data_type, shape, data: Vec::new() });
            Ok(())
        })
    }

    /// Adds an input whose type and shape are to be found out: this server's models have to be told.
    fn TRITONSERVER_InferenceRequestAddRawInput(request: Handle<InferenceRequest>, name: Text) {
        request.get()?;
        let name = name.get()?;
        Err(Error::unsupported(format!("input '{name}' has to be added with its type and shape: raw inputs are not supported")))
    }

    /// Takes an input away.
    fn TRITONSERVER_InferenceRequestRemoveInput(request: Handle<InferenceRequest>, name: Text) {
        let name = name.get()?;
        request.get()?.change(|settings| {
            settings.input(&name)?;
            settings.inputs.retain(|input| input.name != name);
            Ok(())
        })
    }

    /// Takes all inputs away.
    fn TRITONSERVER_InferenceRequestRemoveAllInputs(request: Handle<InferenceRequest>) {
        request.get()?.set(|settings| settings.inputs.clear())
    }

    /// Adds bytes to an input, which are read in place until the request is released.
    fn TRITONSERVER_InferenceRequestAppendInputData(
        request: Handle<InferenceRequest>,
        name: Text,
        base: *const c_void,
        byte_size: usize,
        memory_type: MemoryType,
        _memory_type_id: i64,
    ) {
        request.get()?.append(name, base, byte_size, memory_type)
    }

    /// The same for instances of a host policy alone: there is one copy of an input for all.
    fn TRITONSERVER_InferenceRequestAppendInputDataWithHostPolicy(
        request: Handle<InferenceRequest>,
        name: Text,
        base: *const c_void,
        byte_size: usize,
        memory_type: MemoryType,
        _memory_type_id: i64,
        host_policy: Text,
    ) {
        let request = request.get()?;
        let host_policy = host_policy.get()?;
        if !host_policy.is_empty() {
            let text = format!("an input cannot have other data for host policy '{host_policy}' than for others");
            return Err(Error::unsupported(text));
        }
        request.append(name, base, byte_size, memory_type)
    }

    /// The same, with attributes of the memory.
    fn TRITONSERVER_InferenceRequestAppendInputDataWithBufferAttributes(
        request: Handle<InferenceRequest>,
        name: Text,
        base: *const c_void,
        attributes: Handle<BufferAttributes>,
    ) {
        let attributes = *attributes.get()?.0.lock();
        request.get()?.append(name, base, attributes.byte_size, attributes.memory_type)
    }

    /// Takes the bytes of an input away.
    fn TRITONSERVER_InferenceRequestRemoveAllInputData(request: Handle<InferenceRequest>, name: Text) {
        let name = name.get()?;
        request.get()?.change(|settings| {
            settings.input(&name)?.data.clear();
            Ok(())
        })
    }

    /// Asks for an output; without one, all are asked for.
    fn TRITONSERVER_InferenceRequestAddRequestedOutput(request: Handle<InferenceRequest>, name: Text) {
        let name = name.get()?.into_owned();
        request.get()?.change(|settings| {
            if !settings.outputs.contains(&name) {
                settings.outputs.push(name);
            }
            Ok(())
        })
    }

    /// Does not ask for an output any more.
    fn TRITONSERVER_InferenceRequestRemoveRequestedOutput(request: Handle<InferenceRequest>, name: Text) {
        let name = name.get()?;
        request.get()?.set(|settings| settings.outputs.retain(|output| *output != name))
    }

    /// Asks for all outputs.
    fn TRITONSERVER_InferenceRequestRemoveAllRequestedOutputs(request: Handle<InferenceRequest>) {
        request.get()?.set(|settings| settings.outputs.clear())
    }

    /// What is called when the server has no more need of the request and its memory.
    fn TRITONSERVER_InferenceRequestSetReleaseCallback(
        request: Handle<InferenceRequest>,
        function: Option<ReleaseFn>,
        user: *mut c_void,
    ) {
        let released = function.map(|function| (function, UserPointer(user)));
        request.get()?.set(|settings| settings.released = released)
    }

    /// What is called with each response, and where their outputs lie.
    fn TRITONSERVER_InferenceRequestSetResponseCallback(
        request: Handle<InferenceRequest>,
        allocator: Handle<ResponseAllocator>,
        allocator_user: *mut c_void,
        function: Option<ResponseFn>,
        user: *mut c_void,
    ) {
        allocator.get()?;
        let function = function.ok_or_else(|| Error::invalid_argument("the function for responses is null"))?;
        let allocator = Allocator { handle: allocator, user: UserPointer(allocator_user) };
        let responded = Responded { allocator, function, user: UserPointer(user) };
        request.get()?.set(|settings| settings.responded = Some(responded))
    }

    /// Adds a parameter.
    fn TRITONSERVER_InferenceRequestSetStringParameter(request: Handle<InferenceRequest>, key: Text, value: Text) {
        let value = Parameter::String(value.get()?.into_owned());
        request.get()?.change(|settings| settings.set_parameter(key, value))
    }

    /// Adds a parameter.
    fn TRITONSERVER_InferenceRequestSetIntParameter(request: Handle<InferenceRequest>, key: Text, value: i64) {
        request.get()?.change(|settings| settings.set_parameter(key, Parameter::Int(value)))
    }

    /// Adds a parameter.
    fn TRITONSERVER_InferenceRequestSetBoolParameter(request: Handle<InferenceRequest>, key: Text, value: bool) {
        request.get()?.change(|settings| settings.set_parameter(key, Parameter::Bool(value)))
    }

    /// Adds a parameter.
    fn TRITONSERVER_InferenceRequestSetDoubleParameter(request: Handle<InferenceRequest>, key: Text, value: f64) {
        request.get()?.change(|settings| settings.set_parameter(key, Parameter::Double(value)))
    }
}
