//! The oldest strategy: the sequences in the slots of an instance are its candidates. The next request of each goes into
//! a dynamic batcher of that instance, which batches by age; where in the batch it lies says nothing.
//!
//! Source: Triton model configuration, "Sequence Batcher", "Oldest".

use std::time::{Duration, Instant};

use super::{
    SlotRef,
    item::SequenceItem,
    settings::{ExtraInputs, Settings, Strategy},
    slots::{Entered, Slots},
};
use crate::batching::{
    levels::DEFAULT_LIMIT,
    policy::{Batcher, Decision, Policy, Pushed, Rejected, Settings as BatchSettings, Wake},
    queue::{Full, Removal},
};

/// The policy of models with the oldest strategy.
pub struct Oldest<T> {
    slots: Slots<T>,
    batching: BatchSettings,
    /// One for each instance.
    batchers: Vec<Batcher<T>>,
    /// Requests in all batchers.
    in_batchers: usize,
    stops_waiting: bool,
}

impl<T: SequenceItem + Send> Oldest<T> {
    /// Without instances; `extra` are the inputs the model reads beside those of requests.
    pub fn new(settings: Settings, batching: BatchSettings, extra: ExtraInputs) -> Self {
        debug_assert!(matches!(settings.strategy, Strategy::Oldest { .. }));
        let slots = Slots::new(settings, extra);
        Self { slots, batching, batchers: Vec::new(), in_batchers: 0, stops_waiting: false }
    }

    /// Gives the next request of every slot that has one to the batcher of its instance.
    fn feed(&mut self, now: Instant) -> Wake {
        let mut wake = self.slots.take_wake();
        if self.slots.is_held() {
            return wake;
        }
        for slot in self.slots.take_ready() {
            let came_at = self.slots.next(slot).map_or(now, |(_, came_at)| came_at);
            let Some(item) = self.slots.take(slot) else { continue };
            let instance = slot.instance as usize;
            self.in_batchers += 1;
            if self.batchers[instance].admit(item, came_at, now) != Wake::Nobody {
                wake = wake.and(Wake::Instance(instance));
            }
        }
        wake
    }

    /// Takes back what a batcher threw out, for its caller left: its sequence goes on.
    fn take_back(&mut self, gone: Vec<(T, Removal)>, now: Instant, removed: &mut Vec<(T, Removal)>) {
        for (mut item, removal) in gone {
            if let Some(slot) = item.slot() {
                item.leave();
                self.slots.not_run(slot, now, removed);
            }
            removed.push((item, removal));
        }
    }

    fn wait(&self, instance: usize, due: Option<Instant>) -> Decision {
        match (due, self.slots.next_look(instance)) {
            (Some(due), look) => Decision::WaitHereUntil(look.map_or(due, |look| look.min(due))),
            (None, Some(look)) if self.slots.is_retiring(instance) => Decision::WaitHereUntil(look),
            (None, Some(look)) => Decision::WaitUntil(look),
            (None, None) => Decision::Idle,
        }
    }
}

impl<T: SequenceItem + Send> Policy<T> for Oldest<T> {
    fn len(&self) -> usize {
        self.slots.waiting() + self.in_batchers
    }

    fn oldest(&self) -> Option<Instant> {
        self.batchers.iter().filter_map(Policy::oldest).chain(self.slots.oldest()).min()
    }

    fn waits_for(&self, instance: usize) -> bool {
        self.batchers.get(instance).is_some_and(|batcher| !batcher.is_empty())
    }

    fn add_instance(&mut self, instance: usize, now: Instant) -> Wake {
        while self.batchers.len() <= instance {
            let mut batcher = Batcher::new(&self.batching);
            if self.stops_waiting {
                batcher.stop_waiting();
            }
            self.batchers.push(batcher);
        }
        self.slots.add_instance(instance, now);
        self.feed(now)
    }

    fn retire_instance(&mut self, instance: usize) -> Wake {
        self.slots.retire_instance(instance);
        Wake::Nobody
    }

    fn is_needed(&self, instance: usize) -> bool {
        self.slots.is_needed(instance)
    }

    fn push(&mut self, item: T, _: u64, timeout: Option<Duration>, now: Instant) -> Result<Pushed, Rejected<T>> {
        if self.len() >= DEFAULT_LIMIT {
            return Err(Full(item).into());
        }
        let Entered { deadline, warning } = self.slots.push(item, timeout, now)?;
        Ok(Pushed { wake: self.feed(now), deadline, warning })
    }

    fn put_back(&mut self, mut item: T, now: Instant) -> Result<Wake, T> {
        let Some(slot) = item.slot().filter(|_| self.slots.settings().is_iterative) else { return Err(item) };
        item.leave();
        self.slots.put_back(slot, item, now)?;
        Ok(self.feed(now))
    }

    fn released(&mut self, slot: SlotRef, now: Instant) -> Wake {
        self.slots.released(slot, now);
        self.feed(now)
    }

    fn sweep(&mut self, now: Instant, depth: usize, removed: &mut Vec<(T, Removal)>) -> Wake {
        self.slots.expire(now, removed);
        if depth == usize::MAX {
            let mut gone = Vec::new();
            for batcher in &mut self.batchers {
                batcher.sweep(now, depth, &mut gone);
            }
            self.in_batchers -= gone.len();
            self.take_back(gone, now, removed);
            self.slots.sweep_abandoned(now, removed);
        }
        self.feed(now)
    }

    fn stop_waiting(&mut self) {
        self.stops_waiting = true;
        self.batchers.iter_mut().for_each(Batcher::stop_waiting);
        self.slots.let_go();
    }

    fn close(&mut self, now: Instant) -> Wake {
        self.stop_waiting();
        self.slots.close(now);
        self.feed(now);
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
        let mut wake = self.feed(now);
        let due = loop {
            if self.slots.is_held() {
                break None;
            }
            let mut gone = Vec::new();
            let decision = self.batchers[instance].decide(instance, now, batch, &mut gone);
            self.in_batchers -= batch.len() + gone.len();
            let is_any_gone = !gone.is_empty();
            self.take_back(gone, now, removed);
            wake = wake.and(self.feed(now));
            match decision {
                Decision::Run(_) => return Decision::Run(wake.and(self.slots.wake_for_look())),
                _ if is_any_gone => {} // what waited behind them is in the batcher now
                Decision::WaitUntil(due) | Decision::WaitHereUntil(due) => break Some(due),
                Decision::AskAgain(_) | Decision::Idle => break None,
            }
        };
        match wake {
            Wake::Nobody => self.wait(instance, due),
            Wake::Instance(own) if own == instance => self.wait(instance, due),
            wake => Decision::AskAgain(wake),
        }
    }
}
