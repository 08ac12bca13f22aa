//! What bounds the memory of requests: the size of one body, and the budget of all.

#![allow(clippy::unwrap_used)] // helpers of tests

mod harness;

use std::sync::Arc;

use harness::{Client, TestServer, one_tensor};
use server_core::byte_budget::ByteBudget;
use server_engine::ControlMode;
use server_http::Options;

/// Every route that reads a body.
const ROUTES: [&str; 6] = [
    "/v2/models/floats/infer",
    "/v2/models/floats/generate",
    "/v2/models/floats/generate_stream",
    "/v2/repository/index",
    "/v2/repository/models/floats/load",
    "/v2/repository/models/floats/unload",
];

async fn server(options: Options) -> TestServer {
    let server =
        TestServer::open(&[("floats", &one_tensor("FP32", "[ -1 ]", ""))], ControlMode::Explicit, options).await;
    assert_eq!(server.post("/v2/repository/models/floats/load", "").await.status, 200);
    server
}

fn too_large(size: usize, max: usize) -> String {
    format!(
        "request JSON size of {size} bytes exceeds the maximum allowed input size of {max} bytes. Use \
         --http-max-input-size to increase the limit."
    )
}

fn head(path: &str, headers: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: here\r\n{headers}\r\n\r\n")
}

#[tokio::test]
async fn a_declared_length_above_the_limit_is_refused_before_the_body_is_sent() {
    let server = server(Options { max_input_size: 1000, ..Options::default() }).await;
    for path in ROUTES {
        let mut client = server.client().await;
        client.write(head(path, "Content-Length: 1000000000000")).await;
        client.receive().await.is_error(400, &too_large(1_000_000_000_000, 1000));
    }
    // the same for JSON in front of binary data, of which the header tells the length
    let mut client = server.client().await;
    let headers = "Content-Length: 1000000000000\r\nInference-Header-Content-Length: 1001";
    client.write(head(ROUTES[0], headers)).await;
    client.receive().await.is_error(400, &too_large(1001, 1000));
    let mut client = server.client().await;
    client.write(head(ROUTES[0], "Content-Length: 5000\r\nInference-Header-Content-Length: 0")).await;
    let expect = "Raw input has a byte_size (5000 bytes) that exceeds the maximum allowed value of 1000 bytes. Use \
                  --http-max-input-size to increase the limit.";
    client.receive().await.is_error(400, expect);
    let mut client = server.client().await;
    client.write(head(ROUTES[0], "Content-Length: 5000\r\nContent-Encoding: gzip")).await;
    let expect = "Decompressed data size exceeds the maximum allowed value of 1000 bytes. Use --http-max-input-size to \
                  increase the limit.";
    client.receive().await.is_error(400, expect);
}

#[tokio::test]
async fn a_chunked_body_is_read_up_to_the_limit_and_no_further() {
    let byte_budget = Arc::new(ByteBudget::new(100_000));
    let server = server(Options { max_input_size: 1000, byte_budget: byte_budget.clone(), ..Options::default() }).await;
    for path in ROUTES {
        let mut client = server.client().await;
        client.write(head(path, "Transfer-Encoding: chunked")).await;
        client.write(format!("1f4\r\n{}\r\n", " ".repeat(500)).repeat(3)).await;
        let answer = client.receive().await; // though the body has not ended
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert!(answer.text().contains("exceeds the maximum allowed input size of 1000 bytes"), "{}", answer.text());
        // the rest is discarded, and the connection goes on
        client.write(format!("f4240\r\n{}\r\n0\r\n\r\n", "x".repeat(1_000_000))).await;
        assert_eq!(client.send("GET", "/v2/health/live", &[], b"").await.status, 200);
        assert_eq!(byte_budget.in_use(), 0);
    }
}

#[tokio::test]
async fn a_model_is_looked_up_before_the_body_is_read() {
    let server = server(Options::default()).await;
    for action in ["infer", "generate", "generate_stream"] {
        let mut client = server.client().await;
        client.write(head(&format!("/v2/models/none/{action}"), "Content-Length: 1000000")).await;
        client.receive().await.is_error(404, "Request for unknown model: 'none' is not found");
        client.write("x".repeat(1_000_000)).await;
        assert_eq!(client.send("GET", "/v2/health/live", &[], b"").await.status, 200);
    }
    let mut client = server.client().await;
    client.write(head("/v2/nothing", "Content-Length: 1000000")).await;
    client.receive().await.is_error(404, "Not Found");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_is_refused_at_once() {
    let server = server(Options::default()).await;
    let mut client = server.client().await;
    client.write(head("/v2/models/none/infer", "Content-Length: 1000000\r\nExpect: 100-continue")).await;
    let answer = client.receive().await;
    answer.is_error(404, "Request for unknown model: 'none' is not found");
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(client.rest().await, b"");
}

async fn send_tensor(client: &mut Client, count: usize) {
    let json = format!(
        "{{\"inputs\":[{{\"name\":\"INPUT0\",\"shape\":[{count}],\"datatype\":\"FP32\",\"parameters\":\
         {{\"binary_data_size\":{}}}}}]}}",
        count * 4
    );
    let length = json.len() + count * 4;
    let headers = format!("Content-Length: {length}\r\nInference-Header-Content-Length: {}", json.len());
    client.write(head(ROUTES[0], &headers)).await;
    client.write(json).await;
    client.write_until_refused(vec![0; count * 4]).await;
}

#[tokio::test]
async fn requests_of_a_slow_model_together_stay_within_the_budget() {
    let byte_budget = Arc::new(ByteBudget::new(100_000));
    let options = Options { byte_budget: byte_budget.clone(), ..Options::default() };
    let delay = "parameters { key: \"execute_delay_ms\" value: { string_value: \"100\" } }";
    let model = one_tensor("FP32", "[ -1 ]", delay);
    let server = TestServer::open(&[("floats", &model)], ControlMode::None, options).await;
    let busy = server.keep_busy("floats").await;
    let mut first = server.client().await;
    send_tensor(&mut first, 20_000).await; // 80,000 bytes
    harness::until(|| server.pending() == 1).await;
    assert!(byte_budget.in_use() > 80_000);
    let mut second = server.client().await;
    send_tensor(&mut second, 20_000).await;
    let answer = second.receive().await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("of the maximum of 100000 bytes"), "{}", answer.text());
    assert_eq!(byte_budget.refused(), 1);
    busy.response().await.unwrap();
    assert_eq!(first.receive().await.status, 200);
    harness::until(|| byte_budget.in_use() == 0).await;
    send_tensor(&mut second, 20_000).await;
    assert_eq!(second.receive().await.status, 200);
}
