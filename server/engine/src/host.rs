//! The way back into the engine for models that ask other models: such a request is queued, counted and cancelled as
//! any caller's. It may still come while the server stops, for the request it belongs to is inside already.

use std::task::{Context, Poll};

use server_core::{
    backend::{Host, Responses},
    error::Result,
    request::InferRequest,
    response::InferResponse,
};

use crate::{
    Engine,
    infer::{self, Inference, ModelHandle},
};

impl Host for Engine {
    fn infer(&self, request: InferRequest) -> Result<Box<dyn Responses>> {
        let model = ModelHandle(self.registry.find(&request.model_name, request.model_version)?);
        Ok(Box::new(infer::infer(&self.registry, &model, request)?))
    }
}

impl Responses for Inference {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<InferResponse>>> {
        Self::poll_next(self, context)
    }
}
