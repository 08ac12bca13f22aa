//! Where the bytes of a tensor live. Cloning and slicing never copy.

use bytes::Bytes;

/// Memory that bytes lie in, as backends see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Ordinary host memory.
    Host,
    /// Host memory pinned for transfers.
    Pinned,
    /// Memory of the GPU with that number.
    Device(u32),
}

/// The bytes of one tensor: a slice of a request body, a shared-memory window or a backend's own allocation, kept
/// alive by reference count and given back when the last holder drops it.
#[derive(Debug, Clone, Default)]
pub struct Buffer {
    bytes: Bytes,
}

impl Buffer {
    /// Where the bytes lie.
    pub fn place(&self) -> Place {
        Place::Host
    }

    /// The bytes as the host sees them; `None` for device memory.
    pub fn as_host(&self) -> Option<&[u8]> {
        Some(&self.bytes)
    }

    /// The bytes as a shared handle, for writing to a socket without a copy; `None` for device memory.
    pub fn into_host(self) -> Option<Bytes> {
        Some(self.bytes)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl From<Bytes> for Buffer {
    fn from(bytes: Bytes) -> Self {
        Self { bytes }
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into() }
    }
}
