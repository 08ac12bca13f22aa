//! The thread that owns one instance: it pulls a batch, runs it, and pulls again. Requests that ended in the queue are
//! answered here too, off the callers' threads.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use server_core::{
    backend::{Batch, Instance, Model, Observer, Pending, Placement},
    batching::queue::Removal,
    error::{Error, Result},
    stats::FailureReason,
};

use crate::{
    model::Stats,
    order::{Order, Turn},
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

/// What an instance's thread works with.
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) order: Option<Arc<Order>>,
    pub(crate) health: Arc<Health>,
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
                        let _ = arrived.send(Ok(())); // nobody waits any more: the load was given up
                        self.run(instance);
                    }
                    Err(error) => {
                        let _ = arrived.send(Err(error));
                    }
                }
            })
            .map_err(|error| Error::internal(format!("cannot start a thread for an instance: {error}")))?;
        Ok((thread, arrival))
    }

    fn run(&self, mut instance: Box<dyn Instance>) {
        sharpen_timer();
        let (mut batch, mut removed) = (Vec::new(), Vec::new());
        loop {
            let next = self.scheduler.next(self.number, &mut batch, &mut removed);
            // Before the batch: who waited too long should not wait for this execution as well.
            for (pending, removal) in removed.drain(..) {
                self.answer(pending, removal);
            }
            match next {
                Next::Closed => return,
                Next::Answer => {}
                Next::Run { now, ticket } => {
                    let pending = std::mem::take(&mut batch);
                    let batch = Batch::new(pending, self.observer(ticket), now);
                    // A panic drops the batch, and every responder in it answers with an internal error.
                    if catch_unwind(AssertUnwindSafe(|| instance.execute(batch))).is_err() {
                        tracing::error!(instance = self.number, "the backend panicked; its requests were answered");
                    }
                    if !instance.is_healthy() {
                        self.health.is_bad.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    fn observer(&self, ticket: u64) -> Arc<dyn Observer> {
        match &self.order {
            None => self.stats.clone(),
            Some(order) => Arc::new(Turn::new(order.clone(), ticket, self.stats.clone())),
        }
    }

    fn answer(&self, pending: Pending, removal: Removal) {
        let (reason, error) = match removal {
            Removal::Expired => (
                FailureReason::Rejected,
                Error::unavailable("Request timeout expired").with_request_id(&pending.request.id),
            ),
            Removal::Abandoned => (FailureReason::Canceled, Error::cancelled("")),
        };
        self.stats.failed(reason, &pending.request);
        pending.responder.finish(Err(error));
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
