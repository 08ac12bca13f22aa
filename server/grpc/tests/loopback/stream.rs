//! Streamed inference: order of responses, errors that leave the stream open, and how streams end.

use futures_util::{Stream, stream};
use server_grpc::Options;
use server_proto::inference::{ModelInferRequest, ModelStreamInferResponse, infer_parameter::ParameterChoice};
use tokio::sync::mpsc;
use tonic::{Code, Request, Streaming};

use crate::harness::{Client, Server, parameter, until, values};

/// Messages sent while the stream is open.
pub(crate) fn channel() -> (mpsc::UnboundedSender<ModelInferRequest>, impl Stream<Item = ModelInferRequest>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let messages = stream::unfold(receiver, async |mut receiver: mpsc::UnboundedReceiver<_>| {
        receiver.recv().await.map(|message| (message, receiver))
    });
    (sender, messages)
}

pub(crate) async fn exchange(client: &mut Client, messages: Vec<ModelInferRequest>) -> Vec<ModelStreamInferResponse> {
    let mut answers = client.model_stream_infer(stream::iter(messages)).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        all.push(answer);
    }
    all
}

/// `model version id final`, or `error (model version id final)`.
pub(crate) fn summary(answer: &ModelStreamInferResponse) -> String {
    let response = answer.infer_response.as_ref().unwrap();
    let is_final = match response.parameters.get("triton_final_response").map(|value| &value.parameter_choice) {
        Some(Some(ParameterChoice::BoolParam(is_final))) => is_final.to_string(),
        None => "unmarked".to_owned(),
        other => panic!("unexpected mark {other:?}"),
    };
    let who = format!("{} {} {} {is_final}", response.model_name, response.model_version, response.id);
    if answer.error_message.is_empty() { who } else { format!("{} ({})", answer.error_message, who.trim()) }
}

pub(crate) fn summaries(answers: &[ModelStreamInferResponse]) -> Vec<String> {
    answers.iter().map(summary).collect()
}

#[tokio::test]
async fn answers_of_ordinary_models_keep_the_order_of_their_requests() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let messages = vec![values("slow", "1", &[1.0]), values("FP32", "2", &[2.0]), values("FP32", "3", &[3.0])];
    let answers = exchange(&mut client, messages).await;
    assert_eq!(summaries(&answers), ["slow 1 1 true", "FP32 1 2 true", "FP32 1 3 true"]);
}

#[tokio::test]
async fn answers_of_decoupled_models_do_not_wait_for_others() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut decoupled_request = values("decoupled", "2", &[2.0]);
    decoupled_request
        .parameters
        .insert("triton_enable_empty_final_response".into(), parameter(ParameterChoice::BoolParam(true)));
    let answers = exchange(&mut client, vec![values("slow", "1", &[1.0]), decoupled_request]).await;
    // The model gives its data with the end, so no empty final response follows.
    assert_eq!(summaries(&answers), ["decoupled 1 2 true", "slow 1 1 true"]);
}

#[tokio::test]
async fn an_error_leaves_the_stream_open_and_names_its_request() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut misshapen = values("rows", "2", &[1.0]);
    misshapen.inputs[0].shape = vec![];
    let mut reserved = values("FP32", "4", &[1.0]);
    reserved.parameters.insert("triton_x".into(), parameter(ParameterChoice::BoolParam(true)));
    let messages = vec![
        values("unknown", "1", &[1.0]),
        misshapen,
        values("FP32", "3", &[1.0]),
        reserved,
        values("decoupled", "5", &[1.0]),
    ];
    let mut got = summaries(&exchange(&mut client, messages).await);
    // Responses of decoupled models come in any order; the others in request order.
    got.retain(|answer| answer != "decoupled 1 5 true");
    assert_eq!(
        got,
        [
            "Request for unknown model: 'unknown' is not found (1 unmarked)",
            "[request id: 2] input 'INPUT0' has no shape but model requires batch dimension for 'rows' (2 unmarked)",
            "FP32 1 3 true",
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with 'triton_' are allowed: triton_enable_empty_final_response (4 unmarked)",
        ]
    );
}

#[tokio::test]
async fn a_strict_stream_ends_with_its_first_error() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (sender, messages) = channel();
    let mut request = Request::new(messages);
    request.metadata_mut().insert("triton_grpc_error", "true".parse().unwrap());
    sender.send(values("FP32", "1", &[1.0])).unwrap();
    let mut answers = client.model_stream_infer(request).await.unwrap().into_inner();
    assert_eq!(summary(&answers.message().await.unwrap().unwrap()), "FP32 1 1 true");
    sender.send(values("unknown", "2", &[1.0])).unwrap();
    sender.send(values("FP32", "3", &[1.0])).unwrap();
    let status = answers.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "Request for unknown model: 'unknown' is not found")
    );
}

#[tokio::test]
async fn a_refusal_comes_before_the_responses_to_requests_behind_it() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for _ in 0..50 {
        let answers =
            exchange(&mut client, vec![values("unknown", "1", &[1.0]), values("decoupled", "2", &[1.0])]).await;
        assert!(!answers[0].error_message.is_empty() && answers.len() > 1);
    }
}

#[tokio::test]
async fn a_stream_has_a_bounded_number_of_requests_under_way() {
    let server = Server::with(Options { max_stream_requests: 2, ..Options::default() }).await;
    let mut client = server.client().await;
    let messages: Vec<_> =
        (0..100).map(|number| values(["FP32", "decoupled"][number % 2], &number.to_string(), &[1.0])).collect();
    let answers = exchange(&mut client, messages).await;
    let ids = |model: &str| -> Vec<usize> {
        let responses = answers.iter().map(|answer| answer.infer_response.as_ref().unwrap());
        responses.filter(|response| response.model_name == model).map(|response| response.id.parse().unwrap()).collect()
    };
    assert_eq!(ids("FP32"), (0..100).step_by(2).collect::<Vec<_>>());
    let mut decoupled = ids("decoupled");
    decoupled.sort_unstable();
    assert_eq!(decoupled, (1..100).step_by(2).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stream_without_requests_ends_with_ok() {
    let server = Server::start().await;
    let mut client = server.client().await;
    assert!(exchange(&mut client, vec![]).await.is_empty());
}

pub(crate) async fn open(
    client: &mut Client,
    first: ModelInferRequest,
) -> (mpsc::UnboundedSender<ModelInferRequest>, Streaming<ModelStreamInferResponse>) {
    let (sender, messages) = channel();
    sender.send(first).unwrap();
    let answers = client.model_stream_infer(messages).await.unwrap().into_inner();
    (sender, answers)
}

#[tokio::test]
async fn a_stream_stays_open_until_the_client_half_closes() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (sender, mut answers) = open(&mut client, values("FP32", "0", &[1.0])).await;
    for number in 0..20 {
        assert_eq!(summary(&answers.message().await.unwrap().unwrap()), format!("FP32 1 {number} true"));
        sender.send(values("FP32", &(number + 1).to_string(), &[1.0])).unwrap();
    }
    drop(sender);
    assert_eq!(summary(&answers.message().await.unwrap().unwrap()), "FP32 1 20 true");
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn dropping_a_stream_cancels_its_requests() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (sender, answers) = open(&mut client, values("slow", "1", &[1.0])).await;
    for number in 2..5 {
        sender.send(values("slow", &number.to_string(), &[1.0])).unwrap();
    }
    until(|| server.counted("slow").pending == 3).await;
    drop((sender, answers));
    until(|| server.counted("slow").failures.canceled >= 3).await;
    until(|| server.counted("slow").pending == 0).await;
    until(|| server.counted("slow").execution_count == 1).await; // what ran when the stream went
    assert_eq!(server.counted("slow").failures.canceled + server.counted("slow").success.count, 4);
}
