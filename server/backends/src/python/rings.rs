//! The server's end of the rings through which a worker's execute channel goes, and the extension module by which the worker has its own.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use once_cell::sync::OnceCell;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use server_core::error::{Error, Result};
use server_shm::{Segment, Shared};

use super::ring::{Corrupt, Next, Pair, Put, Reader, Writer};

/// The module: `extension/lib.rs`, compiled by the build script.
const EXTENSION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/worker_extension.so"));

#[allow(unsafe_code)]
// SAFETY: two `Ring`s, which are atomics alone, all `repr(C)`; aligned to a cache line.
unsafe impl Shared for Pair {}

/// The server's end.
pub(super) struct Rings {
    memory: Arc<Segment>,
    writer: Writer,
    reader: Reader,
}

impl Rings {
    /// New and empty.
    ///
    /// Errors: the system has no memory or no descriptors.
    pub(super) fn new() -> Result<Self> {
        let memory = Segment::create("triton_python_backend_rings", size_of::<Pair>())?;
        Ok(Self { memory, writer: Writer::default(), reader: Reader::default() })
    }

    /// The memory, for the worker.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    /// Puts a message in, if it has room.
    ///
    /// Errors: the worker has spoilt the memory; also below.
    pub(super) fn put(&mut self, message: &[u8]) -> Result<Put> {
        let Self { memory, writer, .. } = self;
        writer.put(&pair(memory)?.to_worker, message).map_err(spoilt)
    }

    /// Says that the next message is on the socket, if there is room to.
    pub(super) fn put_elsewhere(&mut self) -> Result<bool> {
        let Self { memory, writer, .. } = self;
        Ok(writer.put_elsewhere(&pair(memory)?.to_worker).map_err(spoilt)? != Put::Full)
    }

    /// The next message, if there is one.
    pub(super) fn next(&self) -> Result<Option<Next>> {
        self.reader.next(&pair(&self.memory)?.to_server).map_err(spoilt)
    }

    /// Takes out the message that is next, with all its bytes.
    pub(super) fn take(&mut self, into: &mut [u8]) -> Result<()> {
        let Self { memory, reader, .. } = self;
        reader.take(&pair(memory)?.to_server, into);
        Ok(())
    }

    /// Says whether the worker may look for its next message for a moment before it sleeps.
    ///
    /// Errors: as above.
    pub(super) fn set_worker_may_spin(&self, may_spin: bool) -> Result<()> {
        pair(&self.memory)?.may_spin.store(may_spin.into(), Relaxed);
        Ok(())
    }

    /// Whether the server may sleep: then the worker wakes it when it has put in so many more.
    pub(super) fn may_sleep(&self, messages: u32) -> Result<bool> {
        Ok(self.reader.may_sleep(&pair(&self.memory)?.to_server, messages))
    }

    /// The server is awake.
    pub(super) fn wake(&self) -> Result<()> {
        self.reader.wake(&pair(&self.memory)?.to_server);
        Ok(())
    }
}

fn pair(memory: &Segment) -> Result<&Pair> {
    memory.shared(0).ok_or_else(|| spoilt(Corrupt)) // it was made with room for them
}

fn spoilt(_: Corrupt) -> Error {
    Error::internal("what a Python worker has written into the memory that it shares with the server cannot be read")
}

/// The extension module as a memory file, for a worker: all of them share its memory, which nobody can change, and it needs no folder that
/// modules may be loaded from.
///
/// Errors: the system's.
pub(super) fn extension() -> io::Result<OwnedFd> {
    static FILE: OnceCell<OwnedFd> = OnceCell::new();
    let make = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("triton_python_backend_extension", flags)?);
        file.write_all(EXTENSION)?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok::<_, io::Error>(file.into())
    };
    FILE.get_or_try_init(make)?.as_fd().try_clone_to_owned()
}
