//! Liveness and readiness of the server, readiness of models.

use std::time::Duration;

use http::{Response, StatusCode};
use serde::Serialize;
use server_core::{
    error::{Error, Result},
    interface::ModelId,
};
use server_engine::{DRAIN_LEASE_MAX, DrainState, Engine};

use crate::{
    body::{Body, RequestBody},
    connection::Activity,
    error::Failure,
    json::value::Value,
    limits::BodyLimit,
    reply::{empty, json},
    router::RouteError,
    server::Server,
    to_json::to_json,
};

/// `GET /v2/health/live`. Errors: the server is exiting.
pub(crate) fn live(engine: &Engine) -> Result<Response<Body>> {
    engine.is_live().map(yes_or_no)
}

/// `GET /v2/health/ready`. Errors: the server is exiting.
pub(crate) async fn ready(engine: &Engine) -> Result<Response<Body>> {
    engine.is_ready().await.map(yes_or_no)
}

/// `GET /v2/models/{m}/ready`. One that is unknown or not loaded is not ready, as in Triton 2.51: clients poll this while
/// a model loads. Errors: the model is not ready, or the server is exiting.
pub(crate) async fn model(engine: &Engine, model: ModelId<'_>) -> Result<Response<Body>> {
    engine.is_live()?;
    if engine.is_model_ready(model).await.unwrap_or(false) {
        Ok(empty())
    } else {
        Err(Error::invalid_argument("Model version not ready"))
    }
}

/// How a drain stands, as its callers read it.
#[derive(Serialize)]
struct DrainReport {
    lasts_ms: u64,
    requests: u64,
    silence_ms: u64,
}

/// `POST /v2/health/drain`: has the server not ready for as long as `lease_ms` says, and goes on with that; 0 ends it. Ours: whoever runs
/// the server does something that callers would notice, once they have gone elsewhere.
///
/// Errors: it is not taken here, or the body is wrong.
pub(crate) async fn drain(
    server: &Server,
    activity: &Activity,
    body: &mut RequestBody,
) -> std::result::Result<Response<Body>, Failure> {
    if !server.options.takes_drains {
        return Err(Failure::Route(RouteError::NotFound));
    }
    let limit = BodyLimit::Json(server.options.max_input_size);
    let body = body.read(limit, &server.options.byte_budget, activity, None).await?;
    let lease = lease(&body.bytes)?;
    if lease.is_zero() {
        server.engine.end_drain();
        return Ok(empty());
    }
    let DrainState { lasts, requests, silence } = server.engine.drain(lease);
    let whole = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Ok(to_json(&DrainReport { lasts_ms: whole(lasts), requests, silence_ms: whole(silence) }).map(json)?)
}

/// The lease that the body asks for.
fn lease(body: &[u8]) -> Result<Duration> {
    let most = DRAIN_LEASE_MAX.as_millis();
    let wrong =
        || Error::invalid_argument(format!("Invalid value for 'lease_ms': expected a whole number from 0 to {most}"));
    let asked = Value::parse(body).ok().and_then(|body| body.member("lease_ms")?.as_u64());
    let lease = asked.map(Duration::from_millis);
    lease.filter(|lease| *lease <= DRAIN_LEASE_MAX).ok_or_else(wrong)
}

/// Yes is 200, no is 400, both without a body.
fn yes_or_no(answer: bool) -> Response<Body> {
    let mut response = empty();
    if !answer {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response
}
