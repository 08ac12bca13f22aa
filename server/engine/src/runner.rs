//! What runs the requests of a model version: instances of its own, or the models that an ensemble is made of.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use server_core::backend::{MemoryUse, Readiness};
use server_core::{
    health::Health,
    input_memory::InputMemory,
    request::RequestedOutput,
    stats::{ModelCounters, ModelSnapshot},
};

use crate::{
    ensemble::Ensemble,
    pool::InstancePool,
    series::{Replaced, Series},
};

/// What runs the requests of a model version. Clones share it.
#[derive(Clone)]
pub(crate) enum Runner {
    /// Instances, and the queue they share.
    Instances(Arc<InstancePool>),
    /// Other models.
    Ensemble(Arc<Ensemble>),
}

impl Runner {
    /// Whether both are the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Instances(one), Self::Instances(other)) => Arc::ptr_eq(one, other),
            (Self::Ensemble(one), Self::Ensemble(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Whether it can serve. An ensemble can: each of its requests hears for itself what a part of it says.
    pub(crate) fn is_healthy(&self) -> bool {
        match self {
            Self::Instances(pool) => pool.is_healthy(),
            Self::Ensemble(_) => true,
        }
    }

    /// Whether it can serve in its own word, if it has one.
    pub(crate) fn readiness(&self) -> Option<Readiness> {
        match self {
            Self::Instances(pool) => pool.clone().readiness(),
            Self::Ensemble(_) => None,
        }
    }

    /// What its instances say is wrong with them, by instance.
    pub(crate) fn reasons(&self) -> Vec<String> {
        match self {
            Self::Instances(pool) => pool.reasons(),
            Self::Ensemble(_) => Vec::new(),
        }
    }

    /// Memory that its inputs are read from without a copy.
    pub(crate) fn input_memory(&self) -> Option<Arc<dyn InputMemory>> {
        match self {
            Self::Instances(pool) => pool.input_memory(),
            Self::Ensemble(ensemble) => ensemble.input_memory(),
        }
    }

    /// Memory that it holds, as far as its backend knows.
    pub(crate) fn memory(&self) -> Vec<MemoryUse> {
        match self {
            Self::Instances(pool) => pool.memory(),
            Self::Ensemble(_) => Vec::new(),
        }
    }

    /// The counters now.
    pub(crate) fn snapshot(&self) -> ModelSnapshot {
        match self {
            Self::Instances(pool) => pool.snapshot(),
            Self::Ensemble(ensemble) => ensemble.snapshot(),
        }
    }

    /// The counters now, with those of the runners that this one has replaced.
    pub(crate) fn metrics(&self) -> ModelSnapshot {
        let metrics = self.series().metrics();
        match self {
            Self::Instances(pool) => ModelSnapshot { custom: pool.custom_counters(), ..metrics },
            // what it replaced may have had a queue of its own
            Self::Ensemble(_) => ModelSnapshot { load: None, ..metrics },
        }
    }

    /// Counters go on from those of the runner whose place this one takes.
    pub(crate) fn replaces(&self, before: &Self) {
        self.replaced().push(before.series());
    }

    /// Lets go of replaced runners that are gone.
    pub(crate) fn settle(&self) {
        self.replaced().settle();
    }

    /// The load took so long.
    pub(crate) fn loaded(&self, took: Duration) {
        match self {
            Self::Instances(pool) => pool.loaded(took),
            Self::Ensemble(ensemble) => ensemble.loaded(took),
        }
    }

    /// Counts a request that the response cache answered; see [`ModelCounters::record_cache_hit`].
    pub(crate) fn cache_hit(&self, received_at: Instant, looked_up_at: Instant, now: Instant) {
        self.count(|counters| counters.record_cache_hit(received_at, looked_up_at, now));
    }

    /// Counts a request that the response cache did not answer; see [`ModelCounters::record_cache_miss`].
    pub(crate) fn cache_miss(&self, took: Duration) {
        let now = Instant::now();
        self.count(|counters| counters.record_cache_miss(took, now));
    }

    fn count(&self, count: impl FnOnce(&mut ModelCounters)) {
        match self {
            Self::Instances(pool) => pool.count(count),
            Self::Ensemble(ensemble) => ensemble.count(count),
        }
    }

    /// Requests that were let in and are not gone.
    pub(crate) fn in_flight(&self) -> u64 {
        match self {
            Self::Instances(pool) => pool.in_flight(),
            Self::Ensemble(ensemble) => ensemble.in_flight(),
        }
    }

    /// Requests let in so far.
    pub(crate) fn admitted(&self) -> u64 {
        match self {
            Self::Instances(pool) => pool.admitted(),
            Self::Ensemble(ensemble) => ensemble.admitted(),
        }
    }

    /// No request waits for company from here on.
    pub(crate) fn stop_waiting(&self) {
        match self {
            Self::Instances(pool) => pool.stop_waiting(),
            Self::Ensemble(_) => {} // its requests wait where their steps run
        }
    }

    /// Whether it cannot answer with those outputs (none for all) as long as the instances of which `is_blocked` says so run nothing:
    /// all its own, or all of a model that an ensemble needs.
    pub(crate) fn waits_for(&self, outputs: &[RequestedOutput], is_blocked: &dyn Fn(&Health) -> bool) -> bool {
        match self {
            Self::Instances(pool) => pool.waits_for(is_blocked),
            Self::Ensemble(ensemble) => ensemble.waits_for(outputs, is_blocked),
        }
    }

    /// Lets in nobody more.
    pub(crate) fn close(&self) {
        match self {
            Self::Instances(pool) => pool.close(),
            Self::Ensemble(ensemble) => ensemble.close(),
        }
    }

    /// Lets in nobody more, and blocks until the last request is gone and then what ran them.
    pub(crate) fn drain(&self) {
        match self {
            Self::Instances(pool) => pool.drain(),
            Self::Ensemble(ensemble) => ensemble.drain(),
        }
    }

    fn series(&self) -> Arc<dyn Series> {
        match self {
            Self::Instances(pool) => pool.series(),
            Self::Ensemble(ensemble) => ensemble.clone(),
        }
    }

    fn replaced(&self) -> &Replaced {
        match self {
            Self::Instances(pool) => pool.replaced(),
            Self::Ensemble(ensemble) => ensemble.replaced(),
        }
    }
}
