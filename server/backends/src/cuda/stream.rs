//! What a GPU does one after the other, and moments in it.

use std::{ptr, sync::Arc};

use super::{CudaError, Gpu, driver::Handle};

/// How a GPU chooses between streams that could go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Priority {
    /// Before others.
    High,
    /// As it comes.
    #[default]
    Usual,
    /// After others.
    Low,
}

/// A queue of work for a GPU.
pub(crate) struct Stream {
    gpu: Arc<Gpu>,
    handle: Handle,
}

/// A moment in a stream.
pub(crate) struct Event {
    gpu: Arc<Gpu>,
    handle: Handle,
}

// SAFETY: streams and events may be used by any thread, one at a time here.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Send for Event {}

impl Stream {
    /// A stream that does not wait for the default one.
    ///
    /// Errors: the driver refuses.
    pub(crate) fn new(gpu: &Arc<Gpu>, priority: Priority) -> Result<Self, CudaError> {
        const NON_BLOCKING: u32 = 1; // CU_STREAM_NON_BLOCKING
        gpu.enter()?;
        let (mut least, mut greatest, mut handle) = (0, 0, ptr::null_mut());
        // SAFETY: the driver writes two ints; the context is current.
        gpu.driver.check(unsafe { (gpu.driver.stream_priorities)(&raw mut least, &raw mut greatest) })?;
        let number = match priority {
            Priority::High => greatest,
            Priority::Usual => 0,
            Priority::Low => least,
        };
        // SAFETY: the driver writes one stream.
        gpu.driver.check(unsafe { (gpu.driver.create_stream)(&raw mut handle, NON_BLOCKING, number) })?;
        Ok(Self { gpu: gpu.clone(), handle })
    }

    /// The driver's handle, which is `cudaStream_t` as well.
    pub(crate) fn handle(&self) -> Handle {
        self.handle
    }

    /// Has what comes from now on wait for that moment.
    pub(crate) fn wait_for(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both are live.
        self.gpu.driver.check(unsafe { (self.gpu.driver.stream_waits)(self.handle, event.handle, 0) })
    }

    /// Blocks until the GPU has done everything in it.
    ///
    /// Errors: something in it failed.
    pub(crate) fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: a live stream.
        self.gpu.driver.check(unsafe { (self.gpu.driver.synchronize_stream)(self.handle) })
    }

    /// From now on its work is not done but written down, until [`Stream::end_capture`]. Other threads are not disturbed.
    pub(super) fn begin_capture(&self) -> Result<(), CudaError> {
        const THREAD_LOCAL: u32 = 1; // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        // SAFETY: a live stream.
        self.gpu.driver.check(unsafe { (self.gpu.driver.begin_capture)(self.handle, THREAD_LOCAL) })
    }

    /// What was written down; null if that failed.
    pub(super) fn end_capture(&self) -> Result<Handle, CudaError> {
        let mut graph = ptr::null_mut();
        // SAFETY: a stream that is captured; the driver writes one graph.
        self.gpu.driver.check(unsafe { (self.gpu.driver.end_capture)(self.handle, &raw mut graph) })?;
        Ok(graph)
    }

    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
}

impl Event {
    /// A moment that [`Event::wait`] waits for, busily or asleep.
    ///
    /// Errors: the driver refuses.
    pub(crate) fn new(gpu: &Arc<Gpu>, waits_busily: bool) -> Result<Self, CudaError> {
        const BLOCKING_SYNC: u32 = 1; // CU_EVENT_BLOCKING_SYNC
        const DISABLE_TIMING: u32 = 2; // CU_EVENT_DISABLE_TIMING
        gpu.enter()?;
        let flags = if waits_busily { DISABLE_TIMING } else { DISABLE_TIMING | BLOCKING_SYNC };
        let mut handle = ptr::null_mut();
        // SAFETY: the driver writes one event; the context is current.
        gpu.driver.check(unsafe { (gpu.driver.create_event)(&raw mut handle, flags) })?;
        Ok(Self { gpu: gpu.clone(), handle })
    }

    /// Is the moment when the stream has done what it was given until now.
    pub(crate) fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both are live, and of the same context.
        self.gpu.driver.check(unsafe { (self.gpu.driver.record_event)(self.handle, stream.handle) })
    }

    /// Blocks until that moment; at once if it was never recorded.
    ///
    /// Errors: something before it failed.
    pub(crate) fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: a live event.
        self.gpu.driver.check(unsafe { (self.gpu.driver.synchronize_event)(self.handle) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made once, in `new`; the driver ends its work before.
        let _ = self.gpu.enter().is_ok_and(|()| unsafe { (self.gpu.driver.destroy_stream)(self.handle) } == 0);
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made once, in `new`.
        let _ = self.gpu.enter().is_ok_and(|()| unsafe { (self.gpu.driver.destroy_event)(self.handle) } == 0);
    }
}
