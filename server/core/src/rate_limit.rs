//! Which instance may run next where instances share resources: `--rate-limit=execution_count`.
//!
//! An instance that has something to run asks; it runs once everything it needs is free, and gives it back when its
//! execution has ended. Among those that wait, the one whose executions so far, times its priority, are fewest goes first.
//! One whose resources are not free holds up those behind it that need what it lacks, and nobody else: else one that needs
//! much would never run beside many that need little. It holds them up for a time only, for whoever has what it lacks may
//! itself wait for one of them: a model that asks another model. That time is twice as long as an execution of theirs lasts.
//! If it was not enough, some of those behind go first, and the next time is longer: so the one in front gets its turn, and
//! all go on.
//!
//! Source: Triton, "Rate Limiter". Triton lets nobody pass the first in line, which can leave everybody waiting for ever.

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

/// How long resources are kept for an instance, at least and at most.
const SHORTEST_RESERVATION: Duration = Duration::from_millis(100);
const LONGEST_RESERVATION: Duration = Duration::from_secs(64);
/// How many others may go first, at most, when a reservation was too short.
const MOST_PASSES: u32 = 1024;

/// What an instance does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It has nothing to run.
    Idle,
    Waiting(Wait),
    /// It holds what it needs.
    Running {
        since: Instant,
        /// For how long of this it may have waited for one that was held up by a reservation.
        held_up: Duration,
    },
}

/// An instance in line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wait {
    /// Place among those of the same count.
    turn: u64,
    /// What is kept for it.
    reserved: BTreeSet<Key>,
    /// Since when, unless nothing is.
    reserved_since: Option<Instant>,
    /// For how long it is, at least.
    patience: Duration,
    /// How many others may go first before anything is kept for it again.
    passes: u32,
    /// How many may after the next reservation that is too short.
    next_passes: u32,
}

impl Wait {
    fn new(turn: u64) -> Self {
        let (reserved, patience) = (BTreeSet::new(), SHORTEST_RESERVATION);
        Self { turn, reserved, reserved_since: None, patience, passes: 0, next_passes: 1 }
    }
}

#[derive(Debug)]
struct Instance {
    needs: BTreeMap<Key, u64>,
    priority: u64,
    /// Executions so far times priority.
    spent: u64,
    /// How long its last execution was.
    lasts: Duration,
    standing: Standing,
}

impl Instance {
    fn is_running(&self) -> bool {
        matches!(self.standing, Standing::Running { .. })
    }

    fn has_any(&self, keys: &BTreeSet<Key>) -> bool {
        self.needs.keys().any(|key| keys.contains(key))
    }
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
    /// A limiter without instances. `declared` amounts are fixed, and there is nothing of what is not among them; if there
    /// are none, there is as much of each resource as the most demanding instance needs.
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
        let (lasts, standing) = (Duration::ZERO, Standing::Idle);
        self.instances.insert(id, Instance { needs: amounts, priority: needs.priority, spent: 0, lasts, standing });
        Ok(id)
    }

    /// Takes an instance away, with what it holds. Returns those that may run now.
    pub fn remove(&mut self, id: InstanceId, now: Instant) -> Vec<InstanceId> {
        self.waiting.remove(&id);
        if let Some(instance) = self.instances.remove(&id)
            && instance.is_running()
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
        let Some(instance) = self.instances.get_mut(&id) else { return Vec::new() };
        let Standing::Running { since, held_up } = instance.standing else { return Vec::new() };
        instance.lasts = now.saturating_duration_since(since).saturating_sub(held_up);
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
        self.instances.get(&id).is_some_and(Instance::is_running)
    }

    /// Those that may run now although nothing was given back: reservations end by time. Whoever waits calls this now
    /// and then.
    pub fn look(&mut self, now: Instant) -> Vec<InstanceId> {
        self.admit(now)
    }

    fn leave(&mut self, id: InstanceId) {
        self.waiting.remove(&id);
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let was_running = instance.is_running();
        instance.standing = Standing::Idle;
        if was_running {
            self.resources.give_back(&instance.needs);
        }
    }

    fn enqueue(&mut self, id: InstanceId) {
        let turn = self.next_turn;
        self.next_turn += 1;
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.standing = Standing::Waiting(Wait::new(turn));
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
                    instance.standing = Standing::Running { since: now, held_up: Duration::ZERO };
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
            Standing::Idle | Standing::Running { .. } => None,
        }
    }

    /// Another took some of what this one lacks.
    fn pass(&mut self, id: InstanceId, taken: &BTreeMap<Key, u64>) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let mut lacking = self.resources.lacking(&instance.needs);
        if let Standing::Waiting(wait) = &mut instance.standing
            && lacking.any(|key| taken.contains_key(&key))
        {
            wait.passes = wait.passes.saturating_sub(1);
        }
    }

    /// What is kept for an instance that waits: one resource that it lacks, and when that is there, the next. Those behind
    /// may use the others meanwhile.
    fn reserved_for(&mut self, id: InstanceId, now: Instant) -> BTreeSet<Key> {
        let Some(instance) = self.instances.get(&id) else { return BTreeSet::new() };
        let lacking: BTreeSet<Key> = self.resources.lacking(&instance.needs).collect();
        let lasts = self.holders(&lacking).map(|instance| instance.lasts).max().unwrap_or_default();
        let Some(Instance { standing: Standing::Waiting(wait), .. }) = self.instances.get_mut(&id) else {
            return BTreeSet::new();
        };
        if wait.passes > 0 {
            return BTreeSet::new();
        }
        let since = *wait.reserved_since.get_or_insert(now);
        let patience = wait.patience.max(lasts.saturating_mul(2)).min(LONGEST_RESERVATION);
        if now.saturating_duration_since(since) < patience {
            if lacking.is_disjoint(&wait.reserved) {
                wait.reserved.extend(lacking.into_iter().next());
            }
            return wait.reserved.clone();
        }
        wait.reserved_since = None;
        wait.reserved.clear();
        wait.patience = patience.saturating_mul(2).min(LONGEST_RESERVATION);
        wait.passes = wait.next_passes;
        wait.next_passes = (wait.next_passes * 2).min(MOST_PASSES);
        for holder in self.holders_mut(&lacking) {
            if let Standing::Running { since: running_since, held_up } = &mut holder.standing {
                *held_up += now.saturating_duration_since(since.max(*running_since));
            }
        }
        BTreeSet::new()
    }

    /// Those that run with any of these.
    fn holders(&self, keys: &BTreeSet<Key>) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(|instance| instance.is_running() && instance.has_any(keys))
    }

    fn holders_mut(&mut self, keys: &BTreeSet<Key>) -> impl Iterator<Item = &mut Instance> {
        self.instances.values_mut().filter(|instance| instance.is_running() && instance.has_any(keys))
    }
}

fn share(one: &BTreeMap<Key, u64>, other: &BTreeMap<Key, u64>) -> bool {
    one.keys().any(|key| other.contains_key(key))
}

#[cfg(test)]
#[path = "rate_limit/tests.rs"]
mod tests;
