//! Shared-memory regions that clients register by name. Disabled: status lists no region.

use server_core::{error::Result, unsupported::shared_memory_status};
use server_proto::inference::{
    CudaSharedMemoryStatusRequest, CudaSharedMemoryStatusResponse, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse,
};

/// Regions of system memory: none.
pub(crate) fn system_status(request: &SystemSharedMemoryStatusRequest) -> Result<SystemSharedMemoryStatusResponse> {
    shared_memory_status("system", Some(&request.name))?;
    Ok(SystemSharedMemoryStatusResponse::default())
}

/// Regions of GPU memory: none.
pub(crate) fn cuda_status(request: &CudaSharedMemoryStatusRequest) -> Result<CudaSharedMemoryStatusResponse> {
    shared_memory_status("cuda", Some(&request.name))?;
    Ok(CudaSharedMemoryStatusResponse::default())
}
