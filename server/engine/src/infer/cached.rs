//! A request to a model whose responses are cached: looked for first, queued if nothing is found, and its response kept. It
//! goes on when it is polled, where the cache does not answer at once.

use std::{
    any::Any,
    mem,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use server_core::{
    error::{Error, Result},
    request::InferRequest,
    response::Outputs,
    response_cache::CacheKey,
    stats::ComputeTimes,
    trace::Activity,
};

use super::{RunState, queue};
use crate::{
    cache::{Found, Later, ResponseCache, Step},
    model::LoadedModel,
    registry::Registry,
};

/// A request on its way through the cache.
pub(super) struct CachedRun {
    cache: ResponseCache,
    registry: Arc<Registry>,
    batch_size: u32,
    received_at: Instant,
    looked_up_at: Instant,
    /// How long the look-up took.
    looked_up_for: Duration,
    state: State,
    /// Not yet let go of.
    kept: Option<Box<dyn Any + Send>>,
    /// Of its execution, once that has ended.
    times: ComputeTimes,
}

#[expect(clippy::large_enum_variant, reason = "a run lies in a box as a whole")]
enum State {
    LookingUp(Later<Found>),
    Found(Outputs),
    Refused(Error),
    /// With a key if its response is to be kept.
    Running(RunState, Option<CacheKey>),
    Inserting(Later<Outputs>, Instant),
    Over,
}

impl CachedRun {
    /// Looks for the response of a checked request, and queues the request if there is none.
    ///
    /// Errors: the queue does not take it.
    pub(super) fn begin(
        cache: ResponseCache,
        registry: &Arc<Registry>,
        model: &mut Arc<LoadedModel>,
        request: InferRequest,
        batch_size: u32,
    ) -> Result<Self> {
        let mut run = Self {
            cache,
            registry: registry.clone(),
            batch_size,
            received_at: request.received_at,
            looked_up_at: Instant::now(),
            looked_up_for: Duration::ZERO,
            state: State::Over,
            kept: None,
            times: ComputeTimes::default(),
        };
        match model.cache_scope(registry) {
            None => run.go_on(model, Found { request, key: None, outputs: None })?,
            Some(scope) => match run.cache.look_up(scope, &model.interface, request) {
                Step::Now(found) => run.go_on(model, found)?,
                Step::Later(look_up) => run.state = State::LookingUp(look_up),
            },
        }
        Ok(run)
    }

    /// After the look-up. A response that was found is counted at once, before its caller knows.
    fn go_on(&mut self, model: &mut Arc<LoadedModel>, found: Found) -> Result<()> {
        let Found { mut request, key, outputs } = found;
        let now = Instant::now();
        self.looked_up_for = now.saturating_duration_since(self.looked_up_at);
        if let Some(outputs) = outputs {
            model.runner().cache_hit(self.received_at, self.looked_up_at, now);
            if let Some(trace) = &request.trace {
                trace.reached(Activity::QueueStart, self.looked_up_at);
                trace.outputs(&outputs);
                trace.reached(Activity::RequestEnd, now);
            }
            self.kept = None; // its last response is there
            self.state = State::Found(outputs);
            return Ok(());
        }
        // What the look-up took is not to be waited again.
        let left = |timeout: Duration| timeout.saturating_sub(self.looked_up_for).max(Duration::from_micros(1));
        request.timeout = request.timeout.map(left);
        let mut run = queue(&self.registry, model, request, self.batch_size)?;
        if let Some(kept) = self.kept.take() {
            run.keep(kept);
        }
        self.state = State::Running(run, key);
        Ok(())
    }

    pub(super) fn poll_next(
        &mut self,
        model: &mut Arc<LoadedModel>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Outputs>>> {
        loop {
            match &mut self.state {
                State::LookingUp(_) => {
                    if let Err(error) = ready!(self.poll_look_up(model, context)) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                State::Running(run, key) => {
                    let reply = ready!(run.poll_next(model, context));
                    let is_over = run.is_finished();
                    match (reply, *key) {
                        // the only one
                        (Some(Ok(outputs)), Some(key)) if is_over => self.insert(model, key, outputs),
                        (reply, _) => return Poll::Ready(reply),
                    }
                }
                State::Inserting(insertion, began) => {
                    let inserted = ready!(insertion.as_mut().poll(context));
                    model.runner().cache_miss(self.looked_up_for + began.elapsed());
                    self.state = State::Over;
                    return Poll::Ready(Some(inserted));
                }
                State::Found(_) | State::Refused(_) | State::Over => return Poll::Ready(self.take()),
            }
        }
    }

    /// Goes on without taking a response.
    pub(super) fn poll_ahead(&mut self, model: &mut Arc<LoadedModel>, context: &mut Context<'_>) {
        if matches!(self.state, State::LookingUp(_)) {
            match self.poll_look_up(model, context) {
                Poll::Pending | Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.state = State::Refused(error),
            }
        }
        if let State::Running(run, _) = &mut self.state {
            run.poll_ahead(context);
        }
    }

    /// Ready when the response was found or the request is queued.
    fn poll_look_up(&mut self, model: &mut Arc<LoadedModel>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let State::LookingUp(look_up) = &mut self.state else { return Poll::Ready(Ok(())) };
        let found = ready!(look_up.as_mut().poll(context));
        self.state = State::Over;
        Poll::Ready(found.and_then(|found| self.go_on(model, found)))
    }

    fn insert(&mut self, model: &LoadedModel, key: CacheKey, outputs: Outputs) {
        if let State::Running(run, _) = &self.state {
            self.times = run.times();
        }
        let began = Instant::now();
        self.state = match self.cache.insert(&model.interface, key, outputs) {
            Step::Now(outputs) => {
                model.runner().cache_miss(self.looked_up_for + began.elapsed());
                State::Found(outputs)
            }
            Step::Later(insertion) => State::Inserting(insertion, began),
        };
    }

    fn take(&mut self) -> Option<Result<Outputs>> {
        match mem::replace(&mut self.state, State::Over) {
            State::Found(outputs) => Some(Ok(outputs)),
            State::Refused(error) => Some(Err(error)),
            _ => None,
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        match &self.state {
            State::Over => true,
            State::Running(run, _) => run.is_finished(),
            State::LookingUp(_) | State::Found(_) | State::Refused(_) | State::Inserting(..) => false,
        }
    }

    pub(super) fn rest(&mut self) {
        if let State::Running(run, _) = &mut self.state {
            run.rest();
        }
    }

    pub(super) fn keep(&mut self, kept: Box<dyn Any + Send>) {
        match &mut self.state {
            State::LookingUp(_) => self.kept = Some(kept),
            State::Running(run, _) => run.keep(kept),
            // its last response is there
            State::Found(_) | State::Refused(_) | State::Inserting(..) | State::Over => {}
        }
    }

    pub(super) fn times(&self) -> ComputeTimes {
        if let State::Running(run, _) = &self.state { run.times() } else { self.times }
    }
}
