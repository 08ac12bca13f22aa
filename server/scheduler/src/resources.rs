//! Instances that share resources wait for them here: they take them before they take requests, so that what waits stays
//! in the queue, where its policy counts; and give them back when the execution has ended, or there was nothing to run.

use std::time::{Duration, Instant};

use server_core::batching::policy::Wake;

use super::{Scheduler, State};
use crate::{
    rate_limiter::{Admitted, Limited},
    sync::MutexGuard,
};

/// Whoever waits for resources looks that often even if nobody calls: what is kept for another is so for a time only.
const LOOK: Duration = Duration::from_millis(100);

impl State {
    /// The position of the idle instance that runs next.
    pub(super) fn choose_idle(&self, may_run: impl Fn(usize) -> bool) -> Option<usize> {
        match &self.shares {
            None => self.idle.iter().rposition(|&instance| may_run(instance)),
            Some(shares) => shares.choose(&self.idle, may_run),
        }
    }

    pub(super) fn count_turn(&mut self, instance: usize) {
        if let Some(shares) = &mut self.shares {
            shares.ran(instance);
        }
    }
}

impl Scheduler {
    /// The instance takes turns with the others of its model, by its priority.
    pub fn take_turns(&self, instance: usize, priority: u64) {
        self.state.lock().shares.get_or_insert_default().add(instance, priority);
    }

    /// The instance shares resources from now on. It is not run inline: no caller waits for resources.
    pub fn limit(&self, instance: usize, limited: Limited) {
        self.state.lock().slots[instance].limited = Some(limited);
    }

    /// The instance is gone: what it holds is free.
    pub fn unlimit(&self, instance: usize) {
        let limited = self.state.lock().slots[instance].limited.take();
        drop(limited); // with no lock held: it calls others
    }

    /// The instance's resources are there, or it should look whether they are.
    pub(crate) fn resources_granted(&self, instance: usize) {
        let waker = self.state.lock().slots[instance].waker.clone();
        waker.notify_one();
    }

    /// Its execution has ended, if it ran.
    pub(super) fn end_turn(state: &mut MutexGuard<'_, State>, instance: usize) {
        if state.slots[instance].limited.is_none() {
            return;
        }
        let has_more = Self::has_work(state, instance);
        let Some(limited) = &mut state.slots[instance].limited else { return };
        let admitted = limited.ended(has_more, Instant::now());
        Self::call(state, admitted);
    }

    /// Whether the instance may decide now: it shares nothing, holds what it needs, or has nothing to run. Otherwise it has
    /// waited a while for its resources. With `may_ask` false it asks for none.
    pub(super) fn has_resources(&self, state: &mut MutexGuard<'_, State>, instance: usize, may_ask: bool) -> bool {
        if state.slots[instance].limited.is_none() {
            return true;
        }
        let has_work = may_ask && Self::has_work(state, instance);
        let Some(limited) = &mut state.slots[instance].limited else { return true };
        let was_waiting = limited.is_waiting();
        let admitted = limited.ask(has_work, Instant::now());
        let is_waiting = limited.is_waiting();
        if !admitted.is_empty() {
            Self::call(state, admitted);
            return false;
        }
        if is_waiting && !was_waiting {
            // Another instance may have what this one lacks.
            MutexGuard::unlocked(state, || self.wake(self.state.lock(), Wake::Any));
            return false;
        }
        if is_waiting {
            let waker = state.slots[instance].waker.clone();
            waker.wait_for(state, LOOK);
        }
        !is_waiting
    }

    /// Blocks until the instance, which has requests in hand, holds its resources; then it runs.
    pub(super) fn begin_turn(state: &mut MutexGuard<'_, State>, instance: usize) {
        loop {
            let Some(limited) = &mut state.slots[instance].limited else { return };
            let admitted = limited.ask(true, Instant::now());
            if !limited.is_waiting() {
                limited.started();
                return Self::call(state, admitted);
            }
            if admitted.is_empty() {
                let waker = state.slots[instance].waker.clone();
                waker.wait_for(state, LOOK);
            } else {
                Self::call(state, admitted);
            }
        }
    }

    /// The instance runs nothing any more: it waits for nothing and holds nothing.
    pub(super) fn leave_line(state: &mut MutexGuard<'_, State>, instance: usize) {
        let Some(limited) = &mut state.slots[instance].limited else { return };
        let admitted = limited.ask(false, Instant::now());
        Self::call(state, admitted);
    }

    /// The instance runs nothing now and holds nothing meanwhile. `true` if the lock was given up for it.
    pub(super) fn skip_turn(state: &mut MutexGuard<'_, State>, instance: usize) -> bool {
        let Some(limited) = &mut state.slots[instance].limited else { return false };
        if !limited.is_held() {
            return false;
        }
        let admitted = limited.ask(false, Instant::now());
        let has_unlocked = !admitted.is_empty();
        Self::call(state, admitted);
        has_unlocked
    }

    fn has_work(state: &State, instance: usize) -> bool {
        let is_leaving = state.slots[instance].is_retiring && !state.policy.is_needed(instance);
        !is_leaving && state.policy.waits_for(instance)
    }

    fn call(state: &mut MutexGuard<'_, State>, admitted: Admitted) {
        if !admitted.is_empty() {
            MutexGuard::unlocked(state, || admitted.call());
        }
    }
}
