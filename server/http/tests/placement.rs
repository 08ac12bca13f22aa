//! Long requests are received where their model reads them.

#![allow(clippy::unwrap_used)] // helpers of tests

mod harness;
#[path = "../../shm/tests/harness/placing.rs"]
mod placing;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use harness::{Client, TestServer};
use placing::Placing;
use server_core::byte_budget::ByteBudget;
use server_engine::ControlMode;
use server_http::Options;
use server_shm::{Limits, SegmentPool};

/// More than the server reads at once, 408 KiB: a body that has come whole is left where it is.
const LONG: usize = 1_000_000;

const PLACED: &str = r#"backend: "placing" input { name: "INPUT0" data_type: TYPE_UINT8 dims: -1 }
    output { name: "OUTPUT0" data_type: TYPE_UINT8 dims: -1 }"#;

/// An ensemble two steps of which read its input.
const TWICE: &str = r#"backend: "" platform: "ensemble" input { name: "INPUT0" data_type: TYPE_UINT8 dims: -1 }
    output [ { name: "OUTPUT0" data_type: TYPE_UINT8 dims: -1 }, { name: "OUTPUT1" data_type: TYPE_UINT8 dims: -1 } ]
    ensemble_scheduling {
        step { model_name: "placed" model_version: -1
            input_map { key: "INPUT0" value: "INPUT0" } output_map { key: "OUTPUT0" value: "OUTPUT0" } }
        step { model_name: "placed" model_version: -1
            input_map { key: "INPUT0" value: "INPUT0" } output_map { key: "OUTPUT0" value: "OUTPUT1" } }
    }"#;

/// An ensemble of two steps; the first tensor goes into `models[0]`.
fn pipeline(models: [&str; 2]) -> String {
    let [first, second] = models;
    format!(
        r#"backend: "" platform: "ensemble" input {{ name: "INPUT0" data_type: TYPE_UINT8 dims: -1 }}
        output {{ name: "OUTPUT0" data_type: TYPE_UINT8 dims: -1 }}
        ensemble_scheduling {{
            step {{ model_name: "{first}" model_version: -1
                input_map {{ key: "INPUT0" value: "INPUT0" }} output_map {{ key: "OUTPUT0" value: "between" }} }}
            step {{ model_name: "{second}" model_version: -1
                input_map {{ key: "INPUT0" value: "between" }} output_map {{ key: "OUTPUT0" value: "OUTPUT0" }} }}
        }}"#
    )
}

async fn server(placing: &Placing, options: Options) -> TestServer {
    let plain = PLACED.replace("placing", "identity");
    let (first, second) = (pipeline(["placed", "plain"]), pipeline(["plain", "placed"]));
    let models = [
        ("placed", PLACED),
        ("plain", &plain),
        ("placed_first", &*first),
        ("placed_second", &*second),
        ("placed_twice", TWICE),
    ];
    TestServer::of_backends(&models, ControlMode::None, options, Arc::new(placing.clone())).await
}

fn json(length: usize, extra: &str) -> String {
    format!(
        r#"{{{extra}"inputs":[{{"name":"INPUT0","shape":[{length}],"datatype":"UINT8","parameters":{{"binary_data_size":{length}}}}}],
        "outputs":[{{"name":"OUTPUT0","parameters":{{"binary_data":true}}}}]}}"#
    )
}

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 7) as u8).collect()
}

/// Sends a tensor in pieces, as a network would.
async fn post(client: &mut Client, model: &str, json: &str, data: &[u8]) {
    let body = [json.as_bytes(), data].concat();
    client
        .write(format!(
            "POST /v2/models/{model}/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {}\r\nInference-Header-Content-Length: \
             {}\r\n\r\n",
            body.len(),
            json.len()
        ))
        .await;
    for piece in body.chunks(50_000) {
        client.write(piece).await;
        tokio::task::yield_now().await;
    }
    let answer = client.receive().await;
    assert_eq!(answer.status, 200, "{:?}", String::from_utf8_lossy(&answer.body));
    assert!(answer.body.ends_with(data), "another tensor came back");
}

/// The last answer has left the server: it lets go of it a moment after its client has it.
async fn settled(placing: &Placing) {
    harness::until(|| placing.pool.bytes() == placing.pool.idle_bytes()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_request_is_received_where_its_model_reads_it() {
    let placing = Placing::new(SegmentPool::new(Limits::default()));
    let byte_budget = Arc::new(ByteBudget::new(0));
    let server = server(&placing, Options { byte_budget: byte_budget.clone(), ..Options::default() }).await;
    let mut client = server.client().await;
    for extra in ["", " ", "  \n"] {
        for model in ["placed", "placed_first"] {
            post(&mut client, model, &json(LONG, extra), &data(LONG)).await;
            assert_eq!(placing.take_seen(), [(LONG, Some(64))], "{model}");
            assert!(placing.is_unique.load(Relaxed), "{model}");
            settled(&placing).await;
        }
    }
    // one segment was enough for all of them, and is free again
    assert_eq!(placing.pool.made(), 1);
    harness::until(|| byte_budget.in_use() == 0).await;

    // short ones, and those of models that do not read it there first
    post(&mut client, "placed", &json(60_000, ""), &data(60_000)).await;
    post(&mut client, "placed_second", &json(LONG, ""), &data(LONG)).await;
    assert_eq!(placing.take_seen(), [(60_000, None), (LONG, None)]);
    post(&mut client, "plain", &json(LONG, ""), &data(LONG)).await;
    // an input that another step reads as well is of both
    let both =
        json(LONG, "").replace(r#""outputs":["#, r#""outputs":[{"name":"OUTPUT1","parameters":{"binary_data":true}},"#);
    post(&mut client, "placed_twice", &both, &data(LONG)).await;
    assert_eq!(placing.take_seen(), [(LONG, Some(64)), (LONG, Some(64))]);
    assert!(!placing.is_unique.load(Relaxed));
    assert_eq!(placing.pool.made(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raw_body_is_placed_as_well_and_json_is_not() {
    let placing = Placing::new(SegmentPool::new(Limits::default()));
    let server = server(&placing, Options::default()).await;
    let mut client = server.client().await;
    let data = data(LONG);
    let answer =
        client.send("POST", "/v2/models/placed/infer", &[("Inference-Header-Content-Length", "0")], &data).await;
    assert_eq!(answer.status, 200);
    assert_eq!(placing.take_seen(), [(LONG, Some(64))]);
    let values: Vec<_> = data.iter().map(u8::to_string).collect();
    let text = format!(
        r#"{{"inputs":[{{"name":"INPUT0","shape":[{LONG}],"datatype":"UINT8","data":[{}]}}]}}"#,
        values.join(",")
    );
    assert_eq!(client.post("/v2/models/placed/infer", text).await.status, 200);
    assert_eq!(placing.take_seen(), [(LONG, None)]);
    assert_eq!(placing.pool.made(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_goes_on_where_there_is_no_memory_for_it() {
    let placing = Placing::new(SegmentPool::new(Limits { total: 100_000, ..Limits::default() }));
    let server = server(&placing, Options::default()).await;
    let mut client = server.client().await;
    post(&mut client, "placed", &json(LONG, ""), &data(LONG)).await;
    assert_eq!(placing.take_seen(), [(LONG, None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_ends_early_gives_its_memory_back() {
    let placing = Placing::new(SegmentPool::new(Limits::default()));
    let byte_budget = Arc::new(ByteBudget::new(0));
    let server = server(&placing, Options { byte_budget: byte_budget.clone(), ..Options::default() }).await;
    let mut client = server.client().await;
    let json = json(LONG, "");
    let head = format!(
        "POST /v2/models/placed/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {}\r\nInference-Header-Content-Length: \
         {}\r\n\r\n{json}",
        json.len() + LONG,
        json.len()
    );
    client.write([head.as_bytes(), &data(LONG / 2)].concat()).await;
    harness::until(|| placing.pool.made() == 1 && byte_budget.in_use() >= LONG / 2).await;
    assert_eq!(placing.pool.idle_bytes(), 0);
    drop(client);
    harness::until(|| byte_budget.in_use() == 0 && placing.pool.idle_bytes() == placing.pool.bytes()).await;
    assert_eq!(placing.take_seen(), []);
}
