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
    /// Takes an instance back after an inline run. If requests came meanwhile, or the end, its own thread goes on.
    pub fn return_instance(&self, instance: usize) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.end_execution(instance, now);
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
