//! Copies between host memory and tensors on a GPU, through the CUDA driver, which is opened when the first session captures its
//! runs.
//!
//! Source: cuda.h, `cuMemcpyHtoD_v2`, `cuMemcpyDtoH_v2`, `cuCtxSynchronize`.

#![allow(unsafe_code)]

use std::{
    ffi::{c_int, c_void},
    ptr,
    sync::Arc,
};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use ort::session::SharedSessionInner;

use super::{
    allocator::{Allocator, place},
    raw::{Failure, Value},
};

/// `CUdeviceptr`.
type DevicePointer = u64;
type Context = *mut c_void;

/// Where the tensors of captured runs lie.
pub(super) enum Device {
    /// A GPU, by its number.
    Gpu(i32, Driver),
    /// The host: captured runs tried out without a GPU.
    #[cfg(test)]
    Host,
}

/// Functions of the driver, and the context that ONNX Runtime uses on one GPU.
pub(super) struct Driver {
    context: Context,
    set_current: unsafe extern "C" fn(Context) -> c_int,
    synchronize: unsafe extern "C" fn() -> c_int,
    to_device: unsafe extern "C" fn(DevicePointer, *const c_void, usize) -> c_int,
    to_host: unsafe extern "C" fn(*mut c_void, DevicePointer, usize) -> c_int,
}

// SAFETY: a context may be current on any thread; the functions are static.
unsafe impl Send for Driver {}

impl Device {
    /// The GPU of that number.
    ///
    /// Errors: there is no driver, or it has no such GPU.
    pub(super) fn gpu(number: u32) -> Result<Self, Failure> {
        let number = i32::try_from(number).map_err(|_| Failure::without("there is no such GPU"))?;
        Ok(Self::Gpu(number, Driver::of(number)?))
    }

    /// Memory of a session there.
    pub(super) fn allocator(&self, session: &Arc<SharedSessionInner>) -> Result<Allocator, Failure> {
        match self {
            Self::Gpu(number, _) => Allocator::of(session, (c"Cuda", *number)),
            #[cfg(test)]
            Self::Host => Allocator::of(session, (c"Cpu", 0)),
        }
    }

    /// Copies a tensor of the host to one on the device, which is as long.
    pub(super) fn copy_in(&self, to: &Value<'_>, from: &Value<'_>) -> Result<(), Failure> {
        let ((to, room), (from, length)) = (place(to)?, place(from)?);
        self.check_lengths(room, length)?;
        match self {
            // SAFETY: both are as long as said, and the tensors are borrowed through the call; the context is the device's.
            Self::Gpu(_, driver) if length > 0 => unsafe {
                done((driver.set_current)(driver.context))?;
                done((driver.to_device)(to.addr() as DevicePointer, from, length))
            },
            // SAFETY: as above, and both are on the host; they are different tensors.
            #[cfg(test)]
            Self::Host => unsafe {
                ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast(), length);
                Ok(())
            },
            Self::Gpu(..) => Ok(()),
        }
    }

    /// Copies a tensor on the device to one of the host, which is as long.
    pub(super) fn copy_out(&self, from: &Value<'_>, to: &Value<'_>) -> Result<(), Failure> {
        let ((to, room), (from, length)) = (place(to)?, place(from)?);
        self.check_lengths(room, length)?;
        match self {
            // SAFETY: as in `copy_in`.
            Self::Gpu(_, driver) if length > 0 => unsafe {
                done((driver.set_current)(driver.context))?;
                done((driver.to_host)(to, from.addr() as DevicePointer, length))
            },
            // SAFETY: as in `copy_in`.
            #[cfg(test)]
            Self::Host => unsafe {
                ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast(), length);
                Ok(())
            },
            Self::Gpu(..) => Ok(()),
        }
    }

    /// Waits until what was copied to the device is there: the session runs on a stream that does not wait for copies.
    pub(super) fn wait(&self) -> Result<(), Failure> {
        match self {
            // SAFETY: the context is the device's.
            Self::Gpu(_, driver) => unsafe {
                done((driver.set_current)(driver.context))?;
                done((driver.synchronize)())
            },
            #[cfg(test)]
            Self::Host => Ok(()),
        }
    }

    fn check_lengths(&self, room: usize, length: usize) -> Result<(), Failure> {
        if room == length { Ok(()) } else { Err(Failure::without("tensors of different lengths cannot be copied")) }
    }
}

impl Driver {
    fn of(number: i32) -> Result<Self, Failure> {
        let missing = |error: libloading::Error| {
            Failure::without(format!(
                "graphs of CUDA need the driver's library libcuda.so.1, which cannot be used: {error}; install the driver, or take \
                 'enable_cuda_graph' out of the model's configuration"
            ))
        };
        // SAFETY: dlopen runs the library's initialisers; it is the driver of the system, which anybody may open.
        let library = unsafe { Library::open(Some("libcuda.so.1"), RTLD_NOW | RTLD_LOCAL) }.map_err(missing)?;
        let library: &'static Library = Box::leak(Box::new(library)); // never closed: its functions stay
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type is that of the place it is put into, which is what cuda.h declares for the name.
                *unsafe { library.get($name) }.map_err(missing)?
            };
        }
        let init: unsafe extern "C" fn(u32) -> c_int = function!(b"cuInit\0");
        let device: unsafe extern "C" fn(*mut c_int, c_int) -> c_int = function!(b"cuDeviceGet\0");
        let retain: unsafe extern "C" fn(*mut Context, c_int) -> c_int = function!(b"cuDevicePrimaryCtxRetain\0");
        let mut driver = Self {
            context: ptr::null_mut(),
            set_current: function!(b"cuCtxSetCurrent\0"),
            synchronize: function!(b"cuCtxSynchronize\0"),
            to_device: function!(b"cuMemcpyHtoD_v2\0"),
            to_host: function!(b"cuMemcpyDtoH_v2\0"),
        };
        let mut handle = 0;
        // SAFETY: `cuInit` takes 0, and the others write what they answer; the context is the one that ONNX Runtime's session uses, and
        // is kept for the rest of the process.
        unsafe {
            done(init(0))?;
            done(device(&mut handle, number))?;
            done(retain(&mut driver.context, handle))?;
        }
        Ok(driver)
    }
}

fn done(code: c_int) -> Result<(), Failure> {
    if code == 0 { Ok(()) } else { Err(Failure::without(format!("the CUDA driver answers error {code}"))) }
}
