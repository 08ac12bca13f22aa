//! Shared-memory regions that clients register by name. Disabled: status lists no region, and every other request is
//! refused with the flag that enables it.

use server_core::error::{Error, Result};
use server_proto::inference::{
    CudaSharedMemoryStatusRequest, CudaSharedMemoryStatusResponse, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse,
};

/// Regions of system memory: none.
pub(crate) fn system_status(request: &SystemSharedMemoryStatusRequest) -> Result<SystemSharedMemoryStatusResponse> {
    check_unnamed("system", &request.name)?;
    Ok(SystemSharedMemoryStatusResponse::default())
}

/// Regions of GPU memory: none.
pub(crate) fn cuda_status(request: &CudaSharedMemoryStatusRequest) -> Result<CudaSharedMemoryStatusResponse> {
    check_unnamed("cuda", &request.name)?;
    Ok(CudaSharedMemoryStatusResponse::default())
}

/// The error of registering and unregistering.
pub(crate) fn disabled() -> Error {
    Error::unsupported("Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.")
}

/// The error of a request whose tensor lies in a region: no region is registered.
pub(crate) fn unknown_region(name: &str) -> Error {
    Error::not_found(format!("Unable to find shared memory region: '{name}'"))
}

fn check_unnamed(kind: &str, name: &str) -> Result<()> {
    if name.is_empty() {
        return Ok(());
    }
    Err(Error::not_found(format!("Unable to find {kind} shared memory region: '{name}'")))
}
