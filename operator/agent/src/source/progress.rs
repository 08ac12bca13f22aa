//! What a fetch may cost, how far it is, and what it brings.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    disk::Reservation,
    fault::{Fault, Reason},
    verify::{FileHash, Files},
};

/// What a model may cost to fetch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes downloaded, and bytes unpacked.
    pub bytes: u64,
    /// Files.
    pub files: usize,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long a source may stay silent in the middle.
    pub silence: Duration,
    /// Bytes a second that a source must bring...
    pub least_rate: u64,
    /// ... over each span of this length.
    pub least_rate_over: Duration,
    /// How long a fetch may take in all.
    pub fetch: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 1 << 40,
            files: 100_000,
            // with the failure told: ten seconds
            connect: Duration::from_secs(8),
            silence: Duration::from_secs(30),
            least_rate: 1024,
            least_rate_over: Duration::from_secs(60),
            fetch: Duration::from_secs(6 * 3600),
        }
    }
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Bytes so far, and in all where the source says.
    Downloading(u64, Option<u64>),
    /// All is here; it is being checked and laid out.
    Verifying,
}

/// Counts what a fetch brings, holds it to its limits, ends it when nobody wants it any more, and reports its progress.
pub struct Progress {
    limits: Limits,
    /// Its share of the disk; none where nobody counts.
    space: Option<Mutex<Reservation>>,
    done: AtomicU64,
    reported: AtomicU64,
    total: AtomicU64,
    is_cancelled: watch::Sender<bool>,
    observer: Box<dyn Fn(Stage) + Send + Sync>,
}

struct CancelledOnDrop(Arc<Progress>);

impl Drop for CancelledOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("done", &self.done).field("total", &self.total).finish_non_exhaustive()
    }
}

impl Progress {
    /// A fetch that has not begun; `observer` gets each stage, and bytes in steps.
    pub fn new(limits: Limits, observer: impl Fn(Stage) + Send + Sync + 'static) -> Arc<Self> {
        Self::with_space(limits, None, observer)
    }

    /// The same, which writes no more than the disk has room for.
    pub fn on_disk(limits: Limits, space: Reservation, observer: impl Fn(Stage) + Send + Sync + 'static) -> Arc<Self> {
        Self::with_space(limits, Some(Mutex::new(space)), observer)
    }

    fn with_space(
        limits: Limits,
        space: Option<Mutex<Reservation>>,
        observer: impl Fn(Stage) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits,
            space,
            done: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            total: AtomicU64::new(u64::MAX),
            is_cancelled: watch::Sender::new(false),
            observer: Box::new(observer),
        })
    }

    /// The limits it is held to.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Ends the fetch at its next step.
    pub fn cancel(&self) {
        self.is_cancelled.send_replace(true);
    }

    /// Ends the fetch, wherever it is, once what this returns is dropped.
    pub fn cancelled_on_drop(self: &Arc<Self>) -> impl Drop + use<> {
        CancelledOnDrop(Arc::clone(self))
    }

    /// Waits until the fetch is no longer wanted.
    pub async fn cancelled(&self) {
        let _ = self.is_cancelled.subscribe().wait_for(|is_cancelled| *is_cancelled).await; // never closed
    }

    /// Fails once the fetch is no longer wanted.
    pub fn check(&self) -> Result<(), Fault> {
        if *self.is_cancelled.borrow() {
            return Err(Fault::new(Reason::DownloadFailed, "no longer wanted"));
        }
        Ok(())
    }

    /// The source says how much it will be. Blocks: files may be counted and deleted to make room.
    ///
    /// Errors: it is over the limit; `StoreFull`.
    pub fn expect(&self, total: u64) -> Result<(), Fault> {
        if total > self.limits.bytes {
            let limit = self.limits.bytes;
            return Err(Fault::new(
                Reason::InvalidSource,
                format!("the source is {total} bytes long, over the limit of {limit}"),
            ));
        }
        self.on_space(|space| space.expect(total.saturating_sub(self.done.load(Ordering::Relaxed))))?;
        self.total.store(total, Ordering::Relaxed);
        self.report();
        Ok(())
    }

    /// That many more bytes came and are about to be written. Blocks, as [`Self::expect`] does.
    ///
    /// Errors: over the limit, or no longer wanted; `StoreFull`.
    pub fn add(&self, bytes: u64) -> Result<(), Fault> {
        self.check()?;
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if done > self.limits.bytes {
            let limit = self.limits.bytes;
            return Err(Fault::new(Reason::InvalidSource, format!("the source is over the limit of {limit} bytes")));
        }
        self.write(bytes)?;
        let step = (self.total.load(Ordering::Relaxed) / 100).clamp(64 << 10, 1 << 20);
        if done - self.reported.load(Ordering::Relaxed) >= step {
            self.report();
        }
        Ok(())
    }

    /// That many bytes are gone again: an attempt begins at zero.
    pub fn take_back(&self, bytes: u64) {
        let take = |done: u64| Some(done.saturating_sub(bytes));
        for count in [&self.done, &self.reported] {
            let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take); // `take` always gives a number
        }
    }

    /// That many bytes are about to be written which did not come from the source: unpacked, or made here. Blocks.
    ///
    /// Errors: no longer wanted; `StoreFull`.
    pub fn write(&self, bytes: u64) -> Result<(), Fault> {
        self.check()?;
        self.on_space(|space| space.write(bytes))
    }

    /// Makes room for a file of that length before its bytes are given to [`Self::write`]. Blocks.
    ///
    /// Errors: no longer wanted; `StoreFull`.
    pub fn make_room(&self, length: u64) -> Result<(), Fault> {
        self.check()?;
        self.on_space(|space| space.expect(length))
    }

    fn on_space(&self, action: impl FnOnce(&mut Reservation) -> Result<(), Fault>) -> Result<(), Fault> {
        let Some(space) = &self.space else { return Ok(()) };
        action(&mut space.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All is here.
    pub fn verifying(&self) {
        (self.observer)(Stage::Verifying);
    }

    fn report(&self) {
        let done = self.done.load(Ordering::Relaxed);
        self.reported.store(done, Ordering::Relaxed);
        let total = self.total.load(Ordering::Relaxed);
        (self.observer)(Stage::Downloading(done, (total != u64::MAX).then_some(total)));
    }
}

/// What a fetch brought into its folder.
#[derive(Debug)]
pub struct Fetched {
    /// The files, by path below the folder.
    pub files: Files,
    /// It is one plain file rather than a folder or an archive.
    pub is_bare: bool,
    /// What a checksum speaks of: the archive, the bare file, or the folder as a whole.
    pub hash: FileHash,
}
