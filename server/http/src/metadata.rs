//! What the server is, and what a model takes and gives.

use http::Response;
use serde::Serialize;
use server_core::{
    error::Result,
    interface::{EXTENSIONS, ModelId, TensorMetadata},
};
use server_engine::Engine;

use crate::{body::Body, reply::json, to_json::to_json};

#[derive(Serialize)]
struct Server<'a> {
    name: &'a str,
    version: &'static str,
    extensions: [&'static str; 13],
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    versions: Vec<String>,
    platform: &'a str,
    inputs: Vec<Tensor<'a>>,
    outputs: Vec<Tensor<'a>>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [i64],
}

/// `GET /v2`. Errors: the server is exiting.
pub(crate) fn server(engine: &Engine) -> Result<Response<Body>> {
    engine.is_live()?;
    to_json(&Server { name: engine.id(), version: env!("CARGO_PKG_VERSION"), extensions: EXTENSIONS }).map(json)
}

/// `GET /v2/models/{m}`. Errors: the model is unknown or not ready.
pub(crate) fn model(engine: &Engine, model: ModelId<'_>) -> Result<Response<Body>> {
    let metadata = engine.metadata(model)?;
    to_json(&Model {
        name: &metadata.name,
        versions: metadata.versions.iter().map(u64::to_string).collect(),
        platform: &metadata.platform,
        inputs: metadata.inputs.iter().map(tensor).collect(),
        outputs: metadata.outputs.iter().map(tensor).collect(),
    })
    .map(json)
}

fn tensor(metadata: &TensorMetadata) -> Tensor<'_> {
    Tensor { name: &metadata.name, datatype: metadata.data_type.wire_name(), shape: &metadata.shape }
}
