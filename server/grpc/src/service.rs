//! The methods of both services, each passed to the module that answers it. Nothing is decided here.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use server_core::unsupported;
use server_engine::Engine;
use server_proto::{
    health::{HealthCheckRequest, HealthCheckResponse, health_server::Health},
    inference::{grpc_inference_service_server::GrpcInferenceService, *},
};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::{Options, admin, admission::Admission, error::status, health, infer, stream};

/// What a method returns.
type Answer<T> = Result<Response<T>, Status>;

/// Both services.
pub(crate) struct Service {
    engine: Arc<Engine>,
    admission: Arc<Admission>,
    max_stream_requests: usize,
    max_send_bytes: usize,
}

impl Service {
    /// Both services over one engine.
    pub(crate) fn new(engine: Arc<Engine>, admission: Arc<Admission>, options: &Options) -> Self {
        let &Options { max_stream_requests, max_send_bytes, .. } = options;
        Self { engine, admission, max_stream_requests, max_send_bytes }
    }
}

fn answer<T>(result: server_core::error::Result<T>) -> Answer<T> {
    result.map(Response::new).map_err(status)
}

#[async_trait]
impl Health for Service {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Answer<HealthCheckResponse> {
        answer(Ok(health::check(&self.engine)))
    }
}

#[async_trait]
impl GrpcInferenceService for Service {
    type ModelStreamInferStream = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Answer<ServerLiveResponse> {
        answer(Ok(health::server_live(&self.engine)))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Answer<ServerReadyResponse> {
        answer(Ok(health::server_ready(&self.engine)))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Answer<ModelReadyResponse> {
        answer(health::model_ready(&self.engine, request.get_ref()))
    }

    async fn server_metadata(&self, _: Request<ServerMetadataRequest>) -> Answer<ServerMetadataResponse> {
        answer(admin::server_metadata(&self.engine))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Answer<ModelMetadataResponse> {
        answer(admin::model_metadata(&self.engine, request.get_ref()))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Answer<ModelInferResponse> {
        answer(infer::model_infer(&self.engine, request.into_inner(), self.max_send_bytes).await)
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        let limits = stream::Limits { requests: self.max_stream_requests, send_bytes: self.max_send_bytes };
        answer(stream::model_stream_infer(self.engine.clone(), &self.admission, request, limits))
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Answer<ModelConfigResponse> {
        answer(admin::model_config(&self.engine, request.get_ref()))
    }

    async fn model_statistics(&self, request: Request<ModelStatisticsRequest>) -> Answer<ModelStatisticsResponse> {
        answer(admin::statistics::model_statistics(&self.engine, request.get_ref()))
    }

    async fn repository_index(&self, request: Request<RepositoryIndexRequest>) -> Answer<RepositoryIndexResponse> {
        answer(admin::repository::index(&self.engine, request.get_ref()))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Answer<RepositoryModelLoadResponse> {
        answer(admin::repository::load(&self.engine, request.into_inner()).await)
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Answer<RepositoryModelUnloadResponse> {
        answer(admin::repository::unload(&self.engine, request.into_inner()).await)
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<SystemSharedMemoryStatusRequest>,
    ) -> Answer<SystemSharedMemoryStatusResponse> {
        answer(admin::shared_memory::system_status(request.get_ref()))
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Answer<SystemSharedMemoryRegisterResponse> {
        answer(Err(unsupported::client_shared_memory()))
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<SystemSharedMemoryUnregisterResponse> {
        answer(Err(unsupported::client_shared_memory()))
    }

    async fn cuda_shared_memory_status(
        &self,
        request: Request<CudaSharedMemoryStatusRequest>,
    ) -> Answer<CudaSharedMemoryStatusResponse> {
        answer(admin::shared_memory::cuda_status(request.get_ref()))
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<CudaSharedMemoryRegisterRequest>,
    ) -> Answer<CudaSharedMemoryRegisterResponse> {
        answer(Err(unsupported::client_shared_memory()))
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<CudaSharedMemoryUnregisterResponse> {
        answer(Err(unsupported::client_shared_memory()))
    }

    async fn trace_setting(&self, _: Request<TraceSettingRequest>) -> Answer<TraceSettingResponse> {
        answer(Err(unsupported::trace_settings()))
    }

    async fn log_settings(&self, _: Request<LogSettingsRequest>) -> Answer<LogSettingsResponse> {
        answer(Err(unsupported::log_settings()))
    }
}
