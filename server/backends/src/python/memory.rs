//! Memory that server and worker share: inputs that the worker looks at, and segments of the worker with outputs.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, Release},
        },
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use server_core::{
    buffer::Buffer,
    error::{Error, Result},
};
use server_shm::{Segment, SegmentPool};

use super::wire::INLINE_MAX;

// === inputs ===

/// Memory of inputs begins at a multiple of this, bytes: no element of any type needs more.
const ALIGNMENT: usize = 8;
/// Which part of the limit for all workers the inputs that one of them looks at may take.
const SHARE_OF_WORKER: usize = 2;
/// Which part of it they may take where they lie. Their bytes count as those of requests in flight, which would have no
/// place if a model kept many; so what is beyond is copied first.
const SHARE_IN_PLACE: usize = 16;

/// Inputs that the worker was shown by reference. Each stays as it is until the worker says that nobody looks at it.
pub(super) struct InputLeases {
    pool: Arc<SegmentPool>,
    /// Bytes that all workers may be shown together; 0 is no limit.
    limit: usize,
    copies_always: AtomicBool,
    state: Mutex<LeasesState>,
}

#[derive(Default)]
struct LeasesState {
    inputs: HashMap<u64, Input>,
    last_handle: u64,
    /// Bytes of all inputs.
    bytes: usize,
    /// Bytes of those that lie where the request was received.
    in_place: usize,
}

struct Input {
    bytes: Bytes,
    is_in_place: bool,
}

/// Where the worker finds an input.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) handle: u64,
    pub(super) segment: Arc<Segment>,
    pub(super) offset: usize,
    pub(super) length: usize,
}

impl InputLeases {
    /// Nothing is leased; `limit` is that of all workers, in bytes; 0 for none.
    pub(super) fn new(pool: Arc<SegmentPool>, limit: usize) -> Self {
        Self { pool, limit, copies_always: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Where the memory that is shown comes from.
    pub(super) fn pool(&self) -> &Arc<SegmentPool> {
        &self.pool
    }

    /// From now on every input is copied, for requests come again and must be as they were.
    pub(super) fn copy_always(&self) {
        self.copies_always.store(true, Relaxed);
    }

    /// Shows an input to the worker, which may write in it: by reference if it lies in a segment and nobody else looks at it,
    /// else a copy.
    ///
    /// Errors: `Unavailable` if there is no memory for it, or the worker keeps too many inputs.
    pub(super) fn lease(&self, buffer: &Buffer) -> Result<Lease> {
        let bytes =
            buffer.as_host().ok_or_else(|| Error::unsupported("Python models read the memory of the host only"))?;
        let length = bytes.len();
        let is_small_part = self.check(length)?;
        let found = Segment::of(buffer).filter(|(_, offset)| offset.is_multiple_of(ALIGNMENT));
        let may_share = is_small_part && !self.copies_always.load(Relaxed);
        let in_place = found.filter(|_| may_share && buffer.take_unique()).zip(buffer.clone().into_host());
        let is_in_place = in_place.is_some();
        let ((segment, offset), bytes) = match in_place {
            Some(in_place) => in_place,
            None => {
                let mut writable = self.pool.take(length)?;
                writable.copy_from_slice(bytes);
                ((writable.segment().clone(), 0), writable.freeze(length))
            }
        };
        let mut state = self.state.lock();
        state.last_handle += 1;
        let handle = state.last_handle;
        state.bytes += length;
        state.in_place += if is_in_place { length } else { 0 };
        state.inputs.insert(handle, Input { bytes, is_in_place });
        Ok(Lease { handle, segment, offset, length })
    }

    /// Whether an input of so many bytes may be shown where it lies.
    ///
    /// Errors: it may not be shown at all.
    fn check(&self, length: usize) -> Result<bool> {
        if self.limit == 0 {
            return Ok(true);
        }
        let state = self.state.lock();
        let limit = self.limit / SHARE_OF_WORKER;
        if state.bytes > 0 && state.bytes.saturating_add(length) > limit {
            return Err(Error::unavailable(format!(
                "no shared memory for an input of {length} bytes: the model instance still looks at {} inputs of {} bytes \
                 in all, of the maximum of {limit} bytes. A model that keeps an input should keep a copy of it, or use \
                 --backend-config=python,shm-max-byte-size=BYTES to increase the limit.",
                state.inputs.len(),
                state.bytes
            )));
        }
        Ok(state.in_place == 0 || state.in_place.saturating_add(length) <= self.limit / SHARE_IN_PLACE)
    }

    /// A part of an input that is an output as well.
    ///
    /// Errors: the worker was not shown so much.
    pub(super) fn part(&self, handle: u64, range: Range<usize>) -> Result<Bytes> {
        let state = self.state.lock();
        let bytes = state.inputs.get(&handle).map(|input| &input.bytes);
        let bytes = bytes.filter(|bytes| range.start <= range.end && range.end <= bytes.len());
        let bytes =
            bytes.ok_or_else(|| Error::internal("a Python worker answered with an input that it was not given"))?;
        Ok(bytes.slice(range))
    }

    /// A copy of bytes that the worker may still write: where another worker can be shown it without one more, if there is
    /// room.
    pub(super) fn copy(&self, bytes: &[u8]) -> Buffer {
        let is_large = bytes.len() > INLINE_MAX;
        let Some(mut writable) = is_large.then(|| self.pool.take(bytes.len()).ok()).flatten() else {
            return Buffer::from(bytes.to_vec());
        };
        writable.copy_from_slice(bytes);
        Buffer::unique(writable.freeze(bytes.len()))
    }

    /// The worker does not look at these any more.
    pub(super) fn release(&self, handles: impl IntoIterator<Item = u64>) {
        let mut released = Vec::new();
        let mut state = self.state.lock();
        for handle in handles {
            let Some(input) = state.inputs.remove(&handle) else { continue };
            state.bytes -= input.bytes.len();
            state.in_place -= if input.is_in_place { input.bytes.len() } else { 0 };
            released.push(input);
        }
        drop(state); // memory is given back outside the lock
    }
}

// === outputs ===

/// Segments of the worker. Each begins with a word that is not 0 while somebody here looks at it.
#[derive(Default)]
pub(super) struct Outputs(Mutex<HashMap<u64, Arc<Segment>>>);

impl Outputs {
    pub(super) fn add(&self, id: u64, segment: Arc<Segment>) {
        self.0.lock().insert(id, segment);
    }

    pub(super) fn forget(&self, id: u64) {
        let segment = self.0.lock().remove(&id);
        drop(segment); // unmapped outside the lock
    }

    /// The segment that one message speaks of: free again when everything taken from it is dropped.
    ///
    /// Errors: the worker has not announced it.
    pub(super) fn message(&self, id: u64) -> Result<InUse> {
        let segment = self.0.lock().get(&id).cloned();
        let segment =
            segment.ok_or_else(|| Error::internal("a Python worker speaks of memory that it has not passed"))?;
        Ok(InUse(Arc::new(Use(segment))))
    }
}

/// A segment of the worker that a message speaks of.
#[derive(Clone)]
pub(super) struct InUse(Arc<Use>);

struct Use(Arc<Segment>);

impl InUse {
    /// Bytes of it.
    ///
    /// Errors: they are not all inside.
    pub(super) fn view(&self, offset: usize, length: usize) -> Result<Bytes> {
        let end =
            offset.checked_add(length).ok_or_else(|| Error::internal("a Python worker speaks of memory it has not"))?;
        self.0.0.view(offset..end, self.clone())
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(word) = self.0.atomic_u32(0) {
            word.store(0, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use server_core::error::Code;
    use server_shm::Limits;

    use super::*;

    const MIB: usize = 1 << 20;

    fn leases(limit: usize) -> (Arc<SegmentPool>, InputLeases) {
        let pool = SegmentPool::new(Limits { idle: 0, ..Limits::default() });
        (pool.clone(), InputLeases::new(pool, limit))
    }

    /// An input in a segment, from that offset on.
    fn input(pool: &Arc<SegmentPool>, offset: usize, length: usize) -> Buffer {
        let mut writable = pool.take(offset + length).unwrap();
        writable.fill(7);
        Buffer::unique(writable.freeze(offset + length).slice(offset..))
    }

    fn place(buffer: &Buffer) -> (u64, usize) {
        Segment::of(buffer).map(|(segment, offset)| (segment.id(), offset)).unwrap()
    }

    #[test]
    fn an_input_that_nobody_else_looks_at_is_shown_where_it_lies() {
        let (pool, leases) = leases(0);
        let buffer = input(&pool, 64, 100_000);
        let lease = leases.lease(&buffer).unwrap();
        assert_eq!(((lease.segment.id(), lease.offset), lease.length), (place(&buffer), 100_000));
        drop((buffer, lease.segment));
        assert_eq!(leases.part(lease.handle, 1..3).unwrap(), [7, 7][..]);
        assert!(pool.bytes() > 0);
        leases.release([lease.handle, lease.handle, 99]);
        assert_eq!(pool.bytes(), 0);
        leases.part(lease.handle, 0..1).unwrap_err();
    }

    #[test]
    fn an_input_of_others_or_of_requests_that_come_again_is_copied() {
        let (pool, leases) = leases(0);
        let copied = |buffer: &Buffer| {
            let lease = leases.lease(buffer).unwrap();
            let is_copied = lease.segment.id() != place(buffer).0;
            assert_eq!(leases.part(lease.handle, 0..lease.length).unwrap(), buffer.as_host().unwrap());
            is_copied
        };
        let buffer = input(&pool, 0, 100_000);
        assert!(!copied(&buffer) && copied(&buffer), "it was shown once");
        let buffer = input(&pool, 0, 100_000);
        let other = buffer.clone();
        assert!(copied(&buffer) && copied(&other));
        assert!(copied(&input(&pool, 4, 100_000)), "numbers of eight bytes would not be aligned");
        leases.copy_always();
        assert!(copied(&input(&pool, 0, 100_000)));
        let lease = leases.lease(&Buffer::from(vec![1, 2, 3])).unwrap();
        assert_eq!(leases.part(lease.handle, 0..3).unwrap(), [1, 2, 3][..]);
    }

    #[test]
    fn a_worker_that_keeps_inputs_is_given_copies_and_then_no_more() {
        let (pool, leases) = leases(16 * MIB);
        let is_copied = |length: usize| {
            let buffer = input(&pool, 0, length);
            let lease = leases.lease(&buffer)?;
            Ok::<_, Error>((lease.handle, lease.segment.id() != place(&buffer).0))
        };
        let (first, is_first_copied) = is_copied(2 * MIB).unwrap();
        assert!(!is_first_copied, "the only one is never copied");
        assert!(is_copied(3 * MIB).unwrap().1);
        assert!(is_copied(3 * MIB).unwrap().1);
        let error = is_copied(1).unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        assert!(
            error.message.starts_with(
                "no shared memory for an input of 1 bytes: the model instance still looks at 3 inputs of 8388608 bytes in \
                 all, of the maximum of 8388608 bytes."
            ),
            "{error}"
        );
        leases.release([first]);
        assert!(!is_copied(MIB).unwrap().1);
        // one that is larger than all that a worker may keep is its first, or none
        let (_, leases) = self::leases(16 * MIB);
        leases.lease(&input(&pool, 0, 9 * MIB)).unwrap();
        leases.lease(&input(&pool, 0, 1)).unwrap_err();
    }
}
