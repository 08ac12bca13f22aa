//! The thread that owns one instance: it pulls a batch, runs it, and pulls again. Requests that ended in the queue are
//! answered here too, off the callers' threads. While it has nothing to do, its instance may be inline.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use server_core::{
    backend::{Batch, Instance, Model, Observer, Pending, Placement},
    error::{Error, Result},
};

use crate::{
    model::Stats,
    response_order::{OrderedObserver, ResponseOrder},
    scheduler::{Next, Scheduler},
};

/// Whether all instances of a model can serve.
#[derive(Default)]
pub(crate) struct Health {
    is_bad: AtomicBool,
}

impl Health {
    pub(crate) fn is_good(&self) -> bool {
        !self.is_bad.load(Ordering::Relaxed)
    }
}

/// Whether executions are short enough to be run by the thread that brings the request.
///
/// Only a model whose shapes are fixed has a inline_policy at all: with others the last execution says nothing about the next.
pub(crate) struct InlinePolicy {
    has_fixed_shapes: bool,
    /// Grows with every short execution, falls far with a long one: one in sixteen may be long, because a thread that
    /// is interrupted looks slow.
    trust: AtomicU32,
    /// Rows of the largest execution that was short.
    rows: AtomicU32,
}

impl InlinePolicy {
    /// Longer than this, a front end's thread has better things to do.
    const SHORT: Duration = Duration::from_micros(50);
    const ENOUGH_TRUST: u32 = 16;
    const MOST_TRUST: u32 = 64;

    pub(crate) fn new(has_fixed_shapes: bool) -> Self {
        Self { has_fixed_shapes, trust: AtomicU32::new(0), rows: AtomicU32::new(0) }
    }

    /// Whether so many rows are expected to be done quickly.
    pub(crate) fn is_quick(&self, rows: u32) -> bool {
        self.has_fixed_shapes
            && self.trust.load(Ordering::Relaxed) >= Self::ENOUGH_TRUST
            && rows <= self.rows.load(Ordering::Relaxed)
    }

    fn learn(&self, rows: u32, took: Duration) {
        if !self.has_fixed_shapes {
            return;
        }
        let trust = self.trust.load(Ordering::Relaxed);
        if took > Self::SHORT {
            self.trust.store(trust.saturating_sub(Self::ENOUGH_TRUST), Ordering::Relaxed);
            self.rows.fetch_min(rows.saturating_sub(1), Ordering::Relaxed);
            return;
        }
        if trust < Self::MOST_TRUST {
            self.trust.store(trust + 1, Ordering::Relaxed); // a lost update is a lost hint
        }
        if self.rows.load(Ordering::Relaxed) < rows {
            self.rows.fetch_max(rows, Ordering::Relaxed);
        }
    }
}

/// One instance, where its own thread and an inline run find it. Whoever holds the lock runs it.
pub(crate) struct InstanceSlot {
    instance: Mutex<Option<Box<dyn Instance>>>,
    stats: Arc<Stats>,
    order: Option<Arc<ResponseOrder>>,
    health: Arc<Health>,
    inline_policy: Arc<InlinePolicy>,
}

impl InstanceSlot {
    pub(crate) fn new(
        stats: Arc<Stats>,
        order: Option<Arc<ResponseOrder>>,
        health: Arc<Health>,
        inline_policy: Arc<InlinePolicy>,
    ) -> Self {
        Self { instance: Mutex::new(None), stats, order, health, inline_policy }
    }

    /// Runs a batch that was formed at `now`.
    pub(crate) fn run(&self, batch: Vec<Pending>, now: Instant, ticket: u64) {
        let mut instance = self.instance.lock();
        let Some(instance) = instance.as_mut() else { return }; // gone: the responders say so as they are dropped
        let batch = Batch::new(batch, self.observer(ticket), now);
        let rows = batch.batch_size();
        // A panic drops the batch, and every responder in it answers with an internal error.
        if catch_unwind(AssertUnwindSafe(|| instance.execute(batch))).is_err() {
            tracing::error!("the backend panicked; the requests of its batch were answered");
        }
        self.inline_policy.learn(rows, now.elapsed());
        if !instance.is_healthy() {
            self.health.is_bad.store(true, Ordering::Relaxed);
        }
    }

    fn observer(&self, ticket: u64) -> Arc<dyn Observer> {
        match &self.order {
            None => self.stats.clone(),
            Some(order) => Arc::new(OrderedObserver::new(order.clone(), ticket, self.stats.clone())),
        }
    }
}

/// What an instance's thread works with.
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) slot: Arc<InstanceSlot>,
}

impl Worker {
    /// Starts the thread; the receiver tells when the instance is there, or why not.
    pub(crate) fn spawn(
        self,
        model: Arc<dyn Model>,
        placement: Placement,
    ) -> Result<(JoinHandle<()>, mpsc::Receiver<Result<()>>)> {
        let (arrived, arrival) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(placement.instance_name.clone())
            .spawn(move || {
                let instance = model.instance(&placement);
                drop(model); // the instance keeps what it needs; unloading frees the rest
                match instance {
                    Ok(instance) => {
                        *self.slot.instance.lock() = Some(instance);
                        let _ = arrived.send(Ok(())); // nobody waits any more: the load was given up
                        self.work();
                        // Here and not with the model: what was made on this thread ends on it, after any inline run.
                        *self.slot.instance.lock() = None;
                    }
                    Err(error) => {
                        let _ = arrived.send(Err(error));
                    }
                }
            })
            .map_err(|error| Error::internal(format!("cannot start a thread for an instance: {error}")))?;
        Ok((thread, arrival))
    }

    fn work(&self) {
        sharpen_timer();
        let (mut batch, mut removed) = (Vec::new(), Vec::new());
        loop {
            let next = self.scheduler.next(self.number, &mut batch, &mut removed);
            // Before the batch: who waited too long should not wait for this execution as well.
            for (pending, removal) in removed.drain(..) {
                self.slot.stats.end_removed(pending, removal);
            }
            match next {
                Next::Closed => return,
                Next::Answer => {}
                Next::Run { now, ticket } => self.slot.run(std::mem::take(&mut batch), now, ticket),
            }
        }
    }
}

/// Lets this thread's timed waits end on time: the kernel's default lets them run 50 µs over, which would be half of
/// a usual queue delay.
fn sharpen_timer() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)) {
        tracing::debug!(%error, "the timer slack stays as it is");
    }
}
