//! Decoupled models over a stream: final flags, errors in the middle, several requests at once, clients that leave or do
//! not read.

use std::{collections::BTreeMap, time::Duration};

use server_grpc::Options;
use server_proto::inference::{
    ModelInferRequest, ModelStreamInferResponse, infer_parameter::ParameterChoice,
    model_infer_request::InferInputTensor,
};
use tonic::{Code, Request};

use crate::{
    harness::{Server, parameter, until},
    stream::{channel, exchange, open, summaries, summary},
};

const MINUTE: u32 = 60_000;

fn words(name: &str, datatype: &str, words: &[u32]) -> (InferInputTensor, Vec<u8>) {
    let shape = vec![words.len() as i64];
    let tensor = InferInputTensor { name: name.into(), datatype: datatype.into(), shape, ..Default::default() };
    (tensor, words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

fn request(model: &str, id: &str, tensors: Vec<(InferInputTensor, Vec<u8>)>) -> ModelInferRequest {
    let (inputs, contents): (Vec<_>, Vec<_>) = tensors.into_iter().unzip();
    ModelInferRequest {
        model_name: model.into(),
        id: id.into(),
        inputs,
        raw_input_contents: contents.into_iter().map(Into::into).collect(),
        ..Default::default()
    }
}

/// The values from 0, each after its delay.
fn repeat(id: &str, delays: &[u32]) -> ModelInferRequest {
    let values: Vec<u32> = (0..delays.len() as u32).collect();
    let tensors = vec![words("IN", "INT32", &values), words("DELAY", "UINT32", delays), words("WAIT", "UINT32", &[0])];
    request("repeat", id, tensors)
}

fn square(id: &str, value: u32) -> ModelInferRequest {
    request("square", id, vec![words("IN", "INT32", &[value])])
}

fn with_empty_final(mut request: ModelInferRequest) -> ModelInferRequest {
    let wanted = parameter(ParameterChoice::BoolParam(true));
    request.parameters.insert("triton_enable_empty_final_response".into(), wanted);
    request
}

/// `OUT` of a response.
fn value(answer: &ModelStreamInferResponse) -> u32 {
    let contents = &answer.infer_response.as_ref().unwrap().raw_output_contents[0];
    u32::from_le_bytes(contents[..].try_into().unwrap())
}

#[tokio::test]
async fn an_end_that_comes_alone_is_sent_to_who_asks_for_it() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let data = ["repeat 1 a false", "repeat 1 a false", "repeat 1 a false"];
    let answers = exchange(&mut client, vec![repeat("a", &[0, 0, 10])]).await;
    assert_eq!(summaries(&answers), data);
    assert_eq!(answers.iter().map(value).collect::<Vec<_>>(), [0, 1, 2]);
    let answers = exchange(&mut client, vec![with_empty_final(repeat("a", &[0, 0, 0]))]).await;
    assert_eq!(summaries(&answers)[..3], data);
    let last = answers[3].infer_response.as_ref().unwrap();
    assert_eq!((&*last.model_name, &*last.id, last.outputs.len()), ("repeat", "a", 0));
    assert_eq!(last.parameters["triton_final_response"], parameter(ParameterChoice::BoolParam(true)));
    assert_eq!(answers.len(), 4);
    assert!(exchange(&mut client, vec![repeat("a", &[])]).await.is_empty());
    assert_eq!(exchange(&mut client, vec![with_empty_final(repeat("a", &[]))]).await.len(), 1);
}

#[tokio::test]
async fn an_error_of_one_response_leaves_its_request_and_its_stream_going() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let answers = exchange(&mut client, vec![with_empty_final(square("1", 2))]).await;
    let got = summaries(&answers);
    assert_eq!(got[0], "square 1 1 false");
    assert!(got[1].starts_with("simulated failure (square ") && got[1].ends_with(" 1 false)"), "{}", got[1]);
    assert!(got[2].starts_with("square ") && got[2].ends_with(" 1 true"), "{}", got[2]);
    let counts: Vec<_> =
        server.counted("square").responses.iter().map(|one| (one.success.count, one.fail.count)).collect();
    assert_eq!(counts, [(1, 0), (0, 1)]);
    assert_eq!(server.counted("square").success.count, 1);
}

#[tokio::test]
async fn a_strict_stream_ends_with_the_first_error_of_any_response() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (sender, messages) = channel();
    let mut request = Request::new(messages);
    request.metadata_mut().insert("triton_grpc_error", "true".parse().unwrap());
    sender.send(square("1", 2)).unwrap();
    sender.send(repeat("2", &[MINUTE])).unwrap();
    let mut answers = client.model_stream_infer(request).await.unwrap().into_inner();
    assert_eq!(summary(&answers.message().await.unwrap().unwrap()), "square 1 1 false");
    let status = answers.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "simulated failure"));
    until(|| server.counted("repeat").failures.canceled == 1).await;
}

#[tokio::test]
async fn requests_of_one_stream_are_answered_side_by_side_each_in_its_order() {
    let server = Server::start().await;
    let mut client = server.client().await;
    // the slow one holds nobody up
    let (sender, mut answers) = open(&mut client, repeat("slow", &[0, MINUTE])).await;
    for request in [repeat("quick", &[10, 0, 10]), repeat("many", &[0; 500])] {
        sender.send(request).unwrap();
    }
    let mut got = BTreeMap::<String, Vec<u32>>::new();
    for _ in 0..504 {
        let answer = answers.message().await.unwrap().unwrap();
        let id = answer.infer_response.as_ref().unwrap().id.clone();
        got.entry(id).or_default().push(value(&answer));
    }
    let expected = [("many", (0..500).collect()), ("quick", vec![0, 1, 2]), ("slow", vec![0])];
    assert_eq!(got, expected.map(|(id, values)| (id.to_owned(), values)).into());
}

#[tokio::test]
async fn with_room_for_one_unread_response_all_of_them_arrive() {
    let server = Server::with(Options { max_unread_responses: 1, ..Options::default() }).await;
    let mut client = server.client().await;
    let answers = exchange(&mut client, vec![square("1", 501), repeat("2", &[0; 500])]).await;
    assert_eq!(answers.len(), 1001);
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_requests_and_nothing_else() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (other_sender, mut other) = open(&mut client, repeat("other", &[0, 300])).await;
    let (sender, mut answers) = open(&mut client, repeat("1", &[0, MINUTE])).await;
    sender.send(square("2", 1_000_000_000)).unwrap();
    assert!(answers.message().await.unwrap().is_some());
    until(|| !server.counted("square").responses.is_empty()).await;
    drop((sender, answers));
    until(|| server.counted("repeat").failures.canceled == 1).await;
    until(|| server.counted("square").failures.canceled == 1).await;
    assert_eq!(server.counted("repeat").responses[1].cancel.count, 1);
    drop(other_sender);
    for _ in 0..2 {
        assert_eq!(summary(&other.message().await.unwrap().unwrap()), "repeat 1 other false");
    }
    assert!(other.message().await.unwrap().is_none());
    server.engine.unload("repeat", false).await.unwrap();
    until(|| server.engine.index(false).unwrap().iter().all(|line| line.name != "repeat" || line.reason == "unloaded"))
        .await; // no instance waits for what is gone
}

#[tokio::test]
async fn a_reader_that_stops_reading_makes_its_model_wait_and_nobody_else() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (sender, mut answers) = open(&mut client, square("1", 1_000_000_000)).await;
    let sent = || server.counted("square").responses.iter().map(|one| one.success.count).sum::<u64>();
    let (mut stalled_at, mut looks) = (0, 0);
    for _ in 0..400 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = sent();
        looks = if now == stalled_at && now > 0 { looks + 1 } else { 0 };
        stalled_at = now;
        if looks == 5 {
            break;
        }
    }
    assert_eq!(looks, 5, "the model never waits: {stalled_at} responses are somewhere");
    // another stream of the same connection, and of the same model
    assert_eq!(exchange(&mut client, vec![square("2", 3)]).await.len(), 3);
    while sent() < stalled_at + 1000 {
        assert_eq!(summary(&answers.message().await.unwrap().unwrap()), "square 1 1 false", "it goes on where it was");
    }
    drop((sender, answers));
    until(|| server.counted("square").failures.canceled == 1).await;
}
