//! The least a tonic server can do with `ModelInfer`: decode the request and send its raw tensors back. The limit that
//! `tritonserver` is measured against. Every other method answers as this one, or fails to decode.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use anyhow::Result;
use server_proto::inference::{ModelInferRequest, ModelInferResponse};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, UnaryService},
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
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(Echo, request).await) })
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
