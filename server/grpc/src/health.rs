//! Live, ready, and the health service of gRPC.

use server_core::{error::Result, interface::ModelId, request::VersionChoice};
use server_engine::Engine;
use server_proto::{
    health::{HealthCheckResponse, health_check_response::ServingStatus},
    inference::{ModelReadyRequest, ModelReadyResponse, ServerLiveResponse, ServerReadyResponse},
};

/// Whether the process serves.
pub(crate) fn server_live(engine: &Engine) -> Result<ServerLiveResponse> {
    Ok(ServerLiveResponse { live: engine.is_live()? })
}

/// Whether traffic should come.
pub(crate) fn server_ready(engine: &Engine) -> Result<ServerReadyResponse> {
    Ok(ServerReadyResponse { ready: engine.is_ready()? })
}

/// Whether one model can serve.
pub(crate) fn model_ready(engine: &Engine, request: &ModelReadyRequest) -> Result<ModelReadyResponse> {
    let version = VersionChoice::parse(&request.version)?;
    Ok(ModelReadyResponse { ready: engine.is_model_ready(ModelId { name: &request.name, version })? })
}

/// The same as [`server_ready`], in the words probes and proxies know. There is one service: its name is not looked at.
pub(crate) fn check(engine: &Engine) -> Result<HealthCheckResponse> {
    let status = if engine.is_ready()? { ServingStatus::Serving } else { ServingStatus::NotServing };
    Ok(HealthCheckResponse { status: status.into() })
}
