//! The way back into the engine for models that ask other models: such a request is queued, counted and cancelled as
//! any caller's. It may still come while the server stops, for the request it belongs to is inside already.
//!
//! A model asks from threads of its own, which know no runtime: what waits for a moment there uses the engine's.

use std::{
    pin::Pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use server_core::{
    backend::{FoundModel, Host, Responses, Subject},
    caller::Caller,
    config,
    custom_metrics::CustomMetrics,
    error::{Error, Result},
    health::InCall,
    request::{InferRequest, VersionChoice},
    response::InferResponse,
    tensor::Name,
};
use tokio::{
    runtime::Handle,
    time::{Instant, Sleep, sleep},
};

use crate::{
    Engine,
    asks::{Ask, Asks},
    infer::{self, Inference},
    load_session::LoadSession,
    model::ModelHandle,
    options::LoadParameters,
    phase::all_say_yes,
};

impl Host for Engine {
    fn infer(&self, mut request: InferRequest) -> Result<Box<dyn Responses>> {
        let runtime = self.runtime_of_models()?;
        let _guard = runtime.enter();
        if let Some(caller) = &request.callers {
            caller.check_depth(&request.model_name)?;
        }
        let model = ModelHandle(self.registry.find(&request.model_name, request.model_version)?);
        let outputs = &model.0.interface.outputs;
        let place = |name: &str| outputs.iter().position(|output| *output.name == *name).unwrap_or(usize::MAX);
        request.outputs.sort_by_key(|output| place(&output.name)); // a model is answered in the order of the other
        // before it is looked where the request may run
        let in_call = request.callers.as_deref().and_then(Caller::begin_call);
        let (ask, asked) = (Ask::of(&request, model.0.runner()), request.model_name.clone());
        let inference = infer::infer(&self.registry, &model, request)?;
        let circle = ask.and_then(|ask| Circle::of(ask, asked, self.registry.asks(), self.options.circle_patience));
        Ok(Box::new(Asked { inference: Some(inference), runtime: runtime.clone(), circle, _in_call: in_call }))
    }

    fn load_model(
        &self,
        asked_by: &str,
        name: &str,
        config: Option<String>,
        files: Vec<(String, Bytes)>,
    ) -> Result<()> {
        self.may_control(name)?;
        let permit = self.lifecycle.waits.permit(asked_by, name)?;
        let session = LoadSession::new(self.lifecycle.clone(), Some(self.key_of_caller(asked_by)));
        let name = name.to_owned();
        wait_for(self.runtime_of_models()?, async move {
            let _permit = permit;
            session.load_all(&name, LoadParameters { config, files }).await
        })
    }

    fn unload_model(&self, asked_by: &str, name: &str, unload_dependents: bool) -> Result<()> {
        self.may_control(name)?;
        let permit = self.lifecycle.waits.permit(asked_by, name)?;
        let keys = self.registry.keys_of(name);
        keys.iter().for_each(|key| self.no_longer_required(key));
        let (lifecycle, asked_by) = (self.lifecycle.clone(), self.key_of_caller(asked_by));
        wait_for(self.runtime_of_models()?, async move {
            let _permit = permit;
            for key in keys {
                lifecycle.unload_all(Some(&asked_by), &key, unload_dependents).await?;
            }
            Ok(())
        })
    }

    fn find_model(&self, name: &str, version: VersionChoice) -> Result<FoundModel> {
        let model = self.registry.find(name, version)?;
        Ok(FoundModel { is_decoupled: model.interface.is_decoupled })
    }

    fn is_model_ready(&self, name: &str, version: VersionChoice) -> Result<bool> {
        self.not_exiting("Server not ready")?;
        let Some(model) = self.registry.find(name, version).ok().filter(|model| model.is_healthy()) else {
            return Ok(false);
        };
        match model.runner().readiness() {
            Some(question) => wait_for(self.runtime_of_models()?, async move { Ok(question.await) }),
            None => Ok(true),
        }
    }

    fn is_server_ready(&self) -> Result<bool> {
        let runtime = self.runtime_of_models()?;
        let questions = {
            let _guard = runtime.enter();
            self.readiness_questions()?
        };
        match questions {
            Some(questions) if questions.is_empty() => Ok(true), // also from a thread of the runtime, which may not wait for it
            Some(questions) => wait_for(runtime, async move { Ok(all_say_yes(questions).await) }),
            None => Ok(false),
        }
    }

    fn custom_metrics(&self) -> &CustomMetrics {
        &self.custom_metrics
    }

    fn describe(&self, subject: Subject<'_>) -> Result<String> {
        match subject {
            Subject::Server => self.describe_server(),
            Subject::Index { ready_only } => self.describe_index(ready_only),
            Subject::Metadata(model) => self.describe_model(model),
            Subject::Config(model) => Ok(config::to_json(&*self.config(model)?).to_string()),
            Subject::Statistics(model) => self.statistics_text(model),
            Subject::Metrics => Ok(self.metrics().text()),
        }
    }
}

impl Engine {
    /// What a model that asks is called in the registry, as far as its name says.
    fn key_of_caller(&self, name: &str) -> String {
        self.registry.key_of(name).map_or_else(|_| name.to_owned(), |key| key.to_string())
    }

    /// The runtime for what models ask for. No model runs before one was loaded, and loads know the runtime.
    fn runtime_of_models(&self) -> Result<&Handle> {
        self.runtime.get().ok_or_else(|| Error::unavailable("Server not ready"))
    }
}

/// Runs something on the runtime and blocks until it has ended.
fn wait_for<T: Send + 'static>(runtime: &Handle, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    drop(runtime.spawn(async move {
        let _ = sender.send(work.await); // there is room, and who asked waits
    }));
    // without an answer the runtime is gone
    receiver.recv().unwrap_or_else(|_| Err(Error::unavailable("Server not ready")))
}

/// A request of a model, polled on the model's threads.
struct Asked {
    /// Until it is given up.
    inference: Option<Inference>,
    runtime: Handle,
    /// What it may wait for that waits for it, until its first response.
    circle: Option<Circle>,
    /// The instance that asked waits as long.
    _in_call: Option<InCall>,
}

/// Instances that were asked by a request which they may wait for.
struct Circle {
    asked: Name,
    ask: Arc<Ask>,
    asks: Arc<Asks>,
    patience: Duration,
    began: Instant,
    /// The next look.
    next: Pin<Box<Sleep>>,
    /// It was there when the request began.
    is_first: bool,
    /// It was there at the last look.
    was_closed: bool,
}

impl Circle {
    /// If there is one, or there may be when further steps begin.
    fn of(ask: Arc<Ask>, asked: Name, asks: &Arc<Asks>, patience: Duration) -> Option<Self> {
        let is_closed = asks.is_closed_by(&ask);
        (is_closed || ask.has_steps()).then(|| Self {
            asked,
            ask,
            asks: asks.clone(),
            patience,
            began: Instant::now(),
            next: Box::pin(sleep(patience)),
            is_first: is_closed,
            was_closed: is_closed,
        })
    }

    /// Ready when it has been looked for long enough; with an error if executions block the same instances at two looks in a row.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            ready!(self.next.as_mut().poll(context));
            // later an ensemble may have come past the steps that are blocked
            let is_first = std::mem::take(&mut self.is_first);
            let is_closed = match is_first {
                true => self.asks.is_closed_by(&self.ask),
                false => self.asks.is_closed_by_step_of(&self.ask),
            };
            if is_closed && self.was_closed {
                return Poll::Ready(Err(self.ask.callers().circle(&self.asked, self.began.elapsed())));
            }
            if !self.ask.has_steps() {
                return Poll::Ready(Ok(()));
            }
            self.was_closed = is_closed;
            self.next.set(sleep(self.patience));
        }
    }
}

impl Responses for Asked {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<InferResponse>>> {
        let _guard = self.runtime.enter();
        let Some(inference) = &mut self.inference else { return Poll::Ready(None) };
        let response = inference.poll_next(context);
        if response.is_ready() {
            self.circle = None;
        } else if let Some(Poll::Ready(end)) = self.circle.as_mut().map(|circle| circle.poll(context)) {
            self.circle = None;
            if let Err(error) = end {
                self.inference = None;
                return Poll::Ready(Some(Err(error)));
            }
        }
        response
    }

    fn is_finished(&self) -> bool {
        self.inference.as_ref().is_none_or(Inference::is_finished)
    }
}

impl Drop for Asked {
    /// Leaves within the runtime: a request that is still in its queue is looked for there, a moment after its caller has left.
    fn drop(&mut self) {
        let _guard = self.runtime.enter();
        self.circle = None; // before the last hold on what runs it
        self.inference = None;
    }
}
