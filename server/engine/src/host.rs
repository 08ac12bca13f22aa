//! The way back into the engine for models that ask other models: such a request is queued, counted and cancelled as
//! any caller's. It may still come while the server stops, for the request it belongs to is inside already.
//!
//! A model asks from threads of its own, which know no runtime: what waits for a moment there uses the engine's.

use std::{
    sync::mpsc,
    task::{Context, Poll},
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
};
use tokio::runtime::Handle;

use crate::{
    Engine,
    infer::{self, Inference, ModelHandle},
    load_session::LoadSession,
    options::LoadParameters,
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
        let inference = infer::infer(&self.registry, &model, request)?;
        Ok(Box::new(Asked { inference, runtime: runtime.clone(), _in_call: in_call }))
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
        let (lifecycle, name) = (self.lifecycle.clone(), name.to_owned());
        wait_for(self.runtime_of_models()?, async move {
            let _permit = permit;
            lifecycle.load_all(session, &name, LoadParameters { config, files }).await
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

    fn custom_metrics(&self) -> &CustomMetrics {
        &self.custom_metrics
    }

    fn describe(&self, subject: Subject<'_>) -> Result<String> {
        match subject {
            Subject::Server => self.describe_server(),
            Subject::Index { ready_only } => self.describe_index(ready_only),
            Subject::Metadata(model) => self.describe_model(model),
            Subject::Config(model) => Ok(config::to_json(&*self.config(model)?).to_string()),
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
    inference: Inference,
    runtime: Handle,
    /// The instance that asked waits as long.
    _in_call: Option<InCall>,
}

impl Responses for Asked {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<InferResponse>>> {
        let _guard = self.runtime.enter();
        self.inference.poll_next(context)
    }

    fn is_finished(&self) -> bool {
        self.inference.is_finished()
    }
}
