//! Connections and calls that are malformed, restricted or too old.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use server_core::byte_budget::ByteBudget;
use server_core::restriction::{ApiGroup, Restriction};
use server_grpc::Options;
use server_proto::{
    health::{HealthCheckRequest, health_client::HealthClient},
    inference::{ServerLiveRequest, ServerMetadataRequest},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tonic::Code;

use crate::harness::{Server, until, values};

const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// Sends one HTTP/2 request with a body of one's own.
async fn send(server: &Server, path: &str, content_type: &str, body: &[u8]) -> Response<Incoming> {
    let socket = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://{}{path}", server.address)).header(CONTENT_TYPE, content_type);
    sender.send_request(request.body(Full::new(Bytes::copy_from_slice(body))).unwrap()).await.unwrap()
}

/// The status a raw response carries, in its headers or its trailers.
async fn grpc_status(response: Response<Incoming>) -> (String, String) {
    let (parts, body) = response.into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
    let field = |name: &str| {
        let value = parts.headers.get(name).or_else(|| trailers.get(name));
        value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    (field("grpc-status"), field("grpc-message"))
}

#[tokio::test]
async fn other_protocols_on_the_port_leave_callers_untouched() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0; 100_000],
        b"",
    ] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let _ = socket.write_all(bytes).await; // it may be closed before it has all
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await.expect("closed");
        assert_eq!(client.model_infer(values("FP32", "1", &[1.0])).await.unwrap().into_inner().id, "1");
    }
}

#[tokio::test]
async fn a_malformed_message_fails_its_own_call_only() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for body in [
        b"".as_slice(),                  // no message
        b"\0\0\0",                       // a cut header
        b"\0\0\0\0\x05\x0a\xff",         // a cut message
        b"\0\0\0\0\x03\xff\xff\xff",     // no protobuf
        b"\0\0\0\0\x04\x0a\x02\xff\xff", // a name that is no text
        b"\x01\0\0\0\x01\0",             // compressed without an encoding
        b"\x07\0\0\0\x01\0",             // no such flag
        b"\0\xff\xff\xff\xff\0",         // longer than anything
    ] {
        let (code, message) = grpc_status(send(&server, MODEL_INFER, "application/grpc", body).await).await;
        assert!(!matches!(code.as_str(), "" | "0"), "{body:?} was taken: {code} {message}");
        assert_eq!(client.model_infer(values("FP32", "1", &[1.0])).await.unwrap().into_inner().id, "1");
    }
}

#[tokio::test]
async fn calls_that_only_declare_a_length_take_no_memory() {
    let budget = Arc::new(ByteBudget::new(4 << 30));
    let server = Server::with(Options { byte_budget: budget.clone(), ..Options::default() }).await;
    let socket = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    tokio::spawn(connection);
    let mut bodies = Vec::new();
    for _ in 0..1000 {
        let (body, frames) = mpsc::unbounded_channel();
        body.send(Bytes::from_static(b"\0\x7f\xff\xff\xff!")).unwrap();
        let frames = stream::unfold(frames, async |mut frames: mpsc::UnboundedReceiver<Bytes>| {
            let bytes = frames.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), frames))
        });
        let request = Request::post(format!("http://{}{MODEL_INFER}", server.address))
            .header(CONTENT_TYPE, "application/grpc")
            .body(StreamBody::new(Box::pin(frames)))
            .unwrap();
        sender.ready().await.unwrap();
        bodies.push((body, tokio::spawn(sender.send_request(request))));
    }
    until(|| budget.in_use() == 4096 * bodies.len()).await;
    drop(bodies);
    drop(sender);
    until(|| budget.in_use() == 0).await;
}

#[tokio::test]
async fn other_content_and_other_methods_are_refused() {
    let server = Server::start().await;
    let response = send(&server, MODEL_INFER, "application/json", b"{}").await;
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for path in ["/inference.GRPCInferenceService/NoSuchMethod", "/other.Service/Method", "/"] {
        let (code, _) = grpc_status(send(&server, path, "application/grpc", b"\0\0\0\0\0").await).await;
        assert_eq!(code, "12", "{path}");
    }
}

#[tokio::test]
async fn restricted_methods_need_the_header() {
    let restriction = Restriction {
        groups: vec![ApiGroup::Health, ApiGroup::Inference],
        header: "key".into(),
        value: "secret".into(),
    };
    let server = Server::with(Options { restrictions: vec![restriction], ..Options::default() }).await;
    let mut client = server.client().await;
    let expected = "This protocol is restricted, expecting header 'triton-grpc-protocol-key'";
    let status = client.server_live(ServerLiveRequest {}).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, expected));
    let status = client.model_infer(values("FP32", "", &[1.0])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, expected));
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let status = HealthClient::new(channel.connect_lazy()).check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, expected));
    client.server_metadata(ServerMetadataRequest {}).await.unwrap();

    let mut request = tonic::Request::new(values("FP32", "", &[1.0]));
    request.metadata_mut().insert("triton-grpc-protocol-key", "secret".parse().unwrap());
    client.model_infer(request).await.unwrap();
}

#[tokio::test]
async fn a_connection_at_its_maximum_age_is_replaced_without_losing_a_call() {
    let server =
        Server::with(Options { max_connection_age: Some(Duration::from_millis(50)), ..Options::default() }).await;
    let mut client = server.client().await;
    let answer = client.model_infer(values("slow", "1", &[1.0])).await.unwrap(); // longer than the connection's age
    assert_eq!(answer.into_inner().id, "1");
    assert_eq!(client.model_infer(values("FP32", "2", &[1.0])).await.unwrap().into_inner().id, "2");
}

#[tokio::test]
async fn a_connection_at_its_maximum_age_is_closed_after_the_grace() {
    let options = Options {
        max_connection_age: Some(Duration::from_millis(20)),
        max_connection_age_grace: Some(Duration::from_millis(20)),
        ..Options::default()
    };
    let server = Server::with(options).await;
    assert!(server.client().await.model_infer(values("slow", "1", &[1.0])).await.is_err());
}

#[tokio::test]
async fn a_connection_without_a_handshake_is_closed_after_the_timeout() {
    let options = Options { handshake_timeout: Duration::from_millis(100), ..Options::default() };
    let server = Server::with(options).await;
    let mut client = server.client().await;
    client.server_live(ServerLiveRequest {}).await.unwrap();
    for start in [b"".as_slice(), b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(start).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "the connection stays open after {start:?}");
    }
    // The client's connection is older than the timeout and still serves.
    client.server_live(ServerLiveRequest {}).await.unwrap();
}
