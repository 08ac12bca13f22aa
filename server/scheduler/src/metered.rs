//! A scheduling policy whose queue is measured: whatever it is asked, what waits afterwards is counted. So no way in or out of the
//! queue is missed, whichever policy it is.

use std::time::{Duration, Instant};

use server_core::{
    batch::Pending,
    batching::{
        policy::{Decision, Policy, Pushed, Rejected, Wake},
        queue::Removal,
    },
    footprint::Footprint,
    load::{LoadAccount, LoadSnapshot},
    sequence::SlotRef,
};

/// Requests that ended in the queue.
pub type Removed = Vec<(Pending, Removal)>;

/// A policy and the load of its model.
pub(super) struct MeteredPolicy {
    policy: Box<dyn Policy<Pending>>,
    load: LoadAccount,
}

impl MeteredPolicy {
    pub(super) fn new(policy: Box<dyn Policy<Pending>>) -> Self {
        Self { policy, load: LoadAccount::new(Instant::now()) }
    }

    pub(super) fn is_needed(&self, instance: usize) -> bool {
        self.policy.is_needed(instance)
    }

    pub(super) fn footprint(&self, footprint: &mut Footprint) {
        self.policy.footprint(footprint);
    }

    pub(super) fn runs_one_by_one(&self) -> bool {
        self.policy.runs_one_by_one()
    }

    pub(super) fn waits_for(&self, instance: usize) -> bool {
        self.policy.waits_for(instance)
    }

    pub(super) fn len(&self) -> usize {
        self.policy.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.policy.is_empty()
    }

    /// An instance begins to execute.
    pub(super) fn execution_began(&mut self, now: Instant) {
        self.load.began(now);
    }

    /// An instance has executed what it was given.
    pub(super) fn execution_ended(&mut self, now: Instant) {
        self.load.ended(now);
    }

    /// The load, where so many instances take requests.
    pub(super) fn load(&mut self, now: Instant, instances: usize) -> LoadSnapshot {
        self.load.at(now, self.policy.oldest(), instances)
    }

    pub(super) fn add_instance(&mut self, instance: usize, now: Instant) -> Wake {
        self.counted(now, |policy| policy.add_instance(instance, now))
    }

    pub(super) fn retire_instance(&mut self, instance: usize) -> Wake {
        self.policy.retire_instance(instance) // what waits for it goes on waiting
    }

    #[allow(clippy::result_large_err, reason = "what is refused comes back as the policy gives it")]
    pub(super) fn push(
        &mut self,
        item: Pending,
        priority: u64,
        timeout: Option<Duration>,
        now: Instant,
    ) -> Result<Pushed, Rejected<Pending>> {
        let pushed = self.policy.push(item, priority, timeout, now);
        match pushed {
            Ok(_) => self.load.entered(self.policy.len(), now),
            Err(_) => self.load.waiting(self.policy.len(), now), // others may have gone meanwhile
        }
        pushed
    }

    #[allow(clippy::result_large_err, reason = "what is refused comes back as the policy gives it")]
    pub(super) fn put_back(&mut self, item: Pending, now: Instant) -> Result<Wake, Pending> {
        let put_back = self.policy.put_back(item, now);
        if put_back.is_ok() {
            self.load.entered(self.policy.len(), now);
        }
        put_back
    }

    pub(super) fn released(&mut self, slot: SlotRef, now: Instant) -> Wake {
        self.counted(now, |policy| policy.released(slot, now))
    }

    pub(super) fn sweep(&mut self, now: Instant, depth: usize, removed: &mut Vec<(Pending, Removal)>) -> Wake {
        self.counted(now, |policy| policy.sweep(now, depth, removed))
    }

    pub(super) fn stop_waiting(&mut self) {
        self.policy.stop_waiting();
    }

    pub(super) fn close(&mut self, now: Instant) -> Wake {
        self.counted(now, |policy| policy.close(now))
    }

    pub(super) fn decide(
        &mut self,
        instance: usize,
        now: Instant,
        batch: &mut Vec<Pending>,
        removed: &mut Removed,
    ) -> Decision {
        self.counted(now, |policy| policy.decide(instance, now, batch, removed))
    }

    fn counted<R>(&mut self, now: Instant, change: impl FnOnce(&mut dyn Policy<Pending>) -> R) -> R {
        let result = change(&mut *self.policy);
        self.load.waiting(self.policy.len(), now);
        result
    }
}
