//! Metadata and configurations. Loading and unloading is in `repository`, statistics in `statistics`.

pub(crate) mod repository;
pub(crate) mod settings;
pub(crate) mod shared_memory;
pub(crate) mod statistics;

use server_core::{
    error::Result,
    interface::{EXTENSIONS, ModelId, TensorMetadata},
    request::VersionChoice,
};
use server_engine::Engine;
use server_proto::inference::{
    ModelConfigRequest, ModelConfigResponse, ModelMetadataRequest, ModelMetadataResponse, ServerMetadataResponse,
    model_metadata_response,
};

/// Name, version and extensions of the server.
pub(crate) fn server_metadata(engine: &Engine) -> Result<ServerMetadataResponse> {
    Ok(ServerMetadataResponse {
        name: engine.id().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).into(),
    })
}

/// Versions and tensors of a ready model.
pub(crate) fn model_metadata(engine: &Engine, request: &ModelMetadataRequest) -> Result<ModelMetadataResponse> {
    let version = VersionChoice::parse(&request.version)?;
    let metadata = engine.metadata(ModelId { name: &request.name, version })?;
    let tensors = |tensors: Vec<TensorMetadata>| tensors.into_iter().map(tensor_metadata).collect();
    Ok(ModelMetadataResponse {
        name: metadata.name.as_ref().to_owned(),
        versions: metadata.versions.iter().map(u64::to_string).collect(),
        platform: metadata.platform,
        inputs: tensors(metadata.inputs),
        outputs: tensors(metadata.outputs),
    })
}

fn tensor_metadata(tensor: TensorMetadata) -> model_metadata_response::TensorMetadata {
    model_metadata_response::TensorMetadata {
        name: tensor.name.as_ref().to_owned(),
        datatype: tensor.data_type.wire_name().to_owned(),
        shape: tensor.shape.into_vec(),
    }
}

/// The completed configuration of a ready model.
pub(crate) fn model_config(engine: &Engine, request: &ModelConfigRequest) -> Result<ModelConfigResponse> {
    let version = VersionChoice::parse(&request.version)?;
    let config = engine.config(ModelId { name: &request.name, version })?;
    Ok(ModelConfigResponse { config: Some(config.as_ref().clone()) })
}
