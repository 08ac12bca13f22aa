//! Clients that misbehave, and the end of the server.

mod harness;

use std::time::{Duration, Instant};

use harness::{TestServer, one_tensor};

const BODY: &str = r#"{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[6]}]}"#;

async fn floats() -> TestServer {
    TestServer::with(&[("floats", &one_tensor("FP32", "[ -1 ]", ""))]).await
}

async fn slow() -> TestServer {
    let delay = "parameters { key: \"execute_delay_ms\" value: { string_value: \"200\" } }";
    TestServer::with(&[("floats", &one_tensor("FP32", "[ -1 ]", delay))]).await
}

fn infer() -> String {
    format!("POST /v2/models/floats/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len())
}

#[tokio::test]
async fn malformed_requests_do_not_disturb_other_clients() {
    let server = floats().await;
    let mut good = server.client().await;
    assert_eq!(good.post("/v2/models/floats/infer", BODY).await.status, 200);
    let junk: Vec<u8> = (0..5000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for bytes in [
        junk.as_slice(),
        b"\0\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v2 HTTP/9.9\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /v2/models/floats/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut bad = server.client().await;
        bad.write(bytes).await;
        if bytes == b"\0\0\0\0" {
            continue; // too little to be judged: dropped in the middle
        }
        let answer = bad.rest().await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 4") && answer.contains("{\"error\":\""), "{bytes:?}: {answer}");
    }
    assert_eq!(good.post("/v2/models/floats/infer", BODY).await.status, 200);
}

#[tokio::test]
async fn a_request_head_above_the_limit_is_refused() {
    let server = floats().await;
    let mut client = server.client().await;
    client.write(format!("GET /v2 HTTP/1.1\r\nX: {}\r\n", "x".repeat(100_000))).await;
    let answer = client.rest().await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(answer.contains("exceeds the maximum of 1000 header fields or 65536 bytes"), "{answer}");
}

#[tokio::test]
async fn hundreds_of_header_fields_are_fine_and_thousands_are_refused() {
    let server = floats().await;
    let mut client = server.client().await;
    let fields = |count: usize| (0..count).map(|index| format!("x-{index}: 1\r\n")).collect::<String>();
    for count in [120, 500] {
        client.write(format!("GET /v2/health/live HTTP/1.1\r\nHost: here\r\n{}\r\n", fields(count))).await;
        assert_eq!(client.receive().await.status, 200);
    }
    client.write(format!("GET /v2/health/live HTTP/1.1\r\nHost: here\r\n{}\r\n", fields(1001))).await;
    let answer = client.receive().await;
    assert_eq!((answer.status, answer.header("connection")), (431, Some("close")));
    assert!(answer.text().contains("1000 header fields"), "{}", answer.text());
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_client_that_ends_its_side_after_the_request_gets_its_answer() {
    let server = slow().await;
    let busy = server.keep_busy("floats").await;
    let mut client = server.client().await;
    client.write(infer()).await;
    client.end().await;
    let answer = client.receive_final().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(client.rest().await, b"");
    busy.response().await.unwrap();
    // and so do those whose answer is there at once, or comes as a stream
    for request in ["GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(), generate("generate_stream")] {
        let mut client = server.client().await;
        client.write(request).await;
        client.end().await;
        assert_eq!(client.receive_final().await.status, 200);
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_is_probed_while_its_request_runs() {
    let delay = "parameters { key: \"execute_delay_ms\" value: { string_value: \"2000\" } }";
    let server = TestServer::with(&[("floats", &one_tensor("FP32", "[ -1 ]", delay))]).await;
    let mut client = server.client().await;
    let begun = Instant::now();
    client.write(infer()).await;
    client.end().await;
    let first = client.receive().await;
    assert_eq!(first.status, 100);
    let waited = begun.elapsed();
    assert!((Duration::from_millis(100)..Duration::from_secs(2)).contains(&waited), "{waited:?}");
    assert_eq!(client.receive_rest(first).await.status, 200);
    assert_eq!(client.rest().await, b"");
}

fn generate(action: &str) -> String {
    let body = "{\"INPUT0\":[1]}";
    format!("POST /v2/models/floats/{action} HTTP/1.1\r\nHost: here\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn unfinished_requests_do_not_block_other_clients() {
    let server = floats().await;
    let mut halves = Vec::new();
    for (index, half) in ["POST /v2/mod", "POST /v2/models/floats/infer HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"]
        .iter()
        .cycle()
        .take(100)
        .enumerate()
    {
        let mut client = server.client().await;
        client.write(half).await;
        if index % 3 == 0 {
            halves.push(client); // the others leave at once
        }
    }
    assert_eq!(server.post("/v2/models/floats/infer", BODY).await.status, 200);
    assert_eq!(server.get("/v2/health/live").await.status, 200);
}

#[tokio::test]
async fn a_body_shorter_than_its_content_length_is_not_run() {
    let server = floats().await;
    let mut client = server.client().await;
    client.write(infer().replace(&format!("Content-Length: {}", BODY.len()), "Content-Length: 1000")).await;
    drop(client);
    assert_eq!(server.post("/v2/models/floats/infer", BODY).await.status, 200);
    assert_eq!(server.engine.statistics(None).unwrap()[0].success.count, 1);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = floats().await;
    let mut client = server.client().await;
    client.write(infer().repeat(5)).await;
    for _ in 0..5 {
        assert_eq!(client.receive().await.status, 200);
    }
}

#[tokio::test]
async fn connection_close_is_honoured() {
    let server = floats().await;
    let mut client = server.client().await;
    let answer = client.send("GET", "/v2/health/live", &[("Connection", "close")], b"").await;
    assert_eq!(answer.status, 200);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn shutdown_finishes_running_requests_and_closes_idle_connections() {
    let mut server = slow().await;
    let mut idle = server.client().await;
    assert_eq!(idle.send("GET", "/v2/health/live", &[], b"").await.status, 200);
    let mut fresh = server.client().await;
    let busy = server.keep_busy("floats").await;
    let mut running = server.client().await;
    running.write(infer()).await;
    harness::until(|| server.pending() == 1).await;
    server.stop();
    assert_eq!(idle.rest().await, b"");
    assert_eq!(fresh.rest().await, b"");
    let answer = running.receive().await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(running.rest().await, b"");
    busy.response().await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), &mut server.served).await.unwrap().unwrap();
    assert!(server.is_gone().await);
}

#[tokio::test]
async fn a_draining_server_answers_with_connection_close() {
    let server = floats().await;
    let mut idle = server.client().await;
    assert_eq!(idle.post("/v2/models/floats/infer", BODY).await.header("connection"), None);
    server.engine.begin_leaving(false);
    assert_eq!(server.get("/v2/health/live").await.status, 200);
    assert_eq!(server.get("/v2/health/ready").await.status, 400);
    let answer = idle.post("/v2/models/floats/infer", BODY).await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(idle.rest().await, b"");
    assert_eq!(server.post("/v2/models/floats/infer", BODY).await.status, 200);
}

#[tokio::test]
async fn a_draining_server_that_stays_ready_ends_connections_once_they_are_a_second_old() {
    let server = floats().await;
    let mut client = server.client().await;
    server.engine.begin_leaving(true);
    assert_eq!(server.get("/v2/health/ready").await.status, 200);
    let mut connection = async || {
        let answer = client.post("/v2/models/floats/infer", BODY).await;
        assert_eq!(answer.status, 200);
        answer.header("connection").map(str::to_owned)
    };
    assert_eq!(connection().await, None);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::resume();
    assert_eq!(connection().await.as_deref(), Some("close"));
    assert_eq!(client.rest().await, b"");
    server.engine.begin_leaving(false);
    assert_eq!(server.get("/v2/health/ready").await.status, 400);
    assert_eq!(server.engine.late_requests(), 2);
}

#[tokio::test]
async fn an_exiting_server_answers_503() {
    let server = floats().await;
    server.engine.close_admission();
    server.get("/v2/health/live").await.is_error(503, "Server exiting");
    server.get("/v2/health/ready").await.is_error(503, "Server exiting");
    server.post("/v2/models/floats/infer", BODY).await.is_error(503, "Server not ready");
}
