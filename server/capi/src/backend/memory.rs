//! `TRITONBACKEND_MemoryManager`: memory for backend libraries. There is memory of the host, and no other.

use std::{
    alloc::{self, Layout},
    collections::HashMap,
    ffi::c_void,
    ptr::{self, NonNull},
    slice,
};

use bytes::Bytes;
use parking_lot::Mutex;
use server_core::error::{Error, Result};

use super::object::{Backend, MemoryManager};
use crate::abi::{Handle, Out, export::exports, numbers::MemoryType};

/// What memory is aligned to, in bytes: a line of the cache, as vector instructions like it.
const ALIGNMENT: usize = 64;

/// Blocks up to that size are taken from the allocator as they are and zeroed here: it has such memory at hand, and looks longer for
/// memory that is aligned or zeroed. The system's pages, of which larger blocks are made, are zero.
const SMALL: usize = 16 << 10;

/// Memory of the host that a library may write to, zeroed at first.
pub(crate) struct Block {
    address: NonNull<u8>,
    byte_size: usize,
    /// What was allocated, around the block.
    allocation: NonNull<u8>,
}

// SAFETY: it is the only owner of its memory; what a library writes there from its threads, it has to put in order itself.
#[allow(unsafe_code)]
unsafe impl Send for Block {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Block {}

impl Block {
    /// So many bytes.
    ///
    /// Errors: `Unavailable` if there are not so many.
    #[allow(unsafe_code)]
    pub(crate) fn new(byte_size: u64) -> Result<Self> {
        let error = || Error::unavailable(format!("unable to allocate {byte_size} bytes of CPU memory"));
        let byte_size = usize::try_from(byte_size).map_err(|_| error())?;
        if byte_size == 0 {
            return Ok(Self { address: NonNull::dangling(), byte_size, allocation: NonNull::dangling() });
        }
        let layout = layout_around(byte_size).ok_or_else(error)?;
        if byte_size > SMALL {
            // SAFETY: the size is not 0.
            let address = NonNull::new(unsafe { alloc::alloc_zeroed(layout) }).ok_or_else(error)?;
            return Ok(Self { address, byte_size, allocation: address });
        }
        // SAFETY: the size is not 0.
        let allocation = NonNull::new(unsafe { alloc::alloc(layout) }).ok_or_else(error)?;
        let skipped = allocation.addr().get().wrapping_neg() % ALIGNMENT;
        // SAFETY: the layout has as many bytes more than the block as may be skipped, so all of the block lies in it.
        let address = unsafe {
            let address = allocation.add(skipped);
            address.write_bytes(0, byte_size);
            address
        };
        Ok(Self { address, byte_size, allocation })
    }

    /// Where it begins; null if it is empty.
    pub(crate) fn address(&self) -> *mut c_void {
        if self.byte_size == 0 { ptr::null_mut() } else { self.address.as_ptr().cast() }
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.byte_size
    }

    /// Its bytes, to be read by others: the library has done with it.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

/// What is allocated for a block of so many bytes; nothing if no memory has so many.
fn layout_around(byte_size: usize) -> Option<Layout> {
    if byte_size > SMALL {
        return Layout::from_size_align(byte_size, ALIGNMENT).ok();
    }
    Layout::from_size_align(byte_size + ALIGNMENT - 1, 1).ok()
}

impl AsRef<[u8]> for Block {
    #[allow(unsafe_code)]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: so many bytes were allocated there and zeroed; the headers bind the library not to write to them any more.
        unsafe { slice::from_raw_parts(self.address.as_ptr(), self.byte_size) }
    }
}

impl Drop for Block {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if let (1.., Some(layout)) = (self.byte_size, layout_around(self.byte_size)) {
            // SAFETY: it was allocated with this layout, and nobody has it any more.
            unsafe { alloc::dealloc(self.allocation.as_ptr(), layout) };
        }
    }
}

/// Blocks that libraries have, by address.
static BLOCKS: Mutex<Option<HashMap<usize, Block>>> = Mutex::new(None);

/// Whether memory of that kind is to be had.
///
/// Errors: `Unsupported` for memory of a GPU; `InvalidArgument` for a kind that the headers do not have.
pub(crate) fn check_kind(kind: MemoryType, device: i64) -> Result<()> {
    match kind {
        MemoryType::CPU | MemoryType::CPU_PINNED => Ok(()),
        MemoryType::GPU => Err(Error::unsupported(format!(
            "no memory of GPU {device} can be allocated: tensors lie in memory of the host here, where every model and client \
             reads them; ask for CPU memory, and copy with the runtime of the backend"
        ))),
        MemoryType(other) => Err(Error::invalid_argument(format!("there is no memory type {other}"))),
    }
}

exports! {
    /// Allocates memory, which the library gives back with [`TRITONBACKEND_MemoryManagerFree`]. Pinned memory is ordinary one.
    fn TRITONBACKEND_MemoryManagerAllocate(
        manager: Handle<Backend, MemoryManager>,
        buffer: Out<*mut c_void>,
        memory_type: MemoryType,
        memory_type_id: i64,
        byte_size: u64,
    ) {
        manager.part_of()?;
        check_kind(memory_type, memory_type_id)?;
        let block = Block::new(byte_size.max(1))?;
        let address = block.address();
        buffer.set(address)?;
        BLOCKS.lock().get_or_insert_default().insert(address.addr(), block);
        Ok(())
    }

    /// Gives memory back.
    fn TRITONBACKEND_MemoryManagerFree(
        manager: Handle<Backend, MemoryManager>,
        buffer: *mut c_void,
        memory_type: MemoryType,
        memory_type_id: i64,
    ) {
        manager.part_of()?;
        check_kind(memory_type, memory_type_id)?;
        let block = BLOCKS.lock().as_mut().and_then(|blocks| blocks.remove(&buffer.addr()));
        if block.is_none() && !buffer.is_null() {
            let text = format!("there is no memory to free at {buffer:p}: it was freed before, or was not allocated here");
            return Err(Error::invalid_argument(text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_every_size_are_aligned_zeroed_and_their_own() {
        for size in [0, 1, 63, 64, 65, 1000, SMALL - 1, SMALL, SMALL + 1, 1 << 20] {
            let mut blocks: Vec<_> = (0..3).map(|_| Block::new(size as u64).unwrap()).collect();
            for block in &mut blocks {
                assert_eq!((block.len(), block.address().addr() % ALIGNMENT), (size, 0), "{size}");
                assert!(block.as_ref().iter().all(|&byte| byte == 0), "{size}");
                // SAFETY: so many bytes lie there.
                #[allow(unsafe_code)]
                unsafe {
                    block.address().cast::<u8>().write_bytes(1, size);
                }
            }
            assert!(blocks.into_iter().all(|block| block.into_bytes().iter().all(|&byte| byte == 1)), "{size}");
        }
        assert!(Block::new(u64::MAX).is_err());
    }
}
