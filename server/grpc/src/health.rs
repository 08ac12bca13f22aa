//! Live, ready, and the health service of gRPC.

use server_core::{error::Result, interface::ModelId, request::VersionChoice};
use server_engine::Engine;
use server_proto::{
    health::{HealthCheckResponse, health_check_response::ServingStatus},
    inference::{ModelReadyRequest, ModelReadyResponse, ServerLiveResponse, ServerReadyResponse},
};

/// Whether the server is live.
pub(crate) fn server_live(engine: &Engine) -> Result<ServerLiveResponse> {
    Ok(ServerLiveResponse { live: engine.is_live()? })
}

/// Whether the server is ready.
pub(crate) fn server_ready(engine: &Engine) -> Result<ServerReadyResponse> {
    Ok(ServerReadyResponse { ready: engine.is_ready()? })
}

/// Whether a model, or one version of it, is ready.
pub(crate) fn model_ready(engine: &Engine, request: &ModelReadyRequest) -> Result<ModelReadyResponse> {
    let version = VersionChoice::parse(&request.version)?;
    Ok(ModelReadyResponse { ready: engine.is_model_ready(ModelId { name: &request.name, version })? })
}

/// The same as [`server_ready`] for probes and proxies. The name of the service is ignored, as Triton does.
pub(crate) fn check(engine: &Engine) -> Result<HealthCheckResponse> {
    let status = if engine.is_ready()? { ServingStatus::Serving } else { ServingStatus::NotServing };
    Ok(HealthCheckResponse { status: status.into() })
}
