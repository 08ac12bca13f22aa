//! Unary inference, and the steps it shares with streams: a message becomes a request, a response becomes a message.
//! Raw tensors are slices of the received message on the way in and are not copied on the way out.

pub(crate) mod answer;
mod contents;
pub(crate) mod outputs;
mod parameters;
mod region;
pub(crate) mod request;

use std::time::Instant;

use server_core::error::{Error, Result};
use server_engine::Engine;
use server_proto::inference::{ModelInferRequest, ModelInferResponse};

/// Runs one request and waits for its only response.
pub(crate) async fn model_infer(
    engine: &Engine,
    message: ModelInferRequest,
    max_send_bytes: usize,
) -> Result<ModelInferResponse> {
    let received_at = Instant::now();
    let model = request::model(engine, &message)?;
    let interface = model.interface();
    if interface.is_decoupled {
        return Err(Error::unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy"));
    }
    let request::Prepared { request, classes, .. } = request::prepare(interface, message, received_at)?;
    let mut response = engine.infer(&model, request)?.response().await?;
    classes.apply(interface, &mut response)?;
    answer::message(response, max_send_bytes)
}
