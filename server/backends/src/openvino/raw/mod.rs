//! The calls into OpenVINO, through its C interface. All of this backend's unsafe code is here, behind functions that
//! are safe to call: [`cores`] reads and compiles, [`model`] is what was read, [`request`] runs, [`tensor`] is what goes in
//! and comes out.
//!
//! Source: the headers `openvino/c/*.h` of OpenVINO 2023.1 to 2026.4.

#![allow(unsafe_code)]

mod cores;
mod model;
mod request;
mod tensor;

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    ops::RangeInclusive,
    ptr::{self, NonNull},
};

use server_core::error::Error;

pub(super) use self::{
    cores::Core,
    model::{Model, Port, Side},
    request::{Compiled, Request},
    tensor::Tensor,
};
use crate::dylib::{Library, LoadError};

/// What OpenVINO says when a call fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("openvino error in {doing} : {message}")]
pub(crate) struct Failure {
    doing: &'static str,
    message: String,
}

impl Failure {
    /// One that no call has answered.
    pub(super) fn without(doing: &'static str, message: impl Into<String>) -> Self {
        Self { doing, message: message.into() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::internal(failure.to_string())
    }
}

type Result<T> = std::result::Result<T, Failure>;
/// One of OpenVINO's objects.
type Object = *mut c_void;
type Status = c_int;
type Free = unsafe extern "C" fn(Object);

/// `ov_shape_t`
#[repr(C)]
#[derive(Clone, Copy)]
struct RawShape {
    rank: i64,
    dims: *mut i64,
}

/// `ov_dimension_t` and `ov_rank_t`
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dimension {
    min: i64,
    max: i64,
}

/// `ov_partial_shape_t`
#[repr(C)]
#[derive(Clone, Copy)]
struct PartialShape {
    rank: Dimension,
    dims: *mut Dimension,
}

/// `ov_version_t`
#[repr(C)]
struct Version {
    number: *const c_char,
    description: *const c_char,
}

/// `ov_available_devices_t`
#[repr(C)]
struct Devices {
    names: *mut *mut c_char,
    count: usize,
}

macro_rules! functions {
    ($(fn $name:ident($($argument:ty),* $(,)?) $(-> $answer:ty)?;)+ optional $(fn $more:ident($($input:ty),* $(,)?) $(-> $output:ty)?;)+) => {
        /// The functions of an opened library, by their names without `ov_`. Those that came after version 2023.1 may be missing.
        pub(crate) struct Api {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $answer)?,)+
            $($more: Option<unsafe extern "C" fn($($input),*) $(-> $output)?>,)+
            core_set_property: unsafe extern "C" fn(Object, *const c_char, ...) -> Status,
            core_compile_model: unsafe extern "C" fn(Object, Object, *const c_char, usize, *mut Object, ...) -> Status,
        }

        impl Api {
            /// Finds them all.
            ///
            /// Errors: `Unsuitable` if the library is none of OpenVINO, or one before 2023.1.
            pub(super) fn of(library: &Library) -> std::result::Result<Self, LoadError> {
                // SAFETY: the types are those that the headers declare for the names; lists of arguments that a name takes any
                // number of end with `...` in both.
                unsafe {
                    Ok(Self {
                        $($name: library.function(concat!("ov_", stringify!($name)))?,)+
                        $($more: library.function(concat!("ov_", stringify!($more))).ok(),)+
                        core_set_property: library.function("ov_core_set_property")?,
                        core_compile_model: library.function("ov_core_compile_model")?,
                    })
                }
            }
        }
    };
}

functions! {
    fn get_openvino_version(*mut Version) -> Status;
    fn version_free(*mut Version);
    fn get_error_info(Status) -> *const c_char;
    fn free(*const c_char);
    fn core_create(*mut Object) -> Status;
    fn core_free(Object);
    fn core_get_available_devices(Object, *mut Devices) -> Status;
    fn available_devices_free(*mut Devices);
    fn core_get_property(Object, *const c_char, *const c_char, *mut *mut c_char) -> Status;
    fn core_read_model(Object, *const c_char, *const c_char, *mut Object) -> Status;
    fn core_read_model_from_memory_buffer(Object, *const c_char, usize, Object, *mut Object) -> Status;
    fn model_free(Object);
    fn model_inputs_size(Object, *mut usize) -> Status;
    fn model_outputs_size(Object, *mut usize) -> Status;
    fn model_const_input_by_index(Object, usize, *mut Object) -> Status;
    fn model_const_output_by_index(Object, usize, *mut Object) -> Status;
    fn model_const_input_by_name(Object, *const c_char, *mut Object) -> Status;
    fn model_const_output_by_name(Object, *const c_char, *mut Object) -> Status;
    fn model_reshape_by_port_indexes(Object, *const usize, *const PartialShape, usize) -> Status;
    fn output_const_port_free(Object);
    fn port_get_any_name(Object, *mut *mut c_char) -> Status;
    fn port_get_element_type(Object, *mut u32) -> Status;
    fn port_get_partial_shape(Object, *mut PartialShape) -> Status;
    fn partial_shape_free(*mut PartialShape);
    fn preprocess_prepostprocessor_create(Object, *mut Object) -> Status;
    fn preprocess_prepostprocessor_free(Object);
    fn preprocess_prepostprocessor_build(Object, *mut Object) -> Status;
    fn preprocess_prepostprocessor_get_input_info_by_index(Object, usize, *mut Object) -> Status;
    fn preprocess_prepostprocessor_get_output_info_by_index(Object, usize, *mut Object) -> Status;
    fn preprocess_input_info_free(Object);
    fn preprocess_output_info_free(Object);
    fn preprocess_input_info_get_tensor_info(Object, *mut Object) -> Status;
    fn preprocess_output_info_get_tensor_info(Object, *mut Object) -> Status;
    fn preprocess_input_tensor_info_free(Object);
    fn preprocess_output_tensor_info_free(Object);
    fn preprocess_input_tensor_info_set_element_type(Object, u32) -> Status;
    fn preprocess_output_set_element_type(Object, u32) -> Status;
    fn compiled_model_free(Object);
    fn compiled_model_create_infer_request(Object, *mut Object) -> Status;
    fn infer_request_free(Object);
    fn infer_request_set_input_tensor_by_index(Object, usize, Object) -> Status;
    fn infer_request_set_output_tensor_by_index(Object, usize, Object) -> Status;
    fn infer_request_infer(Object) -> Status;
    fn tensor_create(u32, RawShape, *mut Object) -> Status;
    fn tensor_create_from_host_ptr(u32, RawShape, *mut c_void, *mut Object) -> Status;
    fn tensor_free(Object);
    fn tensor_get_shape(Object, *mut RawShape) -> Status;
    fn tensor_get_element_type(Object, *mut u32) -> Status;
    fn tensor_get_byte_size(Object, *mut usize) -> Status;
    fn tensor_get_size(Object, *mut usize) -> Status;
    fn tensor_data(Object, *mut *mut c_void) -> Status;
    fn shape_free(*mut RawShape) -> Status;
    optional
    fn get_last_err_msg() -> *mut c_char;
    fn core_add_extension(Object, *const c_char) -> Status;
    fn util_set_log_callback(Option<unsafe extern "C" fn(*const c_char)>);
}

/// `NOT_IMPLEMENT_C_METHOD` to `INVALID_C_PARAM` of `ov_status_e`: the C interface itself refuses a call, and keeps no words for it.
const REFUSED_BY_INTERFACE: RangeInclusive<Status> = -16..=-14;

impl Api {
    /// What a status says, in OpenVINO's own words where it has kept them: those of the last failure of the process. So of two calls
    /// that fail at the same moment on two threads, one may be told with the words of the other.
    fn check(&self, doing: &'static str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        let last = self.get_last_err_msg.filter(|_| !REFUSED_BY_INTERFACE.contains(&status));
        // SAFETY: takes nothing and answers a new text or null.
        let told = last.map(|last| unsafe { last() }).and_then(|text| unsafe { self.take(text) });
        let told =
            told.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|text| !text.is_empty());
        let short = || {
            // SAFETY: takes any number and answers a static text.
            let text = unsafe { (self.get_error_info)(status) };
            // SAFETY: a text that is not null is terminated.
            NonNull::new(text.cast_mut())
                .map(|text| unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
        };
        let message = told.or_else(short).unwrap_or_else(|| format!("status {status}"));
        Err(Failure { doing, message })
    }

    /// A text that OpenVINO gives away.
    ///
    /// # Safety
    /// It is null, or terminated and made by a function of the library whose header says that `ov_free` releases it.
    unsafe fn take(&self, text: *mut c_char) -> Option<String> {
        let text = NonNull::new(text)?.as_ptr();
        // SAFETY: said above; it is released once.
        unsafe {
            let own = CStr::from_ptr(text).to_string_lossy().into_owned();
            (self.free)(text);
            Some(own)
        }
    }

    /// The library's version, e.g. `2026.4.1-22982-e213a147257`.
    pub(super) fn version(&self) -> Result<String> {
        let mut version = Version { number: ptr::null(), description: ptr::null() };
        // SAFETY: fills the structure in, whose texts live until it is released.
        unsafe {
            self.check("getting version", (self.get_openvino_version)(&mut version))?;
            let number = NonNull::new(version.number.cast_mut());
            let text = number.map(|number| CStr::from_ptr(number.as_ptr()).to_string_lossy().into_owned());
            (self.version_free)(&mut version);
            Ok(text.unwrap_or_default())
        }
    }

    /// Has messages of the library come into the server's log, where it can.
    pub(super) fn send_logs(&self) {
        unsafe extern "C" fn log(message: *const c_char) {
            let Some(message) = NonNull::new(message.cast_mut()) else { return };
            // SAFETY: the library gives a terminated text that lives through the call.
            let text = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy();
            let text = text.trim();
            match text {
                "" => {}
                _ if text.contains("ERR") || text.contains("WARN") => tracing::warn!(target: "openvino", "{text}"),
                _ => tracing::debug!(target: "openvino", "{text}"),
            }
        }
        if let Some(set) = self.util_set_log_callback {
            // SAFETY: the function is there for the rest of the process and may be called from any thread.
            unsafe { set(Some(log)) }
        }
    }

    /// Makes an object.
    ///
    /// # Safety
    /// `make` writes the address of a new object that `free` releases.
    unsafe fn object(
        &'static self,
        doing: &'static str,
        free: Free,
        make: impl FnOnce(*mut Object) -> Status,
    ) -> Result<Handle> {
        let mut object = ptr::null_mut();
        self.check(doing, make(&mut object))?;
        let object = NonNull::new(object).ok_or_else(|| Failure::without(doing, "nothing came back"))?;
        Ok(Handle { object, free, api: self })
    }
}

/// An object of OpenVINO, released when this is dropped.
struct Handle {
    object: NonNull<c_void>,
    free: Free,
    api: &'static Api,
}

// SAFETY: OpenVINO's objects hold references that are counted atomically, without thread affinity.
unsafe impl Send for Handle {}
// SAFETY: through a shared reference only functions are called that OpenVINO allows from several threads at a time.
unsafe impl Sync for Handle {}

impl Handle {
    fn get(&self) -> Object {
        self.object.as_ptr()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made together with this function and released once.
        unsafe { (self.free)(self.get()) }
    }
}

fn raw(shape: &[i64]) -> RawShape {
    RawShape { rank: i64::try_from(shape.len()).unwrap_or(i64::MAX), dims: shape.as_ptr().cast_mut() }
}

fn terminated(doing: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Failure::without(doing, format!("{text:?} contains a zero byte")))
}

#[cfg(test)]
mod tests {
    use super::{super::library, REFUSED_BY_INTERFACE};
    use crate::testing::runtime_settings;

    #[test]
    fn words_that_are_kept_from_an_earlier_failure_are_not_those_of_a_refused_call() {
        let Some(settings) = runtime_settings("OPENVINO_DYLIB_PATH", "openvino/openvino/libs") else { return };
        let runtime = library::runtime(&settings).unwrap();
        let earlier = runtime.core.read_text("this is not a model").err().unwrap().message;
        for status in REFUSED_BY_INTERFACE {
            let refused = runtime.api.check("running inference", status).unwrap_err().message;
            assert!(!refused.is_empty() && refused.len() < 60 && refused != earlier, "{refused}");
        }
    }
}
