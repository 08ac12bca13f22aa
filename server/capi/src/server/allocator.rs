//! `TRITONSERVER_ResponseAllocator`: functions of a library that give memory for the outputs of responses, and take it back.

use std::ffi::{c_char, c_void};

use parking_lot::Mutex;
use server_core::error::{Error, Result};

use super::delete;
use crate::abi::{
    Handle, Out,
    export::exports,
    handle::objects,
    numbers::MemoryType,
    objects::{Attributes, BufferAttributes, Error as CError, result_of, text},
};

objects! { 25: ResponseAllocator => "TRITONSERVER_ResponseAllocator" }

type AllocFn = unsafe extern "C" fn(
    Handle<ResponseAllocator>,
    *const c_char,
    usize,
    MemoryType,
    i64,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
    *mut MemoryType,
    *mut i64,
) -> Handle<CError>;

type BufferAttributesFn = unsafe extern "C" fn(
    Handle<ResponseAllocator>,
    *const c_char,
    Handle<BufferAttributes>,
    *mut c_void,
    *mut c_void,
) -> Handle<CError>;

type QueryFn = unsafe extern "C" fn(
    Handle<ResponseAllocator>,
    *mut c_void,
    *const c_char,
    *mut usize,
    *mut MemoryType,
    *mut i64,
) -> Handle<CError>;

type ReleaseFn =
    unsafe extern "C" fn(Handle<ResponseAllocator>, *mut c_void, *mut c_void, usize, MemoryType, i64) -> Handle<CError>;

type StartFn = unsafe extern "C" fn(Handle<ResponseAllocator>, *mut c_void) -> Handle<CError>;

/// The functions of a library.
pub(crate) struct ResponseAllocator {
    alloc: AllocFn,
    release: ReleaseFn,
    start: Option<StartFn>,
    attributes: Mutex<Option<BufferAttributesFn>>,
}

/// An allocator, and what its library wants to be given back with each call.
#[derive(Clone, Copy)]
pub(crate) struct Allocator {
    pub(crate) handle: Handle<ResponseAllocator>,
    pub(crate) user: UserPointer,
}

/// An address that is a library's own: handed back to it, and nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserPointer(pub(crate) *mut c_void);

impl Default for UserPointer {
    fn default() -> Self {
        Self(std::ptr::null_mut())
    }
}

// SAFETY: nothing is read or written through it here, and the headers bind libraries to take it back on any thread.
#[allow(unsafe_code)]
unsafe impl Send for UserPointer {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for UserPointer {}

/// Memory of a library that holds an output until it is dropped.
pub(crate) struct Allocated {
    allocator: Handle<ResponseAllocator>,
    pub(crate) base: UserPointer,
    pub(crate) user: UserPointer,
    pub(crate) byte_size: usize,
    pub(crate) memory_type: MemoryType,
    pub(crate) memory_type_id: i64,
}

impl Allocator {
    /// Says that what is allocated from now on is for another response.
    ///
    /// Errors: what the library says.
    #[allow(unsafe_code)]
    pub(crate) fn start(&self) -> Result<()> {
        match self.handle.get()?.start {
            // SAFETY: the function of the library that was given for this.
            Some(start) => result_of(unsafe { start(self.handle, self.user.0) }),
            None => Ok(()),
        }
    }

    /// Memory of the library with those bytes, for the output of that name.
    ///
    /// Errors: what the library says; or it gives none, or memory that cannot be written from here.
    #[allow(unsafe_code)]
    pub(crate) fn hold(&self, name: &str, bytes: &[u8]) -> Result<Allocated> {
        let allocator = self.handle.get()?;
        let c_name = text(name);
        let (mut base, mut user) = (std::ptr::null_mut(), std::ptr::null_mut());
        let (mut memory_type, mut memory_type_id) = (MemoryType::CPU, 0);
        // SAFETY: the function of the library that was given for this, with addresses of variables of the types it wants.
        let status = unsafe {
            (allocator.alloc)(
                self.handle,
                c_name.as_ptr(),
                bytes.len(),
                MemoryType::CPU,
                0,
                self.user.0,
                &mut base,
                &mut user,
                &mut memory_type,
                &mut memory_type_id,
            )
        };
        result_of(status)?;
        let allocated = Allocated {
            allocator: self.handle,
            base: UserPointer(base),
            user: UserPointer(user),
            byte_size: bytes.len(),
            memory_type,
            memory_type_id,
        };
        if bytes.is_empty() {
            return Ok(allocated);
        }
        if base.is_null() {
            let text =
                format!("the allocator of the caller gave no memory for output '{name}' of {} bytes", bytes.len());
            return Err(Error::internal(text));
        }
        if !matches!(memory_type, MemoryType::CPU | MemoryType::CPU_PINNED) {
            let kind = memory_type.text().unwrap_or_default().to_string_lossy();
            return Err(Error::unsupported(format!(
                "the allocator of the caller gave memory of type {kind} for output '{name}'; tensors lie in memory of the host \
                 here, so it has to give CPU memory"
            )));
        }
        // SAFETY: the header binds the library to give memory of at least that size, which nobody else uses until it is released.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), base.cast::<u8>(), bytes.len()) };
        allocated.describe(&allocator, &c_name, self)?;
        Ok(allocated)
    }
}

impl Allocated {
    /// Asks the library where the memory lies, if it wants to say.
    #[allow(unsafe_code)]
    fn describe(&self, functions: &ResponseAllocator, name: &std::ffi::CStr, allocator: &Allocator) -> Result<()> {
        let Some(attributes_of) = *functions.attributes.lock() else { return Ok(()) };
        let attributes = Attributes {
            memory_type: self.memory_type,
            memory_type_id: self.memory_type_id,
            ..Attributes::of_host(self.byte_size)
        };
        let handle = Handle::new(BufferAttributes(Mutex::new(attributes)));
        // SAFETY: the function of the library that was given for this.
        let status = unsafe { attributes_of(self.allocator, name.as_ptr(), handle, allocator.user.0, self.user.0) };
        let _ = handle.take(); // it was lent
        result_of(status)
    }
}

impl Drop for Allocated {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.base.0.is_null() {
            return;
        }
        let Ok(allocator) = self.allocator.get() else {
            tracing::error!("a response allocator was deleted before the responses that it gave memory to");
            return;
        };
        // SAFETY: the function of the library that was given for this, with what its other function gave.
        let status = unsafe {
            (allocator.release)(
                self.allocator,
                self.base.0,
                self.user.0,
                self.byte_size,
                self.memory_type,
                self.memory_type_id,
            )
        };
        if let Err(error) = result_of(status) {
            tracing::error!("the memory of a response was not taken back by its allocator: {error}");
        }
    }
}

exports! {
    /// An allocator of those functions.
    fn TRITONSERVER_ResponseAllocatorNew(
        allocator: Out<Handle<ResponseAllocator>>,
        alloc: Option<AllocFn>,
        release: Option<ReleaseFn>,
        start: Option<StartFn>,
    ) {
        let (Some(alloc), Some(release)) = (alloc, release) else {
            return Err(Error::invalid_argument("a response allocator needs a function to allocate and one to release"));
        };
        allocator.set(Handle::new(ResponseAllocator { alloc, release, start, attributes: Mutex::new(None) }))
    }

    /// Adds a function that says where memory lies.
    fn TRITONSERVER_ResponseAllocatorSetBufferAttributesFunction(
        allocator: Handle<ResponseAllocator>,
        function: Option<BufferAttributesFn>,
    ) {
        *allocator.get()?.attributes.lock() = function;
        Ok(())
    }

    /// Takes a function that says which memory is preferred. Outputs are in memory of the host, so it is not asked.
    fn TRITONSERVER_ResponseAllocatorSetQueryFunction(allocator: Handle<ResponseAllocator>, _function: Option<QueryFn>) {
        allocator.get().map(drop)
    }

    /// Deletes an allocator.
    fn TRITONSERVER_ResponseAllocatorDelete(allocator: Handle<ResponseAllocator>) {
        delete(allocator)
    }
}
