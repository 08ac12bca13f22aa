//! Shared memory of clients, as front ends use it: regions are registered, inputs found in them; and the outputs of a request
//! are written there on their way out.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use server_core::{
    buffer::Buffer,
    byte_budget::{ByteBudget, Reservation},
    error::{Error, Result},
    request::{InferRequest, OutputWindow, RequestedOutput},
    response::InferResponse,
    tensor::{DataType, Name, Tensor},
};
pub use server_shm::{Kind as MemoryKind, RegionStatus};
use server_shm::{Region, Regions};
use smallvec::SmallVec;

use crate::{BlockingPool, aside::aside};

/// More bytes of a response are copied on the blocking pool: about half a millisecond of work.
const LONG_COPY: usize = 4 << 20;

/// Longest name of a region in bytes: it is kept as long as the region.
const MAX_NAME: usize = 4096;

/// Whether it takes long to check a request: its strings are counted, and in shared memory they may be many for a small
/// message.
pub(crate) fn is_long(request: &InferRequest) -> bool {
    request.inputs.iter().any(|input| input.data_type == DataType::Bytes && input.data.len() > LONG_COPY)
}

/// Whether and how clients share memory with the server: what the command line decides.
#[derive(Debug, Clone)]
pub struct SharedMemoryOptions {
    /// `--allow-client-shm`: clients may register regions.
    pub is_allowed: bool,
    /// Bounds what requests copy out of regions.
    pub byte_budget: Arc<ByteBudget>,
    /// Where much is copied.
    pub blocking_pool: BlockingPool,
}

impl Default for SharedMemoryOptions {
    fn default() -> Self {
        let (byte_budget, blocking_pool) = (Arc::new(ByteBudget::new(0)), BlockingPool::default());
        Self { is_allowed: false, byte_budget, blocking_pool }
    }
}

/// A part of a region, as a request speaks of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionPart<'a> {
    /// Name that the region was registered under.
    pub region: &'a str,
    /// Where in the region it begins, bytes.
    pub offset: u64,
    /// Length in bytes.
    pub byte_size: u64,
}

/// The regions of all clients. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct SharedMemory {
    options: SharedMemoryOptions,
    regions: Regions,
}

impl SharedMemory {
    pub(crate) fn new(options: SharedMemoryOptions) -> Self {
        Self { options, regions: Regions::default() }
    }

    /// Maps a part of the POSIX shared-memory object `key` under a name.
    ///
    /// Errors: `Unsupported`, clients may not; else those of [`Regions::register_system`].
    pub fn register_system(&self, name: &str, key: &str, offset: u64, byte_size: u64) -> Result<()> {
        self.check_name(MemoryKind::System, name)?;
        self.regions.register_system(name, key, offset, byte_size)
    }

    /// Opens memory of a GPU under a name: `handle` is a `cudaIpcMemHandle_t`.
    ///
    /// Errors: `Unsupported`, clients may not; else those of [`Regions::register_cuda`].
    pub fn register_cuda(&self, name: &str, handle: &[u8], device_id: u64, byte_size: u64) -> Result<()> {
        self.check_name(MemoryKind::Cuda, name)?;
        self.regions.register_cuda(name, handle, device_id, byte_size)
    }

    /// Forgets a region, or all of a kind if the name is empty; those in use when their last request has ended.
    ///
    /// Errors: `Unsupported`, clients may not.
    pub fn unregister(&self, kind: MemoryKind, name: &str) -> Result<()> {
        self.check_allowed()?;
        match name {
            "" => self.regions.unregister_all(kind),
            name => self.regions.unregister(kind, name),
        }
        Ok(())
    }

    /// The regions of a kind, or the one of that name if it is not empty.
    ///
    /// Errors: `NotFound`, there is none of that name and kind.
    pub fn status(&self, kind: MemoryKind, name: &str) -> Result<Vec<RegionStatus>> {
        self.regions.status(kind, name)
    }

    /// The bytes of an input. They are read where they lie; but what is parsed, and what lies on a device, is copied, for the
    /// client may change it meanwhile.
    ///
    /// Errors: those of [`Regions::part`]; those of [`ByteBudget::reserve`] for a copy.
    pub fn input(&self, part: &RegionPart<'_>, data_type: Option<DataType>) -> Result<Buffer> {
        let part = self.regions.part(part.region, part.offset, part.byte_size)?;
        let part = match data_type {
            None | Some(DataType::Bytes) => part,
            Some(_) => match part.in_place() {
                Ok(buffer) => return Ok(buffer),
                Err(part) => part,
            },
        };
        let reservation = self.options.byte_budget.reserve(part.len())?;
        let bytes = aside(part.len() > LONG_COPY, || part.to_vec())?;
        Ok(Buffer::unique(Bytes::from_owner(Copied { bytes, _reservation: reservation })))
    }

    /// Where an output is to be written.
    ///
    /// Errors: those of [`Regions::part`].
    pub fn output(&self, part: &RegionPart<'_>) -> Result<OutputWindow> {
        let part = self.regions.part(part.region, part.offset, part.byte_size)?;
        Ok(OutputWindow(Arc::new(part)))
    }

    /// What is left to do for a request when its response comes; `None` if it has nothing to do with regions.
    pub(crate) fn delivery_of(&self, request: &InferRequest) -> Option<Box<Delivery>> {
        let reads = request.inputs.iter().any(|input| input.data.is_of_client());
        let writes = request.outputs.iter().any(|output| output.window.is_some());
        (reads || writes).then(|| {
            let window = |output: &RequestedOutput| Some((output.name.clone(), output.window.clone()?));
            let places = Places {
                inputs: request.inputs.iter().filter_map(|input| Region::of(&input.data)).collect(),
                windows: request.outputs.iter().filter_map(window).collect(),
            };
            Box::new(Delivery { places: Arc::new(places), pool: self.options.blocking_pool.clone(), under_way: None })
        })
    }

    fn check_allowed(&self) -> Result<()> {
        if self.options.is_allowed {
            return Ok(());
        }
        Err(Error::unsupported(
            "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.",
        ))
    }

    /// Whether a region may be registered under that name, as far as it is known before anything else of it.
    ///
    /// Errors: `Unsupported`, clients may not; `InvalidArgument`, there is no name, or it is too long.
    pub fn check_name(&self, kind: MemoryKind, name: &str) -> Result<()> {
        self.check_allowed()?;
        if name.is_empty() {
            let kind = match kind {
                MemoryKind::System => "system",
                MemoryKind::Cuda => "cuda",
            };
            return Err(Error::invalid_argument(format!(
                "'region name' is necessary to register {kind} shared memory region"
            )));
        }
        if name.len() > MAX_NAME {
            return Err(Error::invalid_argument(format!(
                "the name of a shared memory region has {} bytes, {MAX_NAME} are the maximum: choose a shorter one",
                name.len()
            )));
        }
        Ok(())
    }

    /// Whether there is a GPU for memory of that name.
    ///
    /// Errors: `InvalidArgument` in Triton's words, there is none.
    pub fn check_gpu(&self, name: &str) -> Result<()> {
        if !Regions::has_cuda() {
            return Err(Error::invalid_argument(format!(
                "failed to register CUDA shared memory region: '{name}', GPUs not supported"
            )));
        }
        Ok(())
    }
}

/// Bytes that were copied out of a region, and their part of the budget.
struct Copied {
    bytes: Vec<u8>,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Copied {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What a request has to do with regions, as seen from its response.
struct Places {
    /// Where its inputs lie.
    inputs: SmallVec<[Arc<Region>; 2]>,
    /// Where outputs are wanted, by name.
    windows: SmallVec<[(Name, OutputWindow); 2]>,
}

/// A response that is copied on the blocking pool.
type UnderWay = Pin<Box<dyn Future<Output = Result<InferResponse>> + Send>>;

/// Brings the responses of a request where they are wanted.
pub(crate) struct Delivery {
    places: Arc<Places>,
    pool: BlockingPool,
    under_way: Option<UnderWay>,
}

impl Delivery {
    /// Begins with a response. The blocking pool copies what is large.
    pub(crate) fn begin(&mut self, response: InferResponse, context: &mut Context<'_>) -> Poll<Result<InferResponse>> {
        if self.places.copied_bytes(&response) <= LONG_COPY {
            return Poll::Ready(self.places.settle(response));
        }
        let (places, pool) = (self.places.clone(), self.pool.clone());
        self.under_way = Some(Box::pin(async move { pool.run(move || places.settle(response)).await? }));
        self.poll(context).unwrap_or(Poll::Pending)
    }

    /// Goes on with the response that was begun; `None` if none was, or it is done.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Option<Poll<Result<InferResponse>>> {
        let poll = self.under_way.as_mut()?.as_mut().poll(context);
        if poll.is_ready() {
            self.under_way = None;
        }
        Some(poll)
    }
}

impl Places {
    fn window(&self, output: &Name) -> Option<&OutputWindow> {
        self.windows.iter().find(|(name, _)| name == output).map(|(_, window)| window)
    }

    fn copied_bytes(&self, response: &InferResponse) -> usize {
        let is_copied = |output: &&Tensor| output.data.is_of_client() || self.window(&output.name).is_some();
        response.outputs.iter().filter(is_copied).map(|output| output.data.len()).sum()
    }

    /// Writes outputs where they are wanted, which leaves their tensors without bytes. Outputs that lie in a region and are
    /// wanted in the response are copied, for the client may change them before they are sent.
    ///
    /// Errors: an output does not fit, in Triton's words; or a region is broken, also that of an input: what the model has seen
    /// was not what the client meant.
    fn settle(&self, mut response: InferResponse) -> Result<InferResponse> {
        for output in &mut response.outputs {
            if let Some(OutputWindow(window)) = self.window(&output.name) {
                let data = mem::take(&mut output.data);
                let bytes = data.as_host().ok_or_else(|| not_on_host(&output.name))?;
                if bytes.len() > window.byte_size() {
                    return Err(too_small(&output.name, window.byte_size(), bytes.len()));
                }
                window.write(bytes)?;
            } else if output.data.is_of_client() {
                let bytes = output.data.as_host().ok_or_else(|| not_on_host(&output.name))?;
                output.data = bytes.to_vec().into();
            }
        }
        self.inputs.iter().try_for_each(|region| region.check()).map(|()| response)
    }
}

#[cold]
fn too_small(output: &Name, window: usize, bytes: usize) -> Error {
    Error::internal(format!(
        "shared memory size specified with the request for output '{output}' ({window} bytes) should be at least {bytes} bytes \
         to hold the results"
    ))
}

#[cold]
fn not_on_host(output: &Name) -> Error {
    Error::internal(format!("output '{output}' does not lie in host memory"))
}

#[cfg(test)]
mod tests;
