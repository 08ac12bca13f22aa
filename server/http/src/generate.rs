//! The generate extension: one flat JSON object in; one out, or a stream of them as server-sent events.

mod request;

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use hyper::body::Incoming;
use server_core::{
    error::{Error, Result},
    interface::ModelId,
    response::InferResponse,
    tensor::element_count,
};
use server_engine::Inference;

use crate::{
    body::{Body, read},
    compression::Encoding,
    connection::Activity,
    error::{Failure, error_json, status},
    json::writer::{push_elements, push_parameter, push_string, push_whole},
    reply::json,
    server::Server,
};

/// Answers `POST .../generate`: the model must give exactly one response.
pub(crate) async fn once(
    server: &Server,
    activity: &Activity,
    model: ModelId<'_>,
    headers: HeaderMap,
    body: Incoming,
) -> Result<Response<Body>, Failure> {
    let mut inference = start(server, activity, model, &headers, body).await?;
    let mut responses = Vec::new();
    while let Some(response) = poll_fn(|context| inference.poll_next(context)).await {
        responses.push(response?);
        responses.truncate(2); // more are only counted
    }
    match responses.pop() {
        Some(response) if responses.is_empty() => Ok(json(flat(&response)?)),
        _ => Err(Error::internal(
            "generate expects model to produce exactly 1 response, use generate stream for model that generates \
             various number of responses",
        )
        .into()),
    }
}

/// Answers `POST .../generate_stream`. The status is that of the first response.
pub(crate) async fn stream(
    server: &Server,
    activity: &Activity,
    model: ModelId<'_>,
    headers: HeaderMap,
    body: Incoming,
) -> Result<Response<Body>, Failure> {
    let mut inference = start(server, activity, model, &headers, body).await?;
    let first = poll_fn(|context| inference.poll_next(context)).await;
    let outcome = first.map(|response| response.and_then(|response| flat(&response)));
    let status = outcome.as_ref().and_then(|outcome| outcome.as_ref().err()).map(|error| status(error.code));
    let mut response = Response::new(match outcome {
        None => Body::empty(),
        Some(outcome) => Body::Events(Box::new(events(event(outcome), inference))),
    });
    if let Some(status) = status {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    Ok(response)
}

/// The events of a request, of which the first is there already.
fn events(first: Bytes, mut inference: Inference) -> impl FnMut(&mut Context<'_>) -> Poll<Option<Bytes>> + Send {
    let mut first = Some(first);
    move |context| {
        if let Some(first) = first.take() {
            return Poll::Ready(Some(first));
        }
        let response = ready!(inference.poll_next(context));
        Poll::Ready(response.map(|response| event(response.and_then(|response| flat(&response)))))
    }
}

async fn start(
    server: &Server,
    activity: &Activity,
    model: ModelId<'_>,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Inference, Failure> {
    let received_at = std::time::Instant::now();
    let body = read(body, activity).await?;
    let found = server.engine.model(model)?;
    if Encoding::of_request(headers) != Ok(Encoding::Identity) {
        let text = "Unsupported content-encoding, only 'identity' is supported.";
        return Err(Error::invalid_argument(text).into());
    }
    let mut request = request::parse(found.interface(), &body, server.options.max_input_size, received_at)?;
    request.model_version = model.version;
    Ok(server.engine.infer(&found, request)?)
}

/// A response as one flat object; tensors of one element are scalars.
///
/// Errors: an output has no JSON form.
fn flat(response: &InferResponse) -> Result<Vec<u8>> {
    let mut out = b"{\"model_name\":".to_vec();
    push_string(&mut out, response.model_name.as_bytes());
    out.extend_from_slice(b",\"model_version\":\"");
    push_whole(&mut out, response.model_version);
    out.push(b'"');
    if !response.id.is_empty() {
        push_name(&mut out, "id");
        push_string(&mut out, response.id.as_bytes());
    }
    for (name, value) in &response.parameters {
        push_name(&mut out, name);
        push_parameter(&mut out, value);
    }
    for output in &response.outputs {
        push_name(&mut out, &output.name);
        if element_count(&output.shape) == Some(1) {
            push_elements(&mut out, output)?;
        } else {
            out.push(b'[');
            push_elements(&mut out, output)?;
            out.push(b']');
        }
    }
    out.push(b'}');
    Ok(out)
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    out.push(b',');
    push_string(out, name.as_bytes());
    out.push(b':');
}

/// An object, or an error, as an event.
fn event(outcome: Result<Vec<u8>>) -> Bytes {
    let json = outcome.unwrap_or_else(|error| error_json(&error.message));
    [b"data: ".as_slice(), &json, b"\n\n"].concat().into()
}

#[cfg(test)]
mod tests {
    use server_core::{
        request::Parameter,
        tensor::{DataType, Tensor, strings},
    };

    use super::*;

    #[test]
    fn a_response_is_one_flat_object() {
        let output = |name: &str, shape: &[i64], parts: &[&str]| Tensor {
            name: name.into(),
            data_type: DataType::Bytes,
            shape: shape.into(),
            data: strings::join(parts.iter().map(|part| part.as_bytes())).into(),
        };
        let response = InferResponse {
            model_name: "m".into(),
            model_version: 1,
            id: "7".into(),
            parameters: vec![("final".into(), Parameter::Bool(false))],
            outputs: smallvec::smallvec![output("text", &[1, 1], &["hi"]), output("words", &[2], &["a", "b"])],
        };
        let text = String::from_utf8(flat(&response).unwrap()).unwrap();
        assert_eq!(
            text,
            "{\"model_name\":\"m\",\"model_version\":\"1\",\"id\":\"7\",\"final\":false,\"text\":\"hi\",\
             \"words\":[\"a\",\"b\"]}"
        );
        assert_eq!(event(Ok(b"{}".to_vec())), "data: {}\n\n");
        assert_eq!(event(Err(Error::internal("no"))), "data: {\"error\":\"no\"}\n\n");
    }
}
