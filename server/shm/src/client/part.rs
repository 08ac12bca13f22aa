//! A part of a region, as a request speaks of it: an input lies there, or an output is written there.

use std::fmt;

use bytes::Bytes;
use server_core::{
    buffer::Buffer,
    error::{Error, Result},
    request::OutputMemory,
};

use super::region::{Memory, Use};

/// A checked part of a region; the region stays as long as this.
pub struct Part {
    region: Use,
    offset: usize,
    len: usize,
}

impl Part {
    pub(super) fn new(region: Use, offset: usize, len: usize) -> Self {
        Self { region, offset, len }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its bytes, where they lie.
    ///
    /// Errors: it comes back, for the host cannot read it there.
    pub fn in_place(self) -> std::result::Result<Buffer, Self> {
        match self.region.region().memory() {
            Memory::System { .. } => Ok(Buffer::of_client(Bytes::from_owner(View(self)))),
            Memory::Cuda(_) => Err(self),
        }
    }

    /// A copy of its bytes.
    ///
    /// Errors: the region is broken, or its device refuses.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        match self.region.region().memory() {
            Memory::System { mapping, .. } => {
                let bytes = mapping.bytes(self.offset, self.len).to_vec();
                self.region.region().check().map(|()| bytes)
            }
            Memory::Cuda(memory) => memory.read(self.offset, self.len),
        }
    }
}

impl OutputMemory for Part {
    fn byte_size(&self) -> usize {
        self.len
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() > self.len {
            return Err(Error::internal(format!(
                "{} bytes do not fit into {} bytes of shared memory region '{}'",
                bytes.len(),
                self.len,
                self.region.region().name()
            )));
        }
        match self.region.region().memory() {
            Memory::System { mapping, .. } => {
                mapping.write(self.offset, bytes);
                self.region.region().check()
            }
            Memory::Cuda(memory) => memory.write(self.offset, bytes),
        }
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, offset, len } = self;
        f.debug_struct("Part")
            .field("region", &region.region().name())
            .field("offset", offset)
            .field("len", len)
            .finish()
    }
}

/// Bytes of a part on the host.
struct View(Part);

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        match self.0.region.region().memory() {
            Memory::System { mapping, .. } => mapping.bytes(self.0.offset, self.0.len),
            Memory::Cuda(_) => &[],
        }
    }
}
