//! What sessions hold in memory: each has an arena of its own on every device it uses, with its weights and what executions need, which
//! grows and is not given back. The library has told how large they are since version 1.23.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_char, c_void},
    ptr,
};

use ort::{AsPointer, session::SharedSessionInner, sys};

use super::raw::{check, minor};
use crate::dylib::Library;

/// A list of names and values of the library's own.
#[repr(C)]
struct Pairs {
    _opaque: [u8; 0],
}

type GetKeyValue = unsafe extern "system" fn(*const Pairs, *const c_char) -> *const c_char;
type ReleaseKeyValuePairs = unsafe extern "system" fn(*mut Pairs);
type AllocatorGetStats = unsafe extern "system" fn(*const sys::OrtAllocator, *mut *mut Pairs) -> sys::OrtStatusPtr;

/// The functions by which an arena is asked. The declarations that this program is built with end before them, so that older libraries
/// can be used as well.
#[derive(Clone, Copy)]
pub(super) struct Arenas {
    get_key_value: GetKeyValue,
    release: ReleaseKeyValuePairs,
    get_stats: AllocatorGetStats,
}

/// Where they stand in the table of functions, to which versions only ever append.
const GET_KEY_VALUE: usize = 297;
const RELEASE_KEY_VALUE_PAIRS: usize = 300;
const ALLOCATOR_GET_STATS: usize = 319;
/// The first version, 1.MINOR, that has all of them.
const SINCE: u32 = 23;

impl Arenas {
    /// `None`: the library, of that version, is older.
    pub(super) fn of(library: &Library, version: &str) -> Option<Self> {
        if minor(version) < (1, SINCE) {
            return None;
        }
        // SAFETY: onnxruntime_c_api.h declares `const OrtApiBase* OrtGetApiBase(void)`.
        let base = unsafe { library.function::<unsafe extern "C" fn() -> *const sys::OrtApiBase>("OrtGetApiBase") };
        // SAFETY: the function takes nothing and answers a pointer to a static structure, or null.
        let base = unsafe { base.ok()?().as_ref() }?;
        // SAFETY: a version that the library has; it answers the address of a static table.
        let table = unsafe { (base.GetApi)(SINCE) }.cast::<*const c_void>();
        if table.is_null() {
            return None;
        }
        // SAFETY: the table of that version is longer than these places, whose functions have the types that the header declares.
        unsafe {
            Some(Self {
                get_key_value: table.add(GET_KEY_VALUE).cast::<GetKeyValue>().read(),
                release: table.add(RELEASE_KEY_VALUE_PAIRS).cast::<ReleaseKeyValuePairs>().read(),
                get_stats: table.add(ALLOCATOR_GET_STATS).cast::<AllocatorGetStats>().read(),
            })
        }
    }

    /// Bytes that a session's arena has taken from the host, or from a GPU.
    ///
    /// `None`: it has none there.
    pub(super) fn held(&self, session: &SharedSessionInner, gpu: Option<u32>) -> Option<u64> {
        let memory = Memory::of(gpu)?;
        let mut allocator = ptr::null_mut();
        // SAFETY: session and description are valid; the call makes an allocator that is released below.
        check(unsafe { (ort::api().CreateAllocator)(session.ptr(), memory.0, &mut allocator) }).ok()?;
        let allocator = Allocator(allocator);
        let mut pairs = ptr::null_mut();
        // SAFETY: the allocator is valid, and statistics are read under its lock; the list is released below.
        check(unsafe { (self.get_stats)(allocator.0, &mut pairs) }).ok()?;
        if pairs.is_null() {
            return None;
        }
        // SAFETY: list and name are valid; the text belongs to the list, which lives until it is released.
        let value = unsafe {
            let value = (self.get_key_value)(pairs, c"TotalAllocated".as_ptr());
            let bytes = (!value.is_null()).then(|| CStr::from_ptr(value).to_str().ok()?.parse().ok()).flatten();
            (self.release)(pairs);
            bytes
        };
        value.filter(|bytes| *bytes > 0)
    }
}

/// The description of a device's memory.
struct Memory(*mut sys::OrtMemoryInfo);

impl Memory {
    fn of(gpu: Option<u32>) -> Option<Self> {
        let (name, id) = match gpu {
            None => (c"Cpu", 0),
            Some(id) => (c"Cuda", i32::try_from(id).ok()?),
        };
        let (kind, place) = (sys::OrtAllocatorType::OrtDeviceAllocator, sys::OrtMemType::OrtMemTypeDefault);
        let mut memory = ptr::null_mut();
        // SAFETY: the name is terminated; the call makes a description that is released when this is dropped.
        check(unsafe { (ort::api().CreateMemoryInfo)(name.as_ptr(), kind, id, place, &mut memory) }).ok()?;
        Some(Self(memory))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made by CreateMemoryInfo and released once.
        unsafe { (ort::api().ReleaseMemoryInfo)(self.0) }
    }
}

struct Allocator(*mut sys::OrtAllocator);

impl Drop for Allocator {
    fn drop(&mut self) {
        // SAFETY: made by CreateAllocator and released once; the arena is the session's.
        unsafe { (ort::api().ReleaseAllocator)(self.0) }
    }
}
