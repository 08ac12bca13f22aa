//! Decoupled models over HTTP: what each kind of request answers, errors in the middle, clients that leave or do not read.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::time::{Duration, Instant};

use harness::{Client, TIMEOUT, TestServer, until};
use server_core::stats::ModelSnapshot;

const REPEAT: &str = "backend: \"repeat\" model_transaction_policy { decoupled: true }
    input [ { name: \"IN\" data_type: TYPE_INT32 dims: -1 }, { name: \"DELAY\" data_type: TYPE_UINT32 dims: -1 },
            { name: \"WAIT\" data_type: TYPE_UINT32 dims: 1 } ]
    output [ { name: \"OUT\" data_type: TYPE_INT32 dims: 1 }, { name: \"IDX\" data_type: TYPE_UINT32 dims: 1 } ]";

const SQUARE: &str = "backend: \"square\" model_transaction_policy { decoupled: true }
    input { name: \"IN\" data_type: TYPE_INT32 dims: 1 } output { name: \"OUT\" data_type: TYPE_INT32 dims: 1 }
    parameters { key: \"CUSTOM_FAIL_COUNT\" value { string_value: \"1\" } }";

const MINUTE: u32 = 60_000;

async fn server() -> TestServer {
    TestServer::with(&[("repeat", REPEAT), ("square", SQUARE)]).await
}

fn repeat(values: &[i32], delays: &[u32]) -> String {
    format!("{{\"IN\":{values:?},\"DELAY\":{delays:?},\"WAIT\":0}}")
}

fn counted(server: &TestServer, model: &str) -> ModelSnapshot {
    server.engine.statistics(None).unwrap().into_iter().find(|counted| counted.name == model).unwrap()
}

/// Responses of one model that were counted as sent.
fn sent(server: &TestServer, model: &str) -> u64 {
    counted(server, model).responses.iter().map(|response| response.success.count).sum()
}

/// Sends a request for a stream of events and reads the head of its response.
async fn open(client: &mut Client, model: &str, body: &str) -> u16 {
    let length = body.len();
    let head =
        format!("POST /v2/models/{model}/generate_stream HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n\r\n");
    client.write(head + body).await;
    client.receive_head().await.0
}

#[tokio::test]
async fn infer_and_generate_take_one_response() {
    let server = server().await;
    let text = "HTTP end point doesn't support models with decoupled transaction policy";
    server.post("/v2/models/repeat/infer", "{}").await.is_error(501, text);
    let one = server.post("/v2/models/repeat/generate", repeat(&[7], &[0])).await;
    assert_eq!((one.status, one.text()), (200, r#"{"IDX":0,"OUT":7,"model_name":"repeat","model_version":"1"}"#));
    let text = "generate expects model to produce exactly 1 response, use generate stream for model that generates various number of responses";
    server.post("/v2/models/repeat/generate", "{\"IN\":[],\"DELAY\":[],\"WAIT\":0}").await.is_error(500, text);
    // and the second one of many is the last: nobody waits a minute for the third
    let sent_at = Instant::now();
    server.post("/v2/models/repeat/generate", repeat(&[1, 2, 3], &[0, 0, MINUTE])).await.is_error(500, text);
    assert!(sent_at.elapsed() < TIMEOUT);
    until(|| counted(&server, "repeat").failures.canceled == 1).await;
    server.post("/v2/models/square/generate", "{\"IN\":1}").await.is_error(400, "simulated failure");
}

#[tokio::test]
async fn a_stream_has_an_event_for_each_response_and_none_for_the_end() {
    let server = server().await;
    let answer = server.post("/v2/models/repeat/generate_stream", repeat(&[5, 6, 7], &[0, 20, 0])).await;
    let events: Vec<String> = (0..3)
        .map(|index| {
            format!(
                "data: {{\"IDX\":{index},\"OUT\":{},\"model_name\":\"repeat\",\"model_version\":\"1\"}}\n\n",
                index + 5
            )
        })
        .collect();
    assert_eq!((answer.status, answer.text()), (200, &*events.concat()));
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let none = server.post("/v2/models/repeat/generate_stream", "{\"IN\":[],\"DELAY\":[],\"WAIT\":0}").await;
    assert_eq!((none.status, none.text()), (200, ""));
    // an execution counts when the model is done with it, a moment after its last response
    until(|| counted(&server, "repeat").execution_count == 2).await;
    let counted = counted(&server, "repeat");
    assert_eq!((counted.success.count, counted.fail.count), (2, 0));
    assert!(counted.responses.iter().all(|response| (response.success.count, response.empty_response.count) == (1, 0)));
    assert_eq!(counted.responses.len(), 3);
}

#[tokio::test]
async fn an_error_is_an_event_and_gives_the_status_if_it_comes_first() {
    let server = server().await;
    let answer = server.post("/v2/models/square/generate_stream", "{\"IN\":2}").await;
    let events = "data: {\"OUT\":2,\"model_name\":\"square\",\"model_version\":\"1\"}\n\ndata: {\"error\":\"simulated failure\"}\n\n";
    assert_eq!((answer.status, answer.text()), (200, events));
    let answer = server.post("/v2/models/square/generate_stream", "{\"IN\":1}").await;
    assert_eq!((answer.status, answer.text()), (400, "data: {\"error\":\"simulated failure\"}\n\n"));
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let counts: Vec<_> = counted(&server, "square")
        .responses
        .iter()
        .map(|response| (response.success.count, response.fail.count))
        .collect();
    assert_eq!(counts, [(1, 1), (0, 1)]);
}

#[tokio::test]
async fn a_client_that_leaves_between_two_events_cancels_its_request() {
    let server = server().await;
    let mut expected = 0;
    for ends_first in [false, true] {
        let mut client = server.client().await;
        assert_eq!(open(&mut client, "repeat", &repeat(&[1, 2], &[0, MINUTE])).await, 200);
        assert!(client.receive_chunk().await.unwrap().starts_with(b"data: "));
        if ends_first {
            client.end().await;
            // it may still read: what it is sent to find that out is a comment among the events
            assert_eq!(client.receive_chunk().await.unwrap(), b":\n\n");
            client.reset();
        } else {
            drop(client);
        }
        expected += 1;
        let deadline = Instant::now() + TIMEOUT;
        while counted(&server, "repeat").failures.canceled < expected {
            assert!(Instant::now() < deadline, "the request was not cancelled");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!(counted(&server, "repeat").responses[1].cancel.count, 2);
}

#[tokio::test]
async fn a_reader_that_stops_reading_makes_its_model_wait_and_nobody_else() {
    let server = server().await;
    let mut client = server.client().await;
    assert_eq!(open(&mut client, "square", "{\"IN\":1000000000}").await, 200);
    let deadline = Instant::now() + TIMEOUT;
    let mut stalled_at = sent(&server, "square");
    let mut looks = 0;
    while looks < 5 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = sent(&server, "square");
        looks = if now == stalled_at && now > 0 { looks + 1 } else { 0 };
        stalled_at = now;
        assert!(Instant::now() < deadline, "the model never waits: {now} responses are somewhere");
    }
    let other = server.post("/v2/models/square/generate_stream", "{\"IN\":3}").await;
    assert_eq!(other.text().matches("data: ").count(), 3);
    while sent(&server, "square") < stalled_at + 1000 {
        assert!(client.receive_chunk().await.unwrap().starts_with(b"data: "), "it goes on where it was");
    }
    client.reset();
    until(|| counted(&server, "square").failures.canceled == 1).await;
}
