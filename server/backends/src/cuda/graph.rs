//! Work that a stream was given once, written down to be given again at the cost of one call.

use std::{ptr, sync::Arc};

use server_core::error::{Error, Result};

use super::{Gpu, Stream, driver::Handle};

/// Work that can be given to a stream at once.
pub(crate) struct Graph {
    gpu: Arc<Gpu>,
    handle: Handle,
}

// SAFETY: a graph may be launched by any thread, one at a time here.
unsafe impl Send for Graph {}

impl Graph {
    /// What `work` gives to the stream. It is not done meanwhile.
    ///
    /// Errors: `work` fails, or does what cannot be written down; the stream is as good as before.
    pub(crate) fn capture(stream: &Stream, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let gpu = stream.gpu().clone();
        let refused = |what: &str, error: super::CudaError| Error::internal(format!("{what}: {error}"));
        stream.begin_capture().map_err(|error| refused("unable to start CUDA graph", error))?;
        let given = work();
        let ended = stream.end_capture().map_err(|error| refused("unable to finish CUDA graph", error)); // also after a failure
        given?;
        let graph = ended?;
        let mut handle = ptr::null_mut();
        // SAFETY: the driver writes one executable graph, made of a graph that it has just given.
        let made = gpu.driver.check(unsafe { (gpu.driver.instantiate_graph)(&raw mut handle, graph, 0) });
        // SAFETY: the graph is ours, and the executable one does not need it.
        unsafe { (gpu.driver.destroy_graph)(graph) };
        made.map_err(|error| refused("unable to instantiate CUDA graph", error))?;
        Ok(Self { gpu, handle })
    }

    /// Gives the work to the stream once more.
    pub(crate) fn launch(&self, stream: &Stream) -> std::result::Result<(), super::CudaError> {
        // SAFETY: both are live.
        self.gpu.driver.check(unsafe { (self.gpu.driver.launch_graph)(self.handle, stream.handle()) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made once, in `capture`.
        let _ =
            self.gpu.enter().is_ok_and(|()| unsafe { (self.gpu.driver.destroy_executable_graph)(self.handle) } == 0);
    }
}
