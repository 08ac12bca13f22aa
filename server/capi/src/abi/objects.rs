//! Objects that several parts of the interface hand to each other.

use std::ffi::CString;

use parking_lot::Mutex;
use server_core::error::{Code, Error as CoreError, Result};

use super::{
    Handle,
    handle::objects,
    numbers::{ErrorCode, MemoryType},
};

objects! {
    1: Error => "TRITONSERVER_Error",
    2: Message => "TRITONSERVER_Message",
    3: BufferAttributes => "TRITONSERVER_BufferAttributes",
}

/// `TRITONSERVER_Error`: made by either side, deleted by whoever is given it.
#[derive(Debug)]
pub(crate) struct Error {
    /// The class.
    pub(crate) code: ErrorCode,
    /// The sentence.
    pub(crate) message: CString,
}

impl Error {
    /// The error as libraries see it.
    pub(crate) fn of(error: &CoreError) -> Self {
        Self { code: ErrorCode::of(error.code), message: text(&error.message) }
    }

    /// The error as the server sees it.
    pub(crate) fn to_core(&self) -> CoreError {
        CoreError::new(self.code.to_core(), self.message.to_string_lossy().into_owned())
    }
}

/// What a function of a library says: null is success. Takes the error away.
///
/// Errors: what the library says; or what it returns is no error at all.
pub(crate) fn result_of(status: Handle<Error>) -> Result<()> {
    if status.is_null() {
        return Ok(());
    }
    match status.take() {
        Ok(error) => Err(error.to_core()),
        Err(error) => Err(CoreError::new(Code::Internal, format!("the error that was returned is none: {error}"))),
    }
}

/// `TRITONSERVER_Message`: a JSON document.
#[derive(Debug)]
pub(crate) struct Message {
    /// Its text, for as long as the message lives.
    pub(crate) json: CString,
}

impl Message {
    /// A document of that text.
    pub(crate) fn of(json: &str) -> Self {
        Self { json: text(json) }
    }
}

/// `TRITONSERVER_BufferAttributes`: where bytes lie, and how many they are.
#[derive(Debug)]
pub(crate) struct BufferAttributes(pub(crate) Mutex<Attributes>);

/// The values of [`BufferAttributes`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    /// What kind of memory.
    pub(crate) memory_type: MemoryType,
    /// Of which device, or 0.
    pub(crate) memory_type_id: i64,
    /// Length in bytes.
    pub(crate) byte_size: usize,
    /// Handle of CUDA by which other processes map it, or null; the library's to keep alive.
    pub(crate) cuda_ipc_handle: usize,
}

impl Attributes {
    /// So many bytes in ordinary memory of the host.
    pub(crate) fn of_host(byte_size: usize) -> Self {
        Self { memory_type: MemoryType::CPU, memory_type_id: 0, byte_size, cuda_ipc_handle: 0 }
    }
}

/// A text for C, up to its first zero byte.
pub(crate) fn text(text: &str) -> CString {
    let text = text.split('\0').next().unwrap_or_default();
    CString::new(text).unwrap_or_default() // there is no zero byte any more
}
