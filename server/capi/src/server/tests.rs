//! Requests of a library, against a server that answers when the test says so.

use std::{
    ffi::{CStr, c_char, c_void},
    mem,
    sync::{Arc, Weak, mpsc},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use server_core::{
    backend::{FoundModel, Host, Responses},
    buffer::Buffer,
    custom_metrics::CustomMetrics,
    error::{Error, Result},
    request::{InferRequest, VersionChoice},
    response::InferResponse,
    tensor::{DataType as CoreDataType, Tensor},
};
use smallvec::smallvec;

use super::{Server, allocator::*, infer::*, request::*, response::*};
use crate::abi::{
    Array, Handle, Out, Text,
    numbers::{DataType, ErrorCode, MemoryType},
    objects::{Error as CError, result_of},
};

const DEADLINE: Duration = Duration::from_secs(30);

/// What a server that is driven by a test has been asked, and is to answer.
#[derive(Default)]
struct Script {
    request: Option<InferRequest>,
    /// `None` is the end.
    replies: Vec<Option<Result<InferResponse>>>,
    waker: Option<Waker>,
    has_left: bool,
}

struct Scripted(Arc<Mutex<Script>>);

impl Host for Scripted {
    fn infer(&self, request: InferRequest) -> Result<Box<dyn Responses>> {
        if &*request.model_name == "full" {
            return Err(Error::unavailable("the queue is full"));
        }
        self.0.lock().request = Some(request);
        Ok(Box::new(Replies { script: self.0.clone(), is_finished: false }))
    }

    fn load_model(&self, _: &str, _: &str, _: Option<String>, _: Vec<(String, Bytes)>) -> Result<()> {
        Ok(())
    }

    fn unload_model(&self, _: &str, _: &str, _: bool) -> Result<()> {
        Ok(())
    }

    fn find_model(&self, name: &str, _: VersionChoice) -> Result<FoundModel> {
        if name == "unknown" {
            return Err(Error::not_found("Request for unknown model: 'unknown' is not found"));
        }
        Ok(FoundModel { is_decoupled: false })
    }

    fn is_model_ready(&self, _: &str, _: VersionChoice) -> Result<bool> {
        Ok(true)
    }

    fn custom_metrics(&self) -> &CustomMetrics {
        unreachable!("nobody asks")
    }
}

struct Replies {
    script: Arc<Mutex<Script>>,
    is_finished: bool,
}

impl Responses for Replies {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<InferResponse>>> {
        let mut script = self.script.lock();
        if script.replies.is_empty() {
            script.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let reply = script.replies.remove(0);
        self.is_finished = reply.is_none() || script.replies.first().is_some_and(Option::is_none);
        Poll::Ready(reply)
    }

    fn is_finished(&self) -> bool {
        self.is_finished
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.script.lock().has_left = true;
    }
}

#[allow(unsafe_code)]
fn out<T>(place: &mut T) -> Out<T> {
    // SAFETY: it is an address, and that of a variable.
    unsafe { mem::transmute_copy::<*mut T, Out<T>>(&(&raw mut *place)) }
}

#[allow(unsafe_code)]
fn array<T>(values: &[T]) -> Array<T> {
    // SAFETY: it is an address, and that of values.
    unsafe { mem::transmute_copy::<*const T, Array<T>>(&values.as_ptr()) }
}

/// What the functions of the library were called with.
#[derive(Debug, PartialEq)]
enum Heard {
    Response { values: Vec<u8>, error: Option<(ErrorCode, String)>, flags: u32 },
    End(u32),
    Released,
    MemoryReleased,
}

struct Library {
    script: Arc<Mutex<Script>>,
    /// It is there for as long as the library.
    _host: Arc<dyn Host>,
    heard: mpsc::Receiver<Heard>,
    request: Handle<InferenceRequest>,
    server: Handle<Server>,
}

static INPUT: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

impl Library {
    /// A library with a request for that model, ready to be sent.
    fn new(model: &'static CStr) -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let host: Arc<dyn Host> = Arc::new(Scripted(script.clone()));
        let weak: Weak<dyn Host> = Arc::downgrade(&host);
        let server = Handle::new(Server::new(weak, "asking"));
        let (say, heard) = mpsc::channel();
        // A request may be released after its last response, also when the test has ended.
        let say: &'static mpsc::Sender<Heard> = Box::leak(Box::new(say));
        let user: *mut c_void = (&raw const *say).cast_mut().cast();
        let (mut allocator, mut request) = (Handle::NULL, Handle::NULL);
        good(TRITONSERVER_ResponseAllocatorNew(out(&mut allocator), Some(alloc), Some(release), None));
        good(TRITONSERVER_InferenceRequestNew(out(&mut request), server, Text::of(model), -1));
        good(TRITONSERVER_InferenceRequestSetId(request, Text::of(c"id")));
        let shape = [2];
        let input = Text::of(c"IN");
        good(TRITONSERVER_InferenceRequestAddInput(request, input, DataType::INT32, array(&shape), 1));
        let base = INPUT.as_ptr().cast();
        good(TRITONSERVER_InferenceRequestAppendInputData(request, input, base, INPUT.len(), MemoryType::CPU, 0));
        good(TRITONSERVER_InferenceRequestSetReleaseCallback(request, Some(released), user));
        good(TRITONSERVER_InferenceRequestSetResponseCallback(request, allocator, user, Some(responded), user));
        Self { script, _host: host, heard, request, server }
    }

    fn send(&self) -> Result<()> {
        result_of(TRITONSERVER_ServerInferAsync(self.server, self.request, Handle::NULL))
    }

    /// Lets the server answer.
    fn answer(&self, replies: Vec<Option<Result<InferResponse>>>) {
        let waker = {
            let mut script = self.script.lock();
            script.replies.extend(replies);
            script.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn next(&self) -> Heard {
        self.heard.recv_timeout(DEADLINE).expect("the library is told")
    }
}

#[track_caller]
fn good(status: Handle<CError>) {
    result_of(status).unwrap();
}

#[allow(unsafe_code)]
fn say(user: *mut c_void, heard: Heard) {
    // SAFETY: the address of a sender that is never freed.
    let sender = unsafe { &*user.cast::<mpsc::Sender<Heard>>() };
    let _ = sender.send(heard);
}

#[allow(unsafe_code)]
unsafe extern "C" fn alloc(
    _: Handle<ResponseAllocator>,
    name: *const c_char,
    byte_size: usize,
    _: MemoryType,
    _: i64,
    user: *mut c_void,
    base: *mut *mut c_void,
    buffer_user: *mut *mut c_void,
    _: *mut MemoryType,
    _: *mut i64,
) -> Handle<CError> {
    // SAFETY: what the server calls it with.
    unsafe {
        if CStr::from_ptr(name) == c"REFUSED" {
            return Handle::new(CError::of(&Error::unavailable("no memory left")));
        }
        *base = Box::into_raw(vec![0_u8; byte_size].into_boxed_slice()).cast();
        *buffer_user = user;
    }
    Handle::NULL
}

#[allow(unsafe_code)]
unsafe extern "C" fn release(
    _: Handle<ResponseAllocator>,
    base: *mut c_void,
    user: *mut c_void,
    byte_size: usize,
    _: MemoryType,
    _: i64,
) -> Handle<CError> {
    // SAFETY: what `alloc` made.
    drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(base.cast::<u8>(), byte_size)) });
    say(user, Heard::MemoryReleased);
    Handle::NULL
}

#[allow(unsafe_code)]
unsafe extern "C" fn released(_: Handle<InferenceRequest>, _: u32, user: *mut c_void) {
    say(user, Heard::Released);
}

#[allow(unsafe_code)]
unsafe extern "C" fn responded(response: Handle<InferenceResponse>, flags: u32, user: *mut c_void) {
    if response.is_null() {
        return say(user, Heard::End(flags));
    }
    let error = TRITONSERVER_InferenceResponseError(response);
    let error = error.get().ok().map(|error| (error.code, error.message.to_string_lossy().into_owned()));
    let (mut name, mut data_type, mut shape, mut rank) = (Text::NULL, DataType::INVALID, std::ptr::null(), 0);
    let (mut base, mut size, mut memory, mut device, mut its) =
        (std::ptr::null(), 0, MemoryType::GPU, 7, std::ptr::null_mut());
    let mut values = Vec::new();
    if error.is_none() {
        good(TRITONSERVER_InferenceResponseOutput(
            response,
            0,
            out(&mut name),
            out(&mut data_type),
            out(&mut shape),
            out(&mut rank),
            out(&mut base),
            out(&mut size),
            out(&mut memory),
            out(&mut device),
            out(&mut its),
        ));
        assert_eq!((data_type, rank, memory, its), (DataType::UINT8, 1, MemoryType::CPU, user));
        // SAFETY: what the response says of its output.
        values = unsafe { std::slice::from_raw_parts(base.cast::<u8>(), size) }.to_vec();
    }
    say(user, Heard::Response { values, error, flags });
    good(TRITONSERVER_InferenceResponseDelete(response));
}

fn response(name: &str, values: &[u8]) -> Option<Result<InferResponse>> {
    let data = Buffer::from(Bytes::copy_from_slice(values));
    let tensor =
        Tensor { name: name.into(), data_type: CoreDataType::Uint8, shape: smallvec![values.len() as i64], data };
    Some(Ok(InferResponse {
        model_name: "m".into(),
        model_version: 1,
        id: "id".into(),
        parameters: Default::default(),
        outputs: smallvec![tensor],
    }))
}

fn values(values: &[u8], flags: u32) -> Heard {
    Heard::Response { values: values.to_vec(), error: None, flags }
}

#[test]
fn a_request_is_read_in_place_answered_and_given_back_when_nobody_reads_it() {
    let library = Library::new(c"m");
    library.send().unwrap();
    let held = library.script.lock().request.take().unwrap();
    assert_eq!(held.inputs[0].data.as_host().unwrap().as_ptr(), INPUT.as_ptr());
    assert_eq!((held.id.as_str(), held.inputs[0].data_type), ("id", CoreDataType::Int32));
    library.answer(vec![response("OUT", &[1]), response("OUT", &[2]), None]);
    assert_eq!([library.next(), library.next()], [values(&[1], 0), Heard::MemoryReleased]);
    assert_eq!([library.next(), library.next()], [values(&[2], 1), Heard::MemoryReleased]);
    let refused = result_of(TRITONSERVER_InferenceRequestSetId(library.request, Text::of(c"other"))).unwrap_err();
    assert!(refused.message.contains("under way"), "{refused}");
    assert!(library.heard.try_recv().is_err(), "its memory is still read");
    drop(held);
    assert_eq!(library.next(), Heard::Released);
    good(TRITONSERVER_InferenceRequestSetId(library.request, Text::of(c"other")));
    library.send().unwrap();
    assert_eq!(library.script.lock().request.take().unwrap().id, "other");
    library.answer(vec![None]);
    assert_eq!([library.next(), library.next()], [Heard::End(1), Heard::Released]);
    good(TRITONSERVER_InferenceRequestDelete(library.request));
}

#[test]
fn a_request_that_is_cancelled_ends_at_once() {
    let library = Library::new(c"m");
    library.send().unwrap();
    let twice = library.send().unwrap_err();
    assert!(twice.message.contains("under way already"), "{twice}");
    drop(library.script.lock().request.take());
    good(TRITONSERVER_InferenceRequestCancel(library.request));
    let Heard::Response { error: Some((code, _)), flags: 1, .. } = library.next() else { panic!("no error") };
    assert_eq!(code, ErrorCode::CANCELLED);
    assert_eq!(library.next(), Heard::Released);
    assert!(library.script.lock().has_left, "the server knows");
}

#[test]
fn a_request_that_is_not_taken_stays_the_librarys() {
    let library = Library::new(c"full");
    assert_eq!(library.send().unwrap_err(), Error::unavailable("the queue is full"));
    good(TRITONSERVER_InferenceRequestSetId(library.request, Text::of(c"again")));
    assert_eq!(library.send().unwrap_err(), Error::unavailable("the queue is full"));
    good(TRITONSERVER_InferenceRequestDelete(library.request));
    assert!(library.heard.try_recv().is_err(), "nothing is called");
}

#[test]
fn what_the_allocator_refuses_is_the_error_of_the_response() {
    let library = Library::new(c"m");
    library.send().unwrap();
    drop(library.script.lock().request.take());
    library.answer(vec![response("REFUSED", &[1]), None]);
    let error = Some((ErrorCode::UNAVAILABLE, "no memory left".to_owned()));
    assert_eq!(library.next(), Heard::Response { values: vec![], error, flags: 1 });
    assert_eq!(library.next(), Heard::Released);
}

#[test]
fn junk_is_refused_in_words() {
    let library = Library::new(c"m");
    let (request, input) = (library.request, Text::of(c"IN"));
    let check = |status: Handle<CError>, text: &str| {
        let error = result_of(status).unwrap_err();
        assert!(error.message.contains(text), "{error}");
    };
    let mut other = Handle::NULL;
    let unknown = Text::of(c"unknown");
    check(TRITONSERVER_InferenceRequestNew(out(&mut other), library.server, unknown, -1), "unknown model");
    check(TRITONSERVER_InferenceRequestNew(out(&mut other), library.server, input, -7), "invalid model version");
    check(TRITONSERVER_InferenceRequestNew(out(&mut other), Handle::NULL, input, 1), "TRITONSERVER_Server is null");
    check(TRITONSERVER_InferenceRequestAddInput(request, input, DataType::INT32, array(&[1]), 1), "already exists");
    check(TRITONSERVER_InferenceRequestAddInput(request, unknown, DataType(99), array(&[1]), 1), "no type");
    check(TRITONSERVER_InferenceRequestRemoveInput(request, unknown), "does not exist");
    let gpu = TRITONSERVER_InferenceRequestAppendInputData(request, input, std::ptr::null(), 4, MemoryType::GPU, 0);
    check(gpu, "memory of a GPU");
    let null = TRITONSERVER_InferenceRequestAppendInputData(request, input, std::ptr::null(), 4, MemoryType::CPU, 0);
    check(null, "has no 4 bytes");
    check(TRITONSERVER_InferenceRequestSetId(request, Text::NULL), "a text is null");
    good(TRITONSERVER_InferenceRequestDelete(request));
    check(TRITONSERVER_InferenceRequestDelete(request), "is no TRITONSERVER_InferenceRequest");
}
