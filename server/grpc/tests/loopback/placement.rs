//! Long messages are received where their model reads them.

use std::sync::Arc;

use server_grpc::Options;
use server_proto::inference::ModelInferRequest;
use server_shm::{Limits, SegmentPool};

use crate::{
    harness::{Server, ask, until},
    placing::Placing,
    stream::exchange,
};

/// Longer than a frame: one that comes in a frame stays where it came.
const LONG: usize = 3_000_000;

const PLACED: &str = r#"backend: "placing" version_policy { all {} }
    input { name: "INPUT0" data_type: TYPE_UINT8 dims: -1 } output { name: "OUTPUT0" data_type: TYPE_UINT8 dims: -1 }"#;

fn request(model: &str, length: usize, version: &str, id: &str) -> ModelInferRequest {
    let data: Vec<u8> = (0..length).map(|index| (index / 7) as u8).collect();
    let message = ask(model, "UINT8", &[length as i64], data);
    ModelInferRequest { model_version: version.into(), id: id.into(), ..message }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_message_is_received_where_the_model_it_names_reads_it() {
    let placing = Placing::new(SegmentPool::new(Limits::default()));
    let plain = PLACED.replace("placing", "identity");
    let models = [("placed", PLACED), ("plain", &plain)];
    let server = Server::of_backends(Options::default(), &models, Arc::new(placing.clone())).await;
    let mut client = server.client().await;
    for (version, id) in [("", ""), ("1", "7"), ("", "longer id")] {
        let request = request("placed", LONG, version, id);
        let response = client.model_infer(request.clone()).await.unwrap().into_inner();
        assert!(response.raw_output_contents == request.raw_input_contents);
        assert_eq!(placing.take_seen(), [(LONG, Some(64))], "version {version:?}, id {id:?}");
    }
    let answers = exchange(&mut client, vec![request("placed", LONG, "", "1"), request("plain", LONG, "", "2")]).await;
    assert!(answers.iter().all(|answer| answer.error_message.is_empty()) && answers.len() == 2);
    assert_eq!(placing.take_seen(), [(LONG, Some(64))]);
    until(|| placing.pool.bytes() == placing.pool.idle_bytes()).await; // the server lets go of an answer a moment later

    let made = placing.pool.made();
    client.model_infer(request("placed", 60_000, "", "")).await.unwrap();
    client.model_infer(request("plain", LONG, "", "")).await.unwrap();
    client.model_infer(request("placed", LONG, "2", "")).await.unwrap_err();
    client.model_infer(request("unknown", LONG, "", "")).await.unwrap_err();
    assert_eq!((placing.take_seen(), placing.pool.made()), (vec![(60_000, None)], made));
}
