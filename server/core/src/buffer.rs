//! Where the bytes of a tensor live. Cloning and slicing never copy.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Bytes,
    /// Nobody else has the bytes.
    is_unique: AtomicBool,
    /// A client has them mapped.
    is_of_client: bool,
}

/// A clone is for somebody else to read: neither is unique from then on.
impl Clone for Buffer {
    fn clone(&self) -> Self {
        self.is_unique.store(false, Relaxed);
        Self { bytes: self.bytes.clone(), is_unique: AtomicBool::new(false), is_of_client: self.is_of_client }
    }
}

impl Buffer {
    /// Bytes that nobody else looks at, now or later: whoever gets the buffer may let them be written.
    pub fn unique(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), is_unique: AtomicBool::new(true), is_of_client: false }
    }

    /// Bytes in a shared-memory region of a client, which may change them at any time. Whoever parses them copies them first,
    /// and whoever keeps them longer than the request does.
    pub fn of_client(bytes: Bytes) -> Self {
        Self { bytes, is_unique: AtomicBool::new(false), is_of_client: true }
    }

    /// Whether the bytes are those of [`Buffer::of_client`].
    pub fn is_of_client(&self) -> bool {
        self.is_of_client
    }

    /// Whether nobody else looks at the bytes, so that they may be written by whoever has them mapped. Says so once: who heard
    /// it is the one.
    pub fn take_unique(&self) -> bool {
        self.is_unique.swap(false, Relaxed)
    }

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
        Self { bytes, is_unique: AtomicBool::new(false), is_of_client: false }
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self::unique(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_unique_until_somebody_else_has_them_or_was_told_so() {
        let fresh = Buffer::from(vec![1]);
        assert!(fresh.take_unique() && !fresh.take_unique());
        let cloned = Buffer::unique(Bytes::from_static(b"x"));
        let clone = cloned.clone();
        assert!(!clone.take_unique() && !cloned.take_unique());
        drop(clone);
        assert!(!cloned.take_unique());
        // who made them may have kept some
        assert!(!Buffer::from(Bytes::from_static(b"x")).take_unique());
        assert!(!Buffer::default().take_unique());
    }

    #[test]
    fn the_memory_of_a_client_is_known_as_such_wherever_it_goes() {
        let buffer = Buffer::of_client(Bytes::from_static(b"x"));
        assert!(buffer.is_of_client() && buffer.clone().is_of_client() && !buffer.take_unique());
        assert!(!Buffer::from(vec![1]).is_of_client() && !Buffer::unique(vec![1]).is_of_client());
    }
}
