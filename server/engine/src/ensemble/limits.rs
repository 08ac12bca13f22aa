//! `max_inflight_requests`: how many requests of one step may be in flight, over all requests of the ensemble. Who has to wait,
//! and for how long, is [`Places`]' to say.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
    time::Instant,
};

use parking_lot::Mutex;
use server_core::ensemble::{Asker, Places, Turn, Wakers};
use tokio::time::{Sleep, sleep_until};

/// The places of one ensemble's steps, shared by its requests.
#[derive(Clone)]
pub(super) struct StepLimits(Arc<[Mutex<Places>]>);

impl StepLimits {
    pub(super) fn new(steps: usize, limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self((0..steps).map(|_| Mutex::new(Places::new(limit))).collect())
    }

    /// Has one step's places do something, and wakes whom they call.
    fn with<T>(&self, step: usize, act: impl FnOnce(&mut Places) -> (T, Wakers)) -> T {
        let (result, wakers) = act(&mut self.0[step].lock());
        wakers.into_iter().for_each(Waker::wake);
        result
    }
}

/// A place of a step, given back when it is dropped.
pub(super) struct Place {
    limits: StepLimits,
    step: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limits.with(self.step, |places| ((), places.give_back(Instant::now())));
    }
}

/// What one request of the ensemble waits for.
pub(super) struct Waits {
    limits: StepLimits,
    /// By step.
    askers: Vec<Asker>,
    /// When it has to ask again at the latest.
    until: Option<Instant>,
    /// Made when it first has to wait.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Waits {
    pub(super) fn new(limits: &StepLimits) -> Self {
        let askers = limits.0.iter().map(|_| Asker::default()).collect();
        Self { limits: limits.clone(), askers, until: None, alarm: None }
    }

    /// Whether a request of the step may start, where `in_flight` of this ensemble's request are already. If so, it has to, and
    /// keeps what is put into `place`; if not, the caller is woken when it may.
    pub(super) fn ask(&mut self, step: usize, in_flight: usize, place: &mut Option<Place>, waker: &Waker) -> bool {
        let asker = &mut self.askers[step];
        match self.limits.with(step, |places| places.ask(asker, in_flight, Instant::now(), waker)) {
            Turn::Granted => *place = Some(Place { limits: self.limits.clone(), step }),
            Turn::Beyond => tracing::debug!("step {step} goes on beyond max_inflight_requests: no place came free"),
            Turn::Wait(until) => {
                self.until = [self.until, until].into_iter().flatten().min();
                return false;
            }
        }
        true
    }

    /// What was asked for is going to be asked for again.
    pub(super) fn ask_anew(&mut self) {
        self.until = None;
    }

    /// Whether it is time to ask again. If not, the caller is woken when it is.
    pub(super) fn is_time(&mut self, context: &mut Context<'_>) -> bool {
        let Some(until) = self.until else { return false };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until.into())));
        if alarm.deadline() != until.into() {
            alarm.as_mut().reset(until.into());
        }
        alarm.as_mut().poll(context).is_ready()
    }

    /// Nobody polls this request before a response of it is read: others go first.
    pub(super) fn rest(&mut self) {
        for (step, asker) in self.askers.iter_mut().enumerate().filter(|(_, asker)| asker.is_listed()) {
            self.limits.with(step, |places| ((), places.rest(asker, Instant::now())));
        }
    }

    /// Asks for nothing any more.
    pub(super) fn clear(&mut self) {
        for (step, asker) in self.askers.iter_mut().enumerate() {
            self.limits.with(step, |places| ((), places.leave(asker, Instant::now())));
        }
        self.until = None;
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.clear();
    }
}
