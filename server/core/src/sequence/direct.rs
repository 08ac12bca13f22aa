//! The direct strategy: a sequence keeps one row of the batches of one instance. Rows between that have no request run
//! empty; the rows behind the last request are cut. A sequence whose request is not over, because a decoupled model goes on
//! with it or its reader is behind, holds up nobody else: its row runs empty meanwhile.
//!
//! Source: Triton model configuration, "Sequence Batcher", "Direct".

use std::time::{Duration, Instant};

use super::{
    SlotRef,
    item::SequenceItem,
    settings::{ExtraInputs, Settings, Strategy},
    slots::{Entered, Slots},
};
use crate::batching::{
    policy::{Decision, Policy, Pushed, Rejected, Wake},
    queue::Removal,
};

/// The policy of models with the direct strategy.
pub struct Direct<T> {
    slots: Slots<T>,
    /// Longest wait for more rows than there are.
    max_queue_delay: Duration,
    /// Rows that are enough.
    enough: usize,
}

impl<T: SequenceItem> Direct<T> {
    /// Without instances; `extra` are the inputs the model reads beside those of requests.
    pub fn new(settings: Settings, extra: ExtraInputs) -> Self {
        let (max_queue_delay, utilization) = match settings.strategy {
            Strategy::Direct { max_queue_delay, minimum_slot_utilization } => {
                (max_queue_delay, minimum_slot_utilization)
            }
            Strategy::Oldest { .. } => (Duration::ZERO, 0.0),
        };
        let enough = (f64::from(settings.slots) * f64::from(utilization)).ceil() as usize;
        Self { slots: Slots::new(settings, extra), max_queue_delay, enough }
    }

    /// Whom concerns what happened: those with requests that may run now, and others with something to do.
    fn wake(&mut self) -> Wake {
        let ready = self.slots.take_ready();
        let wake = ready.iter().fold(Wake::Nobody, |wake, slot| wake.and(Wake::Instance(slot.instance as usize)));
        wake.and(self.slots.take_wake())
    }

    fn is_alike(&self, one: SlotRef, other: SlotRef) -> bool {
        let (Some((first, _)), Some((second, _))) = (self.slots.next(one), self.slots.next(other)) else {
            return false;
        };
        self.slots.settings().shapes.allow(second, first) && self.slots.next_has_states_like(one, other)
    }

    /// The rows that run now, ascending, all of the shape of the oldest request; or until when to wait for more.
    fn rows(&self, instance: usize, now: Instant) -> (Vec<SlotRef>, Option<Instant>) {
        let mut ready: Vec<SlotRef> =
            self.slots.used(instance).filter(|&slot| self.slots.next(slot).is_some()).collect();
        if ready.len() < self.enough && !self.max_queue_delay.is_zero() {
            let oldest = ready.iter().filter_map(|&slot| self.slots.next(slot)).map(|(_, queued_at)| queued_at).min();
            if let Some(due) = oldest.and_then(|oldest| oldest.checked_add(self.max_queue_delay))
                && due > now
            {
                return (Vec::new(), Some(due));
            }
        }
        // The oldest decides about shapes, or rows of another shape would wait for as long as those before them are busy.
        let age = |slot: &&SlotRef| self.slots.next(**slot).map(|(_, queued_at)| queued_at);
        if let Some(&oldest) = ready.iter().min_by_key(age) {
            ready.retain(|&slot| slot == oldest || self.is_alike(oldest, slot));
        }
        (ready, None)
    }

    /// Makes the batch: one item for each row up to the last one that runs.
    fn form(&mut self, rows: &[SlotRef], batch: &mut Vec<T>) {
        let has_rows = self.slots.settings().has_rows;
        for &slot in rows {
            let Some(item) = self.slots.take(slot) else { continue };
            if has_rows && batch.len() < slot.number as usize {
                // Until there is a request to model them on, rows before it are missing: they come in front of it.
                let empty = (batch.len()..slot.number as usize).map(|_| item.empty_row(self.slots.extra()));
                let empty: Vec<T> = empty.collect();
                batch.extend(empty);
            }
            batch.push(item);
        }
    }
}

impl<T: SequenceItem + Send> Policy<T> for Direct<T> {
    fn len(&self) -> usize {
        self.slots.waiting()
    }

    fn oldest(&self) -> Option<Instant> {
        self.slots.oldest()
    }

    fn waits_for(&self, instance: usize) -> bool {
        self.slots.waiting_for(instance) > 0
    }

    fn add_instance(&mut self, instance: usize, now: Instant) -> Wake {
        self.slots.add_instance(instance, now);
        self.wake()
    }

    fn retire_instance(&mut self, instance: usize) -> Wake {
        self.slots.retire_instance(instance);
        Wake::Nobody
    }

    fn is_needed(&self, instance: usize) -> bool {
        self.slots.is_needed(instance)
    }

    fn push(&mut self, item: T, _: u64, timeout: Option<Duration>, now: Instant) -> Result<Pushed, Rejected<T>> {
        let Entered { deadline, warning } = self.slots.push(item, timeout, now)?;
        Ok(Pushed { wake: self.wake(), deadline, warning })
    }

    fn put_back(&mut self, mut item: T, now: Instant) -> Result<Wake, T> {
        let Some(slot) = item.slot().filter(|_| self.slots.settings().is_iterative) else { return Err(item) };
        item.leave();
        self.slots.put_back(slot, item, now)?;
        Ok(self.wake())
    }

    fn released(&mut self, slot: SlotRef, now: Instant) -> Wake {
        self.slots.released(slot, now);
        self.wake()
    }

    fn sweep(&mut self, now: Instant, depth: usize, removed: &mut Vec<(T, Removal)>) -> Wake {
        self.slots.expire(now, removed);
        if depth == usize::MAX {
            self.slots.sweep_abandoned(now, removed);
        }
        self.wake()
    }

    fn stop_waiting(&mut self) {
        self.max_queue_delay = Duration::ZERO;
        self.slots.let_go();
    }

    fn close(&mut self, now: Instant) -> Wake {
        self.stop_waiting();
        self.slots.close(now);
        Wake::All
    }

    fn decide(
        &mut self,
        instance: usize,
        now: Instant,
        batch: &mut Vec<T>,
        removed: &mut Vec<(T, Removal)>,
    ) -> Decision {
        self.slots.expire(now, removed);
        self.slots.give_up_silent(now);
        let mut due = None;
        if !self.slots.is_held() {
            for slot in self.slots.used(instance) {
                self.slots.skip_abandoned(slot, now, removed);
            }
            let (rows, wait) = self.rows(instance, now);
            self.form(&rows, batch);
            due = wait;
        }
        match self.wake() {
            wake if !batch.is_empty() => Decision::Run(wake.and(self.slots.wake_for_look())),
            Wake::Nobody => self.wait(instance, due),
            Wake::Instance(own) if own == instance => self.wait(instance, due),
            wake => Decision::AskAgain(wake),
        }
    }
}

impl<T: SequenceItem> Direct<T> {
    fn wait(&self, instance: usize, due: Option<Instant>) -> Decision {
        match (due, self.slots.next_look(instance)) {
            (Some(due), look) => Decision::WaitHereUntil(look.map_or(due, |look| look.min(due))),
            (None, Some(look)) if self.slots.is_retiring(instance) => Decision::WaitHereUntil(look),
            (None, Some(look)) => Decision::WaitUntil(look),
            (None, None) => Decision::Idle,
        }
    }
}
