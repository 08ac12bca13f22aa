//! Shared memory of clients. It is disabled: nothing can be registered, and the status lists no region.

use http::Response;
use server_core::{
    error::Result,
    unsupported::{client_shared_memory, shared_memory_status},
};

use crate::{
    body::Body,
    reply::json,
    router::{Memory, MemoryAction},
};

/// Answers every shared memory route.
///
/// Errors: `Unsupported` to register and unregister, `NotFound` for the status of a single region.
pub(crate) fn answer(memory: Memory, region: Option<&str>, action: MemoryAction) -> Result<Response<Body>> {
    let kind = match memory {
        Memory::System => "system",
        Memory::Cuda => "cuda",
    };
    match action {
        MemoryAction::Status => shared_memory_status(kind, region).map(|()| json(b"[]".to_vec())),
        MemoryAction::Register | MemoryAction::Unregister => Err(client_shared_memory()),
    }
}
