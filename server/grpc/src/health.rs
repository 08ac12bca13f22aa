//! Live, ready, and the health service of gRPC. Questions about readiness are answered with yes or no, never with an error:
//! clients poll them while models load and while the server exits.

use server_core::{error::Result, interface::ModelId, request::VersionChoice};
use server_engine::Engine;
use server_proto::{
    health::{HealthCheckResponse, health_check_response::ServingStatus},
    inference::{ModelReadyRequest, ModelReadyResponse, ServerLiveResponse, ServerReadyResponse},
};

/// Whether the server is live; false while it exits.
pub(crate) fn server_live(engine: &Engine) -> ServerLiveResponse {
    ServerLiveResponse { live: engine.is_live().unwrap_or(false) }
}

/// Whether the server is ready; false while it exits.
pub(crate) async fn server_ready(engine: &Engine) -> ServerReadyResponse {
    ServerReadyResponse { ready: engine.is_ready().await.unwrap_or(false) }
}

/// Whether a model, or one version of it, is ready; false for one that is unknown or not loaded, as in Triton 2.51.
///
/// Errors: `InvalidArgument` for a version that is not a number, the only question that has no answer.
pub(crate) async fn model_ready(engine: &Engine, request: &ModelReadyRequest) -> Result<ModelReadyResponse> {
    let version = VersionChoice::parse(&request.version)?;
    let ready = engine.is_model_ready(ModelId { name: &request.name, version }).await.unwrap_or(false);
    Ok(ModelReadyResponse { ready })
}

/// The same as [`server_ready`] for probes and proxies. The name of the service is ignored, as Triton does.
pub(crate) async fn check(engine: &Engine) -> HealthCheckResponse {
    let is_ready = engine.is_ready().await.unwrap_or(false);
    let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}
