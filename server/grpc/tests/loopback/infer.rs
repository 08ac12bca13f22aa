//! Unary inference: every type both ways, and every error with code and message.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use server_core::{byte_budget::ByteBudget, tensor::DataType};
use server_engine::BlockingPool;
use server_grpc::{Compression, Options};
use server_proto::inference::{
    InferTensorContents, ModelInferRequest, infer_parameter::ParameterChoice,
    model_infer_request::InferRequestedOutputTensor,
};
use tonic::{Code, Request, codec::CompressionEncoding};

use crate::harness::{Server, ask, floats, parameter, text, until, values};

fn typed(model: &str, shape: &[i64], contents: InferTensorContents) -> ModelInferRequest {
    let mut message = ask(model, model, shape, "");
    message.raw_input_contents.clear();
    message.inputs[0].contents = Some(contents);
    message
}

fn output(name: &str) -> InferRequestedOutputTensor {
    InferRequestedOutputTensor { name: name.into(), ..Default::default() }
}

#[tokio::test]
async fn every_type_travels_raw() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for data_type in DataType::ALL {
        let name = data_type.wire_name();
        let data = match data_type.byte_size() {
            Some(size) => Bytes::from((0..3 * size).map(|byte| byte as u8).collect::<Vec<_>>()),
            None => Bytes::from_static(b"\x03\0\0\0abc\0\0\0\0\x02\0\0\0\xff\0"),
        };
        let response = client.model_infer(ask(name, name, &[3], data.clone())).await.unwrap().into_inner();
        assert_eq!(text(&response), format!("{name} 1 : OUTPUT0 {name} [3] {}", data.len()));
        assert_eq!(response.raw_output_contents, [data]);
    }
}

#[tokio::test]
async fn every_type_that_has_a_field_travels_typed() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let contents = InferTensorContents::default;
    for (name, contents, expected) in [
        ("BOOL", InferTensorContents { bool_contents: vec![true, false], ..contents() }, vec![1, 0]),
        ("INT8", InferTensorContents { int_contents: vec![-1, 2], ..contents() }, vec![255, 2]),
        ("INT16", InferTensorContents { int_contents: vec![-1, 2], ..contents() }, vec![255, 255, 2, 0]),
        (
            "INT32",
            InferTensorContents { int_contents: vec![-1, 2], ..contents() },
            vec![255, 255, 255, 255, 2, 0, 0, 0],
        ),
        (
            "INT64",
            InferTensorContents { int64_contents: vec![-1, 2], ..contents() },
            vec![255, 255, 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 0, 0, 0],
        ),
        ("UINT8", InferTensorContents { uint_contents: vec![1, 255], ..contents() }, vec![1, 255]),
        ("UINT16", InferTensorContents { uint_contents: vec![1, 256], ..contents() }, vec![1, 0, 0, 1]),
        ("UINT32", InferTensorContents { uint_contents: vec![1, 256], ..contents() }, vec![1, 0, 0, 0, 0, 1, 0, 0]),
        (
            "UINT64",
            InferTensorContents { uint64_contents: vec![1, 256], ..contents() },
            vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        ),
        ("FP32", InferTensorContents { fp32_contents: vec![1.0, -2.5], ..contents() }, floats(&[1.0, -2.5])),
        (
            "FP64",
            InferTensorContents { fp64_contents: vec![1.0, -2.5], ..contents() },
            [1.0f64, -2.5].iter().flat_map(|value| value.to_le_bytes()).collect(),
        ),
        (
            "BYTES",
            InferTensorContents { bytes_contents: vec!["a".into(), "".into()], ..contents() },
            b"\x01\0\0\0a\0\0\0\0".to_vec(),
        ),
    ] {
        let response = client.model_infer(typed(name, &[2], contents)).await.unwrap().into_inner();
        assert_eq!(response.raw_output_contents, [Bytes::from(expected)], "{name}");
    }
    for (name, contents) in [
        ("FP16", InferTensorContents { fp32_contents: vec![1.0], ..contents() }),
        ("BF16", InferTensorContents { fp32_contents: vec![1.0], ..contents() }),
    ] {
        let status = client.model_infer(typed(name, &[1], contents)).await.unwrap_err();
        let expected = format!(
            "unexpected explicit tensor data for input tensor 'INPUT0' for model '{name}' of type 'FP32', expected datatype '{name}'"
        );
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, &*expected));
    }
}

#[tokio::test]
async fn a_response_names_model_and_version_and_carries_the_backends_parameters() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut message = ask("rows", "FP32", &[2, 2], floats(&[1.0, 2.0, 3.0, 4.0]));
    message.id = "7".into();
    let response = client.model_infer(message.clone()).await.unwrap().into_inner();
    assert_eq!(text(&response), "rows 3 7: OUTPUT0 FP32 [2, 2] 16");
    let choices: Vec<_> =
        response.parameters.into_iter().map(|(key, value)| (key, value.parameter_choice.unwrap())).collect();
    assert_eq!(
        choices,
        [
            ("param0".to_owned(), ParameterChoice::StringParam("an example string parameter".into())),
            ("param1".to_owned(), ParameterChoice::Int64Param(42)),
            ("param2".to_owned(), ParameterChoice::BoolParam(false)),
            ("param3".to_owned(), ParameterChoice::DoubleParam(123.123)),
        ]
    );
    message.model_version = "1".into();
    let response = client.model_infer(message).await.unwrap().into_inner();
    assert_eq!(text(&response), "rows 1 7: OUTPUT0 FP32 [2, 2] 16");
}

#[tokio::test]
async fn outputs_come_in_the_order_of_the_backend_whatever_is_asked_for() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut message = ask("pair", "INT32", &[1], vec![1, 0, 0, 0]);
    message.inputs.push(server_proto::inference::model_infer_request::InferInputTensor {
        name: "INPUT1".into(),
        datatype: "BYTES".into(),
        shape: vec![1],
        ..Default::default()
    });
    message.raw_input_contents.push(Bytes::from_static(b"\x01\0\0\0x"));
    for (asked, expected) in [
        (vec![], "OUTPUT0 INT32 [1] 4, OUTPUT1 BYTES [1] 5"),
        (vec!["OUTPUT1", "OUTPUT0"], "OUTPUT0 INT32 [1] 4, OUTPUT1 BYTES [1] 5"),
        (vec!["OUTPUT1"], "OUTPUT1 BYTES [1] 5"),
    ] {
        message.outputs = asked.into_iter().map(output).collect();
        let response = client.model_infer(message.clone()).await.unwrap().into_inner();
        assert_eq!(text(&response), format!("pair 1 : {expected}"));
    }
    message.inputs.swap(0, 1);
    message.raw_input_contents.swap(0, 1);
    message.outputs.clear();
    let response = client.model_infer(message).await.unwrap().into_inner();
    assert_eq!(text(&response), "pair 1 : OUTPUT0 INT32 [1] 4, OUTPUT1 BYTES [1] 5");
}

#[tokio::test]
async fn outputs_can_be_answered_as_classes() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut message = ask("classes", "FP32", &[2, 3], floats(&[0.5, 2.0, 1.0, 9.0, 8.0, 7.0]));
    let mut asked = output("OUTPUT0");
    asked.parameters.insert("classification".into(), parameter(ParameterChoice::Int64Param(2)));
    message.outputs = vec![asked];
    let response = client.model_infer(message).await.unwrap().into_inner();
    let expected: Vec<&[u8]> = vec![b"2.000000:1:one", b"1.000000:2:two", b"9.000000:0:zero", b"8.000000:1:one"];
    let expected = server_core::tensor::strings::join(expected);
    assert_eq!(text(&response), format!("classes 1 : OUTPUT0 BYTES [2, 2] {}", expected.len()));
    assert_eq!(response.raw_output_contents, [Bytes::from(expected)]);
}

#[tokio::test]
async fn every_error_has_its_code_and_message() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let good = || ModelInferRequest { id: "7".into(), ..ask("rows", "FP32", &[1, 2], floats(&[1.0, 2.0])) };
    let with = |change: fn(&mut ModelInferRequest)| {
        let mut message = good();
        change(&mut message);
        message
    };
    let note = "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting max_batch_size to zero. See the model configuration docs for more info on max_batch_size.";
    let shape = format!(
        "[request id: 7] unexpected shape for input 'INPUT0' for model 'rows'. Expected [-1,2], got [1,3]. {note}"
    );
    let invalid = Code::InvalidArgument;
    for (message, code, expected) in [
        (
            with(|m| m.model_name = "unknown".into()),
            Code::NotFound,
            "Request for unknown model: 'unknown' is not found",
        ),
        (
            with(|m| m.model_version = "9".into()),
            Code::NotFound,
            "Request for unknown model: 'rows' version 9 is not found",
        ),
        (
            with(|m| m.model_version = "-2".into()),
            invalid,
            "invalid model version specified '-2' , version should be an integral value > 0",
        ),
        (
            with(|m| m.model_name = "decoupled".into()),
            Code::Unimplemented,
            "ModelInfer RPC doesn't support models with decoupled transaction policy",
        ),
        (
            with(|m| m.inputs.clear()),
            invalid,
            "[request id: 7] expected 1 inputs but got 0 inputs for model 'rows'. Got input(s) [], but missing required input(s) ['INPUT0']. Please provide all required input(s).",
        ),
        (with(|m| m.inputs[0].name = "x".into()), invalid, "unexpected inference input 'x' for model 'rows'"),
        (with(|m| m.outputs = vec![output("x")]), invalid, "unexpected inference output 'x' for model 'rows'"),
        (
            with(|m| m.outputs = vec![output("OUTPUT0"), output("OUTPUT0")]),
            invalid,
            "[request id: 7] output 'OUTPUT0' already exists in request",
        ),
        (
            with(|m| {
                m.inputs.push(m.inputs[0].clone());
                m.raw_input_contents.push(m.raw_input_contents[0].clone());
            }),
            invalid,
            "[request id: 7] input 'INPUT0' already exists in request",
        ),
        (
            with(|m| m.inputs[0].datatype = "INT32".into()),
            invalid,
            "[request id: 7] inference input 'INPUT0' data-type is 'INT32', but model 'rows' expects 'FP32'",
        ),
        (
            with(|m| m.inputs[0].datatype = "float".into()),
            invalid,
            "[request id: 7] inference input 'INPUT0' data-type is '<invalid>', but model 'rows' expects 'FP32'",
        ),
        (with(|m| m.inputs[0].shape = vec![1, 3]), invalid, &shape),
        (
            with(|m| m.inputs[0].shape = vec![]),
            invalid,
            "[request id: 7] input 'INPUT0' has no shape but model requires batch dimension for 'rows'",
        ),
        (
            with(|m| m.inputs[0].shape = vec![5, 2]),
            invalid,
            "[request id: 7] inference request batch-size must be <= 4 for 'rows'",
        ),
        (
            with(|m| m.inputs[0].shape = vec![2, 2]),
            invalid,
            "[request id: 7] input byte size mismatch for input 'INPUT0' for model 'rows'. Expected 16, got 8",
        ),
        (with(|m| m.id.clear()), Code::Ok, ""),
        (
            with(|m| m.raw_input_contents.clear()),
            invalid,
            "unable to find data for input tensor 'INPUT0' for model 'rows' in request.",
        ),
        (
            with(|m| {
                m.parameters.insert("priority".into(), parameter(ParameterChoice::BoolParam(true)));
            }),
            invalid,
            "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
        ),
    ] {
        let result = client.model_infer(message).await;
        let got = result.err().map_or((Code::Ok, String::new()), |status| (status.code(), status.message().to_owned()));
        assert_eq!(got, (code, expected.to_owned()));
    }
    for (model, text) in
        [("asleep", "Request for unknown model: 'asleep' "), ("broken", "Request for unknown model: 'broken' ")]
    {
        let status = client.model_infer(values(model, "", &[1.0])).await.unwrap_err();
        assert!(status.message().starts_with(text), "{status:?}");
    }
}

#[tokio::test]
async fn messages_of_nine_mebibytes_are_answered() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let data = Bytes::from(vec![7; 9 << 20]);
    let response = client.model_infer(ask("UINT8", "UINT8", &[9 << 20], data.clone())).await.unwrap().into_inner();
    assert_eq!(response.raw_output_contents, [data]);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_connection_stays_open() {
    let server = Server::with(Options { max_receive_bytes: 2000, max_send_bytes: 1000, ..Options::default() }).await;
    let mut client = server.client().await;
    let of = |length: usize| ask("UINT8", "UINT8", &[length as i64], vec![0; length]);
    let status = client.model_infer(of(3000)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().starts_with("Received message larger than max (30"), "{status:?}");
    assert!(status.message().ends_with(" vs. 2000)"), "{status:?}");
    let status = client.model_infer(of(1500)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("Response has byte size 1"), "{status:?}");
    assert!(status.message().ends_with(" which exceeds gRPC's byte size limit 1000."), "{status:?}");
    client.model_infer(of(500)).await.unwrap();
}

#[tokio::test]
async fn the_bytes_of_a_request_count_until_its_model_has_run() {
    let budget = Arc::new(ByteBudget::new(1000));
    let server = Server::with(Options { byte_budget: budget.clone(), ..Options::default() }).await;
    let mut client = server.client().await;
    let large = |model| values(model, "1", &[1.0; 200]);
    let running = {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(large("slow")).await })
    };
    until(|| budget.in_use() > 800).await;
    let status = client.model_infer(large("FP32")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("use --max-inflight-request-bytes to increase the limit"), "{status:?}");
    client.model_infer(values("FP32", "2", &[1.0])).await.unwrap();
    running.await.unwrap().unwrap();
    until(|| budget.in_use() == 0).await;
    client.model_infer(large("FP32")).await.unwrap();
    assert_eq!(budget.refused(), 1);
}

#[tokio::test]
async fn requests_that_take_long_to_convert_inflate_or_classify_are_answered() {
    const LENGTH: usize = 200_000;
    let server = Server::with(Options { response_compression: Compression::Gzip, ..Options::default() }).await;
    let mut client = server.client().await;
    let numbers: Vec<f32> = (0..LENGTH).map(|number| number as f32).collect();
    let contents = InferTensorContents { fp32_contents: numbers.clone(), ..Default::default() };
    let mut request = typed("FP32", &[LENGTH as i64], contents);
    let response = client.model_infer(request.clone()).await.unwrap().into_inner();
    assert!(response.raw_output_contents == [Bytes::from(floats(&numbers))], "the values differ");

    let mut asked = output("OUTPUT0");
    asked.parameters.insert("classification".into(), parameter(ParameterChoice::Int64Param(2)));
    request.outputs = vec![asked];
    let expected = server_core::tensor::strings::join([b"199999.000000:199999".as_slice(), b"199998.000000:199998"]);
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        let mut client = server.client().await.send_compressed(encoding).accept_compressed(CompressionEncoding::Gzip);
        let response = client.model_infer(request.clone()).await.unwrap().into_inner();
        assert_eq!(response.raw_output_contents, [Bytes::from(expected.clone())]);
        let requests = futures_util::stream::iter([request.clone(), values("FP32", "2", &[1.0]), request.clone()]);
        let mut responses = client.model_stream_infer(requests).await.unwrap().into_inner();
        for expected in [&expected, &floats(&[1.0]), &expected] {
            let response = responses.message().await.unwrap().unwrap();
            assert_eq!(response.error_message, "");
            assert_eq!(response.infer_response.unwrap().raw_output_contents, [Bytes::from(expected.clone())]);
        }
        assert!(responses.message().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn compressed_requests_are_read_and_responses_compressed_for_clients_that_accept_it() {
    let server = Server::with(Options { response_compression: Compression::Gzip, ..Options::default() }).await;
    let data = Bytes::from(vec![0; 100_000]);
    let message = || ask("UINT8", "UINT8", &[100_000], data.clone());
    for sent in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        let mut client = server.client().await.send_compressed(sent).accept_compressed(CompressionEncoding::Gzip);
        let response = client.model_infer(message()).await.unwrap();
        assert_eq!(response.metadata().get("grpc-encoding").unwrap(), "gzip");
        assert_eq!(response.into_inner().raw_output_contents, std::slice::from_ref(&data));
    }
    let response = server.client().await.model_infer(message()).await.unwrap();
    assert_eq!(response.metadata().get("grpc-encoding"), None);
    assert_eq!(response.into_inner().raw_output_contents, [data]);
}

#[tokio::test]
async fn a_cancelled_call_leaves_the_queue() {
    let server = Server::start().await;
    let client = server.client().await;
    let ask = |request| {
        let mut client = client.clone();
        async move { client.model_infer(request).await }
    };
    let first = tokio::spawn(ask(Request::new(values("slow", "1", &[1.0]))));
    // One is cancelled by its caller, one by its deadline.
    let second = tokio::spawn(ask(Request::new(values("slow", "2", &[1.0]))));
    let mut third = Request::new(values("slow", "3", &[1.0]));
    third.set_timeout(Duration::from_millis(100));
    let third = tokio::spawn(ask(third));
    until(|| server.counted("slow").pending == 2 || first.is_finished()).await;
    second.abort();
    assert!(third.await.unwrap().is_err());
    first.await.unwrap().unwrap();
    until(|| server.counted("slow").failures.canceled == 2).await;
    assert_eq!(server.counted("slow").success.count, 1);
}

#[tokio::test]
async fn many_calls_share_one_connection() {
    let server = Server::start().await;
    let client = server.client().await;
    let calls: Vec<_> = (0..500u32)
        .map(|number| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let row = [number as f32, 0.5];
                let message =
                    ModelInferRequest { id: number.to_string(), ..ask("rows", "FP32", &[1, 2], floats(&row)) };
                let response = client.model_infer(message).await.unwrap().into_inner();
                assert_eq!(response.id, number.to_string());
                assert_eq!(response.raw_output_contents, [Bytes::from(floats(&row))]);
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn long_work_waits_for_the_threads_of_the_given_pool() {
    const LENGTH: usize = 200_000;
    let pool = BlockingPool::new(1);
    let (finish, finished) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let other = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.run(move || (begin.send(()), finished.recv()).1).await })
    };
    begun.await.unwrap();
    let server = Server::with(Options { blocking_pool: pool, ..Options::default() }).await;
    let mut client = server.client().await;
    let contents = InferTensorContents { fp32_contents: vec![1.0; LENGTH], ..Default::default() };
    let long = typed("FP32", &[LENGTH as i64], contents);
    let mut waiting = {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(long).await })
    };
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut waiting).await.is_err());
    client.model_infer(values("FP32", "2", &[1.0])).await.unwrap(); // short work needs no thread
    assert!(!waiting.is_finished());
    drop(finish);
    waiting.await.unwrap().unwrap();
    assert!(other.await.unwrap().unwrap().is_err());
}
