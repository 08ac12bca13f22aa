//! Memory that clients register by name. Off unless the server was started with it: status answers, with nothing in it,
//! and everything else says how to turn it on.

use server_core::error::{Error, Result};
use server_proto::inference::{
    CudaSharedMemoryStatusRequest, CudaSharedMemoryStatusResponse, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse,
};

/// Regions of system memory: none.
pub(crate) fn system_status(request: &SystemSharedMemoryStatusRequest) -> Result<SystemSharedMemoryStatusResponse> {
    none_is_called("system", &request.name)?;
    Ok(SystemSharedMemoryStatusResponse::default())
}

/// Regions of GPU memory: none.
pub(crate) fn cuda_status(request: &CudaSharedMemoryStatusRequest) -> Result<CudaSharedMemoryStatusResponse> {
    none_is_called("cuda", &request.name)?;
    Ok(CudaSharedMemoryStatusResponse::default())
}

/// The answer to registering and unregistering.
pub(crate) fn disabled() -> Error {
    Error::unsupported("Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.")
}

/// The answer to a request whose tensor lies in a region: nothing was registered under any name.
pub(crate) fn unknown_region(name: &str) -> Error {
    Error::not_found(format!("Unable to find shared memory region: '{name}'"))
}

fn none_is_called(kind: &str, name: &str) -> Result<()> {
    if name.is_empty() {
        return Ok(());
    }
    Err(Error::not_found(format!("Unable to find {kind} shared memory region: '{name}'")))
}
