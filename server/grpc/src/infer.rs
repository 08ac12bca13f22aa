//! Unary inference, and the steps it shares with streams: a message becomes a request, a response becomes a message.
//! Raw tensors are slices of the received message on the way in and are not copied on the way out.

pub(crate) mod answer;
mod contents;
pub(crate) mod outputs;
mod parameters;
mod region;
pub(crate) mod request;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::HeaderMap;
use server_core::{
    error::{Error, Result},
    header_forwarding::HeaderPattern,
    interface::Interface,
    response::InferResponse,
};
use server_engine::{BlockingPool, Engine, ModelHandle};
use server_proto::inference::ModelInferResponse;
use tonic::Status;

use self::{outputs::Classes, request::Prepared};
use crate::{
    error::status,
    forwarding::{forwarded, take_metadata},
    tracing,
};

/// Runs one request and waits for its only response.
///
/// Errors: the status the call ends with.
pub(crate) async fn model_infer(
    engine: &Arc<Engine>,
    pool: &BlockingPool,
    headers: &HeaderMap,
    pattern: Option<&HeaderPattern>,
    message: Bytes,
    waited_since: Option<Instant>,
    max_send_bytes: usize,
) -> Result<ModelInferResponse, Status> {
    let received_at = Instant::now();
    let forwarded = forwarded(pattern, headers).map_err(status)?;
    let (model, Prepared { mut request, classes, .. }) = if request::is_long(&message) {
        let engine = engine.clone();
        // boxed: the future of short calls stays small
        Box::pin(pool.run(move || read(&engine, message, received_at))).await.map_err(status)??
    } else {
        read(engine, message, received_at)?
    };
    take_metadata(forwarded, &model, headers, &mut request);
    let trace = tracing::begin(engine, &model, headers, waited_since, received_at);
    request.trace.clone_from(&trace);
    let inference = engine.infer(&model, request).map_err(status)?;
    // routed to another version, which may have other labels
    let routed = (inference.interface().version != model.interface().version).then(|| inference.interface().clone());
    let outcome = inference.response().await;
    tracing::answered(trace.as_ref());
    let _sending = tracing::sends(trace.as_ref());
    let response = outcome.map_err(status)?;
    let interface = routed.as_ref().unwrap_or(model.interface());
    let response = classified(pool, interface, classes, response).await.map_err(status)?;
    answer::message(response, max_send_bytes).map_err(status)
}

fn read(engine: &Engine, message: Bytes, received_at: Instant) -> Result<(ModelHandle, Prepared), Status> {
    let message = request::decode(message)?;
    let model = request::model(engine, &message).map_err(status)?;
    let interface = model.interface();
    if interface.is_decoupled {
        let error = Error::unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy");
        return Err(status(error));
    }
    let prepared = request::prepare(interface, engine.shared_memory(), message, received_at).map_err(status)?;
    Ok((model, prepared))
}

async fn classified(
    pool: &BlockingPool,
    interface: &Arc<Interface>,
    classes: Classes,
    mut response: InferResponse,
) -> Result<InferResponse> {
    if classes.is_long(&response) {
        let interface = interface.clone();
        return Box::pin(pool.run(move || classes.apply(&interface, &mut response).map(|()| response))).await?;
    }
    classes.apply(interface, &mut response)?;
    Ok(response)
}
