//! Shutdown: new calls are refused, calls in flight finish, connections are closed.

use std::{error::Error, iter, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use server_proto::inference::ServerReadyRequest;
use tonic::{Code, Status};

use crate::harness::{Server, until, values};

const CLOSED: &str = "GRPC server is shutting down and has stopped accepting new requests.";

#[tokio::test]
async fn a_stopping_server_finishes_calls_in_flight_and_refuses_new_ones() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let mut other = server.client().await;
    let in_flight = ["1", "2"].map(|id| {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(values("slow", id, &[1.0])).await })
    });
    until(|| server.counted("slow").pending == 1).await; // one runs, one waits
    server.stop();
    let status = loop {
        match other.model_infer(values("FP32", "2", &[1.0])).await {
            Ok(_) => tokio::task::yield_now().await, // the server has not seen the signal yet
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), status.message()), (Code::Unavailable, CLOSED));
    let status = other.model_stream_infer(stream::iter([values("FP32", "3", &[1.0])])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, CLOSED));
    // Health is still answered while calls are in flight.
    assert!(other.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    for (in_flight, id) in in_flight.into_iter().zip(["1", "2"]) {
        assert_eq!(in_flight.await.unwrap().unwrap().into_inner().id, id);
    }
    server.ended().await;
}

#[tokio::test]
async fn an_idle_stream_does_not_delay_shutdown() {
    let mut server = Server::start().await;
    let mut client = server.client().await;
    let mut answers = client.model_stream_infer(stream::pending()).await.unwrap().into_inner();
    server.stop();
    let status = answers.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, CLOSED));
    server.ended().await;
}

#[tokio::test]
async fn idle_connections_are_closed_at_shutdown() {
    let mut server = Server::start().await;
    let mut client = server.client().await;
    let idle = tokio::net::TcpStream::connect(server.address).await.unwrap();
    client.server_ready(ServerReadyRequest {}).await.unwrap();
    server.stop();
    let address = server.address;
    server.ended().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    drop(idle);
}

/// Whether the connection ended just before the client sent the call: other clients of gRPC send it again by themselves.
fn is_unsent(status: &Status) -> bool {
    let causes = iter::successors(status.source(), |&error| error.source());
    causes.filter_map(|error| error.downcast_ref::<hyper::Error>()).any(hyper::Error::is_canceled)
}

#[tokio::test]
async fn a_leaving_server_closes_connections_without_losing_a_call() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.model_infer(values("FP32", "0", &[1.0])).await.unwrap();
    let in_flight = ["1", "2"].map(|id| {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(values("slow", id, &[1.0])).await })
    });
    until(|| server.counted("slow").pending == 1).await; // one runs, one waits
    server.engine.begin_leaving(false);
    for (in_flight, id) in in_flight.into_iter().zip(["1", "2"]) {
        assert_eq!(in_flight.await.unwrap().unwrap().into_inner().id, id);
    }
    // The connection has ended with its last answer; the next one is served like any other.
    for id in 0..20 {
        let mut answer = client.model_infer(values("FP32", &id.to_string(), &[1.0])).await;
        if answer.as_ref().is_err_and(is_unsent) {
            answer = client.model_infer(values("FP32", &id.to_string(), &[1.0])).await;
        }
        assert_eq!(answer.unwrap().into_inner().id, id.to_string());
    }
    assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
}

#[tokio::test]
async fn a_client_that_comes_back_to_a_leaving_server_is_sent_away_again() {
    let server = Server::start().await;
    server.engine.begin_leaving(true);
    let mut client = server.client().await;
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let socket = TokioIo::new(server.connect().await);
    let (sender, connection) = http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), socket).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), connection).await.expect("told to go").unwrap();
    assert!(sender.is_closed());
    server.client().await.model_infer(values("FP32", "0", &[1.0])).await.unwrap();
}

#[tokio::test]
async fn a_server_that_drains_for_a_while_closes_connections_and_keeps_them_afterwards() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.model_infer(values("FP32", "0", &[1.0])).await.unwrap();
    for round in 0..2 {
        server.engine.drain(Duration::from_secs(60));
        assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready, "{round}");
        let socket = TokioIo::new(server.connect().await);
        let (sender, connection) = http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), socket).await.unwrap();
        tokio::time::timeout(Duration::from_secs(20), connection).await.expect("told to go").unwrap();
        assert!(sender.is_closed());
        for id in 0..5 {
            client.model_infer(values("FP32", &id.to_string(), &[1.0])).await.unwrap();
        }
        server.engine.end_drain();
        assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready, "{round}");
    }
}
