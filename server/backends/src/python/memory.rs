//! Memory that server and worker share: inputs that the worker looks at, and segments of the worker with outputs.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use parking_lot::Mutex;
use server_core::{
    buffer::Buffer,
    error::{Error, Result},
};
use server_shm::{Segment, SegmentPool};

// === inputs ===

/// Inputs that the worker was shown by reference. Each stays as it is until the worker says that nobody looks at it.
pub(super) struct Lent {
    pool: Arc<SegmentPool>,
    state: Mutex<LentState>,
}

#[derive(Default)]
struct LentState {
    buffers: HashMap<u64, Buffer>,
    last_handle: u64,
}

/// Where the worker finds an input.
pub(super) struct Loan {
    pub(super) handle: u64,
    pub(super) segment: Arc<Segment>,
    pub(super) offset: usize,
    pub(super) length: usize,
}

impl Lent {
    pub(super) fn new(pool: Arc<SegmentPool>) -> Self {
        Self { pool, state: Mutex::default() }
    }

    /// Shows an input to the worker, which may write in it: so what the buffer holds is copied into memory of its own.
    ///
    /// Errors: there is no memory for it.
    pub(super) fn lend(&self, buffer: &Buffer) -> Result<Loan> {
        let bytes =
            buffer.as_host().ok_or_else(|| Error::unsupported("Python models read the memory of the host only"))?;
        let mut writable = self.pool.take(bytes.len())?;
        writable[..bytes.len()].copy_from_slice(bytes);
        let segment = writable.segment().clone();
        let buffer = Buffer::from(writable.freeze(bytes.len()));
        let length = buffer.len();
        let mut state = self.state.lock();
        state.last_handle += 1;
        let handle = state.last_handle;
        state.buffers.insert(handle, buffer);
        Ok(Loan { handle, segment, offset: 0, length })
    }

    /// A part of an input that is an output as well.
    ///
    /// Errors: the worker was not shown so much.
    pub(super) fn part(&self, handle: u64, range: Range<usize>) -> Result<Buffer> {
        let buffer = self.state.lock().buffers.get(&handle).cloned();
        let bytes =
            buffer.and_then(Buffer::into_host).filter(|bytes| range.start <= range.end && range.end <= bytes.len());
        let bytes =
            bytes.ok_or_else(|| Error::internal("a Python worker answered with an input that it was not given"))?;
        Ok(bytes.slice(range).into())
    }

    /// The worker does not look at these any more.
    pub(super) fn release(&self, handles: impl IntoIterator<Item = u64>) {
        let mut released = Vec::new();
        let mut state = self.state.lock();
        released.extend(handles.into_iter().filter_map(|handle| state.buffers.remove(&handle)));
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
    pub(super) fn view(&self, offset: usize, length: usize) -> Result<bytes::Bytes> {
        let end =
            offset.checked_add(length).ok_or_else(|| Error::internal("a Python worker speaks of memory it has not"))?;
        self.0.0.view(offset..end, self.clone())
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(word) = self.0.atomic_u32(0) {
            word.store(0, Ordering::Release);
        }
    }
}
