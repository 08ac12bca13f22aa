//! The way back into the engine for models that ask other models: such a request is queued, counted and cancelled as
//! any caller's. It may still come while the server stops, for the request it belongs to is inside already.
//!
//! A model asks from threads of its own, which know no runtime: what waits for a moment there uses the engine's.

use std::task::{Context, Poll};

use server_core::{
    backend::{Host, Responses},
    error::{Error, Result},
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
        let model = ModelHandle(self.registry.find(&request.model_name, request.model_version)?);
        let inference = infer::infer(&self.registry, &model, request)?;
        Ok(Box::new(Asked { inference, runtime: runtime.clone() }))
    }
}

/// A request of a model, polled on the model's threads.
struct Asked {
    inference: Inference,
    runtime: Handle,
}

impl Responses for Asked {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<InferResponse>>> {
        let _guard = self.runtime.enter();
        self.inference.poll_next(context)
    }
}
