//! The least a tonic server can do with `ModelInfer`: decode the request and send its raw tensors back; and with
//! `ModelStreamInfer`: send the first tensor back as often as its value says. The limits that `tritonserver` is measured
//! against. Every other method answers as the first one, or fails to decode.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use anyhow::Result;
use futures_util::{Stream, StreamExt, stream};
use server_proto::inference::{
    ModelInferRequest, ModelInferResponse, ModelStreamInferResponse, model_infer_response::InferOutputTensor,
};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, StreamingService, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;

fn main() -> Result<()> {
    let address = e2e::address()?;
    e2e::runtime()?.block_on(async { Ok(Server::builder().add_service(Echo).serve(address).await?) })
}

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path().ends_with("/ModelStreamInfer") {
                let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(usize::MAX);
                return Ok(grpc.streaming(Echo, request).await);
            }
            let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(usize::MAX);
            Ok(grpc.unary(Echo, request).await)
        })
    }
}

impl UnaryService<ModelInferRequest> for Echo {
    type Response = ModelInferResponse;
    type Future = std::future::Ready<Result<Response<ModelInferResponse>, Status>>;

    fn call(&mut self, request: Request<ModelInferRequest>) -> Self::Future {
        let request = request.into_inner();
        std::future::ready(Ok(Response::new(ModelInferResponse {
            model_name: request.model_name,
            id: request.id,
            raw_output_contents: request.raw_input_contents,
            ..Default::default()
        })))
    }
}

impl StreamingService<ModelInferRequest> for Echo {
    type Response = ModelStreamInferResponse;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, requests: Request<Streaming<ModelInferRequest>>) -> Self::Future {
        let answers = requests.into_inner().flat_map(|request| stream::iter(answers(request)));
        std::future::ready(Ok(Response::new(Box::pin(answers) as Self::ResponseStream)))
    }
}

/// The first tensor, as often as its first number says.
fn answers(request: Result<ModelInferRequest, Status>) -> Vec<Result<ModelStreamInferResponse, Status>> {
    let request = match request {
        Ok(request) => request,
        Err(status) => return vec![Err(status)],
    };
    let count = request.raw_input_contents.first().and_then(|bytes| bytes.first_chunk().copied());
    let input = request.inputs.into_iter().next().unwrap_or_default();
    let response = ModelInferResponse {
        model_name: request.model_name,
        id: request.id,
        outputs: vec![InferOutputTensor {
            name: input.name,
            datatype: input.datatype,
            shape: input.shape,
            ..Default::default()
        }],
        raw_output_contents: request.raw_input_contents,
        ..Default::default()
    };
    let response = ModelStreamInferResponse { infer_response: Some(response), ..Default::default() };
    vec![Ok(response); count.map_or(0, u32::from_le_bytes) as usize]
}
