//! Requests and sequences that end without running: whose callers left, that waited too long for a slot, that were silent
//! too long.

use std::{cmp::Reverse, time::Instant};

use super::{
    super::{
        SlotRef,
        backlog::{skip_abandoned, take_abandoned_behind},
        item::SequenceItem,
    },
    Slots,
};
use crate::batching::{policy::Wake, queue::Removal};

impl<T: SequenceItem> Slots<T> {
    /// Takes requests whose callers left out of the front of a slot.
    pub(in super::super) fn skip_abandoned(&mut self, slot: SlotRef, now: Instant, removed: &mut Vec<(T, Removal)>) {
        if !self.next(slot).is_some_and(|(item, _)| item.is_abandoned()) {
            return;
        }
        let before = removed.len();
        let Some(sequence) = self.occupant(slot) else { return };
        let is_over = skip_abandoned(&mut sequence.queue, removed);
        sequence.silent_since = now;
        self.taken(slot, removed.len() - before);
        if is_over || self.is_closed && self.next(slot).is_none() {
            self.free(slot, now);
        } else {
            self.is_silent_now(slot);
        }
    }

    /// Takes out the sequences of the backlog that have waited too long, and what has ended there since this was last
    /// asked.
    pub(in super::super) fn expire(&mut self, now: Instant, removed: &mut Vec<(T, Removal)>) {
        removed.append(&mut self.gone);
        while let Some((key, sequence)) = self.backlog.pop_expired(now) {
            self.forget(&sequence.id, key);
            self.waiting -= sequence.queue.len();
            removed.extend(sequence.queue.into_iter().map(|entry| (entry.item, Removal::SequenceExpired)));
        }
    }

    /// Takes requests whose callers left out of a slot, behind the one that is next or runs.
    fn take_abandoned_behind(&mut self, slot: SlotRef, removed: &mut Vec<(T, Removal)>) {
        let before = removed.len();
        let Some(sequence) = self.occupant(slot) else { return };
        let front = usize::from(!sequence.is_running);
        take_abandoned_behind(&mut sequence.queue, front, removed);
        self.taken(slot, removed.len() - before);
    }

    /// Takes requests whose callers left out of every sequence.
    pub(in super::super) fn sweep_abandoned(&mut self, now: Instant, removed: &mut Vec<(T, Removal)>) {
        let before = removed.len();
        for (key, id) in self.backlog.sweep_abandoned(removed) {
            self.forget(&id, key);
        }
        self.waiting -= removed.len() - before;
        for instance in 0..self.instances.len() {
            for slot in self.used(instance) {
                self.skip_abandoned(slot, now, removed);
                self.take_abandoned_behind(slot, removed);
            }
        }
        removed.append(&mut self.gone);
    }

    /// Frees the slots of sequences that have been silent too long.
    pub(in super::super) fn give_up_silent(&mut self, now: Instant) {
        while let Some(&Reverse((moment, slot))) = self.silent.peek()
            && moment <= now
        {
            self.silent.pop();
            self.slot(slot).is_timed = false;
            let max_idle = self.settings.max_idle;
            let Some(sequence) = self.occupant(slot).filter(|sequence| sequence.is_silent()) else { continue };
            if sequence.silent_since + max_idle > now {
                self.is_silent_now(slot);
            } else {
                self.free(slot, now);
            }
        }
    }

    /// When somebody has to look although no request came: a sequence waits for the slot of one that may be silent too
    /// long then, or an instance that retires waits for its last ones.
    pub(in super::super) fn next_look(&self, instance: usize) -> Option<Instant> {
        let waits =
            !self.backlog.is_empty() || self.instances.get(instance).is_some_and(|instance| instance.is_retiring);
        let silent = self.silent.peek().map(|Reverse((moment, _))| *moment).filter(|_| waits);
        silent.into_iter().chain(self.backlog.next_deadline()).min()
    }

    /// Whom it concerns that an instance runs something now: another one has to watch for a slot to become free.
    pub(in super::super) fn wake_for_look(&self) -> Wake {
        if self.backlog.is_empty() { Wake::Nobody } else { Wake::Any }
    }

    /// Nothing of the sequence waits or runs: the time until it is given up begins.
    pub(super) fn is_silent_now(&mut self, slot: SlotRef) {
        let max_idle = self.settings.max_idle;
        let own = self.slot(slot);
        let Some(sequence) = own.sequence.as_ref().filter(|sequence| sequence.is_silent()) else { return };
        if !own.is_timed {
            own.is_timed = true;
            let moment = sequence.silent_since + max_idle;
            self.silent.push(Reverse((moment, slot)));
        }
    }
}
