//! What holds for connections of the network, once more with those of this machine.

#![allow(clippy::duplicate_mod, reason = "each of these files has the harness as a module of its own")]

mod harness;
#[path = "sockets.rs"]
mod sockets;

use std::time::Duration;

use harness::{TestServer, one_tensor};
use tokio::time::timeout;

#[tokio::test]
async fn a_client_that_leaves_has_its_request_cancelled() {
    let delay = "parameters { key: \"execute_delay_ms\" value: { string_value: \"500\" } }";
    let server = TestServer::with(&[("floats", &one_tensor("FP32", "[ -1 ]", delay))]).await;
    let busy = server.keep_busy("floats").await;
    let mut client = server.client().await;
    let body = r#"{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[6]}]}"#;
    client
        .write(format!("POST /v2/models/floats/infer HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
        .await;
    harness::until(|| server.pending() == 1).await;
    drop(client);
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
async fn long_tensors_come_back_as_they_were() {
    let server = TestServer::with(&[("bytes", &one_tensor("UINT8", "[ -1 ]", ""))]).await;
    let data: Vec<u8> = (0..9_000_000u32).map(|index| (index % 251) as u8).collect();
    let json = format!(
        r#"{{"inputs":[{{"name":"INPUT0","shape":[{0}],"datatype":"UINT8","parameters":{{"binary_data_size":{0}}}}}],
        "outputs":[{{"name":"OUTPUT0","parameters":{{"binary_data":true}}}}]}}"#,
        data.len()
    );
    let answer = server.client().await.post_binary("/v2/models/bytes/infer", &json, &data).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with(&data), "bytes were lost or moved");
}
