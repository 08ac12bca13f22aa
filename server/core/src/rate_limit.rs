//! Which instance may run next where instances share resources: `--rate-limit=execution_count`.
//!
//! An instance that has something to run asks; it runs once everything it needs is free, and gives it back when its
//! execution has ended. Among those that wait, the one whose executions so far, times its priority, are fewest goes first.
//! One whose resources are not free does not hold up those behind it, until too many of those have gone before it: then
//! what it lacks is kept for it, for a while. A while only, and no more than it lacks, for whoever holds that may itself wait
//! for one of those behind: a model that asks another model.
//!
//! Source: Triton, "Rate Limiter". Triton looks at the first in line alone, which can leave everybody waiting.

mod resources;
mod shares;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use self::resources::{Key, Resources};
pub use self::{
    resources::{Amounts, Needs},
    shares::Shares,
};
use crate::error::Result;

/// An instance that shares resources.
pub type InstanceId = u64;

/// So many others may take what an instance waits for before it is kept for it.
const MOST_PASSES: u32 = 16;
/// How long it is kept the first time; twice as long each further time.
const FIRST_RESERVATION: Duration = Duration::from_millis(100);
const LONGEST_RESERVATION: Duration = Duration::from_secs(64);

/// What an instance does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It has nothing to run.
    Idle,
    Waiting(Wait),
    /// It holds what it needs.
    Running,
}

/// An instance in line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wait {
    /// Place among those of the same count.
    turn: u64,
    /// How many others took what it needs since.
    passes: u32,
    /// What is kept for it: all that it was found to lack since it was passed too often.
    reserved: BTreeSet<Key>,
    reserved_until: Option<Instant>,
    next_reservation: Duration,
}

#[derive(Debug)]
struct Instance {
    needs: BTreeMap<Key, u64>,
    priority: u64,
    /// Executions so far times priority.
    spent: u64,
    standing: Standing,
}

/// Resources, and the instances that share them.
#[derive(Debug, Default)]
pub struct RateLimiter {
    resources: Resources,
    instances: BTreeMap<InstanceId, Instance>,
    waiting: BTreeSet<InstanceId>,
    next_id: InstanceId,
    next_turn: u64,
}

impl RateLimiter {
    /// A limiter without instances. `declared` amounts are fixed; of other resources there is as much as the most
    /// demanding instance needs.
    pub fn new(declared: Amounts) -> Self {
        Self { resources: Resources::new(declared), ..Self::default() }
    }

    /// Adds an instance that runs on that device.
    ///
    /// Errors: `InvalidArgument` if it could never run, or a resource is both of a device and of all.
    pub fn add(&mut self, device: u32, needs: &Needs) -> Result<InstanceId> {
        let amounts = needs.on(device);
        let others = self.instances.values().map(|instance| &instance.needs);
        self.resources.set_limits(others.chain([&amounts]))?;
        let id = self.next_id;
        self.next_id += 1;
        let standing = Standing::Idle;
        self.instances.insert(id, Instance { needs: amounts, priority: needs.priority, spent: 0, standing });
        Ok(id)
    }

    /// Takes an instance away, with what it holds. Returns those that may run now.
    pub fn remove(&mut self, id: InstanceId, now: Instant) -> Vec<InstanceId> {
        self.waiting.remove(&id);
        if let Some(instance) = self.instances.remove(&id)
            && instance.standing == Standing::Running
        {
            self.resources.give_back(&instance.needs);
        }
        let needs = self.instances.values().map(|instance| &instance.needs);
        let limits = self.resources.set_limits(needs);
        debug_assert!(limits.is_ok(), "what was allowed with one more is allowed without it");
        self.admit(now)
    }

    /// The instance has something to run. Returns those that may run now, itself perhaps among them; otherwise it is in
    /// line, and some later call returns it.
    pub fn request(&mut self, id: InstanceId, now: Instant) -> Vec<InstanceId> {
        let floor = self.least_spent_beside(id);
        let Some(instance) = self.instances.get_mut(&id).filter(|instance| instance.standing == Standing::Idle) else {
            return Vec::new();
        };
        // One that had nothing to run saved nothing up by it, or it would have everything for as long as it was away;
        // and owes for no more than its last execution.
        if let Some(floor) = floor {
            instance.spent = instance.spent.clamp(floor, floor.saturating_add(instance.priority));
        }
        self.enqueue(id);
        self.admit(now)
    }

    /// The instance's execution has ended, and it has more to run or not. Returns those that may run now.
    pub fn finish(&mut self, id: InstanceId, has_more: bool, now: Instant) -> Vec<InstanceId> {
        let Some(instance) = self.running(id) else { return Vec::new() };
        instance.spent = instance.spent.saturating_add(instance.priority);
        self.leave(id);
        if has_more {
            self.enqueue(id);
        }
        self.admit(now)
    }

    /// The instance will not run after all: it gives back what it holds, or leaves the line. Returns those that may run
    /// now.
    pub fn cancel(&mut self, id: InstanceId, now: Instant) -> Vec<InstanceId> {
        self.leave(id);
        self.admit(now)
    }

    /// Whether the instance may run.
    pub fn may_run(&self, id: InstanceId) -> bool {
        self.instances.get(&id).is_some_and(|instance| instance.standing == Standing::Running)
    }

    /// Those that may run now although nothing was given back: reservations end by time. Whoever waits calls this now
    /// and then.
    pub fn look(&mut self, now: Instant) -> Vec<InstanceId> {
        self.admit(now)
    }

    fn running(&mut self, id: InstanceId) -> Option<&mut Instance> {
        self.instances.get_mut(&id).filter(|instance| instance.standing == Standing::Running)
    }

    fn leave(&mut self, id: InstanceId) {
        self.waiting.remove(&id);
        let Some(instance) = self.instances.get_mut(&id) else { return };
        if std::mem::replace(&mut instance.standing, Standing::Idle) == Standing::Running {
            self.resources.give_back(&instance.needs);
        }
    }

    fn enqueue(&mut self, id: InstanceId) {
        let turn = self.next_turn;
        self.next_turn += 1;
        if let Some(instance) = self.instances.get_mut(&id) {
            let next_reservation = FIRST_RESERVATION;
            let (reserved, reserved_until) = (BTreeSet::new(), None);
            instance.standing = Standing::Waiting(Wait { turn, passes: 0, reserved, reserved_until, next_reservation });
            self.waiting.insert(id);
        }
    }

    /// The least spent by those that wait for or hold something this instance needs.
    fn least_spent_beside(&self, id: InstanceId) -> Option<u64> {
        let own = &self.instances.get(&id)?.needs;
        let others = self.instances.iter().filter(|(other, instance)| {
            **other != id && instance.standing != Standing::Idle && share(own, &instance.needs)
        });
        others.map(|(_, instance)| instance.spent).min()
    }

    /// Gives resources to those in line, as far as they go.
    fn admit(&mut self, now: Instant) -> Vec<InstanceId> {
        let mut line: Vec<(u64, u64, InstanceId)> = self.waiting.iter().filter_map(|id| self.place(*id)).collect();
        line.sort_unstable();
        let (mut admitted, mut passed): (Vec<InstanceId>, Vec<InstanceId>) = (Vec::new(), Vec::new());
        let mut reserved: BTreeSet<Key> = BTreeSet::new();
        for (_, _, id) in line {
            let Some(instance) = self.instances.get(&id) else { continue };
            let is_free = self.resources.fit(&instance.needs);
            if is_free && !instance.needs.keys().any(|key| reserved.contains(key)) {
                let needs = instance.needs.clone();
                self.resources.take(&needs);
                for before in &passed {
                    self.pass(*before, &needs);
                }
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.standing = Standing::Running;
                }
                self.waiting.remove(&id);
                admitted.push(id);
                continue;
            }
            passed.push(id);
            reserved.extend(self.reserved_for(id, now));
        }
        admitted
    }

    /// Order of the line: least spent first, then first come.
    fn place(&self, id: InstanceId) -> Option<(u64, u64, InstanceId)> {
        let instance = self.instances.get(&id)?;
        match &instance.standing {
            Standing::Waiting(wait) => Some((instance.spent, wait.turn, id)),
            Standing::Idle | Standing::Running => None,
        }
    }

    /// Another took some of what this one waits for.
    fn pass(&mut self, id: InstanceId, taken: &BTreeMap<Key, u64>) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        if let Standing::Waiting(wait) = &mut instance.standing
            && share(&instance.needs, taken)
        {
            wait.passes = wait.passes.saturating_add(1);
        }
    }

    /// What is kept for an instance that waits.
    fn reserved_for(&mut self, id: InstanceId, now: Instant) -> BTreeSet<Key> {
        let Some(Instance { needs, standing: Standing::Waiting(wait), .. }) = self.instances.get_mut(&id) else {
            return BTreeSet::new();
        };
        if wait.passes < MOST_PASSES {
            return BTreeSet::new();
        }
        let until = *wait.reserved_until.get_or_insert_with(|| now + wait.next_reservation);
        if now < until {
            wait.reserved.extend(self.resources.lacking(needs));
            return wait.reserved.clone();
        }
        wait.passes = 0;
        wait.reserved_until = None;
        wait.reserved.clear();
        wait.next_reservation = (wait.next_reservation * 2).min(LONGEST_RESERVATION);
        BTreeSet::new()
    }
}

fn share(one: &BTreeMap<Key, u64>, other: &BTreeMap<Key, u64>) -> bool {
    one.keys().any(|key| other.contains_key(key))
}

#[cfg(test)]
#[path = "rate_limit/tests.rs"]
mod tests;
