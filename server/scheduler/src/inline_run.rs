//! Inline runs: an idle instance is given to the thread that brought the only request there is, and taken back.

use std::time::Instant;

use server_core::{
    batch::Pending,
    batching::policy::{Decision, Wake},
};

use super::{Removed, Scheduler, State};

/// An instance that the caller of [`Scheduler::submit`] runs, and what to run on it.
pub struct InlineRun {
    /// The instance's number.
    pub instance: usize,
    /// One request.
    pub batch: Vec<Pending>,
    /// When the batch was formed.
    pub now: Instant,
}

impl Scheduler {
    /// Takes an instance back after an inline run. If requests came meanwhile, or the end, its own thread goes on; but where the
    /// caller `goes_on` and what came may run inline as well, the next of it is the caller's.
    pub fn return_instance(&self, instance: usize, goes_on: bool, removed: &mut Removed) -> Option<InlineRun> {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.end_execution(instance, now);
        if goes_on && let Some(batch) = self.take_next_inline(&mut state, instance, now, removed) {
            return Some(InlineRun { instance, batch, now });
        }
        let slot = &mut state.slots[instance];
        slot.is_inline = false;
        let (waker, is_waiting, is_retiring) = (slot.waker.clone(), slot.is_waiting, slot.is_retiring);
        if !is_waiting {
            // Somebody woke its thread meanwhile: it looks by itself, and others may have something to do before it does.
            let wake = if state.policy.is_empty() { Wake::Nobody } else { Wake::Any };
            self.wake(state, wake);
        } else if state.is_closed || is_retiring || state.policy.waits_for(instance) {
            if !is_retiring {
                state.waking = Some(instance);
            }
            drop(state);
            waker.notify_one();
        } else {
            state.idle.push(instance);
        }
        None
    }

    /// Takes the next request for an instance that was run inline, if all that wait may be: one more of them is run in less time than
    /// a thread is woken in.
    fn take_next_inline(
        &self,
        state: &mut State,
        instance: usize,
        now: Instant,
        removed: &mut Removed,
    ) -> Option<Vec<Pending>> {
        let is_one = state.policy.len() == 1 || state.policy.runs_one_by_one();
        let slot = &state.slots[instance];
        if !state.waits_quick || !is_one || state.is_closed || slot.is_retiring || !slot.is_waiting {
            return None;
        }
        if state.waking.is_some() || state.timed.is_some() || !state.policy.waits_for(instance) {
            return None;
        }
        let mut batch = Vec::with_capacity(1);
        match self.decide(state, instance, now, &mut batch, removed) {
            Decision::Run(_) => {
                state.count_turn(instance);
                state.begin_execution(instance, now);
                Some(batch)
            }
            // its thread asks again
            Decision::WaitUntil(_) | Decision::WaitHereUntil(_) | Decision::AskAgain(_) | Decision::Idle => None,
        }
    }

    /// Takes an idle instance for the only request there is, if that runs at once.
    pub(super) fn take_for_inline_run(
        &self,
        state: &mut State,
        wake: Wake,
        now: Instant,
        removed: &mut Removed,
    ) -> Option<InlineRun> {
        if state.waking.is_some() || state.timed.is_some() || state.policy.len() != 1 {
            return None;
        }
        let may_run = |instance: usize| {
            state.slots[instance].runs_on_any_thread
                && match wake {
                    Wake::Any => true,
                    Wake::Instance(only) => only == instance,
                    Wake::Nobody | Wake::All => false,
                }
        };
        let position = state.choose_idle(may_run)?;
        let instance = state.idle[position];
        let mut batch = Vec::with_capacity(1);
        match self.decide(state, instance, now, &mut batch, removed) {
            Decision::Run(_) => {
                state.idle.remove(position);
                state.slots[instance].is_inline = true;
                state.count_turn(instance);
                state.begin_execution(instance, now);
                Some(InlineRun { instance, batch, now })
            }
            // It came this moment: it can neither have expired nor been left, and if it must wait a thread does that.
            Decision::WaitUntil(_) | Decision::WaitHereUntil(_) | Decision::AskAgain(_) | Decision::Idle => None,
        }
    }
}
