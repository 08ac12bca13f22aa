//! A model's completed configuration.

use http::Response;
use server_core::{config, error::Result, interface::ModelId};
use server_engine::Engine;

use crate::{body::Body, reply::json, to_json::to_json};

/// `GET /v2/models/{m}/config`. Errors: the model is unknown or not ready.
pub(crate) fn get(engine: &Engine, model: ModelId<'_>) -> Result<Response<Body>> {
    let config = engine.config(model)?;
    to_json(&config::to_json(&config)).map(json)
}
