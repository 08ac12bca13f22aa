//! The thread that owns one instance: it pulls a batch, runs it, and pulls again. Requests that ended in the queue are
//! answered here too, off the callers' threads. While it has nothing to do, a caller may run its instance inline.

use std::{
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use server_core::{
    backend::{Device, Health, Instance, Model, Placement, Rest},
    batch::{Batch, Pending},
    error::{Error, Result},
    footprint::Footprint,
};
use server_scheduler::{Next, Removed, Scheduler};
use smallvec::{SmallVec, smallvec};

use crate::{
    executing::{self, unless_it_panics},
    inline_policy::{InlinePolicy, Size},
    instance_plan::InstancePlan,
    processors,
    stats::end_removed,
    warm_up::WarmUpRun,
};

/// Batches of one execution whose sizes are remembered: an instance that always finds more to do may never come back.
const MOST_SIZES: usize = 64;

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

    /// Runs a batch that was formed at `now`, on a thread that brings requests. Returns how long it took, and what is left of it if it
    /// takes long.
    pub(crate) fn run_inline(&self, batch: Vec<Pending>, now: Instant) -> (Duration, Option<Rest>) {
        let size = size_of(&batch);
        let batch = Batch::new(batch, now);
        let rest = self.call(|instance| instance.execute_inline(batch)).flatten();
        let took = now.elapsed();
        self.inline_policy.record(size, took);
        (took, rest)
    }

    /// Runs a batch that was formed at `now`, and those that its instance asks for meanwhile.
    fn run_with_more(
        &self,
        batch: Vec<Pending>,
        now: Instant,
        more: &mut dyn FnMut() -> Option<(Vec<Pending>, Instant)>,
    ) {
        let mut sizes: SmallVec<[Size; 16]> = smallvec![size_of(&batch)];
        let mut count = 1_u32;
        let batch = Batch::new(batch, now);
        let mut more = || {
            let (batch, now) = more()?;
            count = count.saturating_add(1);
            if sizes.len() < MOST_SIZES {
                sizes.push(size_of(&batch));
            }
            Some(Batch::new(batch, now))
        };
        let _ = self.call(|instance| instance.execute_with_more(batch, &mut more));
        let each = now.elapsed() / count;
        sizes.into_iter().for_each(|size| self.inline_policy.record(size, each));
    }

    /// What an inline run touches.
    pub(crate) fn footprint(&self, footprint: &mut Footprint) {
        footprint.add(self);
        if let Some(Some(instance)) = self.instance.try_lock().as_deref() {
            instance.footprint(footprint);
        }
    }

    fn call<R>(&self, run: impl FnOnce(&mut dyn Instance) -> R) -> Option<R> {
        let mut instance = self.instance.lock();
        let instance = instance.as_mut()?; // gone: the requests say so as they are dropped
        let _executing = executing::begin(self.plan.label);
        unless_it_panics(|| run(&mut **instance))
    }
}

/// What an instance's thread works with.
pub(crate) struct Worker {
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) slot: Arc<InstanceSlot>,
}

impl Worker {
    /// Starts the thread; the receiver hears when the instance is there and warm, or why not.
    pub(crate) fn spawn(
        self,
        model: Arc<dyn Model>,
        warm_up: Option<WarmUpRun>,
    ) -> Result<(JoinHandle<()>, mpsc::Receiver<Result<()>>)> {
        let (arrived, arrival) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(self.slot.plan.placement.instance_name.clone())
            .spawn(move || {
                let slot = &self.slot;
                let instance = make(&*model, &slot.plan.placement, &slot.health).and_then(|mut instance| {
                    warm_up.map_or(Ok(()), |warm_up| warm_up.run(&mut *instance)).map(|()| instance)
                });
                drop(model); // the thread must not be the last to hold it: what it frees is nobody's wait
                match instance {
                    Ok(instance) => {
                        let is_bound = slot.plan.placement.cores.is_some();
                        let on_any_thread = instance.runs_on_any_thread() && !is_bound;
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
        let (mut batch, mut removed) = (Vec::new(), Vec::new());
        loop {
            let next = self.scheduler.next(self.slot.number, &mut batch, &mut removed);
            // Before the batch: who waited too long should not wait for this execution as well.
            end_all(&mut removed);
            match next {
                Next::Closed => return,
                Next::Answer => {}
                Next::Run { now } => self.slot.run_with_more(std::mem::take(&mut batch), now, &mut || {
                    let more = self.scheduler.take_more(self.slot.number, &mut removed);
                    end_all(&mut removed);
                    more
                }),
            }
        }
    }
}

/// Makes an instance on this thread, which is bound to the processors of its host policy before.
pub(crate) fn make(model: &dyn Model, placement: &Placement, health: &Health) -> Result<Box<dyn Instance>> {
    if let Some(cores) = &placement.cores {
        processors::bind_this_thread(cores)?;
    }
    if !model.logs_its_instances() {
        let (kind, number) = match placement.device {
            Device::Cpu => ("CPU", 0),
            Device::Gpu(number) => ("GPU", number),
            Device::Model => ("MODEL", 0),
        };
        let name = &placement.instance_name;
        tracing::info!("TRITONBACKEND_ModelInstanceInitialize: {name} ({kind} device {number})");
    }
    model.instance(placement, health)
}

fn end_all(removed: &mut Removed) {
    removed.drain(..).for_each(|(pending, removal)| end_removed(pending, removal));
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
