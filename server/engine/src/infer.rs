//! The request path, from a front end's request to the queue, and the reply's way back.

mod cache_scope;
mod cached;
mod copies;

use std::{
    any::Any,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use server_core::{
    check,
    error::{Error, Result},
    interface::Interface,
    request::{InferRequest, RequestedOutput, VersionChoice},
    responder::Replies,
    response::{InferResponse, Outputs},
    stats::ComputeTimes,
    tensor::Tensor,
};
use server_scheduler::Refusal;
use smallvec::SmallVec;
use tokio::time::{Sleep, sleep_until};

use self::cached::CachedRun;
use crate::{
    asks::UnderWay,
    ensemble::EnsembleRun,
    model::{LoadedModel, ModelHandle},
    pool::Refused,
    registry::Registry,
    runner::Runner,
    shared_memory::Delivery,
    version_router::VersionRouter,
};

/// Checks and queues one request for a model that was found: step 1, the registry, lies behind.
///
/// Errors: those found before it was queued; later ones come through the [`Inference`].
pub(crate) fn infer(registry: &Arc<Registry>, found: &ModelHandle, request: InferRequest) -> Result<Inference> {
    // versions between which requests are split, and those that get a copy
    if let Some(router) = router(registry, &found.0, &request) {
        let model = router.route(&request).cloned().unwrap_or_else(|| found.0.clone());
        let shadowed: Vec<_> = router.shadows_of(&request, &model).map(|shadow| (shadow, request.clone())).collect();
        let inference = infer_on(registry, model, request)?;
        shadowed.into_iter().for_each(|(shadow, copy)| copies::send(registry, router.counts(), shadow, copy));
        return Ok(inference);
    }
    infer_on(registry, found.0.clone(), request)
}

/// Who routes the request between the versions of its model, if anybody does.
fn router(registry: &Registry, found: &LoadedModel, request: &InferRequest) -> Option<Arc<VersionRouter>> {
    if found.routing.is_none() || request.model_version != VersionChoice::Latest {
        return None;
    }
    registry.entry(&found.key)?.router.clone()
}

fn infer_on(registry: &Arc<Registry>, mut model: Arc<LoadedModel>, mut request: InferRequest) -> Result<Inference> {
    // 2  check: against what the model takes
    let batch_size = check::check(&model.interface, &mut request)?;
    if let Some(trace) = &request.trace {
        trace.begin(&model.interface.model_name, model.interface.version, &request.id, Instant::now());
        trace.inputs(&request.inputs);
    }
    let id = request.id.clone();
    let wanted = request.outputs.clone();
    let under_way = registry.asks().begin(&request, model.runner());
    let run = match model.response_cache().cloned() {
        None => queue(registry, &mut model, request, batch_size)?,
        // 4  cache: answered at once, or queued and its response kept
        Some(cache) => {
            let run = CachedRun::begin(cache, registry, &mut model, request, batch_size)?;
            RunState::Cached(Box::new(run))
        }
    };
    // 7  the reply slot's other end
    Ok(Inference { model, id, wanted, run, under_way, delivery: None, is_over: false })
}

/// 5  scheduler: queues a checked request, and calls an instance if it has something to do.
///
/// Errors: the queue does not take it.
fn queue(
    registry: &Registry,
    model: &mut Arc<LoadedModel>,
    mut request: InferRequest,
    batch_size: u32,
) -> Result<RunState> {
    loop {
        let begun =
            match model.runner() {
                Runner::Instances(pool) => pool
                    .submit(request, batch_size)
                    .map(|(replies, deadline)| RunState::Queued { replies, deadline, alarm: None }),
                Runner::Ensemble(ensemble) => ensemble.begin(request, batch_size).map(RunState::Ensemble),
            };
        let refused = match begun {
            Ok(run) => return Ok(run),
            Err(refused) => refused,
        };
        // A reload took the model away between the look and the queue: whoever replaced it takes the request.
        *model = successor(registry, model, &refused)?.ok_or_else(|| reject(model.runner(), &refused))?;
        request = refused.request;
    }
}

/// Counts a refused request, and says why it was. One that no queue would take is the caller's mistake and counted nowhere,
/// as those are that the check finds.
fn reject(runner: &Runner, refused: &Refused) -> Error {
    let text = match &refused.refusal {
        Refusal::Invalid(error) => return error.clone(),
        Refusal::Full => "Exceeds maximum queue size",
        Refusal::Closed => "Server is stopping, scheduler for model has stopped accepting new inference requests",
    };
    match runner {
        Runner::Instances(pool) => pool.refused(),
        Runner::Ensemble(ensemble) => ensemble.refused(),
    }
    Error::unavailable(text).with_request_id(&refused.request.id)
}

/// The model that took the place of a closed one, if it takes and gives the same.
///
/// Errors: an unload took it away and nothing came: the request is one that came after the unload.
fn successor(registry: &Registry, model: &Arc<LoadedModel>, refused: &Refused) -> Result<Option<Arc<LoadedModel>>> {
    if !matches!(refused.refusal, Refusal::Closed) {
        return Ok(None);
    }
    let routed = router(registry, model, &refused.request).and_then(|router| router.route(&refused.request).cloned());
    let found = match routed {
        Some(routed) => routed,
        None => registry.find_key(&model.key, refused.request.model_version)?,
    };
    Ok((!found.shares_runner(model) && found.interface.is_like(&model.interface)).then_some(found))
}

/// A running request: poll it for its responses. Dropping it cancels the request.
pub struct Inference {
    model: Arc<LoadedModel>,
    id: String,
    wanted: SmallVec<[RequestedOutput; 2]>,
    run: RunState,
    /// Until its first response, if an instance asked that runs nothing meanwhile.
    under_way: Option<UnderWay>,
    /// Brings responses to shared memory of the caller.
    delivery: Option<Box<Delivery>>,
    /// It has had its last response.
    is_over: bool,
}

/// Where a request is.
enum RunState {
    /// In the queue or on an instance.
    Queued {
        replies: Replies,
        /// When it has waited too long. The caller watches it: instances may all be busy then.
        deadline: Option<Instant>,
        /// Made when the caller first has to wait.
        alarm: Option<Pin<Box<Sleep>>>,
    },
    /// In the steps of an ensemble.
    Ensemble(Box<EnsembleRun>),
    /// On its way through the response cache.
    Cached(Box<CachedRun>),
}

impl RunState {
    /// `model` becomes another where the one that was found was replaced meanwhile.
    fn poll_next(&mut self, model: &mut Arc<LoadedModel>, context: &mut Context<'_>) -> Poll<Option<Result<Outputs>>> {
        match self {
            Self::Queued { replies, deadline, alarm } => {
                let reply = replies.poll_next(context);
                if reply.is_pending() && is_too_late(deadline, alarm, context) {
                    if let Runner::Instances(pool) = model.runner() {
                        pool.expire();
                    }
                    return replies.poll_next(context);
                }
                reply
            }
            Self::Ensemble(run) => run.poll_next(context),
            Self::Cached(run) => run.poll_next(model, context),
        }
    }

    fn poll_ahead(&mut self, context: &mut Context<'_>) {
        if let Self::Ensemble(run) = self {
            run.poll_ahead(context);
        }
    }

    fn is_finished(&self) -> bool {
        match self {
            Self::Queued { replies, .. } => replies.is_finished(),
            Self::Ensemble(run) => run.is_finished(),
            Self::Cached(run) => run.is_finished(),
        }
    }

    fn limit_unread(&self, most: usize) {
        match self {
            Self::Queued { replies, .. } => replies.limit_unread(most),
            Self::Ensemble(_) | Self::Cached(_) => {} // its responses wait with its steps; it has only one
        }
    }

    fn rest(&mut self) {
        match self {
            Self::Queued { .. } => {}
            Self::Ensemble(run) => run.rest(),
            Self::Cached(run) => run.rest(),
        }
    }

    fn keep(&mut self, kept: Box<dyn Any + Send>) {
        match self {
            Self::Queued { replies, .. } => replies.keep(kept),
            Self::Ensemble(run) => run.keep(kept),
            Self::Cached(run) => run.keep(kept),
        }
    }

    fn times(&self) -> ComputeTimes {
        match self {
            Self::Queued { replies, .. } => replies.times(),
            Self::Ensemble(run) => run.times(),
            Self::Cached(run) => run.times(),
        }
    }
}

/// Whether the deadline has passed; told once. Before, the caller is woken when it does.
fn is_too_late(deadline: &mut Option<Instant>, alarm: &mut Option<Pin<Box<Sleep>>>, context: &mut Context<'_>) -> bool {
    let Some(moment) = *deadline else { return false };
    let is_late = alarm.get_or_insert_with(|| Box::pin(sleep_until(moment.into()))).as_mut().poll(context).is_ready();
    if is_late {
        (*deadline, *alarm) = (None, None);
    }
    is_late
}

impl Inference {
    /// Has its responses brought to shared memory, if there is any.
    pub(crate) fn deliver_by(&mut self, delivery: Option<Box<Delivery>>) {
        self.delivery = delivery;
    }

    /// What the model that runs it takes and gives.
    pub fn interface(&self) -> &Arc<Interface> {
        &self.model.interface
    }

    /// The next response; `None` after the last one. Outputs are in the order of the backend, names nobody asked for are gone.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<InferResponse>>> {
        if let Some(delivered) = self.delivery.as_mut().and_then(|delivery| delivery.poll(context)) {
            return delivered.map(|delivered| Some(delivered.map_err(|error| self.of_ensemble(error))));
        }
        let Some(reply) = ready!(self.poll_outputs(context)) else { return Poll::Ready(None) };
        let reply = reply.map(|outputs| self.respond(outputs));
        // 3  shared memory: outputs are written where the caller wants them
        match (reply, &mut self.delivery) {
            (Ok(response), Some(delivery)) => {
                let delivered = ready!(delivery.begin(response, context));
                Poll::Ready(Some(delivered.map_err(|error| self.of_ensemble(error))))
            }
            (reply, _) => Poll::Ready(Some(reply)),
        }
    }

    /// An error of the last step, where it is one of an ensemble.
    fn of_ensemble(&self, mut error: Error) -> Error {
        if let Runner::Ensemble(_) = self.model.runner() {
            error.message = format!("in ensemble '{}', {}", self.model.interface.model_name, error.message).into();
        }
        error
    }

    /// As [`Inference::poll_next`], with the tensors as the model gave them.
    pub(crate) fn poll_outputs(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Outputs>>> {
        let reply = ready!(self.run.poll_next(&mut self.model, context));
        self.under_way = None;
        self.is_over = self.run.is_finished();
        Poll::Ready(reply)
    }

    /// Whether nothing more comes. After a response that tells a last one from one that is followed by the end alone: only
    /// then is it true at once.
    pub fn is_finished(&self) -> bool {
        self.is_over
    }

    /// Whether it goes on only while it is polled: the request of an ensemble, or of a model with a response cache. Whoever has several in a row polls those that
    /// wait for their turn with [`Inference::poll_ahead`].
    pub fn is_polled_on(&self) -> bool {
        matches!(self.run, RunState::Ensemble(_) | RunState::Cached(_))
    }

    /// Goes on without taking a response; it is there when it is polled for. The caller is woken when there is more to do.
    pub fn poll_ahead(&mut self, context: &mut Context<'_>) {
        match &mut self.run {
            RunState::Cached(run) => run.poll_ahead(&mut self.model, context),
            run => run.poll_ahead(context),
        }
    }

    /// Has no more than so many of its responses wait to be read; one always may. Those of an ensemble wait with its steps.
    pub fn limit_unread(&self, most: usize) {
        self.run.limit_unread(most);
    }

    /// Nobody polls it before a response is read of the request that it belongs to.
    pub(crate) fn rest(&mut self) {
        self.run.rest();
    }

    /// Keeps something until its last response is there, whether anybody reads it or not.
    pub(crate) fn keep(&mut self, kept: Box<dyn Any + Send>) {
        self.run.keep(kept);
    }

    /// How long its execution took, once it has ended.
    pub(crate) fn times(&self) -> ComputeTimes {
        self.run.times()
    }

    /// The only response.
    ///
    /// Errors: the request's own, or `Internal` if there was none or more than one.
    pub async fn response(mut self) -> Result<InferResponse> {
        let first = poll_fn(|context| self.poll_next(context)).await;
        let response = first.ok_or_else(|| Error::internal("expected a single response, got 0"))??;
        if !self.is_over {
            let mut count = 1;
            while poll_fn(|context| self.poll_next(context)).await.is_some() {
                count += 1;
            }
            if count > 1 {
                return Err(Error::internal(format!("expected a single response, got {count}")));
            }
        }
        Ok(response)
    }

    fn respond(&self, outputs: Outputs) -> InferResponse {
        InferResponse {
            model_name: self.model.interface.model_name.clone(),
            model_version: self.model.interface.version,
            id: self.id.clone(),
            parameters: outputs.parameters,
            outputs: self.pick(outputs.tensors),
        }
    }

    /// The tensors asked for, or all that the model is known to have, in the order in which its backend gave them: so Triton does it,
    /// and a model in Python has its outputs read in the order in which it made them.
    fn pick(&self, mut tensors: SmallVec<[Tensor; 2]>) -> SmallVec<[Tensor; 2]> {
        let interface = &self.model.interface;
        if self.wanted.is_empty() {
            tensors.retain(|tensor| interface.output(&tensor.name).is_some());
        } else {
            tensors.retain(|tensor| self.wanted.iter().any(|wanted| wanted.name == tensor.name));
        }
        tensors
    }
}

impl Drop for Inference {
    fn drop(&mut self) {
        self.under_way = None; // before the last hold on what runs it
        if let (false, Runner::Instances(pool)) = (self.is_over, self.model.runner()) {
            pool.note_cancelled();
        }
    }
}
