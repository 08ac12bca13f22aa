//! One request to an ensemble. Its steps are requests like any other; polling it polls those that are under way, starts
//! what may start, and gives the ensemble's responses. Dropping it drops them.

use std::{
    any::Any,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use server_core::{
    caller::Caller,
    completion::{EndedRequest, RequestRecord},
    ensemble::{Progress, Run},
    error::{Error, Result},
    request::{InferRequest, Parameters},
    response::Outputs,
    stats::{ComputeTimes, FailureReason},
    trace::{Activity, Trace},
};
use smallvec::SmallVec;

use super::{Ensemble, limits::Waits};
use crate::{
    infer::{self, Inference},
    model::{Hold, LoadedModel},
    registry::Registry,
};

/// Responses of steps handled in one poll; then the caller's thread serves others first.
const BUDGET: usize = 256;

/// A request to an ensemble.
pub(crate) struct EnsembleRun {
    ensemble: Arc<Ensemble>,
    registry: Arc<Registry>,
    progress: Progress,
    /// By step; `None` for steps that nobody needs. They serve until this request has ended.
    models: SmallVec<[Option<Hold>; 4]>,
    /// In the order in which they were started.
    running: SmallVec<[Running; 1]>,
    /// Where the ensemble limits its requests in flight.
    waits: Option<Waits>,
    common: Common,
    record: RequestRecord,
    /// When its first step might start: until then it was in the queue, as Triton has it.
    started: Instant,
    times: ComputeTimes,
    /// Let go of when its last response is there.
    kept: Option<Box<dyn Any + Send>>,
    has_responded: bool,
    is_over: bool,
}

/// A step under way.
struct Running {
    run: Run,
    inference: Inference,
}

/// What every step's request has of the ensemble's.
struct Common {
    parameters: Parameters,
    priority: u64,
    timeout: Option<Duration>,
    callers: Option<Arc<Caller>>,
    trace: Option<Arc<Trace>>,
}

/// What polling a step under way brought, and its place among them.
type Event = (usize, Option<Result<Outputs>>);

impl EnsembleRun {
    /// A request that was checked and taken in.
    pub(super) fn new(
        ensemble: Arc<Ensemble>,
        registry: Arc<Registry>,
        request: InferRequest,
        record: RequestRecord,
    ) -> Self {
        let InferRequest { id, inputs, outputs, parameters, sequence, priority, timeout, callers, trace, .. } = request;
        let graph = ensemble.graph.clone();
        let mut progress = Progress::new(graph.clone(), inputs, &outputs, record.batch_size, id, sequence);
        let mut models = SmallVec::new();
        for step in 0..graph.step_count() {
            let (name, version) = graph.step_model(step);
            let found = progress.is_needed(step).then(|| registry.find_key(name, version)).transpose();
            models.push(found.map_or_else(
                |error| {
                    progress.fail(error);
                    None
                },
                |model| model.map(LoadedModel::hold),
            ));
        }
        let waits = ensemble.limits.as_ref().map(Waits::new);
        if let Some(trace) = &trace {
            trace.reached(Activity::QueueStart, record.queued_at);
        }
        let common = Common { parameters, priority, timeout, callers, trace };
        Self {
            ensemble,
            registry,
            progress,
            models,
            running: SmallVec::new(),
            waits,
            common,
            record,
            started: record.queued_at,
            times: ComputeTimes::default(),
            kept: None,
            has_responded: false,
            is_over: false,
        }
    }

    /// Starts its first steps, so that requests enter their queues in the order in which they came. Polled it is later.
    pub(super) fn begin(&mut self) {
        self.started = Instant::now();
        self.start_steps(Waker::noop());
    }

    /// The next response; `None` after the last one.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Outputs>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        self.poll_ahead(context);
        if let Some(response) = self.progress.next_response() {
            if !std::mem::replace(&mut self.has_responded, true) {
                self.ensemble.responded_first(&self.record);
            }
            if let Some(trace) = &self.common.trace {
                trace.outputs(&response);
            }
            if let Some(Ok(())) = self.progress.end() {
                self.end(Ok(self.times)); // counted before the caller knows
            }
            return Poll::Ready(Some(Ok(response)));
        }
        let Some(end) = self.progress.end() else { return Poll::Pending };
        if end.is_err() && !std::mem::replace(&mut self.has_responded, true) {
            self.ensemble.responded_first(&self.record);
        }
        self.end(end.as_ref().map(|()| self.times).map_err(|_| FailureReason::Other));
        Poll::Ready(end.err().map(Err))
    }

    /// Goes on to the next response, and no further: it is kept until it is asked for. The caller is woken when there is
    /// more to do.
    pub(crate) fn poll_ahead(&mut self, context: &mut Context<'_>) {
        let mut handled = 0;
        while !self.is_over && !self.progress.has_response() && self.progress.end().is_none() {
            if handled >= BUDGET {
                context.waker().wake_by_ref();
                return;
            }
            let started = self.start_steps(context.waker());
            let events = self.poll_steps(context);
            if started == 0 && events.is_empty() && !self.is_time_to_ask(context) {
                return;
            }
            handled += events.len();
            self.handle(events);
        }
        self.rest();
    }

    /// Nobody polls it before its response is read: what it waits for goes to others first.
    pub(crate) fn rest(&mut self) {
        self.waits.iter_mut().for_each(Waits::rest);
        self.running.iter_mut().for_each(|running| running.inference.rest());
    }

    /// Whether a step has waited long enough for its turn.
    fn is_time_to_ask(&mut self, context: &mut Context<'_>) -> bool {
        self.waits.as_mut().is_some_and(|waits| waits.is_time(context))
    }

    /// Keeps something until its last response is there, read or not.
    pub(crate) fn keep(&mut self, kept: Box<dyn Any + Send>) {
        self.kept = (!self.progress.has_run()).then_some(kept);
    }

    /// Whether nothing more comes.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_over
    }

    /// What its steps took together, once it has ended.
    pub(crate) fn times(&self) -> ComputeTimes {
        self.times
    }

    /// Starts every run that may start now.
    fn start_steps(&mut self, waker: &Waker) -> usize {
        let mut count = 0;
        self.waits.iter_mut().for_each(Waits::ask_anew);
        loop {
            let Self { ensemble, progress, models, waits, .. } = self;
            let mut place = None;
            let may_start = |step: usize, in_flight: usize| match waits {
                Some(waits) => waits.ask(step, in_flight, &mut place, waker),
                None => true,
            };
            let model = |step: usize| models[step].as_ref().map(|hold: &Hold| &**hold.model().interface());
            let Some((run, inputs)) = progress.start(may_start, model) else { return count };
            count += 1;
            let (name, version) = ensemble.graph.step_model(run.step);
            let found = models[run.step].as_ref();
            let request = InferRequest {
                model_name: found.map_or(name, |found| &found.model().interface().model_name).clone(),
                model_version: version,
                id: progress.request_id().to_owned(),
                inputs: inputs.inputs,
                outputs: ensemble.graph.step_outputs(run.step).clone(),
                parameters: self.common.parameters.clone(),
                sequence: inputs.sequence,
                priority: self.common.priority,
                timeout: self.common.timeout,
                received_at: Instant::now(),
                callers: self.common.callers.clone(),
                trace: self.common.trace.as_ref().map(|trace| trace.child()),
            };
            let begun = match &models[run.step] {
                Some(found) => infer::infer(&self.registry, found.model(), request),
                None => Err(Error::internal(format!("model '{name}' was not looked for"))),
            };
            match begun {
                Ok(mut inference) => {
                    if let Some(place) = place {
                        inference.keep(Box::new(place)); // given back though this request is not polled any more
                    }
                    self.running.push(Running { run, inference });
                }
                Err(error) => self.progress.failed(&run, error),
            }
        }
    }

    /// Polls what is under way. What should wait for those behind it only goes on to its next response, for others may need
    /// the places that it has. The last started is polled first: of a model that answers in order, the responses seen then
    /// have none before them.
    fn poll_steps(&mut self, context: &mut Context<'_>) -> SmallVec<[Event; 1]> {
        let mut events = SmallVec::new();
        for (place, running) in self.running.iter_mut().enumerate().rev() {
            if self.progress.is_paused(running.run.step) {
                running.inference.poll_ahead(context);
                continue;
            }
            if let Poll::Ready(event) = running.inference.poll_outputs(context) {
                events.push((place, event));
            }
        }
        events.reverse();
        events
    }

    /// Tells what the steps have answered, in the order in which they were started.
    fn handle(&mut self, events: SmallVec<[Event; 1]>) {
        let mut ended: SmallVec<[usize; 4]> = SmallVec::new();
        for (place, event) in events {
            let Running { run, inference, .. } = &self.running[place];
            let is_last = event.is_none() || inference.is_finished();
            match event {
                Some(Ok(outputs)) => self.progress.responded(run, outputs),
                Some(Err(error)) => self.progress.fail(error),
                None => {}
            }
            if is_last {
                self.times.add(inference.times());
                self.progress.finished(run);
                ended.push(place);
            }
        }
        for place in ended.into_iter().rev() {
            self.running.remove(place);
        }
        if self.kept.is_some() && self.progress.has_run() {
            self.kept = None;
        }
        if self.progress.has_failed()
            && let Some(waits) = &mut self.waits
        {
            waits.clear();
        }
    }

    fn end(&mut self, outcome: Result<ComputeTimes, FailureReason>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.running.clear();
        (self.waits, self.kept) = (None, None);
        let trace = self.common.trace.as_deref();
        self.ensemble.ended(EndedRequest { record: &self.record, trace }, self.started, outcome);
        if let Some(trace) = self.common.trace.take() {
            trace.reached(Activity::RequestEnd, Instant::now());
        }
    }
}

impl Drop for EnsembleRun {
    fn drop(&mut self) {
        self.end(Err(FailureReason::Canceled)); // its caller left
    }
}
