//! `max_inflight_requests`: how many requests of one step may be under way, over all requests of the ensemble.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// A run that has waited so long for a permit starts without one, lest an ensemble of ensembles wait for itself.
///
/// Source: Triton's ensemble scheduler.
const PATIENCE: Duration = Duration::from_secs(300);

/// The permits of one ensemble's steps, shared by its requests.
pub(super) struct StepLimits(Vec<Arc<Semaphore>>);

impl StepLimits {
    pub(super) fn new(steps: usize, limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self((0..steps).map(|_| Arc::new(Semaphore::new(limit))).collect())
    }
}

/// What a run holds while it is under way; `None` if it waited too long to get one.
pub(super) type Permit = Option<OwnedSemaphorePermit>;

/// The permits that one request waits for, one for each step at a time.
pub(super) struct Waits(Vec<Wait>);

enum Wait {
    /// Nothing of the step waits.
    Idle,
    Waiting(Pin<Box<dyn Future<Output = Permit> + Send>>),
    /// For the next run of the step.
    Granted(Permit),
}

impl Waits {
    pub(super) fn new(limits: &StepLimits) -> Self {
        Self(limits.0.iter().map(|_| Wait::Idle).collect())
    }

    /// Whether a run of the step may start; if so, its permit is there to be taken. If not, the caller is woken when it may.
    pub(super) fn poll(&mut self, limits: &StepLimits, step: usize, ensemble: &str, context: &mut Context<'_>) -> bool {
        let wait = &mut self.0[step];
        if let Wait::Idle = wait {
            *wait = match limits.0[step].clone().try_acquire_owned() {
                Ok(permit) => Wait::Granted(Some(permit)),
                Err(_) => Wait::Waiting(Box::pin(acquire(limits.0[step].clone(), step, ensemble.to_owned()))),
            };
        }
        if let Wait::Waiting(future) = wait {
            match future.as_mut().poll(context) {
                Poll::Ready(permit) => *wait = Wait::Granted(permit),
                Poll::Pending => return false,
            }
        }
        true
    }

    /// The permit of a run that starts.
    pub(super) fn take(&mut self, step: usize) -> Permit {
        match std::mem::replace(&mut self.0[step], Wait::Idle) {
            Wait::Granted(permit) => permit,
            Wait::Idle | Wait::Waiting(_) => None,
        }
    }

    /// Lets go of every permit that no run holds.
    pub(super) fn clear(&mut self) {
        self.0.iter_mut().for_each(|wait| *wait = Wait::Idle);
    }
}

async fn acquire(permits: Arc<Semaphore>, step: usize, ensemble: String) -> Permit {
    match timeout(PATIENCE, permits.acquire_owned()).await {
        Ok(permit) => permit.ok(), // no such semaphore is ever closed
        Err(_) => {
            tracing::error!(
                "Ensemble '{ensemble}' unable to schedule step {step} (max_inflight_requests) for {} seconds. Proceeding \
                 to avoid deadlock.",
                PATIENCE.as_secs()
            );
            None
        }
    }
}
