//! GPUs through the CUDA driver: what they are; memory, streams, events and graphs as values that give back what they hold. No library but
//! the driver's is needed.
//!
//! Source: cuda.h of CUDA 12, the driver's interface.

#![allow(unsafe_code)]

mod driver;
mod graph;
mod memory;
mod stream;

use std::{ffi::c_int, ptr, sync::Arc};

use driver::{Driver, Handle};
use server_core::error::Error;

pub(super) use driver::CudaError;
pub(super) use graph::Graph;
pub(super) use memory::{DeviceMemory, HostMemory};
pub(super) use stream::{Event, Priority, Stream};

/// One GPU, with the context that everybody in this process shares.
pub(crate) struct Gpu {
    driver: &'static Driver,
    device: c_int,
    context: Handle,
}

// SAFETY: a context may be current on any thread; the functions are static.
unsafe impl Send for Gpu {}
// SAFETY: as above; nothing is changed after it is made.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// The GPU of that number.
    ///
    /// Errors: there is no driver, or no such GPU.
    pub(super) fn open(number: u32) -> Result<Arc<Self>, Error> {
        let driver = Driver::get()?;
        let cannot = |error: CudaError| Error::unavailable(format!("GPU {number} cannot be used: {error}"));
        let (mut device, mut context) = (0, ptr::null_mut());
        // SAFETY: the driver writes one int.
        driver.check(unsafe { (driver.device)(&raw mut device, number as c_int) }).map_err(cannot)?;
        // SAFETY: the driver writes one context, for a device that it has named.
        driver.check(unsafe { (driver.retain_context)(&raw mut context, device) }).map_err(cannot)?;
        Ok(Arc::new(Self { driver, device, context }))
    }

    /// Makes it the GPU of this thread: what TensorRT does there, it does on it.
    ///
    /// Errors: the context is lost.
    pub(super) fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: a context that is retained as long as `self`.
        self.driver.check(unsafe { (self.driver.set_current)(self.context) })
    }

    /// Its compute capability, e.g. `8.6`.
    ///
    /// Errors: the driver does not say.
    pub(super) fn compute_capability(&self) -> Result<String, CudaError> {
        capability(self.driver, self.device)
    }
}

/// The compute capability of a GPU, e.g. `8.6`, without a context on it; `None` if there is no such GPU.
pub(crate) fn compute_capability(number: u32) -> Option<String> {
    let driver = Driver::get().ok()?;
    let mut device = 0;
    // SAFETY: the driver writes one int.
    driver.check(unsafe { (driver.device)(&raw mut device, number as c_int) }).ok()?;
    capability(driver, device).ok()
}

fn capability(driver: &Driver, device: c_int) -> Result<String, CudaError> {
    const MAJOR: c_int = 75; // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    let attribute = |number| {
        let mut value = 0;
        // SAFETY: the driver writes one int, for a device that it has named.
        driver.check(unsafe { (driver.device_attribute)(&raw mut value, number, device) })?;
        Ok::<_, CudaError>(value)
    };
    Ok(format!("{}.{}", attribute(MAJOR)?, attribute(MAJOR + 1)?))
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: retained once, in `open`.
        unsafe { (self.driver.release_context)(self.device) };
    }
}
