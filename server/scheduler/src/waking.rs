//! Whose thread is woken by a change, and how a thread waits until then or for a moment.

use std::{
    hint,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use server_core::batching::policy::Wake;

use super::{Scheduler, State};
use crate::sync::MutexGuard;

/// A wait is shortened by no more than this: the rest of it is spent spinning.
const LONGEST_SPIN: Duration = Duration::from_micros(50);

impl Scheduler {
    /// Wakes whom a change concerns, with the lock given back.
    pub(super) fn wake(&self, mut state: MutexGuard<'_, State>, wake: Wake) {
        let instance = match wake {
            Wake::Nobody => return,
            Wake::All => return self.wake_all(state),
            // Whoever gives it back after an inline run looks what there is for it.
            Wake::Instance(instance) if state.slots[instance].is_inline => return,
            Wake::Instance(instance) => {
                state.idle.retain(|&other| other != instance);
                instance
            }
            Wake::Any => match state.timed {
                Some(instance) => instance,
                None if state.waking.is_some() => return,
                None => {
                    let Some(position) = state.choose_idle(|_| true) else { return };
                    let instance = state.idle.remove(position);
                    state.waking = Some(instance);
                    instance
                }
            },
        };
        if state.timed == Some(instance) {
            self.is_poked.store(true, Ordering::Release);
        }
        let waker = state.slots[instance].waker.clone();
        drop(state);
        waker.notify_one();
    }

    pub(super) fn wake_all(&self, state: MutexGuard<'_, State>) {
        let wakers: Vec<_> = state.slots.iter().map(|slot| slot.waker.clone()).collect();
        drop(state);
        self.is_poked.store(true, Ordering::Release);
        for waker in wakers {
            waker.notify_all();
        }
    }

    /// Waits without a limit to be woken.
    pub(super) fn wait(instance: usize, state: &mut MutexGuard<'_, State>) {
        state.slots[instance].is_waiting = true;
        let waker = state.slots[instance].waker.clone();
        waker.wait(state);
        state.slots[instance].is_waiting = false;
    }

    /// Waits for the moment or a call. A thread that sleeps is back some time after it asked to be, so it asks for
    /// earlier and spins for what is left: the delay of a batch is what its configuration says.
    pub(super) fn wait_until(&self, moment: Instant, instance: usize, state: &mut MutexGuard<'_, State>) {
        let asked = moment.checked_sub(state.lateness).unwrap_or(moment);
        self.is_poked.store(false, Ordering::Relaxed);
        let waker = state.slots[instance].waker.clone();
        if !waker.wait_until(state, asked).timed_out() {
            return;
        }
        let late = Instant::now().saturating_duration_since(asked);
        state.lateness = ((state.lateness * 7 + late) / 8).min(LONGEST_SPIN);
        MutexGuard::unlocked(state, || {
            while Instant::now() < moment && !self.is_poked.load(Ordering::Acquire) {
                hint::spin_loop();
            }
        });
    }
}
