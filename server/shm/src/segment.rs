//! One piece of memory that other processes can map.

#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    ffi::c_void,
    fmt,
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    slice,
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::RwLock;
use rustix::{
    fs::{
        FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate,
        memfd_create,
    },
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};
use server_core::{
    buffer::Buffer,
    error::{Error, Result},
};

/// Number of the next segment. Numbers are not used twice in the life of a process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Which addresses of this process belong to which segment, by that of the first byte.
///
/// Bytes in a segment travel as plain `Bytes`, cut into slices by code that knows nothing of segments. Their address says
/// where they lie, without a word for it in every buffer: who holds bytes of a segment keeps it mapped, and no two mappings
/// overlap.
static MAPPED: RwLock<BTreeMap<usize, Weak<Segment>>> = RwLock::new(BTreeMap::new());

/// A memory file, mapped into this process to be read and written, and unmapped when the last holder drops it. Neither this
/// process nor another can make it shorter, so that no access faults.
///
/// Another process that maps it may write at any time, also what this one reads through a `&[u8]`. By the words of the
/// language that is a race. What makes it harmless: such bytes are only ever moved, to a socket, a device or another
/// buffer, as opaque data. Who decides by what they say (lengths of strings, kinds of messages) copies them first, or checks
/// again what it relies on. Words that both sides use to talk to each other are atomics: [`Segment::atomic_u32`].
pub struct Segment {
    id: u64,
    base: NonNull<u8>,
    len: usize,
    fd: OwnedFd,
}

// SAFETY: the mapping belongs to the whole process, as `mmap(2)` makes it; `base` is never changed, and memory is written
// only through `SoleUse`, whose maker promises that nobody else in this process uses it.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// A new segment of `len` bytes, all zero. They take memory only once they are written. `/proc` shows it as
    /// `memfd:NAME`.
    ///
    /// Errors: `Unavailable`, the system has no memory or no descriptor for it; `InvalidArgument`, no bytes, or a name of
    /// more than 249 bytes or with a zero byte.
    pub fn create(name: &str, len: usize) -> Result<Arc<Self>> {
        if len == 0 {
            return Err(Error::invalid_argument("shared memory of 0 bytes was asked for"));
        }
        let failed = |step| move |errno| cannot(step, len, errno);
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(failed("create"))?;
        ftruncate(&fd, len as u64).map_err(failed("size"))?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).map_err(failed("seal"))?;
        Self::map(fd, len)
    }

    /// The first `len` bytes of a memory file that another process made. It is sealed against being made shorter, if it
    /// is not yet.
    ///
    /// Errors: `InvalidArgument`, it is shorter than that, or cannot be sealed (not a memory file, or one made without
    /// `MFD_ALLOW_SEALING`); `Unavailable`, the system cannot map it.
    pub fn open(fd: OwnedFd, len: usize) -> Result<Arc<Self>> {
        if len == 0 {
            return Err(Error::invalid_argument("shared memory of 0 bytes was given"));
        }
        let sealed = fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        if !sealed {
            fcntl_add_seals(&fd, SealFlags::SHRINK).map_err(|errno| {
                Error::invalid_argument(format!(
                    "shared memory of another process cannot be used, for it cannot be sealed against being made shorter: \
                     {errno}. It has to be a memory file made with MFD_ALLOW_SEALING."
                ))
            })?;
        }
        // after the seal: the length that is seen now stays
        let stat = fstat(&fd).map_err(|errno| cannot("look at", len, errno))?;
        if usize::try_from(stat.st_size).is_ok_and(|size| size < len) {
            return Err(Error::invalid_argument(format!(
                "shared memory of another process has {} bytes, {len} were said",
                stat.st_size
            )));
        }
        Self::map(fd, len)
    }

    fn map(fd: OwnedFd, len: usize) -> Result<Arc<Self>> {
        // SAFETY: `mmap(2)` with no address wanted makes a mapping where there is none, so it takes nothing from anybody.
        let base = unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &fd, 0) };
        let base = base.map_err(|errno| cannot("map", len, errno))?;
        let base = NonNull::new(base.cast::<u8>()).expect("mmap gives address 0 only if it is asked to");
        let segment = Arc::new(Self { id: NEXT_ID.fetch_add(1, Relaxed), base, len, fd });
        insert(&segment);
        Ok(segment)
    }

    /// The segment that the bytes of a buffer lie in, and at what offset; `None` if they lie elsewhere, or there are none.
    pub fn of(buffer: &Buffer) -> Option<(Arc<Self>, usize)> {
        find(buffer.as_host()?)
    }

    /// Its number, unique in the life of this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Length in bytes; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The memory file, to be sent to another process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// Bytes of the segment, to be read. `keep` is dropped with the last clone and slice of them: it can tell that they are
    /// not looked at any more.
    ///
    /// Errors: `InvalidArgument` if the range is not inside the segment.
    pub fn view<K: Send + 'static>(self: &Arc<Self>, range: Range<usize>, keep: K) -> Result<Bytes> {
        self.check(&range)?;
        Ok(Bytes::from_owner(View { segment: self.clone(), range, keep }))
    }

    /// Four bytes that both processes change; `None` if they are not inside the segment, or `offset` is no multiple of 4.
    pub fn atomic_u32(&self, offset: usize) -> Option<&AtomicU32> {
        let is_inside = offset.is_multiple_of(4) && offset.checked_add(4)? <= self.len;
        // SAFETY: inside the mapping and aligned as `AtomicU32::from_ptr` asks, for mappings begin at a page; the mapping
        // lives as long as `self`.
        is_inside.then(|| unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) })
    }

    /// One byte that both processes change; `None` if it is not inside the segment.
    pub fn atomic_u8(&self, offset: usize) -> Option<&AtomicU8> {
        // SAFETY: inside the mapping, which lives as long as `self`.
        (offset < self.len).then(|| unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(offset)) })
    }

    /// What both processes change, from that offset on; `None` if it is not inside the segment, or `offset` is no place for it.
    pub fn shared<T: Shared>(&self, offset: usize) -> Option<&T> {
        let is_inside = offset.is_multiple_of(align_of::<T>()) && offset.checked_add(size_of::<T>())? <= self.len;
        // SAFETY: inside the mapping, which lives as long as `self`, and aligned, for mappings begin at a page and no `Shared` is aligned
        // to more; it is valid whatever the other process writes.
        is_inside.then(|| unsafe { &*self.base.as_ptr().add(offset).cast::<T>() })
    }

    fn check(&self, range: &Range<usize>) -> Result<()> {
        if range.start <= range.end && range.end <= self.len {
            return Ok(());
        }
        Err(Error::invalid_argument(format!(
            "bytes {} to {} of shared memory of {} bytes were asked for",
            range.start, range.end, self.len
        )))
    }

    /// Gives the memory back to the system, also where another process has it mapped: it reads as zeros from then on.
    pub(crate) fn discard(&self) {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(errno) = fallocate(&self.fd, how, 0, self.len as u64) {
            tracing::debug!(bytes = self.len, %errno, "shared memory is given back only when the last process unmaps it");
        }
    }
}

/// Enters a segment that was just mapped.
fn insert(segment: &Arc<Segment>) {
    MAPPED.write().insert(segment.address(), Arc::downgrade(segment));
}

/// Takes a segment out: to be called before it is unmapped, for its addresses may be somebody else's right after.
fn remove(address: usize) {
    MAPPED.write().remove(&address);
}

/// The segment that these bytes lie in, and where in it; `None` for bytes elsewhere, and for no bytes.
fn find(bytes: &[u8]) -> Option<(Arc<Segment>, usize)> {
    if bytes.is_empty() {
        return None;
    }
    let address = bytes.as_ptr() as usize;
    let segment = MAPPED.read().range(..=address).next_back()?.1.upgrade()?;
    let offset = address - segment.address();
    let is_inside = offset.checked_add(bytes.len()).is_some_and(|end| end <= segment.len());
    is_inside.then_some((segment, offset))
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("id", &self.id).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        remove(self.address());
        // SAFETY: the whole mapping as `mmap(2)` made it; nobody has a reference into it, for all of them hold `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// What may lie in a segment and be changed by both processes at any time: [`Segment::shared`].
///
/// # Safety
///
/// It consists of atomics of whole numbers alone, so that it is valid whatever bytes are there; it has the same layout in both
/// processes (`repr(C)`), and is aligned to 4096 bytes at most.
pub unsafe trait Shared {}

/// A segment that nobody else in this process reads or writes.
#[derive(Debug)]
pub(crate) struct SoleUse(Arc<Segment>);

impl SoleUse {
    /// # Safety
    /// Until the result is dropped or turned into the segment again, nobody else in this process may read or write the
    /// bytes of the segment.
    pub(crate) unsafe fn new(segment: Arc<Segment>) -> Self {
        Self(segment)
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.0
    }

    pub(crate) fn into_segment(self) -> Arc<Segment> {
        self.0
    }

    pub(crate) fn bytes(&self, len: usize) -> &[u8] {
        assert!(len <= self.0.len);
        // SAFETY: inside the mapping, which `self.0` keeps; whoever made `self` promised that nobody writes meanwhile.
        unsafe { slice::from_raw_parts(self.0.base.as_ptr(), len) }
    }

    pub(crate) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.0.len);
        // SAFETY: as in `bytes`, and `&mut self` makes it the only reference.
        unsafe { slice::from_raw_parts_mut(self.0.base.as_ptr(), len) }
    }
}

/// What keeps bytes of a segment.
struct View<K> {
    segment: Arc<Segment>,
    range: Range<usize>,
    #[expect(dead_code, reason = "held for its drop")]
    keep: K,
}

impl<K> AsRef<[u8]> for View<K> {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `Segment::view` checked that the range is inside the mapping, which `self.segment` keeps. In this process
        // nobody writes what is viewed: `SoleUse` ends before. About other processes, see `Segment`.
        unsafe { slice::from_raw_parts(self.segment.base.as_ptr().add(self.range.start), self.range.len()) }
    }
}

fn cannot(step: &str, len: usize, errno: Errno) -> Error {
    let cure = match errno {
        Errno::MFILE | Errno::NFILE => ". Too many files are open: raise the limit of the process (ulimit -n)",
        Errno::NOMEM => ". Give the server more memory, or send less at once",
        _ => "",
    };
    Error::unavailable(format!("unable to {step} {len} bytes of shared memory: {errno}{cure}."))
}

#[cfg(test)]
mod tests;
