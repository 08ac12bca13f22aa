//! Liveness and readiness of the server, readiness of models.

use http::{Response, StatusCode};
use server_core::{
    error::{Error, Result},
    interface::ModelId,
};
use server_engine::Engine;

use crate::{body::Body, reply::empty};

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

/// Yes is 200, no is 400, both without a body.
fn yes_or_no(answer: bool) -> Response<Body> {
    let mut response = empty();
    if !answer {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response
}
