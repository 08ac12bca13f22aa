//! Shared memory of clients. It is not offered, as in a Triton started without `--allow-client-shm`: nothing can be
//! registered, so nothing ever is, and the status says so.

use http::Response;
use server_core::error::{Error, Result};

use crate::{
    body::Body,
    reply::json,
    router::{Memory, MemoryAction},
};

/// Answers every shared memory route.
///
/// Errors: `Unsupported` to register and unregister, `NotFound` for the status of a single region.
pub(crate) fn answer(memory: Memory, region: Option<&str>, action: MemoryAction) -> Result<Response<Body>> {
    match (action, region) {
        (MemoryAction::Status, None) => Ok(json(b"[]".to_vec())),
        (MemoryAction::Status, Some(region)) => {
            let kind = match memory {
                Memory::System => "system",
                Memory::Cuda => "cuda",
            };
            Err(Error::not_found(format!("Unable to find {kind} shared memory region: '{region}'")))
        }
        (MemoryAction::Register | MemoryAction::Unregister, _) => Err(Error::unsupported(
            "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.",
        )),
    }
}
