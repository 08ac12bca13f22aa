//! Memory of a GPU, and memory of the host that it copies from and to by itself.

use std::{
    ptr, slice,
    sync::{Arc, Once},
};

use super::{CudaError, Gpu, Stream, driver::DevicePointer};

/// Memory of a GPU.
pub(crate) struct DeviceMemory {
    gpu: Arc<Gpu>,
    start: DevicePointer,
    length: usize,
}

/// Host memory that is copied to a GPU or from it. It is pinned, so that copies go on by themselves, unless that is not wanted or there
/// is no more that may be pinned. Zeroed when it is made.
pub(crate) struct HostMemory {
    gpu: Arc<Gpu>,
    start: *mut u8,
    length: usize,
    is_pinned: bool,
}

// SAFETY: nobody else has the memory; any thread may use it.
unsafe impl Send for HostMemory {}

impl DeviceMemory {
    /// So many bytes, at least one.
    ///
    /// Errors: there are not so many.
    pub(crate) fn new(gpu: &Arc<Gpu>, length: usize) -> Result<Self, CudaError> {
        gpu.enter()?;
        let (mut start, length) = (0, length.max(1));
        // SAFETY: the driver writes one pointer; the context is current.
        gpu.driver.check(unsafe { (gpu.driver.allocate)(&raw mut start, length) })?;
        Ok(Self { gpu: gpu.clone(), start, length })
    }

    /// Its address on the GPU.
    pub(crate) fn address(&self) -> u64 {
        self.start
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Has all of it set to zero, after what the stream does before.
    ///
    /// Errors: the driver refuses.
    pub(crate) fn clear(&self, stream: &Stream) -> Result<(), CudaError> {
        let driver = self.gpu.driver;
        // SAFETY: it is so long. Whoever drops it has the driver wait for what still uses it.
        driver.check(unsafe { (driver.fill)(self.start, 0, self.length, stream.handle()) })
    }

    /// Has the first `length` bytes of `from` copied here, after what the stream does before.
    ///
    /// Errors: `length` is more than either holds (`CUDA_ERROR_INVALID_VALUE`), or the driver refuses.
    pub(crate) fn copy_from(&self, from: &HostMemory, length: usize, stream: &Stream) -> Result<(), CudaError> {
        let driver = self.gpu.driver;
        if length > self.length || length > from.length {
            return driver.check(1);
        }
        if length == 0 {
            return Ok(());
        }
        // SAFETY: both are at least so long. The copy reads later: whoever drops `from` waits for the stream before.
        driver.check(unsafe { (driver.copy_to_device)(self.start, from.start.cast(), length, stream.handle()) })
    }

    /// Has its first `length` bytes copied to `to`, after what the stream does before.
    ///
    /// Errors: as those of [`DeviceMemory::copy_from`].
    pub(crate) fn copy_to(&self, to: &mut HostMemory, length: usize, stream: &Stream) -> Result<(), CudaError> {
        let driver = self.gpu.driver;
        if length > self.length || length > to.length {
            return driver.check(1);
        }
        if length == 0 {
            return Ok(());
        }
        // SAFETY: both are at least so long. The copy writes later: whoever reads or drops `to` waits for the stream before.
        driver.check(unsafe { (driver.copy_to_host)(to.start.cast(), self.start, length, stream.handle()) })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: allocated once, in `new`; the driver waits for what still uses it.
        let _ = self.gpu.enter().is_ok_and(|()| unsafe { (self.gpu.driver.free)(self.start) } == 0);
    }
}

impl HostMemory {
    /// So many bytes, at least one.
    pub(crate) fn new(gpu: &Arc<Gpu>, length: usize, is_pinned: bool) -> Self {
        const FOR_ALL_CONTEXTS: u32 = 1; // CU_MEMHOSTALLOC_PORTABLE
        let (mut start, length) = (ptr::null_mut(), length.max(1));
        let may_pin = is_pinned && gpu.enter().is_ok();
        if may_pin {
            // SAFETY: the driver writes one pointer; the context is current.
            let pinned = unsafe { (gpu.driver.allocate_pinned)(&raw mut start, length, FOR_ALL_CONTEXTS) };
            match gpu.driver.check(pinned) {
                Ok(()) => {
                    let start = start.cast::<u8>();
                    // SAFETY: so many bytes begin there, and nobody else has them.
                    unsafe { ptr::write_bytes(start, 0, length) };
                    return Self { gpu: gpu.clone(), start, length, is_pinned: true };
                }
                Err(error) => warn_once(length, &error),
            }
        }
        let start = Box::into_raw(vec![0; length].into_boxed_slice()).cast();
        Self { gpu: gpu.clone(), start, length, is_pinned: false }
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Its bytes. A copy to it must have ended.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: initialised in `new`, and as long.
        unsafe { slice::from_raw_parts(self.start, self.length) }
    }

    /// Its bytes, to be written. Copies from it must have ended.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has it.
        unsafe { slice::from_raw_parts_mut(self.start, self.length) }
    }
}

/// Says that memory could not be pinned, once: that it goes on is seen by the speed.
fn warn_once(length: usize, error: &CudaError) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            "unable to pin {length} bytes of host memory: {error}; other memory is used, from and to which the GPU copies more slowly"
        );
    });
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if !self.is_pinned {
            // SAFETY: it was a box of that length.
            return drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(self.start, self.length)) });
        }
        // SAFETY: allocated once, in `new`; whoever started copies has waited for them.
        let _ = self.gpu.enter().is_ok_and(|()| unsafe { (self.gpu.driver.free_pinned)(self.start.cast()) } == 0);
    }
}
