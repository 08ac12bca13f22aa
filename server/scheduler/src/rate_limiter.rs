//! The rate limiter of an engine: all instances of all models that share resources ask it before they run. It decides
//! nothing itself; it keeps the rules of [`rate_limit`] behind one lock and calls the instances that may go on.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Instant,
};

use server_core::{
    backend::Device,
    error::Result,
    rate_limit::{self, Amounts, InstanceId, Needs},
};

use crate::{Scheduler, sync::Mutex};

/// Shared by all models. It is there only with `--rate-limit=execution_count`.
pub struct RateLimiter {
    state: Mutex<State>,
}

struct State {
    rules: rate_limit::RateLimiter,
    /// Whom to call: an instance by its number in its model's scheduler.
    instances: HashMap<InstanceId, (Weak<Scheduler>, usize)>,
}

impl RateLimiter {
    /// One for all models, with that many of each resource.
    pub fn new(declared: Amounts) -> Arc<Self> {
        let state = State { rules: rate_limit::RateLimiter::new(declared), instances: HashMap::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Lets one more instance share resources; `None` if it needs none.
    ///
    /// Errors: it could never run, or a resource is both of a device and of all.
    pub fn admit(self: &Arc<Self>, device: Device, needs: &Needs) -> Result<Option<Limited>> {
        if needs.is_empty() {
            return Ok(None);
        }
        let id = self.state.lock().rules.add(number(device), needs)?;
        Ok(Some(Limited { limiter: self.clone(), id, stage: Stage::Idle }))
    }

    /// Changes the rules' state; `own` needs no call.
    fn change(
        &self,
        own: InstanceId,
        change: impl FnOnce(&mut rate_limit::RateLimiter) -> Vec<InstanceId>,
    ) -> (bool, Admitted) {
        let mut state = self.state.lock();
        let admitted = change(&mut state.rules);
        let others = admitted.iter().filter(|id| **id != own).filter_map(|id| state.instances.get(id).cloned());
        let others = Admitted(others.collect());
        (state.rules.may_run(own), others)
    }
}

/// Processors count as device 0, and so does what a model chooses by itself, as in Triton.
fn number(device: Device) -> u32 {
    match device {
        Device::Gpu(gpu) => gpu,
        Device::Cpu | Device::Model => 0,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    Waiting,
    Held,
    Running,
}

/// One instance that shares resources, as its scheduler sees it. Dropped, it gives back what it holds.
pub struct Limited {
    limiter: Arc<RateLimiter>,
    id: InstanceId,
    stage: Stage,
}

impl Limited {
    /// Says who is to be called when resources are there.
    pub fn call(&self, scheduler: &Arc<Scheduler>, instance: usize) {
        let call = (Arc::downgrade(scheduler), instance);
        self.limiter.state.lock().instances.insert(self.id, call);
    }

    /// Asks for the resources, or about them; or gives them up if there is nothing to run.
    pub(crate) fn ask(&mut self, has_work: bool, now: Instant) -> Admitted {
        let id = self.id;
        let (may_run, admitted) = match (self.stage, has_work) {
            (Stage::Idle, true) => self.limiter.change(id, |rules| rules.request(id, now)),
            (Stage::Waiting, true) => self.limiter.change(id, |rules| rules.look(now)),
            (Stage::Waiting | Stage::Held, false) => self.limiter.change(id, |rules| rules.cancel(id, now)),
            (Stage::Idle, false) | (Stage::Held, true) | (Stage::Running, _) => return Admitted::default(),
        };
        self.stage = match (has_work, may_run) {
            (false, _) => Stage::Idle,
            (true, true) => Stage::Held,
            (true, false) => Stage::Waiting,
        };
        admitted
    }

    /// Whether it has asked and must wait.
    pub(crate) fn is_waiting(&self) -> bool {
        self.stage == Stage::Waiting
    }

    /// Whether it holds its resources and has not begun to run.
    pub(crate) fn is_held(&self) -> bool {
        self.stage == Stage::Held
    }

    /// It runs now.
    pub(crate) fn started(&mut self) {
        debug_assert_eq!(self.stage, Stage::Held, "it asked first");
        self.stage = Stage::Running;
    }

    /// If it ran: its execution has ended. Asks again at once if it has more to run, so that its turn is weighed against
    /// those of the others.
    pub(crate) fn ended(&mut self, has_more: bool, now: Instant) -> Admitted {
        if self.stage != Stage::Running {
            return Admitted::default();
        }
        let id = self.id;
        let (may_run, admitted) = self.limiter.change(id, |rules| rules.finish(id, has_more, now));
        self.stage = match (has_more, may_run) {
            (false, _) => Stage::Idle,
            (true, true) => Stage::Held,
            (true, false) => Stage::Waiting,
        };
        admitted
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let id = self.id;
        let (_, admitted) = self.limiter.change(id, |rules| rules.remove(id, Instant::now()));
        self.limiter.state.lock().instances.remove(&id);
        admitted.call();
    }
}

/// Instances of any model that may go on. They are called with no lock held.
#[derive(Default)]
#[must_use]
pub(crate) struct Admitted(Vec<(Weak<Scheduler>, usize)>);

impl Admitted {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Wakes them.
    pub(crate) fn call(self) {
        for (scheduler, instance) in self.0 {
            if let Some(scheduler) = scheduler.upgrade() {
                scheduler.resources_granted(instance);
            }
        }
    }
}
