//! The way back into the engine for models that ask other models: such a request is queued, counted and cancelled as
//! any caller's. It may still come while the server stops, for the request it belongs to is inside already.
//!
//! A model asks from threads of its own, which know no runtime: what waits for a moment there uses the engine's.

use std::task::{Context, Poll};

use server_core::{
    backend::{Host, Responses},
    caller::Caller,
    error::{Error, Result},
    health::InCall,
    request::InferRequest,
    response::InferResponse,
};
use tokio::runtime::Handle;

use crate::{
    Engine,
    infer::{self, Inference, ModelHandle},
};

impl Host for Engine {
    fn infer(&self, request: InferRequest) -> Result<Box<dyn Responses>> {
        // No model runs before one was loaded, and loads know the runtime.
        let runtime = self.runtime.get().cloned().ok_or_else(|| Error::unavailable("Server not ready"))?;
        let _guard = runtime.enter();
        if let Some(caller) = &request.callers {
            caller.check_depth(&request.model_name)?;
        }
        let model = ModelHandle(self.registry.find(&request.model_name, request.model_version)?);
        // before it is looked where the request may run
        let in_call = request.callers.as_deref().and_then(Caller::begin_call);
        let inference = infer::infer(&self.registry, &model, request)?;
        Ok(Box::new(Asked { inference, runtime: runtime.clone(), _in_call: in_call }))
    }
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
}
