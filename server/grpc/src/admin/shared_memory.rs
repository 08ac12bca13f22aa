//! Shared-memory regions that clients register by name.

use server_core::error::Result;
use server_engine::{Engine, MemoryKind, RegionStatus};
use server_proto::inference::{
    CudaSharedMemoryRegisterRequest, CudaSharedMemoryRegisterResponse, CudaSharedMemoryStatusRequest,
    CudaSharedMemoryStatusResponse, CudaSharedMemoryUnregisterRequest, CudaSharedMemoryUnregisterResponse,
    SystemSharedMemoryRegisterRequest, SystemSharedMemoryRegisterResponse, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse, SystemSharedMemoryUnregisterRequest, SystemSharedMemoryUnregisterResponse,
    cuda_shared_memory_status_response, system_shared_memory_status_response,
};

/// Regions of system memory, all or one.
pub(crate) fn system_status(
    engine: &Engine,
    request: &SystemSharedMemoryStatusRequest,
) -> Result<SystemSharedMemoryStatusResponse> {
    let line = |RegionStatus { name, key, offset, byte_size, .. }| {
        (name.clone(), system_shared_memory_status_response::RegionStatus { name, key, offset, byte_size })
    };
    let regions = engine.shared_memory().status(MemoryKind::System, &request.name)?.into_iter().map(line).collect();
    Ok(SystemSharedMemoryStatusResponse { regions })
}

/// Regions of GPU memory, all or one.
pub(crate) fn cuda_status(
    engine: &Engine,
    request: &CudaSharedMemoryStatusRequest,
) -> Result<CudaSharedMemoryStatusResponse> {
    let line = |RegionStatus { name, device_id, byte_size, .. }| {
        (name.clone(), cuda_shared_memory_status_response::RegionStatus { name, device_id, byte_size })
    };
    let regions = engine.shared_memory().status(MemoryKind::Cuda, &request.name)?.into_iter().map(line).collect();
    Ok(CudaSharedMemoryStatusResponse { regions })
}

/// Registers system memory.
pub(crate) fn register_system(
    engine: &Engine,
    request: &SystemSharedMemoryRegisterRequest,
) -> Result<SystemSharedMemoryRegisterResponse> {
    let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = request;
    engine.shared_memory().register_system(name, key, *offset, *byte_size)?;
    Ok(SystemSharedMemoryRegisterResponse {})
}

/// Registers memory of a GPU. A negative device is none of those that there are.
pub(crate) fn register_cuda(
    engine: &Engine,
    request: &CudaSharedMemoryRegisterRequest,
) -> Result<CudaSharedMemoryRegisterResponse> {
    let CudaSharedMemoryRegisterRequest { name, raw_handle, device_id, byte_size } = request;
    engine.shared_memory().register_cuda(name, raw_handle, device_id.cast_unsigned(), *byte_size)?;
    Ok(CudaSharedMemoryRegisterResponse {})
}

/// Forgets a region of system memory, or all if none is named.
pub(crate) fn unregister_system(
    engine: &Engine,
    request: &SystemSharedMemoryUnregisterRequest,
) -> Result<SystemSharedMemoryUnregisterResponse> {
    engine.shared_memory().unregister(MemoryKind::System, &request.name)?;
    Ok(SystemSharedMemoryUnregisterResponse {})
}

/// Forgets a region of GPU memory, or all if none is named.
pub(crate) fn unregister_cuda(
    engine: &Engine,
    request: &CudaSharedMemoryUnregisterRequest,
) -> Result<CudaSharedMemoryUnregisterResponse> {
    engine.shared_memory().unregister(MemoryKind::Cuda, &request.name)?;
    Ok(CudaSharedMemoryUnregisterResponse {})
}
