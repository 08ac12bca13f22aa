//! `TRITONBACKEND_MemoryManager`: memory for backend libraries. There is memory of the host, and no other.

use std::{collections::HashMap, ffi::c_void};

use parking_lot::Mutex;
use server_core::error::{Error, Result};

use super::object::Backend;
use crate::abi::{Handle, Out, export::exports, handle::Part, numbers::MemoryType};

/// The part of a backend that gives it memory.
pub(crate) struct MemoryManager;

impl Part for MemoryManager {
    const NAME: &'static str = "TRITONBACKEND_MemoryManager";
}

/// What memory is aligned to: a line of the cache, as vector instructions like it.
const ALIGNMENT: usize = 64;

/// Memory of the host that a library may write to, zeroed, by the address it begins at.
pub(crate) struct Block(Vec<Line>);

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; ALIGNMENT]);

impl Block {
    /// So many bytes.
    ///
    /// Errors: `Unavailable` if there are not so many.
    pub(crate) fn new(byte_size: u64) -> Result<Self> {
        let lines = usize::try_from(byte_size.div_ceil(ALIGNMENT as u64)).unwrap_or(usize::MAX);
        let mut block = Vec::new();
        block
            .try_reserve_exact(lines)
            .map_err(|_| Error::unavailable(format!("unable to allocate {byte_size} bytes of CPU memory")))?;
        block.resize(lines, Line([0; ALIGNMENT]));
        Ok(Self(block))
    }

    /// Where it begins.
    pub(crate) fn address(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
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
            "no memory of GPU {device} can be allocated: this server gives its backend libraries memory of the host alone"
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
        let mut block = Block::new(byte_size.max(1))?;
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
