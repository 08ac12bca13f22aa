//! Errors of what this server does not offer, one text for all front ends. Shared memory of clients is off, as in a
//! Triton started without `--allow-client-shm`: no region is ever registered.

use crate::error::{Error, Result};

/// The error of registering and unregistering shared memory.
pub fn client_shared_memory() -> Error {
    Error::unsupported("Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.")
}

/// The error of a tensor that lies in a shared-memory region.
pub fn shared_memory_region(name: &str) -> Error {
    Error::not_found(format!("Unable to find shared memory region: '{name}'"))
}

/// The status of shared memory of a kind, `system` or `cuda`: no region.
///
/// Errors: `NotFound` if a region is named.
pub fn shared_memory_status(kind: &str, name: Option<&str>) -> Result<()> {
    match name.filter(|name| !name.is_empty()) {
        None => Ok(()),
        Some(name) => Err(Error::not_found(format!("Unable to find {kind} shared memory region: '{name}'"))),
    }
}

/// The error of reading and of changing trace settings.
pub fn trace_settings() -> Error {
    Error::unsupported("request tracing is not offered by this server, so there are no trace settings")
}

/// The error of reading and of changing log settings.
pub fn log_settings() -> Error {
    Error::unsupported("log settings are fixed when the server starts, by its '--log-*' options")
}
