//! Runs ensembles: the decisions are [`server_core::ensemble`]'s, the requests of its steps go the way of any request. An
//! ensemble has no thread and no task: whoever waits for one of its requests polls it.

mod limits;
mod members;
mod run;

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use server_core::{
    completion::{EndedRequest, RequestRecord},
    ensemble::Graph,
    health::Health,
    input_memory::InputMemory,
    request::{InferRequest, RequestedOutput},
    stats::{ComputeTimes, FailureReason, ModelCounters, ModelSnapshot},
};
use server_scheduler::Refusal;

use crate::{
    pool::Refused,
    registry::Registry,
    series::{Replaced, Series},
    stats::now_ms,
};

use self::limits::StepLimits;
pub(crate) use self::{members::members, run::EnsembleRun};

/// One version of an ensemble that serves.
pub(crate) struct Ensemble {
    graph: Arc<Graph>,
    /// Held weakly, for the registry holds the ensemble.
    registry: Weak<Registry>,
    limits: Option<StepLimits>,
    /// Whether distributions are kept beside the counters.
    has_latencies: bool,
    state: Mutex<State>,
    /// The last request has ended.
    drained: Condvar,
    replaced: Replaced,
}

struct State {
    counters: ModelCounters,
    admitted: u64,
    in_flight: u64,
    is_closed: bool,
}

impl Ensemble {
    /// An ensemble without requests. `counters` carries the labels of its metrics.
    pub(crate) fn new(graph: Graph, registry: Weak<Registry>, counters: ModelCounters) -> Self {
        Self {
            limits: graph.max_inflight_requests().map(|limit| StepLimits::new(graph.step_count(), limit)),
            graph: Arc::new(graph),
            registry,
            has_latencies: counters.has_latencies(),
            state: Mutex::new(State { counters, admitted: 0, in_flight: 0, is_closed: false }),
            drained: Condvar::new(),
            replaced: Replaced::default(),
        }
    }

    /// What it runs.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Memory that the first of its steps that wants any reads an input of the ensemble from. The models are looked up when
    /// they are needed: each may be another by then.
    pub(crate) fn input_memory(&self) -> Option<Arc<dyn InputMemory>> {
        let registry = self.registry.upgrade()?;
        self.graph.steps_of_inputs().find_map(|step| {
            let (name, version) = self.graph.step_model(step);
            registry.find_key(name, version).ok()?.runner().input_memory()
        })
    }

    /// Whether a model that it needs for those outputs cannot answer as long as instances are blocked, see [`Runner::waits_for`]. The
    /// models are looked up anew, as each request does.
    ///
    /// [`Runner::waits_for`]: crate::runner::Runner::waits_for
    pub(crate) fn waits_for(&self, outputs: &[RequestedOutput], is_blocked: &dyn Fn(&Health) -> bool) -> bool {
        let Some(registry) = self.registry.upgrade() else { return false };
        self.graph.steps_for(outputs).any(|step| {
            let (name, version) = self.graph.step_model(step);
            let found = registry.find_key(name, version);
            found.is_ok_and(|model| model.runner().waits_for(self.graph.step_outputs(step), is_blocked))
        })
    }

    /// Takes a checked request in and starts its first steps; the others start when it is polled.
    ///
    /// Errors: it comes back when the ensemble is closed.
    pub(crate) fn begin(
        self: &Arc<Self>,
        request: InferRequest,
        batch_size: u32,
    ) -> Result<Box<EnsembleRun>, Box<Refused>> {
        let record = RequestRecord { received_at: request.received_at, queued_at: Instant::now(), batch_size };
        let registry = {
            let mut state = self.state.lock();
            let registry = self.registry.upgrade().filter(|_| !state.is_closed);
            let Some(registry) = registry else {
                return Err(Box::new(Refused { request, refusal: Refusal::Closed }));
            };
            state.admitted += 1;
            state.in_flight += 1;
            registry
        };
        let mut run = Box::new(EnsembleRun::new(self.clone(), registry, request, record));
        run.begin();
        Ok(run)
    }

    /// Counts what none of its requests sees.
    pub(crate) fn count(&self, count: impl FnOnce(&mut ModelCounters)) {
        count(&mut self.state.lock().counters);
    }

    /// Counts a request that was not taken in.
    pub(crate) fn refused(&self) {
        self.state.lock().counters.record_refusal();
    }

    /// The first response of a request is there.
    fn responded_first(&self, record: &RequestRecord) {
        if self.has_latencies {
            self.state.lock().counters.record_first_response(record.received_at, Instant::now());
        }
    }

    /// Counts the end of a request that was taken in; `started` is when its first step might start.
    fn ended(&self, request: EndedRequest<'_>, started: Instant, outcome: Result<ComputeTimes, FailureReason>) {
        let (now, now_ms) = (Instant::now(), now_ms());
        let mut state = self.state.lock();
        match outcome {
            Ok(times) => state.counters.record_ensemble(request, started, times, now, now_ms),
            Err(reason) => state.counters.record_failure(reason, request.record.received_at, now),
        }
        state.in_flight -= 1;
        if state.is_closed && state.in_flight == 0 {
            drop(state);
            self.drained.notify_all();
        }
    }

    /// The counters now.
    pub(crate) fn snapshot(&self) -> ModelSnapshot {
        self.state.lock().counters.snapshot()
    }

    /// The versions that this one has replaced.
    pub(crate) fn replaced(&self) -> &Replaced {
        &self.replaced
    }

    /// The load took so long.
    pub(crate) fn loaded(&self, took: Duration) {
        self.state.lock().counters.loaded(took);
    }

    /// Requests that were taken in and have not ended.
    pub(crate) fn in_flight(&self) -> u64 {
        self.state.lock().in_flight
    }

    /// Requests taken in so far.
    pub(crate) fn admitted(&self) -> u64 {
        self.state.lock().admitted
    }

    /// Takes no more requests in.
    pub(crate) fn close(&self) {
        self.state.lock().is_closed = true;
    }

    /// Takes no more requests in, and blocks until the last one has ended.
    pub(crate) fn drain(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        self.drained.wait_while(&mut state, |state| state.in_flight > 0);
    }
}

impl Series for Ensemble {
    fn metrics(&self) -> ModelSnapshot {
        let mut snapshot = self.state.lock().counters.metrics(Instant::now());
        self.replaced.add_to(&mut snapshot);
        snapshot
    }

    fn is_final(&self) -> bool {
        let has_ended = {
            let state = self.state.lock();
            state.is_closed && state.in_flight == 0
        };
        has_ended && self.replaced.is_final()
    }
}
