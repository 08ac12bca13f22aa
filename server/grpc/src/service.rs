//! The methods of both services, each passed to the module that answers it.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::StreamExt;
use http::Response;
use prost::Message;
use server_core::{
    control::{ControlCall, PrivateControl},
    header_forwarding::HeaderPattern,
    restriction::Restriction,
};
use server_engine::{BlockingPool, Engine};
use server_http2::Request;
use server_proto::{health::HealthCheckRequest, inference::*};
use tonic::Status;

use crate::{
    Compression, Options, admin,
    admission::Admission,
    control,
    error::status,
    framing::{
        body::{Compressor, ResponseBody, compress},
        compression::{Encoding, accepts_gzip},
        encode,
        receive::{FindPlacement, Limits, Messages, RequestBody},
    },
    health, infer, restrict, stream, tracing,
};

const INFERENCE: &str = "/inference.GRPCInferenceService/";
const HEALTH: &str = "/grpc.health.v1.Health/";

/// Both services over one engine.
pub(crate) struct Service {
    engine: Arc<Engine>,
    admission: Arc<Admission>,
    pool: BlockingPool,
    restrictions: Vec<Restriction>,
    private_control: Option<PrivateControl>,
    forwarded_headers: Option<HeaderPattern>,
    receive: Limits,
    find_placement: FindPlacement,
    send: stream::Limits,
    compresses: bool,
}

impl Service {
    /// Both services over that engine.
    pub(crate) fn new(engine: Arc<Engine>, admission: Arc<Admission>, options: &Options) -> Self {
        let finder = engine.clone();
        Self {
            find_placement: Arc::new(move |beginning| infer::request::placement(&finder, beginning)),
            engine,
            admission,
            pool: options.blocking_pool.clone(),
            restrictions: options.restrictions.clone(),
            private_control: options.private_control.clone(),
            forwarded_headers: options.forwarded_headers.clone(),
            receive: Limits { max_bytes: options.max_receive_bytes, budget: options.byte_budget.clone() },
            send: stream::Limits {
                requests: options.max_stream_requests,
                unread: options.max_unread_responses,
                send_bytes: options.max_send_bytes,
            },
            compresses: options.response_compression == Compression::Gzip,
        }
    }

    /// Answers one call; a stream goes on in the body of the response.
    ///
    /// Errors: the status the call ends with.
    pub(crate) async fn call(&self, request: &Request, body: RequestBody) -> Result<Response<ResponseBody>, Status> {
        let path = request.path();
        let (is_inference, method) = match path.strip_prefix(INFERENCE) {
            Some(method) => (true, method),
            None => (false, path.strip_prefix(HEALTH).unwrap_or_default()),
        };
        control::check(self.private_control.as_ref(), method)?;
        if !self.restrictions.is_empty() {
            restrict::check(&self.restrictions, method, request.headers()).map_err(status)?;
        }
        let encoding = Encoding::of_request(request.headers())?;
        let mut messages = Messages::new(body, encoding, self.receive.clone(), self.pool.clone());
        match method {
            "ModelInfer" if is_inference => {
                messages = messages.placed_by(self.find_placement.clone());
                self.model_infer(request, &mut messages).await
            }
            "ModelStreamInfer" if is_inference => {
                self.model_stream_infer(request, messages.placed_by(self.find_placement.clone()))
            }
            // Boxed: the future of the calls that matter stays small.
            _ if is_inference => Box::pin(self.inference_method(request, method, &mut messages)).await,
            "Check" => {
                let _: HealthCheckRequest = decode(&mut messages).await?;
                self.respond(request, encode::message(&health::check(&self.engine).await)).await
            }
            _ => Err(no_such_method(path)),
        }
    }

    async fn model_infer(
        &self,
        request: &Request,
        messages: &mut Messages<RequestBody>,
    ) -> Result<Response<ResponseBody>, Status> {
        let _permit = self.admission.admit().map_err(status)?;
        let waited_since = tracing::waits(&self.engine);
        let message = messages.only().await?;
        let response = infer::model_infer(
            &self.engine,
            &self.pool,
            request.headers(),
            self.forwarded_headers.as_ref(),
            message,
            waited_since,
            self.send.send_bytes,
        )
        .await?;
        self.respond(request, encode::infer_response(response)).await
    }

    fn model_stream_infer(
        &self,
        request: &Request,
        messages: Messages<RequestBody>,
    ) -> Result<Response<ResponseBody>, Status> {
        let context = stream::Context {
            engine: self.engine.clone(),
            admission: self.admission.clone(),
            pool: self.pool.clone(),
            limits: self.send,
        };
        let pattern = self.forwarded_headers.as_ref();
        let responses = stream::model_stream_infer(context, request.headers(), pattern, messages).map_err(status)?;
        let responses = responses.map(|response| response.map(encode::stream_response));
        let compressor = self.compresses_for(request).then(|| Compressor::new(self.pool.clone()));
        Ok(ResponseBody::stream(Box::pin(responses), compressor))
    }

    /// Every method but inference.
    async fn inference_method(
        &self,
        request: &Request,
        method: &str,
        messages: &mut Messages<RequestBody>,
    ) -> Result<Response<ResponseBody>, Status> {
        let engine = &self.engine;
        // `answer!(|request: Type| answer)`: decodes the request, encodes the answer.
        macro_rules! answer {
            (|$request:tt: $type:ty| $answer:expr) => {{
                let $request: $type = decode(messages).await?;
                let response = $answer.map_err(status)?;
                let length = response.encoded_len();
                if length > self.send.send_bytes {
                    return Err(sent_too_large(length, self.send.send_bytes));
                }
                encode::message(&response)
            }};
        }
        let response = match method {
            "ServerLive" => answer!(|_: ServerLiveRequest| Ok(health::server_live(engine))),
            "ServerReady" => answer!(|_: ServerReadyRequest| Ok(health::server_ready(engine).await)),
            "ModelReady" => answer!(|request: ModelReadyRequest| health::model_ready(engine, &request).await),
            "ServerMetadata" => answer!(|_: ServerMetadataRequest| admin::server_metadata(engine)),
            "ModelMetadata" => answer!(|request: ModelMetadataRequest| admin::model_metadata(engine, &request)),
            "ModelConfig" => answer!(|request: ModelConfigRequest| admin::model_config(engine, &request)),
            "ModelStatistics" => {
                answer!(|request: ModelStatisticsRequest| admin::statistics::model_statistics(engine, &request))
            }
            "RepositoryIndex" => {
                answer!(|request: RepositoryIndexRequest| admin::repository::index(engine, &request).await)
            }
            "RepositoryModelLoad" => {
                answer!(|request: RepositoryModelLoadRequest| { admin::repository::load(engine, request).await })
            }
            "RepositoryModelUnload" => {
                answer!(|request: RepositoryModelUnloadRequest| admin::repository::unload(engine, request).await)
            }
            "SystemSharedMemoryStatus" => {
                answer!(|request: SystemSharedMemoryStatusRequest| admin::shared_memory::system_status(
                    engine, &request
                ))
            }
            "CudaSharedMemoryStatus" => {
                answer!(|request: CudaSharedMemoryStatusRequest| admin::shared_memory::cuda_status(engine, &request))
            }
            "SystemSharedMemoryRegister" => {
                answer!(|request: SystemSharedMemoryRegisterRequest| {
                    admin::shared_memory::register_system(engine, &request)
                })
            }
            "SystemSharedMemoryUnregister" => {
                answer!(|request: SystemSharedMemoryUnregisterRequest| {
                    admin::shared_memory::unregister_system(engine, &request)
                })
            }
            "CudaSharedMemoryRegister" => {
                answer!(|request: CudaSharedMemoryRegisterRequest| {
                    admin::shared_memory::register_cuda(engine, &request)
                })
            }
            "CudaSharedMemoryUnregister" => {
                answer!(|request: CudaSharedMemoryUnregisterRequest| {
                    admin::shared_memory::unregister_cuda(engine, &request)
                })
            }
            "TraceSetting" => {
                let request: TraceSettingRequest = decode(messages).await?;
                self.check_settings(&request.settings, ControlCall::TraceSettings)?;
                let response = admin::settings::trace(engine, &request).map_err(status)?;
                encode::message(&response)
            }
            "LogSettings" => {
                let request: LogSettingsRequest = decode(messages).await?;
                self.check_settings(&request.settings, ControlCall::LogSettings)?;
                let response = admin::settings::log(engine, &request).map_err(status)?;
                encode::message(&response)
            }
            _ => return Err(no_such_method(request.path())),
        };
        self.respond(request, response).await
    }

    /// Checks that settings may be changed from the network, if any are given.
    fn check_settings<T>(&self, given: &BTreeMap<String, T>, call: ControlCall) -> Result<(), Status> {
        if given.is_empty() { Ok(()) } else { control::refuse(self.private_control.as_ref(), call) }
    }

    async fn respond(&self, request: &Request, message: encode::Parts) -> Result<Response<ResponseBody>, Status> {
        if !self.compresses_for(request) {
            return Ok(ResponseBody::unary(message, false));
        }
        Ok(ResponseBody::unary(compress(self.pool.clone(), message).await?, true))
    }

    fn compresses_for(&self, request: &Request) -> bool {
        self.compresses && accepts_gzip(request.headers())
    }
}

async fn decode<T: Message + Default>(messages: &mut Messages<RequestBody>) -> Result<T, Status> {
    T::decode(messages.only().await?).map_err(|error| infer::request::malformed(&error))
}

#[cold]
fn no_such_method(path: &str) -> Status {
    Status::unimplemented(format!("there is no method {path}"))
}

/// The words of gRPC's own library.
#[cold]
fn sent_too_large(length: usize, max_bytes: usize) -> Status {
    Status::resource_exhausted(format!("Sent message larger than max ({length} vs. {max_bytes})"))
}
