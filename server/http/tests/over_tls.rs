//! What holds for connections and for long requests, once more with connections that are encrypted; and what only those have.

#![allow(clippy::duplicate_mod, reason = "each of these files has the harness as a module of its own")]

#[path = "decoupled.rs"]
mod decoupled;
mod harness;
#[path = "limits.rs"]
mod limits;
#[path = "placement.rs"]
mod placement;
#[path = "sockets.rs"]
mod sockets;

use std::time::Duration;

use harness::{TIMEOUT, TestServer, one_tensor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

async fn bytes() -> TestServer {
    TestServer::with(&[("bytes", &one_tensor("UINT8", "[ -1 ]", ""))]).await
}

async fn everything_from(mut socket: TcpStream) -> String {
    let mut all = Vec::new();
    _ = timeout(TIMEOUT, socket.read_to_end(&mut all)).await.expect("the server did not close the connection");
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn who_does_not_encrypt_is_told_to() {
    let server = bytes().await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
    socket.shutdown().await.unwrap();
    let answer = everything_from(socket).await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"), "{answer}");
    assert!(answer.ends_with("send the request to https:// instead of http://\"}"), "{answer}");
    assert_eq!(server.get("/v2/health/live").await.status, 200);
}

#[tokio::test]
async fn handshakes_that_fail_or_hang_disturb_nobody() {
    let mut server = bytes().await;
    let mut hanging = Vec::new();
    for junk in [b"".as_slice(), b"\x16", b"\x16\x03\x01\x02\x00\x01\x00", b"\x16\x03\x01\xff\xff", b"\0\0\0\0"] {
        for is_ended in [true, false] {
            let mut socket = TcpStream::connect(server.address).await.unwrap();
            socket.write_all(junk).await.unwrap();
            match is_ended {
                true => {
                    socket.shutdown().await.unwrap();
                    everything_from(socket).await;
                }
                false => hanging.push(socket),
            }
        }
    }
    assert_eq!(server.get("/v2/health/live").await.status, 200);
    server.stop();
    timeout(TIMEOUT, &mut server.served).await.expect("the server waits for handshakes").unwrap();
}

#[tokio::test]
async fn long_tensors_come_back_as_they_were() {
    let server = bytes().await;
    let data: Vec<u8> = (0..9_000_000u32).map(|index| (index % 251) as u8).collect();
    let json = format!(
        r#"{{"inputs":[{{"name":"INPUT0","shape":[{0}],"datatype":"UINT8","parameters":{{"binary_data_size":{0}}}}}],
        "outputs":[{{"name":"OUTPUT0","parameters":{{"binary_data":true}}}}]}}"#,
        data.len()
    );
    let mut client = server.client().await;
    for _ in 0..2 {
        let answer = client.post_binary("/v2/models/bytes/infer", &json, &data).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.ends_with(&data), "bytes were lost or moved");
    }
}

#[tokio::test]
async fn a_client_that_leaves_without_a_word_has_its_request_cancelled() {
    let delay = "parameters { key: \"execute_delay_ms\" value: { string_value: \"500\" } }";
    let server = TestServer::with(&[("floats", &one_tensor("FP32", "[ -1 ]", delay))]).await;
    let busy = server.keep_busy("floats").await;
    let mut client = server.client().await;
    let body = r#"{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[6]}]}"#;
    client
        .write(format!("POST /v2/models/floats/infer HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
        .await;
    harness::until(|| server.pending() == 1).await;
    drop(client); // the socket is closed without TLS's word of goodbye
    timeout(Duration::from_secs(20), async {
        while server.pending() == 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the request left the queue");
    busy.response().await.unwrap();
    assert_eq!(server.engine.statistics(None).unwrap()[0].success.count, 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_does_not_hold_up_the_end() {
    let mut server = bytes().await;
    let data = vec![7; 16 << 20];
    let json = format!(
        r#"{{"inputs":[{{"name":"INPUT0","shape":[{0}],"datatype":"UINT8","parameters":{{"binary_data_size":{0}}}}}],
        "outputs":[{{"name":"OUTPUT0","parameters":{{"binary_data":true}}}}]}}"#,
        data.len()
    );
    let head = format!(
        "POST /v2/models/bytes/infer HTTP/1.1\r\nInference-Header-Content-Length: {}\r\nContent-Length: {}\r\n\r\n",
        json.len(),
        json.len() + data.len()
    );
    let mut client = server.client().await;
    client.write([head.as_bytes(), json.as_bytes(), &data].concat()).await;
    harness::until(|| server.engine.statistics(None).unwrap()[0].success.count == 1).await;
    server.stop();
    timeout(TIMEOUT, &mut server.served).await.expect("the server waits for a client that does not read").unwrap();
    drop(client);
}
