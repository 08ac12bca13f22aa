//! The functions of the CUDA driver, as `cuda.h` declares them. Opened at run time, once; a machine without it has no GPU.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    path::Path,
    ptr,
};

use once_cell::sync::OnceCell;
use server_core::error::Error;

use crate::dylib::{Library, LoadError};

/// `CUdeviceptr`.
pub(super) type DevicePointer = u64;
/// `CUcontext`, `CUstream`, `CUevent`, `CUgraph` or `CUgraphExec`.
pub(super) type Handle = *mut c_void;

macro_rules! driver {
    ($($(#[$doc:meta])* $field:ident = $symbol:literal ($($argument:ty),*);)+) => {
        /// The functions that this backend calls. Each answers a `CUresult`.
        pub(super) struct Driver {
            $($(#[$doc])* pub(super) $field: unsafe extern "C" fn($($argument),*) -> c_int,)+
        }

        impl Driver {
            fn of(library: &Library) -> Result<Self, LoadError> {
                // SAFETY: the types are those that `cuda.h` declares for the names.
                unsafe { Ok(Self { $($field: library.function($symbol)?,)+ }) }
            }
        }
    };
}

driver! {
    init = "cuInit" (c_uint);
    device_count = "cuDeviceGetCount" (*mut c_int);
    device = "cuDeviceGet" (*mut c_int, c_int);
    device_attribute = "cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
    retain_context = "cuDevicePrimaryCtxRetain" (*mut Handle, c_int);
    release_context = "cuDevicePrimaryCtxRelease_v2" (c_int);
    set_current = "cuCtxSetCurrent" (Handle);
    stream_priorities = "cuCtxGetStreamPriorityRange" (*mut c_int, *mut c_int);
    create_stream = "cuStreamCreateWithPriority" (*mut Handle, c_uint, c_int);
    destroy_stream = "cuStreamDestroy_v2" (Handle);
    synchronize_stream = "cuStreamSynchronize" (Handle);
    stream_waits = "cuStreamWaitEvent" (Handle, Handle, c_uint);
    begin_capture = "cuStreamBeginCapture_v2" (Handle, c_uint);
    end_capture = "cuStreamEndCapture" (Handle, *mut Handle);
    create_event = "cuEventCreate" (*mut Handle, c_uint);
    destroy_event = "cuEventDestroy_v2" (Handle);
    record_event = "cuEventRecord" (Handle, Handle);
    synchronize_event = "cuEventSynchronize" (Handle);
    instantiate_graph = "cuGraphInstantiateWithFlags" (*mut Handle, Handle, u64);
    launch_graph = "cuGraphLaunch" (Handle, Handle);
    destroy_graph = "cuGraphDestroy" (Handle);
    destroy_executable_graph = "cuGraphExecDestroy" (Handle);
    allocate = "cuMemAlloc_v2" (*mut DevicePointer, usize);
    free = "cuMemFree_v2" (DevicePointer);
    allocate_pinned = "cuMemHostAlloc" (*mut *mut c_void, usize, c_uint);
    free_pinned = "cuMemFreeHost" (*mut c_void);
    fill = "cuMemsetD8Async" (DevicePointer, u8, usize, Handle);
    copy_to_device = "cuMemcpyHtoDAsync_v2" (DevicePointer, *const c_void, usize, Handle);
    copy_to_host = "cuMemcpyDtoHAsync_v2" (*mut c_void, DevicePointer, usize, Handle);
    error_name = "cuGetErrorName" (c_int, *mut *const c_char);
    error_text = "cuGetErrorString" (c_int, *mut *const c_char);
}

/// What the driver answers instead of success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} ({name})")]
pub(crate) struct CudaError {
    code: c_int,
    name: String,
    text: String,
}

impl CudaError {
    /// `CUDA_ERROR_OUT_OF_MEMORY`.
    const OUT_OF_MEMORY: c_int = 2;
    /// The errors after which the driver refuses everything in this process: from `CUDA_ERROR_ILLEGAL_ADDRESS` and
    /// `CUDA_ERROR_LAUNCH_TIMEOUT` to `CUDA_ERROR_LAUNCH_FAILED`.
    const STICKY: [c_int; 11] = [214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719];

    /// Whether memory of the GPU ran out.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        self.code == Self::OUT_OF_MEMORY
    }

    /// Whether nothing can run on the GPU in this process any more.
    pub(crate) fn is_final(&self) -> bool {
        Self::STICKY.contains(&self.code)
    }
}

impl Driver {
    /// The driver of this machine, opened at the first call and never closed. One that is not there is looked for again at
    /// the next call.
    ///
    /// Errors: there is no driver, it is too old, or it has no GPU; each with what to do.
    pub(super) fn get() -> Result<&'static Self, Error> {
        static OPENED: OnceCell<Driver> = OnceCell::new();
        OPENED.get_or_try_init(Self::open)
    }

    fn open() -> Result<Self, Error> {
        let without = |reason: String| {
            Error::unavailable(format!(
                "TensorRT needs an NVIDIA GPU and its driver (libcuda.so.1), and there is none: {reason}; run the server on a \
                 machine with one, in a container with --gpus or nvidia.com/gpu in its resources"
            ))
        };
        let driver = Library::open(Path::new("libcuda.so.1"))
            .and_then(|library| Self::of(&library))
            .map_err(|error| without(error.to_string()))?;
        let mut count = 0;
        // SAFETY: `cuInit` takes 0.
        driver.check(unsafe { (driver.init)(0) }).map_err(|error| without(error.to_string()))?;
        // SAFETY: the driver writes one int.
        driver.check(unsafe { (driver.device_count)(&raw mut count) }).map_err(|error| without(error.to_string()))?;
        if count == 0 { Err(without("the driver has no GPU".into())) } else { Ok(driver) }
    }

    /// An answer of the driver as a result.
    pub(super) fn check(&self, code: c_int) -> Result<(), CudaError> {
        if code == 0 { Ok(()) } else { Err(self.error(code)) }
    }

    #[cold]
    fn error(&self, code: c_int) -> CudaError {
        let words = |ask: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = ptr::null();
            // SAFETY: the driver writes a pointer to a static text, or null for a code that it does not know.
            let known = unsafe { ask(code, &raw mut text) == 0 && !text.is_null() };
            // SAFETY: not null, so a text that ends with zero and stays.
            known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        let name = words(self.error_name).unwrap_or_else(|| format!("CUDA error {code}"));
        CudaError { code, name, text: words(self.error_text).unwrap_or_else(|| "unknown error".into()) }
    }
}
