//! The generate extension: one flat JSON object in; one out, or a stream of them as server-sent events.

mod events;
mod flat;
pub(crate) mod request;
mod running;

use std::future::poll_fn;

use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use server_core::{error::Error, interface::ModelId};
use server_engine::failures;

use self::{events::EventStream, flat::flat, running::Running};
use crate::{
    body::{Body, Events, RequestBody},
    compression::Encoding,
    connection::Activity,
    error::{Failure, GENERATE_FAILED},
    forwarding::take_headers,
    held::{Received, hold},
    limits::BodyLimit,
    reply::json,
    server::Server,
    tracing,
};

/// Longer JSON is decoded on the blocking pool: about a millisecond of work. Units: bytes.
const LONG: usize = 256 << 10;

/// Answers `POST .../generate`: the model must give exactly one response.
pub(crate) async fn once(
    server: &Server,
    activity: &Activity,
    model: ModelId<'_>,
    headers: HeaderMap,
    body: &mut RequestBody,
) -> Result<Response<Body>, Failure> {
    let mut running = start(server, activity, model, &headers, body).await?;
    let mut only = None;
    while let Some(response) = poll_fn(|context| running.poll_next(context)).await {
        let response = response.inspect_err(|_| drop(tracing::sends(running.trace.clone())));
        let response = response.map_err(Failure::Generated)?;
        if only.replace(response).is_some() {
            return Err(not_one_response()); // and the request is cancelled: no further one changes that
        }
    }
    let only = only.ok_or_else(not_one_response)?;
    let _sending = tracing::sends(running.trace.take());
    drop(running);
    Ok(json(flat(&server.options.blocking_pool, only).await.map_err(Failure::Generated)?))
}

#[cold]
fn not_one_response() -> Failure {
    Error::internal(
        "generate expects model to produce exactly 1 response, use generate stream for model that generates various \
         number of responses",
    )
    .into()
}

/// Answers `POST .../generate_stream`. Whether that is well is said by the first response.
pub(crate) async fn stream(
    server: &Server,
    activity: &Activity,
    model: ModelId<'_>,
    headers: HeaderMap,
    body: &mut RequestBody,
) -> Result<Response<Body>, Failure> {
    let mut running = start(server, activity, model, &headers, body).await?;
    let pool = &server.options.blocking_pool;
    let first = poll_fn(|context| running.poll_next(context)).await;
    let sending = first.as_ref().map(|_| tracing::sends(running.trace.clone()));
    let first = match first {
        None => None,
        Some(Ok(response)) => Some(flat(pool, response).await),
        Some(Err(error)) => Some(Err(error)),
    };
    drop(sending);
    let is_error = matches!(first, Some(Err(_)));
    let mut response = Response::new(match first {
        None => Body::empty(),
        Some(first) => {
            let mut events = EventStream::new(first, running, pool.clone());
            Body::Events(Events::new(move |context| events.poll_next(context)))
        }
    });
    if is_error {
        *response.status_mut() = GENERATE_FAILED;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    Ok(response)
}

async fn start(
    server: &Server,
    activity: &Activity,
    model: ModelId<'_>,
    headers: &HeaderMap,
    body: &mut RequestBody,
) -> Result<Running, Failure> {
    let received_at = std::time::Instant::now();
    server.engine.model(model)?;
    if Encoding::of_request(headers) != Ok(Encoding::Identity) {
        let text = "Unsupported content-encoding, only 'identity' is supported.";
        return Err(Error::invalid_argument(text).into());
    }
    let max_input_size = server.options.max_input_size;
    let body = body.read(BodyLimit::Json(max_input_size), &server.options.byte_budget, activity, None).await?;
    // the body may have taken long, and the model is another meanwhile
    let found = server.engine.model(model)?;
    let trace = tracing::begin(server, &found, headers, received_at);
    let interface = found.interface().clone();
    let is_long = body.bytes.len() > LONG;
    let decode = move || {
        let Received { bytes, mut reservation } = body;
        let parsed = request::parse(&interface, &bytes, max_input_size, received_at);
        let mut request = failures::log(failures::logged_id(""), parsed)?;
        let size = request.inputs.iter().map(|input| input.data.len()).sum();
        reservation.grow_to(size)?;
        reservation.shrink_to(size);
        let held = hold(&mut request.inputs, reservation);
        Ok::<_, Error>((request, held))
    };
    let (mut request, held) = server.options.blocking_pool.run_if(is_long, decode).await??;
    request.model_version = model.version;
    request.trace.clone_from(&trace);
    take_headers(&server.options, activity, &found, headers, &mut request)?;
    Ok(Running { inference: server.engine.infer(&found, request)?, _held: held, trace })
}
