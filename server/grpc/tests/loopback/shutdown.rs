//! The end: nobody new, those inside finish, everybody is told.

use futures_util::stream;
use server_proto::inference::ServerReadyRequest;
use tonic::Code;

use crate::house::{House, until, values};

const CLOSED: &str = "GRPC server is shutting down and has stopped accepting new requests.";

#[tokio::test]
async fn a_stopping_server_finishes_what_is_inside_and_refuses_what_comes() {
    let mut house = House::open().await;
    let client = house.client().await;
    let mut other = house.client().await;
    let inside = ["1", "2"].map(|id| {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(values("slow", id, &[1.0])).await })
    });
    until(|| house.counted("slow").pending == 1).await; // one runs, one waits
    house.stop();
    let status = loop {
        match other.model_infer(values("FP32", "2", &[1.0])).await {
            Ok(_) => tokio::task::yield_now().await, // the news has not arrived yet
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), status.message()), (Code::Unavailable, CLOSED));
    let status = other.model_stream_infer(stream::iter([values("FP32", "3", &[1.0])])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, CLOSED));
    // Questions are still answered while somebody is inside.
    assert!(other.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    for (inside, id) in inside.into_iter().zip(["1", "2"]) {
        assert_eq!(inside.await.unwrap().unwrap().into_inner().id, id);
    }
    house.ended().await;
}

#[tokio::test]
async fn an_idle_stream_does_not_hold_the_end_up() {
    let mut house = House::open().await;
    let mut client = house.client().await;
    let mut answers = client.model_stream_infer(stream::pending()).await.unwrap().into_inner();
    house.stop();
    let status = answers.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, CLOSED));
    house.ended().await;
}

#[tokio::test]
async fn idle_connections_are_closed_at_the_end() {
    let mut house = House::open().await;
    let mut client = house.client().await;
    let quiet = tokio::net::TcpStream::connect(house.address).await.unwrap();
    client.server_ready(ServerReadyRequest {}).await.unwrap();
    house.stop();
    let address = house.address;
    house.ended().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    drop(quiet);
}

#[tokio::test]
async fn a_leaving_server_sends_connections_away_and_loses_no_call() {
    let house = House::open().await;
    let mut client = house.client().await;
    client.model_infer(values("FP32", "0", &[1.0])).await.unwrap();
    let inside = ["1", "2"].map(|id| {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(values("slow", id, &[1.0])).await })
    });
    until(|| house.counted("slow").pending == 1).await; // one runs, one waits
    house.engine.begin_leaving();
    for (inside, id) in inside.into_iter().zip(["1", "2"]) {
        assert_eq!(inside.await.unwrap().unwrap().into_inner().id, id);
    }
    // The connection has ended with its last answer; the next one is served like any other.
    for id in 0..20 {
        let answer = client.model_infer(values("FP32", &id.to_string(), &[1.0])).await;
        assert_eq!(answer.unwrap().into_inner().id, id.to_string());
    }
    assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
}
