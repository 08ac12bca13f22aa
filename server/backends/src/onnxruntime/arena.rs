//! What sessions hold in memory: each has an arena of its own on every device it uses, with its weights and what executions need, which
//! grows and is not given back. The library has told how large they are since version 1.23.

#![allow(unsafe_code)]

use std::{ffi::c_char, ptr};

use ort::{AsPointer, session::SharedSessionInner, sys};

use super::{
    newer::{ALLOCATOR_GET_STATS, GET_KEY_VALUE, Newer, Pairs, RELEASE_KEY_VALUE_PAIRS, text},
    raw::check,
};

/// The functions by which an arena is asked.
#[derive(Clone, Copy)]
pub(super) struct Arenas {
    get_key_value: unsafe extern "system" fn(*const Pairs, *const c_char) -> *const c_char,
    release: unsafe extern "system" fn(*mut Pairs),
    get_stats: unsafe extern "system" fn(*const sys::OrtAllocator, *mut *mut Pairs) -> sys::OrtStatusPtr,
}

impl Arenas {
    /// `None`: the library is older.
    pub(super) fn of(newer: Newer) -> Option<Self> {
        Some(Self {
            get_key_value: newer.get(&GET_KEY_VALUE)?,
            release: newer.get(&RELEASE_KEY_VALUE_PAIRS)?,
            get_stats: newer.get(&ALLOCATOR_GET_STATS)?,
        })
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
            let value = text((self.get_key_value)(pairs, c"TotalAllocated".as_ptr()));
            let bytes = value.and_then(|value| value.parse().ok());
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
