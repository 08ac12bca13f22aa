//! The calls into ONNX Runtime that every execution makes, straight through its C interface: tensors over memory that
//! is already there; `Run` is in [`super::session`]. This backend's unsafe code is behind functions that are safe to call; sessions
//! themselves are made by the `ort` crate.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_char, c_void},
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::{self, NonNull},
    slice,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use ort::{AsPointer, environment::Environment, session::SharedSessionInner, sys};
use server_core::{
    error::Error,
    tensor::{DataType, Shape, byte_count, element_count, shape_text},
};
use smallvec::SmallVec;

use super::element::{data_type_of, element};
use crate::dylib::{Library, LoadError};

/// Tensors of one execution. More than eight on a side cost an allocation each time.
pub(super) type Values<'a> = SmallVec<[Value<'a>; 8]>;

/// What ONNX Runtime says when a call fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("onnx runtime error {code}: {message}")]
pub(super) struct Failure {
    /// Its own number.
    pub(super) code: i32,
    /// Its own words.
    pub(super) message: String,
}

impl Failure {
    /// One that no call has answered.
    pub(super) fn without(message: impl Into<String>) -> Self {
        Self { code: sys::OrtErrorCode::ORT_FAIL as i32, message: message.into() }
    }

    fn invalid_argument(message: impl Into<String>) -> Self {
        Self { code: sys::OrtErrorCode::ORT_INVALID_ARGUMENT as i32, message: message.into() }
    }
}

impl<R> From<ort::Error<R>> for Failure {
    fn from(error: ort::Error<R>) -> Self {
        Self { code: sys::OrtErrorCode::from(error.code()) as i32, message: error.message().trim_end().to_owned() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::internal(failure.to_string())
    }
}

/// The version of an opened library, e.g. `1.23.2`.
///
/// Errors: `Unsuitable` if it is not ONNX Runtime, or older than this program can use.
pub(super) fn version(library: &Library) -> Result<String, LoadError> {
    // SAFETY: onnxruntime_c_api.h declares `const OrtApiBase* OrtGetApiBase(void)`.
    let base = unsafe { library.function::<unsafe extern "C" fn() -> *const sys::OrtApiBase>("OrtGetApiBase")? };
    // SAFETY: the function takes nothing and answers a pointer to a static structure, or null.
    let base = unsafe { base().as_ref() }.ok_or_else(|| library.unsuitable("OrtGetApiBase answers nothing"))?;
    // SAFETY: GetVersionString takes nothing and answers a static, terminated string.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) }.to_string_lossy().into_owned();
    if minor(&version) < (1, sys::ORT_API_VERSION) {
        let oldest = sys::ORT_API_VERSION;
        return Err(
            library.unsuitable(format!("it is ONNX Runtime {version}, and 1.{oldest} is the oldest that works"))
        );
    }
    Ok(version)
}

/// The first two numbers of a version.
pub(super) fn minor(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Gives an environment one arena of host memory for all sessions that take theirs from it. What one has done with is there for
/// the next.
pub(super) fn share_arena(environment: &Environment) -> Result<(), Failure> {
    let mut memory = ptr::null_mut();
    let (kind, place) = (sys::OrtAllocatorType::OrtArenaAllocator, sys::OrtMemType::OrtMemTypeDefault);
    // SAFETY: writes the address of a new description.
    check(unsafe { (ort::api().CreateCpuMemoryInfo)(kind, place, &mut memory) })?;
    // SAFETY: environment and description are valid; without a third argument the arena grows as those of sessions do. The call
    // copies the description, which is released once.
    unsafe {
        let status = (ort::api().CreateAndRegisterAllocator)(environment.ptr().cast_mut(), memory, ptr::null());
        (ort::api().ReleaseMemoryInfo)(memory);
        check(status)
    }
}

/// Names of the execution providers that the opened library was built with, without the word they all end with.
pub(super) fn available_providers() -> Vec<String> {
    let (mut names, mut count) = (ptr::null_mut(), 0);
    // SAFETY: writes the address of a new list and its length.
    if check(unsafe { (ort::api().GetAvailableProviders)(&mut names, &mut count) }).is_err() || names.is_null() {
        return Vec::new();
    }
    let length = usize::try_from(count).unwrap_or(0);
    // SAFETY: the list holds that many terminated names until it is released.
    let texts = unsafe { slice::from_raw_parts(names, length) }.iter().map(|&name| unsafe { CStr::from_ptr(name) });
    let short = |name: &CStr| name.to_string_lossy().trim_end_matches("ExecutionProvider").to_owned();
    let available = texts.map(short).collect();
    // SAFETY: list and length are those of the call above, and released once; its status says nothing that matters here.
    drop(check(unsafe { (ort::api().ReleaseAvailableProviders)(names, count) }));
    available
}

/// One tensor as ONNX Runtime sees it. `'a` is how long the memory under it is borrowed.
#[derive(Debug)]
pub(super) struct Value<'a> {
    pointer: NonNull<sys::OrtValue>,
    memory: PhantomData<&'a [u8]>,
}

// SAFETY: an OrtValue is a plain object without thread affinity; ORT allows its use and release from any thread.
unsafe impl Send for Value<'_> {}
// SAFETY: through a shared reference it is only read, which ORT allows from several threads.
unsafe impl Sync for Value<'_> {}

impl<'a> Value<'a> {
    /// A tensor over bytes that lie as ONNX Runtime wants them. Nothing is copied.
    ///
    /// Errors: the length is not that of the shape, or the bytes are not [aligned](is_aligned).
    pub(super) fn over(data: &'a [u8], shape: &[i64], data_type: DataType) -> Result<Self, Failure> {
        if byte_count(data_type, shape) != Some(data.len()) {
            let text = format!("{} bytes are not a {data_type} tensor of shape {}", data.len(), shape_text(shape));
            return Err(Failure::invalid_argument(text));
        }
        if !is_aligned(data, data_type) {
            return Err(Failure::invalid_argument("the bytes are not aligned to their type"));
        }
        static NOTHING: u64 = 0; // an address for tensors without elements, which may not be at null
        let start = if data.is_empty() { (&raw const NOTHING).cast() } else { data.as_ptr() };
        let memory = cpu_memory()?;
        let mut value = ptr::null_mut();
        // SAFETY: start, length and shape describe memory borrowed for 'a, which the value's type carries on; ORT does not
        // write to the inputs of a run.
        check(unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                memory,
                start.cast_mut().cast::<c_void>(),
                data.len(),
                shape.as_ptr(),
                shape.len(),
                element(data_type),
                &mut value,
            )
        })?;
        Self::owned(value)
    }

    /// A tensor of byte strings. They are copied, for ONNX Runtime keeps them in objects of its own.
    ///
    /// Errors: there are more or fewer of them than the shape says.
    pub(super) fn strings<'s>(shape: &[i64], elements: impl Iterator<Item = &'s [u8]>) -> Result<Self, Failure> {
        let wrong = || Failure::invalid_argument(format!("the strings do not fill shape {}", shape_text(shape)));
        let count = element_count(shape).and_then(|count| usize::try_from(count).ok()).ok_or_else(wrong)?;
        let value = Self::on_host(DataType::Bytes, shape)?;
        let mut filled = 0;
        for text in elements {
            if filled == count {
                return Err(wrong());
            }
            let mut element_start: *mut c_char = ptr::null_mut();
            // SAFETY: `filled` is below the element count; the call resizes that element and answers its first byte.
            check(unsafe {
                (ort::api().GetResizedStringTensorElementBuffer)(
                    value.pointer.as_ptr(),
                    filled,
                    text.len(),
                    &mut element_start,
                )
            })?;
            if !text.is_empty() {
                // SAFETY: the element was just resized to that many bytes, and nobody else holds the new tensor.
                unsafe { ptr::copy_nonoverlapping(text.as_ptr(), element_start.cast(), text.len()) };
            }
            filled += 1;
        }
        if filled == count { Ok(value) } else { Err(wrong()) }
    }

    /// A tensor of that type, with memory from that allocator; what it holds is left over from earlier.
    pub(super) fn allocated(
        allocator: *mut sys::OrtAllocator,
        data_type: DataType,
        shape: &[i64],
    ) -> Result<Self, Failure> {
        let mut value = ptr::null_mut();
        // SAFETY: allocator and shape are valid for the call; the tensor owns its memory.
        check(unsafe {
            let (start, rank) = (shape.as_ptr(), shape.len());
            (ort::api().CreateTensorAsOrtValue)(allocator, start, rank, element(data_type), &mut value)
        })?;
        Self::owned(value)
    }

    /// The same in ordinary host memory.
    pub(super) fn on_host(data_type: DataType, shape: &[i64]) -> Result<Self, Failure> {
        let mut allocator = ptr::null_mut();
        // SAFETY: writes the address of the process-wide default allocator, which is never released.
        check(unsafe { (ort::api().GetAllocatorWithDefaultOptions)(&mut allocator) })?;
        Self::allocated(allocator, data_type, shape)
    }

    /// The tensor as calls take it.
    pub(super) fn as_ptr(&self) -> *const sys::OrtValue {
        self.pointer.as_ptr()
    }

    pub(super) fn owned(value: *mut sys::OrtValue) -> Result<Self, Failure> {
        let nothing = || Failure::without("no tensor came back");
        Ok(Self { pointer: NonNull::new(value).ok_or_else(nothing)?, memory: PhantomData })
    }

    /// ONNX Runtime's number of the element type, and the shape.
    ///
    /// Errors: it is not a tensor.
    pub(super) fn describe(&self) -> Result<(i32, Shape), Failure> {
        let api = ort::api();
        let mut info = ptr::null_mut();
        // SAFETY: the value is valid; the call makes a description that is released below.
        check(unsafe { (api.GetTensorTypeAndShape)(self.pointer.as_ptr(), &mut info) })?;
        let info = Description(info);
        let mut rank = 0;
        // SAFETY: the description is valid until it is dropped.
        check(unsafe { (api.GetDimensionsCount)(info.0, &mut rank) })?;
        let mut shape: Shape = SmallVec::from_elem(0, rank);
        // SAFETY: the buffer holds `rank` extents.
        check(unsafe { (api.GetDimensions)(info.0, shape.as_mut_ptr(), rank) })?;
        let mut number = 0i32;
        // SAFETY: the enumeration is a C int; a number of a newer library must not become a Rust enumeration.
        check(unsafe { (api.GetTensorElementType)(info.0, (&raw mut number).cast()) })?;
        Ok((number, shape))
    }

    /// The elements as bytes.
    ///
    /// Errors: they have no fixed size, or are not on the host.
    pub(super) fn bytes(&self) -> Result<&[u8], Failure> {
        let (number, shape) = self.describe()?;
        let length = data_type_of(number).and_then(|data_type| byte_count(data_type, &shape));
        let length =
            length.ok_or_else(|| Failure::invalid_argument("the elements of the tensor have no fixed size"))?;
        if length == 0 {
            return Ok(&[]);
        }
        let mut data = ptr::null_mut();
        // SAFETY: the value is a tensor with elements; the address lives as long as the value.
        check(unsafe { (ort::api().GetTensorMutableData)(self.pointer.as_ptr(), &mut data) })?;
        let data =
            NonNull::new(data.cast::<u8>()).ok_or_else(|| Failure::invalid_argument("the tensor has no data"))?;
        // SAFETY: type and shape give the length of the data; `Run` leaves outputs in host memory.
        Ok(unsafe { slice::from_raw_parts(data.as_ptr(), length) })
    }

    /// The elements as shared bytes, without a copy. The tensor lives until the last holder drops them.
    ///
    /// `is_borrowed` says of an address whether it is memory that a run was given: a model may hand one of its inputs on as an
    /// output. Such memory is copied.
    pub(super) fn into_bytes(
        self,
        is_borrowed: impl FnOnce(usize) -> bool,
        session: &Arc<SharedSessionInner>,
    ) -> Result<Bytes, Failure> {
        let data = self.bytes()?;
        let (start, length) = (data.as_ptr(), data.len());
        if length == 0 || is_borrowed(start.addr()) {
            return Ok(Bytes::copy_from_slice(data));
        }
        let value = Value { pointer: ManuallyDrop::new(self).pointer, memory: PhantomData };
        Ok(Bytes::from_owner(Kept { start, length, _value: value, _session: session.clone() }))
    }

    /// Appends the strings of the tensor to `content`, end to end, and their starts to `starts`.
    ///
    /// Errors: the tensor holds no strings.
    pub(super) fn read_strings(&self, content: &mut Vec<u8>, starts: &mut Vec<usize>) -> Result<(), Failure> {
        let (number, shape) = self.describe()?;
        let count = element_count(&shape).and_then(|count| usize::try_from(count).ok());
        let count = count.filter(|_| number == element(DataType::Bytes) as i32);
        let count = count.ok_or_else(|| Failure::invalid_argument("the tensor is not of type BYTES"))?;
        content.clear();
        starts.clear();
        if count == 0 {
            return Ok(());
        }
        let mut length = 0;
        // SAFETY: the value is a string tensor.
        check(unsafe { (ort::api().GetStringTensorDataLength)(self.pointer.as_ptr(), &mut length) })?;
        content.resize(length, 0);
        starts.resize(count, 0);
        // SAFETY: the buffers hold `length` bytes and one start per element, as the two calls before have counted.
        check(unsafe {
            (ort::api().GetStringTensorContent)(
                self.pointer.as_ptr(),
                content.as_mut_ptr().cast(),
                length,
                starts.as_mut_ptr(),
                count,
            )
        })
    }
}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        // SAFETY: the value is owned and released once.
        unsafe { (ort::api().ReleaseValue)(self.pointer.as_ptr()) }
    }
}

/// Whether a tensor of that type may lie over the bytes as they are.
fn is_aligned(data: &[u8], data_type: DataType) -> bool {
    data.is_empty() || data.as_ptr().addr().is_multiple_of(data_type.byte_size().unwrap_or(1))
}

/// An output of ONNX Runtime that somebody still reads.
struct Kept {
    start: *const u8,
    length: usize,
    _value: Value<'static>,
    _session: Arc<SharedSessionInner>, // after the value: its memory may belong to the session
}

// SAFETY: the address is only read, and belongs to the value beside it, which may move between threads.
unsafe impl Send for Kept {}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: start and length were taken from the value, which is alive and not written to any more.
        unsafe { slice::from_raw_parts(self.start, self.length) }
    }
}

struct Description(*mut sys::OrtTensorTypeAndShapeInfo);

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made by GetTensorTypeAndShape and released once.
        unsafe { (ort::api().ReleaseTensorTypeAndShapeInfo)(self.0) }
    }
}

/// The description of ordinary host memory, made once.
fn cpu_memory() -> Result<*const sys::OrtMemoryInfo, Failure> {
    struct Memory(*const sys::OrtMemoryInfo);
    // SAFETY: the description is never changed after it was made.
    unsafe impl Send for Memory {}
    // SAFETY: as above.
    unsafe impl Sync for Memory {}
    static MEMORY: OnceLock<Memory> = OnceLock::new();

    if let Some(memory) = MEMORY.get() {
        return Ok(memory.0);
    }
    let mut memory = ptr::null_mut();
    // SAFETY: writes the address of a new description, which is kept for the rest of the process.
    check(unsafe {
        (ort::api().CreateCpuMemoryInfo)(
            sys::OrtAllocatorType::OrtDeviceAllocator,
            sys::OrtMemType::OrtMemTypeDefault,
            &mut memory,
        )
    })?;
    Ok(MEMORY.get_or_init(|| Memory(memory)).0)
}

/// Takes a status apart and gives it back.
pub(super) fn check(status: sys::OrtStatusPtr) -> Result<(), Failure> {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: a status that is not null is owned by the caller of the function that answered it.
    Err(unsafe { ort::Error::result_from_status(status) }
        .err()
        .map_or_else(|| Failure { code: sys::OrtErrorCode::ORT_FAIL as i32, message: "unknown".into() }, Failure::from))
}
