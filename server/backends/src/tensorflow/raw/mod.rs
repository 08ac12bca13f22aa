//! The calls into TensorFlow's C interface: its functions here, [`Session`] and [`Tensor`] behind functions that are safe to call. All of
//! this backend's unsafe code is in this module.
//!
//! Source: `c_api.h`, `tf_tensor.h`, `tf_tstring.h` and `tf_status.h` of TensorFlow 2.

#![allow(unsafe_code)]

mod session;
mod tensor;

use std::ffi::{CStr, c_char, c_int, c_void};

use server_core::error::Error;

use crate::dylib::{Library, LoadError};
pub(super) use session::Session;
pub(super) use tensor::Tensor;

/// Types that are only pointed to.
macro_rules! opaque {
    ($($name:ident)+) => { $(#[repr(C)] pub(super) struct $name([u8; 0]);)+ };
}

opaque! { TfStatus TfTensor TfGraph TfSession TfSessionOptions TfImportGraphDefOptions TfOperation TfDeviceList TfLibrary }

/// Bytes with a length, as functions take and answer them.
#[repr(C)]
struct TfBuffer {
    data: *const c_void,
    length: usize,
    deallocator: Option<unsafe extern "C" fn(*mut c_void, usize)>,
}

/// A string of a tensor. What it holds is TensorFlow's to know.
#[repr(C, align(8))]
struct TfString([u8; 24]);

/// One tensor of a graph: an output of one of its operations.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Endpoint {
    operation: *mut TfOperation,
    index: c_int,
}

// SAFETY: an operation is part of its graph, which is not changed after it was loaded; the address is only passed back to calls
// that take the session of this graph.
unsafe impl Send for Endpoint {}
// SAFETY: as above.
unsafe impl Sync for Endpoint {}

type Deallocator = unsafe extern "C" fn(*mut c_void, usize, *mut c_void);

/// The functions that are used, by their names in the headers.
macro_rules! functions {
    ($($name:ident($($argument:ty),*) $(-> $answer:ty)?;)+) => {
        /// The functions of an open library.
        #[allow(non_snake_case)] // named as in the headers
        pub(super) struct Functions { $($name: unsafe extern "C" fn($($argument),*) $(-> $answer)?,)+ }

        impl Functions {
            fn of(library: &Library) -> Result<Self, LoadError> {
                // SAFETY: the types are those that the headers declare for these names.
                Ok(Self { $($name: unsafe { library.function(stringify!($name))? },)+ })
            }
        }
    };
}

functions! {
    TF_Version() -> *const c_char;
    TF_NewStatus() -> *mut TfStatus;
    TF_DeleteStatus(*mut TfStatus);
    TF_GetCode(*const TfStatus) -> c_int;
    TF_Message(*const TfStatus) -> *const c_char;
    TF_RegisterLogListener(unsafe extern "C" fn(*const c_char));
    TF_LoadLibrary(*const c_char, *mut TfStatus) -> *mut TfLibrary;
    TF_NewSessionOptions() -> *mut TfSessionOptions;
    TF_DeleteSessionOptions(*mut TfSessionOptions);
    TF_SetConfig(*mut TfSessionOptions, *const c_void, usize, *mut TfStatus);
    TF_NewGraph() -> *mut TfGraph;
    TF_DeleteGraph(*mut TfGraph);
    TF_NewImportGraphDefOptions() -> *mut TfImportGraphDefOptions;
    TF_DeleteImportGraphDefOptions(*mut TfImportGraphDefOptions);
    TF_ImportGraphDefOptionsSetDefaultDevice(*mut TfImportGraphDefOptions, *const c_char);
    TF_GraphImportGraphDef(*mut TfGraph, *const TfBuffer, *const TfImportGraphDefOptions, *mut TfStatus);
    TF_GraphOperationByName(*mut TfGraph, *const c_char) -> *mut TfOperation;
    TF_GraphNextOperation(*mut TfGraph, *mut usize) -> *mut TfOperation;
    TF_OperationName(*mut TfOperation) -> *const c_char;
    TF_OperationOpType(*mut TfOperation) -> *const c_char;
    TF_OperationNumOutputs(*mut TfOperation) -> c_int;
    TF_OperationOutputType(Endpoint) -> c_int;
    TF_GraphGetTensorNumDims(*mut TfGraph, Endpoint, *mut TfStatus) -> c_int;
    TF_NewBuffer() -> *mut TfBuffer;
    TF_DeleteBuffer(*mut TfBuffer);
    TF_NewSession(*mut TfGraph, *const TfSessionOptions, *mut TfStatus) -> *mut TfSession;
    TF_LoadSessionFromSavedModel(*const TfSessionOptions, *const TfBuffer, *const c_char, *const *const c_char, c_int, *mut TfGraph, *mut TfBuffer, *mut TfStatus) -> *mut TfSession;
    TF_CloseSession(*mut TfSession, *mut TfStatus);
    TF_DeleteSession(*mut TfSession, *mut TfStatus);
    TF_SessionListDevices(*mut TfSession, *mut TfStatus) -> *mut TfDeviceList;
    TF_DeleteDeviceList(*mut TfDeviceList);
    TF_DeviceListCount(*const TfDeviceList) -> c_int;
    TF_DeviceListType(*const TfDeviceList, c_int, *mut TfStatus) -> *const c_char;
    TF_SessionRun(*mut TfSession, *const TfBuffer, *const Endpoint, *const *mut TfTensor, c_int, *const Endpoint, *mut *mut TfTensor, c_int, *const *const TfOperation, c_int, *mut TfBuffer, *mut TfStatus);
    TF_AllocateTensor(c_int, *const i64, c_int, usize) -> *mut TfTensor;
    TF_NewTensor(c_int, *const i64, c_int, *mut c_void, usize, Deallocator, *mut c_void) -> *mut TfTensor;
    TF_DeleteTensor(*mut TfTensor);
    TF_TensorType(*const TfTensor) -> c_int;
    TF_NumDims(*const TfTensor) -> c_int;
    TF_Dim(*const TfTensor, c_int) -> i64;
    TF_TensorByteSize(*const TfTensor) -> usize;
    TF_TensorData(*const TfTensor) -> *mut c_void;
    TF_StringInit(*mut TfString);
    TF_StringCopy(*mut TfString, *const c_char, usize);
    TF_StringDealloc(*mut TfString);
    TF_StringGetDataPointer(*const TfString) -> *const c_char;
    TF_StringGetSize(*const TfString) -> usize;
}

/// What TensorFlow says when a call fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failure {
    /// Its own number.
    pub(super) code: i32,
    /// Its own words.
    pub(super) message: String,
}

/// `TF_INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;
/// `TF_INTERNAL`.
const INTERNAL: i32 = 13;

impl Failure {
    fn internal(message: impl Into<String>) -> Self {
        Self { code: INTERNAL, message: message.into() }
    }

    fn invalid_argument(message: impl Into<String>) -> Self {
        Self { code: INVALID_ARGUMENT, message: message.into() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure.code {
            INVALID_ARGUMENT => Self::invalid_argument(failure.message),
            _ => Self::internal(failure.message),
        }
    }
}

impl Functions {
    /// The functions of a library that was opened; they stay for the rest of the process, as it does.
    ///
    /// Errors: `Unsuitable` if it is not TensorFlow 2.
    pub(super) fn open(library: &Library) -> Result<&'static Self, LoadError> {
        let functions = Self::of(library)?;
        if !functions.version().starts_with("2.") {
            return Err(library.unsuitable(format!("it is TensorFlow {}, and 2 is needed", functions.version())));
        }
        Ok(Box::leak(Box::new(functions)))
    }

    /// E.g. `2.21.0`.
    pub(super) fn version(&self) -> String {
        // SAFETY: the function takes nothing and answers a static, terminated string.
        unsafe { text((self.TF_Version)()) }
    }

    /// Has what models print given to `listener` instead of standard error. For the rest of the process.
    pub(super) fn listen_to_prints(&self, listener: unsafe extern "C" fn(*const c_char)) {
        // SAFETY: the listener is a function, which stays.
        unsafe { (self.TF_RegisterLogListener)(listener) }
    }

    /// Opens a library with further operations, which all graphs loaded from now on may have.
    ///
    /// Errors: in TensorFlow's words.
    pub(super) fn load_operations(&self, file: &CStr) -> Result<(), Failure> {
        // SAFETY: the name is terminated; the handle that comes back is small, and the library stays open.
        self.call(|status| unsafe { (self.TF_LoadLibrary)(file.as_ptr(), status) }).map(drop)
    }

    /// Makes a call that says by its status whether it went well.
    fn call<T>(&self, call: impl FnOnce(*mut TfStatus) -> T) -> Result<T, Failure> {
        struct Status<'a>(&'a Functions, *mut TfStatus);
        impl Drop for Status<'_> {
            fn drop(&mut self) {
                // SAFETY: made below and deleted once.
                unsafe { (self.0.TF_DeleteStatus)(self.1) }
            }
        }
        // SAFETY: takes nothing and answers a new status.
        let status = Status(self, unsafe { (self.TF_NewStatus)() });
        let answer = call(status.1);
        // SAFETY: the status is valid until it is dropped, and so is its message.
        match unsafe { (self.TF_GetCode)(status.1) } {
            0 => Ok(answer),
            // SAFETY: as above.
            code => Err(Failure { code, message: unsafe { text((self.TF_Message)(status.1)) } }),
        }
    }
}

/// A text of TensorFlow's as one of ours.
///
/// # Safety
/// It must be null or terminated.
unsafe fn text(start: *const c_char) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned()
}

/// What a model printed, for a listener.
///
/// # Safety
/// As TensorFlow calls listeners: with a terminated text.
pub(super) unsafe fn printed(start: *const c_char) -> String {
    // SAFETY: the caller vouches for it.
    unsafe { text(start) }
}
