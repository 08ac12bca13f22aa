//! Inference over a real socket, a real engine, and identity models.

#![allow(clippy::unwrap_used)] // helpers of tests

mod harness;

use harness::{Answer, TestServer, one_tensor};
use serde_json::json;
use server_core::tensor::strings;

async fn floats() -> TestServer {
    TestServer::with(&[("floats", &one_tensor("FP32", "[ -1 ]", "max_batch_size: 8"))]).await
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The JSON and the binary data of an answer.
fn split_body(answer: &Answer) -> (serde_json::Value, &[u8]) {
    let length = answer.header("inference-header-content-length").map(|length| length.parse().unwrap());
    let (json, data) = answer.body.split_at(length.unwrap_or(answer.body.len()));
    (serde_json::from_slice(json).unwrap(), data)
}

#[tokio::test]
async fn json_goes_in_and_comes_out() {
    let server = floats().await;
    let body = r#"{"id":"42","inputs":[{"name":"INPUT0","shape":[1,3],"datatype":"FP32","data":[[0.1,2,-3e9]]}]}"#;
    let answer = server.post("/v2/models/floats/infer", body).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.header("inference-header-content-length"), None);
    let text = answer.text();
    assert!(text.starts_with(r#"{"id":"42","model_name":"floats","model_version":"1","parameters":{"#), "{text}");
    let outputs = r#","outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[1,3],"data":[0.10000000149011612,2.0,-3000000000.0]}]}"#;
    assert!(text.ends_with(outputs), "{text}");
}

#[tokio::test]
async fn every_type_with_a_json_form_survives() {
    let cases = [
        ("BOOL", "BOOL", json!([true, false])),
        ("UINT8", "UINT8", json!([0, 255])),
        ("UINT16", "UINT16", json!([0, 65535])),
        ("UINT32", "UINT32", json!([0, u32::MAX])),
        ("UINT64", "UINT64", json!([0, u64::MAX])),
        ("INT8", "INT8", json!([-128, 127])),
        ("INT16", "INT16", json!([i16::MIN, 7])),
        ("INT32", "INT32", json!([i32::MIN, 7])),
        ("INT64", "INT64", json!([i64::MIN, i64::MAX])),
        ("FP32", "FP32", json!([0.5, -1e30f32 as f64])),
        ("FP64", "FP64", json!([1.0e-300, 0.1])),
        ("STRING", "BYTES", json!(["", "zwölf \"\\\n\u{1}"])),
    ];
    let configs: Vec<_> = cases.iter().map(|(config, ..)| one_tensor(config, "[ 2 ]", "")).collect();
    let models: Vec<_> = cases.iter().zip(&configs).map(|((name, ..), config)| (*name, config.as_str())).collect();
    let server = TestServer::with(&models).await;
    for (name, datatype, data) in &cases {
        let body = json!({"inputs": [{"name": "INPUT0", "shape": [2], "datatype": datatype, "data": data}]});
        let answer = server.post(&format!("/v2/models/{name}/infer"), body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["outputs"][0]["data"], *data, "{datatype}");
    }
}

#[tokio::test]
async fn binary_data_goes_in_and_comes_out() {
    let server = floats().await;
    let data = little_endian(&[1.5, -2.5]);
    let input = json!({"name": "INPUT0", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}});
    for (outputs, parameters) in [
        (json!([{"name": "OUTPUT0", "parameters": {"binary_data": true}}]), json!({})),
        (json!([]), json!({"binary_data_output": true})),
    ] {
        let request = json!({"inputs": [input], "outputs": outputs, "parameters": parameters}).to_string();
        let answer = server.client().await.post_binary("/v2/models/floats/infer", &request, &data).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/octet-stream")));
        let (json, binary) = split_body(&answer);
        assert_eq!(binary, data);
        let expect = json!([{"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 2],
                             "parameters": {"binary_data_size": 8}}]);
        assert_eq!(json["outputs"], expect);
    }
    // binary in, JSON out
    let request = json!({"inputs": [input], "outputs": [{"name": "OUTPUT0"}],
                         "parameters": {"binary_data_output": true}});
    let answer = server.client().await.post_binary("/v2/models/floats/infer", &request.to_string(), &data).await;
    assert_eq!(split_body(&answer).0["outputs"][0]["data"], json!([1.5, -2.5]));
}

#[tokio::test]
async fn a_raw_body_needs_no_json() {
    let server = floats().await;
    let data = little_endian(&[1.0, 2.0, 3.0]);
    let answer = server.client().await.post_binary("/v2/models/floats/infer", "", &data).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (json, binary) = split_body(&answer);
    assert_eq!((json["outputs"][0]["shape"].clone(), binary), (json!([1, 3]), &*data));
}

#[tokio::test]
async fn large_tensors_pass_as_json_and_as_binary() {
    let server = floats().await;
    let values: Vec<f32> = (0..300_000).map(|value| value as f32 / 7.0).collect();
    let data = little_endian(&values);
    let shape = [1, values.len()];
    let mut client = server.client().await;
    let request = json!({"parameters": {"binary_data_output": true}, "inputs": [{"name": "INPUT0", "shape": shape,
        "datatype": "FP32", "parameters": {"binary_data_size": data.len()}}]});
    let answer = client.post_binary("/v2/models/floats/infer", &request.to_string(), &data).await;
    assert_eq!(split_body(&answer).1, data);
    // the JSON of it is long enough for the blocking threads
    let request = json!({"inputs": [{"name": "INPUT0", "shape": shape, "datatype": "FP32", "data": values}]});
    let answer = client.post("/v2/models/floats/infer", request.to_string()).await;
    let back: Vec<f32> = serde_json::from_value(answer.json()["outputs"][0]["data"].clone()).unwrap();
    assert_eq!(back, values);
}

#[tokio::test]
async fn classification_returns_labels() {
    let server = floats().await;
    let request = json!({"inputs": [{"name": "INPUT0", "shape": [2, 3], "datatype": "FP32", "data": [1, 3, 2, 9, 8, 7]}],
        "outputs": [{"name": "OUTPUT0", "parameters": {"classification": 2}}]});
    let answer = server.post("/v2/models/floats/infer", request.to_string()).await;
    let expect = json!([{"name": "OUTPUT0", "datatype": "BYTES", "shape": [2, 2],
                         "data": ["3.000000:1", "2.000000:2", "9.000000:0", "8.000000:1"]}]);
    assert_eq!(answer.json()["outputs"], expect);
}

#[tokio::test]
async fn compressed_bodies_are_understood_and_given() {
    use std::io::{Read, Write};
    let server = floats().await;
    let request = json!({"inputs": [{"name": "INPUT0", "shape": [1, 1], "datatype": "FP32", "data": [5]}]}).to_string();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(request.as_bytes()).unwrap();
    let body = gzip.finish().unwrap();
    let path = "/v2/models/floats/infer";
    let mut client = server.client().await;
    let headers = [("Content-Encoding", "gzip"), ("Accept-Encoding", "deflate;q=0.9, gzip;q=0.5")];
    let answer = client.send("POST", path, &headers, &body).await;
    assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("deflate")));
    let mut text = String::new();
    flate2::read::ZlibDecoder::new(&*answer.body).read_to_string(&mut text).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["outputs"][0]["data"], json!([5.0]));
    let answer = client.send("POST", path, &[("Content-Encoding", "br")], &body).await;
    answer.is_error(501, "Unsupported compression type");
    assert_eq!(answer.header("accept-encoding"), Some("gzip, deflate"));
}

#[tokio::test]
async fn several_inputs_and_outputs_keep_their_order() {
    let config = "input [ { name: \"INPUT0\" data_type: TYPE_INT32 dims: [ 1 ] },
                          { name: \"INPUT1\" data_type: TYPE_STRING dims: [ 1 ] } ]
                  output [ { name: \"OUTPUT0\" data_type: TYPE_INT32 dims: [ 1 ] },
                           { name: \"OUTPUT1\" data_type: TYPE_STRING dims: [ 1 ] } ]";
    let server = TestServer::with(&[("two", config)]).await;
    let words = strings::join([b"word".as_slice()]);
    let request = json!({"inputs": [
        {"name": "INPUT1", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": words.len()}},
        {"name": "INPUT0", "shape": [1], "datatype": "INT32", "data": [7]}],
        "outputs": [{"name": "OUTPUT1", "parameters": {"binary_data": true}}, {"name": "OUTPUT0"}]});
    let answer = server.client().await.post_binary("/v2/models/two/infer", &request.to_string(), &words).await;
    let (json, binary) = split_body(&answer);
    assert_eq!(binary, words);
    assert_eq!(json["outputs"][0]["data"], json!([7]));
    assert_eq!(json["outputs"][1]["name"], "OUTPUT1");
}

#[tokio::test]
async fn errors_name_the_reason_and_keep_the_connection_open() {
    let server = floats().await;
    let mut client = server.client().await;
    let path = "/v2/models/floats/infer";
    let answer = client.post("/v2/models/none/infer", "{}").await;
    answer.is_error(404, "Request for unknown model: 'none' is not found");
    let answer = client.post("/v2/models/floats/versions/9/infer", "{}").await;
    answer.is_error(404, "Request for unknown model: 'floats' version 9 is not found");
    let broken = "failed to parse the request JSON buffer:";
    client.post(path, "").await.is_error(500, &format!("{broken} The document is empty. at 0"));
    client.post(path, "{\"a\":x}").await.is_error(500, &format!("{broken} Invalid value. at 5"));
    let answer = client.post(path, "{\"inputs\":[]}").await;
    let expect = "[request id: <id_unknown>] expected 1 inputs but got 0 inputs for model 'floats'. Got input(s) [], \
                  but missing required input(s) ['INPUT0']. Please provide all required input(s).";
    answer.is_error(400, expect);
    let input = |name: &str, shape: &str, datatype: &str, data: &str| {
        format!(
            "{{\"inputs\":[{{\"name\":\"{name}\",\"shape\":{shape},\"datatype\":\"{datatype}\",\"data\":{data}}}]}}"
        )
    };
    let answer = client.post(path, input("OTHER", "[1,1]", "FP32", "[1]")).await;
    answer.is_error(400, "unexpected inference input 'OTHER' for model 'floats'");
    let answer = client.post(path, input("INPUT0", "[1,1]", "FP16", "[1]")).await;
    let expect = "receiving FP16 data via JSON is not supported. Please use the binary data format for input INPUT0";
    answer.is_error(400, expect);
    let answer = client.post(path, input("INPUT0", "[9,1]", "FP32", "[1,2,3,4,5,6,7,8,9]")).await;
    answer.is_error(400, "[request id: <id_unknown>] inference request batch-size must be <= 8 for 'floats'");
    let answer = client.post(path, input("INPUT0", "[1,2]", "FP32", "[1]")).await;
    answer.is_error(500, "Failed to parse 'data' field: shape does not match true shape");
    let binary = "{\"inputs\":[{\"name\":\"INPUT0\",\"shape\":[1,1],\"datatype\":\"FP32\",\"parameters\":{\"binary_data_size\":4}}]}";
    let answer = client.post_binary(path, binary, &[0; 3]).await;
    answer.is_error(400, "unexpected size for input 'INPUT0', expecting 1 additional bytes for model 'floats'");
    let answer = client.post_binary(path, binary, &[0; 5]).await;
    answer.is_error(400, "unexpected additional input data for model 'floats'");
    let answer = client.send("POST", path, &[("Inference-Header-Content-Length", "99")], b"{}").await;
    answer.is_error(400, "inference header size should be in range (0, 2), got: 99");
    let answer = client.post(path, input("INPUT0", "[1,1]", "FP32", "[4]")).await;
    assert_eq!(answer.json()["outputs"][0]["data"], json!([4.0]));
}

#[tokio::test]
async fn too_much_json_is_refused() {
    let options = server_http::Options { max_input_size: 200, ..Default::default() };
    let config = one_tensor("FP32", "[ -1 ]", "");
    let server = TestServer::open(&[("floats", &config)], Default::default(), options).await;
    let long = format!("{{\"id\":\"{}\",\"inputs\":[]}}", "x".repeat(200));
    let answer = server.post("/v2/models/floats/infer", &long).await;
    let expect = format!(
        "request JSON size of {} bytes exceeds the maximum allowed input size of 200 bytes. Use \
         --http-max-input-size to increase the limit.",
        long.len()
    );
    answer.is_error(400, &expect);
}

#[tokio::test]
async fn a_client_may_expect_100_continue_and_send_in_chunks() {
    let server = floats().await;
    let mut client = server.client().await;
    let body = r#"{"inputs":[{"name":"INPUT0","shape":[1,1],"datatype":"FP32","data":[6]}]}"#;
    let head = "POST /v2/models/floats/infer HTTP/1.1\r\nHost: here\r\nExpect: 100-continue\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    client.write(head).await;
    assert_eq!(client.receive_head().await.0, 100);
    for chunk in body.as_bytes().chunks(10) {
        client.write(format!("{:x}\r\n", chunk.len())).await;
        client.write([chunk, b"\r\n"].concat()).await;
    }
    client.write("0\r\n\r\n").await;
    assert_eq!(client.receive().await.json()["outputs"][0]["data"], json!([6.0]));
}

#[tokio::test]
async fn a_body_in_too_many_small_chunks_is_refused() {
    let server = floats().await;
    let mut client = server.client().await;
    client.write("POST /v2/models/floats/infer HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.write("1\r\n \r\n".repeat(65_600) + "0\r\n\r\n").await;
    let answer = client.receive().await;
    let expect = "Chunked request body exceeds maximum of 65536 non-empty chunks. Send fewer or larger HTTP chunks.";
    answer.is_error(400, expect);
}

/// A server of a model whose requests wait for a second one for as long as a test may take, in a queue with one place;
/// and a client whose request has this place.
async fn waiting_client(version: &str) -> (TestServer, harness::Client) {
    let batches = "max_batch_size: 2 dynamic_batching { preferred_batch_size: [ 2 ] \
                   max_queue_delay_microseconds: 600000000 default_queue_policy { max_queue_size: 1 } }";
    let delay = "parameters { key: \"execute_delay_ms\" value: { string_value: \"2000\" } }";
    let models =
        [("patient", &*one_tensor("FP32", "[ 1 ]", batches)), ("slow", &*one_tensor("FP32", "[ 1, 1 ]", delay))];
    let server = TestServer::with(&models).await;
    let mut client = server.client().await;
    client.write(post("patient", version)).await;
    harness::until(|| server.pending() == 1).await;
    assert!(server.infer("patient", &[1, 1]).is_err(), "the queue is full");
    (server, client)
}

fn post(model: &str, version: &str) -> String {
    let body = r#"{"inputs":[{"name":"INPUT0","shape":[1,1],"datatype":"FP32","data":[6]}]}"#;
    let length = body.len();
    format!("POST /v2/models/{model}/infer {version}\r\nHost: here\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A place in the queue becomes free only when the request that has it is cancelled.
async fn is_cancelled(server: &TestServer) {
    harness::until(|| server.infer("patient", &[1, 1]).is_ok()).await;
    let statistics = server.engine.statistics(None).unwrap();
    assert_eq!((statistics[0].failures.canceled, statistics[0].execution_count), (1, 0));
}

#[tokio::test]
async fn a_disconnect_cancels_the_request() {
    let (server, client) = waiting_client("HTTP/1.1").await;
    drop(client);
    is_cancelled(&server).await;
    let (server, client) = waiting_client("HTTP/1.1").await;
    client.reset();
    is_cancelled(&server).await;
}

#[tokio::test]
async fn a_reset_by_a_client_that_has_ended_its_side_is_noticed_without_a_probe() {
    // clients of HTTP/1.0 are never probed
    let (server, mut client) = waiting_client("HTTP/1.0").await;
    client.end().await;
    // once another client is probed, the connection has had its first check too; the next is due after this test
    let mut probed = server.client().await;
    probed.write(post("slow", "HTTP/1.1")).await;
    probed.end().await;
    assert_eq!(probed.receive().await.status, 100);
    client.reset();
    is_cancelled(&server).await;
    // and so is one that comes together with the end
    let (server, mut client) = waiting_client("HTTP/1.0").await;
    client.end().await;
    client.reset();
    is_cancelled(&server).await;
}
