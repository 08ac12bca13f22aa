//! The thread that owns one instance: it pulls a batch, runs it, and pulls again. Requests that ended in the queue are
//! answered here too, off the callers' threads. While it has nothing to do, a caller may run its instance inline.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Instant,
};

use parking_lot::Mutex;
use server_core::{
    backend::{Health, Instance, Model},
    batch::{Batch, Pending},
    error::{Error, Result},
};
use smallvec::SmallVec;

use crate::{
    inline_policy::{InlinePolicy, Size},
    instance_plan::InstancePlan,
    scheduler::{Next, Scheduler},
    stats::end_removed,
};

/// One instance, where its own thread and an inline run find it. Whoever holds the lock runs it.
pub(crate) struct InstanceSlot {
    /// Its number in the scheduler.
    pub(crate) number: usize,
    pub(crate) plan: InstancePlan,
    pub(crate) health: Health,
    instance: Mutex<Option<Box<dyn Instance>>>,
    inline_policy: Arc<InlinePolicy>,
}

impl InstanceSlot {
    pub(crate) fn new(number: usize, plan: InstancePlan, inline_policy: Arc<InlinePolicy>) -> Self {
        Self { number, plan, health: Health::default(), instance: Mutex::new(None), inline_policy }
    }

    /// Runs a batch that was formed at `now`.
    pub(crate) fn run(&self, batch: Vec<Pending>, now: Instant) {
        let size = size_of(&batch);
        let batch = Batch::new(batch, now);
        self.call(|instance| instance.execute(batch));
        self.inline_policy.record(size, now.elapsed());
    }

    /// Runs batches that were formed one after the other.
    fn run_several(&self, batches: Vec<(Vec<Pending>, Instant)>) {
        let began = Instant::now();
        let sizes: SmallVec<[Size; 16]> = batches.iter().map(|(batch, _)| size_of(batch)).collect();
        let batches = batches.into_iter().map(|(batch, now)| Batch::new(batch, now)).collect();
        self.call(|instance| instance.execute_several(batches));
        let each = began.elapsed() / u32::try_from(sizes.len().max(1)).unwrap_or(u32::MAX);
        sizes.into_iter().for_each(|size| self.inline_policy.record(size, each));
    }

    /// How many batches its instance takes at once.
    fn most_batches(&self) -> usize {
        self.instance.lock().as_ref().map_or(1, |instance| instance.most_batches())
    }

    fn call(&self, run: impl FnOnce(&mut dyn Instance)) {
        let mut instance = self.instance.lock();
        let Some(instance) = instance.as_mut() else { return }; // gone: the requests say so as they are dropped
        // A panic drops the batches, and every request in them is counted and answers with an internal error.
        if catch_unwind(AssertUnwindSafe(|| run(&mut **instance))).is_err() {
            tracing::error!("the backend panicked; the requests it was given were answered");
        }
    }
}

/// What an instance's thread works with.
pub(crate) struct Worker {
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) slot: Arc<InstanceSlot>,
}

impl Worker {
    /// Starts the thread; the receiver hears when the instance is there, or why not.
    pub(crate) fn spawn(self, model: Arc<dyn Model>) -> Result<(JoinHandle<()>, mpsc::Receiver<Result<()>>)> {
        let (arrived, arrival) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(self.slot.plan.placement.instance_name.clone())
            .spawn(move || {
                let slot = &self.slot;
                let instance = model.instance(&slot.plan.placement, &slot.health);
                drop(model); // the thread must not be the last to hold it: what it frees is nobody's wait
                match instance {
                    Ok(instance) => {
                        let on_any_thread = instance.runs_on_any_thread();
                        *slot.instance.lock() = Some(instance);
                        self.scheduler.serves(slot.number, on_any_thread);
                        let _ = arrived.send(Ok(())); // nobody waits any more: the load was given up
                        self.work();
                        // Here and not with the model: what was made on this thread ends on it, after any inline run.
                        *slot.instance.lock() = None;
                    }
                    Err(error) => {
                        let _ = arrived.send(Err(error));
                    }
                }
                self.scheduler.unlimit(slot.number);
            })
            .map_err(|error| Error::internal(format!("cannot start a thread for an instance: {error}")))?;
        Ok((thread, arrival))
    }

    fn work(&self) {
        sharpen_timer();
        let (mut batch, mut more, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let next = self.scheduler.next(self.slot.number, &mut batch, &mut removed);
            if matches!(next, Next::Run { .. }) {
                let most = self.slot.most_batches();
                self.scheduler.take_more(self.slot.number, most.saturating_sub(1), &mut more, &mut removed);
            }
            // Before the batch: who waited too long should not wait for this execution as well.
            for (pending, removal) in removed.drain(..) {
                end_removed(pending, removal);
            }
            match next {
                Next::Closed => return,
                Next::Answer => {}
                Next::Run { now } if more.is_empty() => self.slot.run(std::mem::take(&mut batch), now),
                Next::Run { now } => {
                    let first = (std::mem::take(&mut batch), now);
                    self.slot.run_several(std::iter::once(first).chain(more.drain(..)).collect());
                }
            }
        }
    }
}

fn size_of(batch: &[Pending]) -> Size {
    Size {
        rows: batch.iter().map(Pending::batch_size).sum(),
        bytes: batch.iter().map(|pending| pending.request.input_bytes()).sum(),
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
