//! One inference over HTTP: the hot path.
//!
//! What takes long (large JSON, compression) runs on the blocking pool, so that the event loop goes on with other
//! connections.

mod decode;
mod encode;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod output_options;

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, Response};
use server_core::{
    byte_budget::Reservation,
    error::{Error, Result},
    input_memory::InputPlacement,
    interface::ModelId,
    trace::Trace,
};
use server_engine::{Inference, ModelHandle, failures};

use crate::{
    binary::json_length,
    body::{Body, RequestBody},
    compression::Encoding,
    connection::Activity,
    error::Failure,
    forwarding::take_headers,
    held::Received,
    server::Server,
    tracing,
};

use self::{decode::Source, output_options::OutputOptions};

/// Answers `POST .../infer`.
pub(crate) async fn infer(
    server: &Server,
    activity: &Activity,
    model: ModelId<'_>,
    headers: HeaderMap,
    body: &mut RequestBody,
) -> Result<Response<Body>, Failure> {
    let received_at = Instant::now();

    // 1  the model, and what the headers say: what they refuse is not read
    let found = find(server, model)?;
    let interface = found.interface().clone();
    let encoding = Encoding::of_request(&headers)?;
    let reply_encoding = Encoding::of_response(&headers);
    let max_input_size = server.options.max_input_size;
    let json_length = json_length(&headers)?;
    let mut source = Source { interface, version: model.version, json_length, encoding, max_input_size, received_at };
    let limit = source.limit()?;
    let placement = source
        .tensors_at(body.declared_length())
        .and_then(|tensors_at| Some(InputPlacement { memory: found.input_memory()?, tensors_at }));
    drop(found);
    let body = body.read(limit, &server.options.byte_budget, activity, placement).await?;

    // 2  decode; the body may have taken long, and the model is another meanwhile
    let found = find(server, model)?;
    source.interface = found.interface().clone();
    let mut options = OutputOptions::default();
    let trace = tracing::begin(server, &found, &headers, received_at);
    let (inference, held) = if source.is_long(body.bytes.len()) {
        let shared_memory = server.engine.shared_memory().clone();
        let work = move || {
            let decoded = failures::log(failures::logged_id(""), source.decode(body, &shared_memory, &mut options));
            (source, options, decoded)
        };
        let decoded;
        (source, options, decoded) = server.options.blocking_pool.run(work).await?;
        let (mut request, held) = decoded?;
        take_headers(&server.options, activity, &found, &headers, &mut request)?;
        request.trace.clone_from(&trace);
        (server.engine.infer(&found, request)?, held)
    } else {
        submit(server, activity, &found, &source, &headers, body, &mut options, trace.as_ref())?
    };
    if inference.interface().version != source.interface.version {
        source.interface = inference.interface().clone(); // routed to another version, which may have other labels
    }

    // 3  run; dropping this future, as happens when the client disconnects, cancels the request
    let outcome = inference.response().await;
    tracing::answered(trace.as_ref());
    let _sending = tracing::sends(trace);
    let mut response = outcome?;
    drop(held);

    // 4  encode
    let interface = source.interface;
    let is_long = encode::is_long(&response, &options, reply_encoding);
    let work = move || encode::write(&mut response, &options, &interface, reply_encoding);
    let reply = server.options.blocking_pool.run_if(is_long, work).await??;
    Ok(reply.into_response(headers))
}

/// The model, if it gives exactly one response.
fn find(server: &Server, model: ModelId<'_>) -> Result<ModelHandle> {
    let found = server.engine.model(model)?;
    if found.interface().is_decoupled {
        return Err(Error::unsupported("HTTP end point doesn't support models with decoupled transaction policy"));
    }
    Ok(found)
}

/// Decodes a body and queues the request at once: the request is never a field of the future, which saves moving it.
#[expect(clippy::too_many_arguments, reason = "they would be fields of the future otherwise")]
fn submit(
    server: &Server,
    activity: &Activity,
    found: &ModelHandle,
    source: &Source,
    headers: &HeaderMap,
    body: Received,
    options: &mut OutputOptions,
    trace: Option<&Arc<Trace>>,
) -> Result<(Inference, Option<Reservation>)> {
    let decoded = source.decode(body, server.engine.shared_memory(), options);
    let (mut request, held) = failures::log(failures::logged_id(""), decoded)?;
    take_headers(&server.options, activity, found, headers, &mut request)?;
    request.trace = trace.cloned();
    Ok((server.engine.infer(found, request)?, held))
}
