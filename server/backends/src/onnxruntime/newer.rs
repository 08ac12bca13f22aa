//! Functions of ONNX Runtime that came after the oldest version this program opens. The declarations it is built with end before
//! them, so that older libraries can be used as well: here they are found by their place in the table of functions, to which
//! versions only ever append.
//!
//! Source: onnxruntime_c_api.h, `OrtApi`.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_char, c_void},
    marker::PhantomData,
};

use ort::sys;

use super::raw::minor;
use crate::dylib::Library;

/// A list of names and values of the library's own.
#[repr(C)]
pub(super) struct Pairs {
    _opaque: [u8; 0],
}

/// A device that an execution provider of a plugin library can use.
#[repr(C)]
pub(super) struct EpDevice {
    _opaque: [u8; 0],
}

/// The hardware below an [`EpDevice`].
#[repr(C)]
pub(super) struct Hardware {
    _opaque: [u8; 0],
}

/// A function of the table: where it stands, the first version 1.MINOR that has it, and its type.
pub(super) struct Function<F> {
    place: usize,
    since: u32,
    kind: PhantomData<F>,
}

impl<F> Function<F> {
    const fn new(place: usize, since: u32) -> Self {
        Self { place, since, kind: PhantomData }
    }
}

pub(super) const GET_KEY_VALUE: Function<unsafe extern "system" fn(*const Pairs, *const c_char) -> *const c_char> =
    Function::new(297, 22);
pub(super) const RELEASE_KEY_VALUE_PAIRS: Function<unsafe extern "system" fn(*mut Pairs)> = Function::new(300, 22);
pub(super) const REGISTER_EXECUTION_PROVIDER_LIBRARY: Function<
    unsafe extern "system" fn(*mut sys::OrtEnv, *const c_char, *const c_char) -> sys::OrtStatusPtr,
> = Function::new(301, 22);
pub(super) const GET_EP_DEVICES: Function<
    unsafe extern "system" fn(*const sys::OrtEnv, *mut *const *const EpDevice, *mut usize) -> sys::OrtStatusPtr,
> = Function::new(303, 22);
pub(super) const APPEND_EXECUTION_PROVIDER: Function<
    unsafe extern "system" fn(
        *mut sys::OrtSessionOptions,
        *mut sys::OrtEnv,
        *const *const EpDevice,
        usize,
        *const *const c_char,
        *const *const c_char,
        usize,
    ) -> sys::OrtStatusPtr,
> = Function::new(304, 22);
pub(super) const HARDWARE_TYPE: Function<unsafe extern "system" fn(*const Hardware) -> i32> = Function::new(307, 22);
pub(super) const EP_DEVICE_NAME: Function<unsafe extern "system" fn(*const EpDevice) -> *const c_char> =
    Function::new(312, 22);
pub(super) const EP_DEVICE_HARDWARE: Function<unsafe extern "system" fn(*const EpDevice) -> *const Hardware> =
    Function::new(316, 22);
pub(super) const ALLOCATOR_GET_STATS: Function<
    unsafe extern "system" fn(*const sys::OrtAllocator, *mut *mut Pairs) -> sys::OrtStatusPtr,
> = Function::new(319, 23);

/// The table of functions of an opened library, as far as it goes.
#[derive(Clone, Copy)]
pub(super) struct Newer {
    table: *const *const c_void,
    version: u32,
}

// SAFETY: the table is static and never written to.
unsafe impl Send for Newer {}
// SAFETY: as above.
unsafe impl Sync for Newer {}

impl Newer {
    /// The table of a library, which is of that version. `None`: it answers none.
    pub(super) fn of(library: &Library, version: &str) -> Option<Self> {
        let (major, version) = minor(version);
        let version = if major > 1 { u32::MAX } else { version };
        let asked = version.min(LAST);
        // SAFETY: onnxruntime_c_api.h declares `const OrtApiBase* OrtGetApiBase(void)`.
        let base = unsafe { library.function::<unsafe extern "C" fn() -> *const sys::OrtApiBase>("OrtGetApiBase") };
        // SAFETY: the function takes nothing and answers a pointer to a static structure, or null.
        let base = unsafe { base.ok()?().as_ref() }?;
        // SAFETY: a version that the library has; it answers the address of a static table.
        let table = unsafe { (base.GetApi)(asked) }.cast::<*const c_void>();
        (!table.is_null()).then_some(Self { table, version: asked })
    }

    /// A function; `None` if the library is older.
    pub(super) fn get<F: Copy>(self, function: &Function<F>) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*const c_void>(), "an address") }
        // SAFETY: the table of a version is longer than the places of the functions it has, which have the types that the header
        // declares, and these are the types of the constants above, the only ones there are.
        (self.version >= function.since).then(|| unsafe { self.table.add(function.place).cast::<F>().read() })
    }
}

/// The last version that a function above is of.
const LAST: u32 = 23;

/// A text of the library's own.
///
/// # Safety
/// It is null or terminated, and lives while the answer is used.
pub(super) unsafe fn text<'a>(start: *const c_char) -> Option<&'a str> {
    // SAFETY: the caller's promise.
    (!start.is_null()).then(|| unsafe { CStr::from_ptr(start) }).and_then(|text| text.to_str().ok())
}
