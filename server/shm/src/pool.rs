//! Segments for reuse. Memory that was used before is faster than new memory, which the system has to clear first.

use std::{
    fmt,
    ops::{Deref, DerefMut, Range},
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use server_core::{
    error::{Error, Result},
    input_memory::{InputBuffer, InputMemory},
};

use crate::segment::{Segment, SoleUse};

const PAGE: usize = 4096;
/// Requests are received on the heap while so many segments are used: each takes a file descriptor, and whoever runs the
/// requests needs some too.
const MAX_FOR_REQUESTS: usize = 256;

/// What a pool may hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Segments are called so in `/proc`, with their number behind it.
    pub name_prefix: String,
    /// Length of the smallest segments, in bytes. They take memory only as far as they are used.
    pub smallest: usize,
    /// Larger segments have a multiple of this length, in bytes: the coarser, the more often one fits again.
    pub step: usize,
    /// Bytes of all segments together, used and idle; 0 is no limit.
    pub total: usize,
    /// Bytes of the segments that nobody uses.
    pub idle: usize,
    /// For how long a segment that nobody uses is kept.
    pub idle_for: Duration,
}

impl Default for Limits {
    /// Names and sizes as Triton's Python backend has them; no limit on the total.
    ///
    /// Idle memory is kept for the next burst: 256 MiB hold the tensors of some 50 large images on their way.
    fn default() -> Self {
        Self {
            name_prefix: "triton_python_backend_shm_region_".into(),
            smallest: 1 << 20,
            step: 1 << 20,
            total: 0,
            idle: 256 << 20,
            idle_for: Duration::from_secs(10),
        }
    }
}

/// A pool of segments. Whoever takes one writes it, and shows it to others; it comes back when nobody looks at it any more.
/// Idle segments are given back to the system after a time, and when others need the room.
pub struct SegmentPool {
    limits: Limits,
    state: Mutex<State>,
    /// For segments, which bring themselves back.
    me: Weak<Self>,
}

#[derive(Default)]
struct State {
    /// In the order in which they came back.
    idle: Vec<Idle>,
    /// Bytes that segments were ever used for, each as far as it was: what they take of the system's memory.
    bytes: usize,
    /// How much of that is idle.
    idle_bytes: usize,
    /// How many segments were made.
    made: u64,
    /// How many are used.
    in_use: usize,
    /// Whether a thread waits to sweep.
    has_sweeper: bool,
}

struct Idle {
    segment: Arc<Segment>,
    /// How far it was ever used, in bytes.
    used: usize,
    since: Instant,
}

impl SegmentPool {
    /// An empty pool.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { limits, state: Mutex::default(), me: me.clone() })
    }

    /// A segment that holds `len` bytes, to be written. What it holds before that is not defined.
    ///
    /// Errors: `Unavailable` if all segments together would take more than the limit, or the system has no more.
    pub fn take(&self, len: usize) -> Result<Writable> {
        let need = len.max(1).checked_next_multiple_of(PAGE).ok_or_else(|| self.refuse(len, 0))?;
        let mut discarded = Vec::new();
        let (found, number) = {
            let mut state = self.state.lock();
            let found = state.best_fit(need);
            let used = found.as_ref().map_or(0, |idle| idle.used);
            let more = need.saturating_sub(used);
            let limit = self.limit();
            while state.bytes.saturating_add(more) > limit && !state.idle.is_empty() {
                discarded.push(state.remove(0));
            }
            if state.bytes.saturating_add(more) > limit {
                let in_use = state.bytes - used;
                if let Some(found) = found {
                    state.bytes -= found.used;
                    discarded.push(found.segment);
                }
                drop(state);
                discard(discarded);
                return Err(self.refuse(len, in_use));
            }
            state.bytes += more;
            state.in_use += 1;
            state.made += u64::from(found.is_none());
            (found, state.made)
        };
        discard(discarded);
        let (segment, used) = match found {
            Some(idle) => (idle.segment, idle.used.max(need)),
            None => match self.make(need, number) {
                Ok(segment) => (segment, need),
                Err(error) => {
                    let mut state = self.state.lock();
                    state.bytes -= need;
                    state.in_use -= 1;
                    return Err(error);
                }
            },
        };
        let lease = Lease { pool: self.me.clone(), segment: segment.clone(), used };
        Ok(Writable { memory: sole_use(segment), len, lease })
    }

    fn make(&self, need: usize, number: u64) -> Result<Arc<Segment>> {
        let len = need.max(self.limits.smallest).checked_next_multiple_of(self.limits.step.max(PAGE)).unwrap_or(need);
        Segment::create(&format!("{}{number}", self.limits.name_prefix), len)
    }

    /// No process has more than half of the addresses.
    fn limit(&self) -> usize {
        if self.limits.total == 0 { usize::MAX >> 1 } else { self.limits.total }
    }

    #[cold]
    fn refuse(&self, len: usize, in_use: usize) -> Error {
        if len > self.limit() {
            return Error::invalid_argument(format!(
                "{len} bytes of shared memory are more than the maximum of {} bytes for all requests together. Use \
                 --backend-config=python,shm-max-byte-size=BYTES to increase the limit.",
                self.limit()
            ));
        }
        Error::unavailable(format!(
            "no shared memory for {len} bytes: {in_use} bytes of the maximum of {} bytes are in use. Send it again later, \
             or use --backend-config=python,shm-max-byte-size=BYTES to increase the limit.",
            self.limit()
        ))
    }

    /// Gives back what has been idle for long enough. The pool does so by itself; this is for who wants it sooner.
    pub fn sweep(&self) {
        self.sweep_at(Instant::now());
    }

    /// When the first idle segment has been idle for long enough; `None` if none is idle.
    fn sweep_at(&self, now: Instant) -> Option<Instant> {
        let mut discarded = Vec::new();
        let next = {
            let mut state = self.state.lock();
            loop {
                match state.idle.first().map(|idle| idle.since + self.limits.idle_for) {
                    Some(until) if until <= now => discarded.push(state.remove(0)),
                    next => break next,
                }
            }
        };
        discard(discarded);
        next
    }

    /// Gives back all that is idle, at once.
    pub fn clear(&self) {
        let idle = {
            let mut state = self.state.lock();
            state.bytes -= state.idle_bytes;
            state.idle_bytes = 0;
            std::mem::take(&mut state.idle)
        };
        discard(idle.into_iter().map(|idle| idle.segment).collect());
    }

    /// Bytes of memory that segments take, used and idle.
    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// Bytes of memory that idle segments take.
    pub fn idle_bytes(&self) -> usize {
        self.state.lock().idle_bytes
    }

    /// How many segments were made so far.
    pub fn made(&self) -> u64 {
        self.state.lock().made
    }

    fn give_back(&self, segment: Arc<Segment>, used: usize) {
        let mut discarded = Vec::new();
        let needs_sweeper = {
            let mut state = self.state.lock();
            state.in_use -= 1;
            while state.idle_bytes.saturating_add(used) > self.limits.idle && !state.idle.is_empty() {
                discarded.push(state.remove(0));
            }
            if used > self.limits.idle {
                state.bytes -= used;
                discarded.push(segment);
                false
            } else {
                state.idle_bytes += used;
                state.idle.push(Idle { segment, used, since: Instant::now() });
                !std::mem::replace(&mut state.has_sweeper, true)
            }
        };
        discard(discarded);
        if needs_sweeper {
            self.start_sweeper();
        }
    }

    /// A thread that lives while something is idle. Where there is none for it, the next burst tries again, and limits hold.
    fn start_sweeper(&self) {
        let pool = self.me.clone();
        let idle_for = self.limits.idle_for;
        let sweep = move || {
            let mut wait = idle_for;
            loop {
                thread::sleep(wait);
                let Some(pool) = pool.upgrade() else { return };
                let now = Instant::now();
                match pool.sweep_at(now) {
                    Some(next) => wait = next.saturating_duration_since(now),
                    None => {
                        let mut state = pool.state.lock();
                        if state.idle.is_empty() {
                            state.has_sweeper = false;
                            return;
                        }
                        wait = idle_for;
                    }
                }
            }
        };
        if thread::Builder::new().name("shm sweep".into()).spawn(sweep).is_err() {
            self.state.lock().has_sweeper = false;
        }
    }
}

impl State {
    /// Takes out the smallest idle segment of at least `need` bytes, of equal ones the one used last.
    fn best_fit(&mut self, need: usize) -> Option<Idle> {
        let fitting = self.idle.iter().enumerate().rev().filter(|(_, idle)| idle.segment.len() >= need);
        let (index, _) = fitting.min_by_key(|(_, idle)| idle.segment.len())?;
        let idle = self.idle.remove(index);
        self.idle_bytes -= idle.used;
        Some(idle)
    }

    /// Takes an idle segment out of all counts, to be given back to the system.
    fn remove(&mut self, index: usize) -> Arc<Segment> {
        let idle = self.idle.remove(index);
        self.idle_bytes -= idle.used;
        self.bytes -= idle.used;
        idle.segment
    }
}

/// Workers that were shown a segment have it mapped until they hear that it is gone; its memory need not wait for them.
fn discard(segments: Vec<Arc<Segment>>) {
    for segment in segments {
        segment.discard();
    }
}

#[allow(unsafe_code)]
fn sole_use(segment: Arc<Segment>) -> SoleUse {
    // SAFETY: a segment is taken by one at a time, and comes back to the pool when all that were shown its bytes have dropped
    // them: `Lease`.
    unsafe { SoleUse::new(segment) }
}

impl fmt::Debug for SegmentPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("SegmentPool")
            .field("bytes", &state.bytes)
            .field("idle_bytes", &state.idle_bytes)
            .finish_non_exhaustive()
    }
}

/// A segment out of a pool; dropping it brings it back.
#[derive(Debug)]
struct Lease {
    pool: Weak<SegmentPool>,
    segment: Arc<Segment>,
    used: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.give_back(self.segment.clone(), self.used);
        }
    }
}

/// Bytes in a segment, to be written by one, and then shown.
#[derive(Debug)]
pub struct Writable {
    memory: SoleUse,
    len: usize,
    lease: Lease,
}

impl Writable {
    /// The segment that the bytes lie in, from its start.
    pub fn segment(&self) -> &Arc<Segment> {
        self.memory.segment()
    }

    /// The first `len` bytes, to be read only from now on; to be called when all of them are written, for what they held
    /// before may be another request's. The segment goes back to its pool with the last clone and slice
    /// of them.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn freeze(self, len: usize) -> Bytes {
        self.freeze_range(0..len)
    }

    fn freeze_range(self, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} bytes", self.len);
        let Self { memory, lease, .. } = self;
        memory.into_segment().view(range, lease).expect("checked above")
    }
}

/// Requests are received in the segments that workers map.
impl InputMemory for SegmentPool {
    fn take(&self, len: usize) -> Option<Box<dyn InputBuffer>> {
        if self.state.lock().in_use >= MAX_FOR_REQUESTS {
            return None;
        }
        match Self::take(self, len) {
            Ok(writable) => Some(Box::new(writable)),
            Err(error) => {
                tracing::debug!(%error, "a request is received on the heap");
                None
            }
        }
    }
}

impl InputBuffer for Writable {
    fn size(&self) -> usize {
        self.len
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }

    fn freeze(self: Box<Self>, range: Range<usize>) -> Bytes {
        self.freeze_range(range)
    }
}

impl Deref for Writable {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.bytes(self.len)
    }
}

impl DerefMut for Writable {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut(self.len)
    }
}

#[cfg(test)]
mod tests;
