//! POSIX shared memory of a client, mapped into this process.

#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    ptr::{self, NonNull},
    slice,
};

use rustix::{
    fs::{self, FileType, Mode, fstat},
    mm::{MapFlags, ProtFlags, mmap, munmap},
    shm::{self, OFlags},
};
use server_core::error::{Error, Result};

use super::{
    faults::{Watch, page_size},
    key,
};

/// Bytes written before somebody looks whether the client's memory is still there.
const STEP: usize = 1 << 20;

/// A part of a shared-memory object. It is unmapped when this is dropped, and never made, changed in size, or removed.
#[derive(Debug)]
pub(super) struct Mapping {
    /// First page.
    base: NonNull<u8>,
    /// Whole pages, bytes.
    mapped: usize,
    /// Where in the first page the part begins.
    skip: usize,
    /// Bytes of the part.
    len: usize,
    /// Taken out of the table before the pages go.
    watch: Option<Watch>,
}

// SAFETY: a mapping belongs to the whole process, as `mmap(2)` makes it, and `base` is never changed; its bytes are moved as
// opaque data only, for other processes change them at any time too.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// To be read and written; a link is not followed, for it may lead to any file of the machine, and what is no memory does not
/// keep its caller waiting. `shm_open(3)` of the C library adds the same.
fn open_flags() -> shm::OFlags {
    OFlags::from_bits_retain((fs::OFlags::RDWR | fs::OFlags::NOFOLLOW | fs::OFlags::NONBLOCK).bits())
}

impl Mapping {
    /// Maps `byte_size` bytes from `offset` on of the object that is called `key`, which need not begin with a slash.
    ///
    /// Errors, in Triton's words: `Internal`, there is no such object, or it cannot be read and written; `InvalidArgument`,
    /// the part is not inside it.
    pub(super) fn open(region: &str, key: &str, offset: u64, byte_size: u64) -> Result<Self> {
        key::check(region, key)?;
        let unable = || Error::internal(format!("Unable to open shared memory region: '{key}'"));
        let file = shm::open(key, open_flags(), Mode::empty()).map_err(|errno| {
            tracing::debug!(region, key, %errno, "shared memory cannot be opened");
            unable()
        })?;
        let status = fstat(&file).ok();
        if !status.is_some_and(|status| FileType::from_raw_mode(status.st_mode).is_file()) {
            return Err(unable()); // a pipe, a device: no memory
        }
        let size = status.and_then(|status| u64::try_from(status.st_size).ok());
        let size = size.ok_or_else(|| Error::internal(format!("Invalid shared memory region: '{key}'")))?;
        let (offset, len) = key::part(region, size, offset, byte_size)?;
        let skip = offset % page_size(); // mappings begin at a page
        let mapped = (skip + len).next_multiple_of(page_size());
        // SAFETY: `mmap(2)` with no address wanted makes a mapping where there is none, so it takes nothing from anybody.
        let base = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            mmap(ptr::null_mut(), mapped, protection, MapFlags::SHARED, &file, (offset - skip) as u64)
        };
        let base = base.map_err(|errno| {
            let reason = std::io::Error::from(errno);
            Error::invalid_argument(format!(
                "failed to register shared memory region '{region}': unable to process address space: {reason}"
            ))
        })?;
        let base = NonNull::new(base.cast::<u8>()).expect("mmap gives address 0 only if it is asked to");
        let mut mapping = Self { base, mapped, skip, len, watch: None };
        mapping.watch = Some(Watch::new(base.as_ptr() as usize, mapped)?);
        Ok(mapping)
    }

    /// Bytes of the part.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where it begins.
    pub(super) fn address(&self) -> usize {
        self.base.as_ptr() as usize + self.skip
    }

    /// Whether the client took back what it had promised, and somebody has met the gap: what was read there were zeros, and
    /// what was written there is lost.
    pub(super) fn is_broken(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_broken)
    }

    /// `len` bytes from `offset` on. Who holds them holds the mapping.
    pub(super) fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let start = self.start(offset, len);
        // SAFETY: inside the mapping, which `self` keeps, and readable also where the client's memory is gone: `faults`. The
        // client may write it meanwhile; see `Mapping`.
        unsafe { slice::from_raw_parts(start, len) }
    }

    /// Copies bytes there, which may be bytes of this mapping too. Ends early where the client's memory is gone: what takes its
    /// place is memory of this process.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        let target = self.start(offset, bytes.len());
        let distance = target.addr().abs_diff(bytes.as_ptr().addr());
        let step = match distance {
            0 => return, // they are there
            _ if distance < bytes.len() => bytes.len(),
            _ => STEP,
        };
        for (number, step_bytes) in bytes.chunks(step).enumerate() {
            // SAFETY: both are as long as the step, the target is inside the mapping, and `ptr::copy` allows that they overlap.
            unsafe { ptr::copy(step_bytes.as_ptr(), target.add(number * step), step_bytes.len()) };
            if self.is_broken() {
                return;
            }
        }
    }

    fn start(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "{len} bytes at {offset} of {}", self.len);
        // SAFETY: inside the mapping, as was just checked.
        unsafe { self.base.as_ptr().add(self.skip + offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.watch = None;
        // SAFETY: the whole mapping as `mmap(2)` made it; nobody has a reference into it, for all of them hold `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast::<c_void>(), self.mapped) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
