//! The generate extension: one flat JSON object in; one out, or a stream of them as server-sent events.

mod request;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use server_core::{
    byte_budget::Reservation,
    error::{Error, Result},
    interface::ModelId,
    response::InferResponse,
    tensor::element_count,
};
use server_engine::{BlockingPool, Inference};

use crate::{
    body::{Body, Events, RequestBody},
    compression::Encoding,
    connection::Activity,
    error::{Failure, error_json, status},
    held::{Received, hold},
    json::writer::{push_elements, push_parameter, push_string, push_whole},
    limits::BodyLimit,
    reply::json,
    server::Server,
};

/// Longer JSON is decoded, and longer outputs are encoded, on the blocking pool: about a millisecond of work. Units: bytes.
const LONG: usize = 256 << 10;

/// Answers `POST .../generate`: the model must give exactly one response.
pub(crate) async fn once(
    server: &Server,
    activity: &Activity,
    model: ModelId<'_>,
    headers: HeaderMap,
    body: &mut RequestBody,
) -> Result<Response<Body>, Failure> {
    let Running { mut inference, held } = start(server, activity, model, &headers, body).await?;
    let mut responses = Vec::new();
    while let Some(response) = poll_fn(|context| inference.poll_next(context)).await {
        responses.push(response?);
        responses.truncate(2); // more are only counted
    }
    drop(held);
    match responses.pop() {
        Some(response) if responses.is_empty() => Ok(json(flat(&server.options.blocking_pool, response).await?)),
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
    body: &mut RequestBody,
) -> Result<Response<Body>, Failure> {
    let mut running = start(server, activity, model, &headers, body).await?;
    let pool = &server.options.blocking_pool;
    let first = match poll_fn(|context| running.inference.poll_next(context)).await {
        None => None,
        Some(Ok(response)) => Some(flat(pool, response).await),
        Some(Err(error)) => Some(Err(error)),
    };
    let status = first.as_ref().and_then(|first| first.as_ref().err()).map(|error| status(error.code));
    let mut response = Response::new(match first {
        None => Body::empty(),
        Some(first) => Body::Events(Events::new(events(event(first), running, pool.clone()))),
    });
    if let Some(status) = status {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    Ok(response)
}

/// A response that is being encoded on the blocking pool.
type EncodingFuture = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send>>;

/// The events of a request, of which the first is there already.
fn events(
    first: Bytes,
    mut running: Running,
    pool: BlockingPool,
) -> impl FnMut(&mut Context<'_>) -> Poll<Option<Bytes>> + Send {
    let mut first = Some(first);
    let mut encoding: Option<EncodingFuture> = None;
    move |context| {
        if let Some(first) = first.take() {
            return Poll::Ready(Some(first));
        }
        if encoding.is_none() {
            match ready!(running.inference.poll_next(context)) {
                None => return Poll::Ready(None),
                Some(Ok(response)) if is_long(&response) => {
                    let pool = pool.clone();
                    encoding = Some(Box::pin(async move { flat(&pool, response).await }));
                }
                Some(response) => return Poll::Ready(Some(event(response.and_then(|response| flat_text(&response))))),
            }
        }
        let Some(future) = &mut encoding else { return Poll::Ready(None) };
        let outcome = ready!(future.as_mut().poll(context));
        encoding = None;
        Poll::Ready(Some(event(outcome)))
    }
}

/// A request under way. Dropping it cancels the request.
struct Running {
    inference: Inference,
    /// What its inputs take of the byte budget, if they do not hold it themselves.
    held: Option<Reservation>,
}

async fn start(
    server: &Server,
    activity: &Activity,
    model: ModelId<'_>,
    headers: &HeaderMap,
    body: &mut RequestBody,
) -> Result<Running, Failure> {
    let received_at = std::time::Instant::now();
    server.engine.model(model)?;
    if Encoding::of_request(headers) != Ok(Encoding::Identity) {
        let text = "Unsupported content-encoding, only 'identity' is supported.";
        return Err(Error::invalid_argument(text).into());
    }
    let max_input_size = server.options.max_input_size;
    let body = body.read(BodyLimit::Json(max_input_size), &server.options.byte_budget, activity).await?;
    // the body may have taken long, and the model is another meanwhile
    let found = server.engine.model(model)?;
    let interface = found.interface().clone();
    let is_long = body.bytes.len() > LONG;
    let decode = move || {
        let Received { bytes, mut reservation } = body;
        let mut request = request::parse(&interface, &bytes, max_input_size, received_at)?;
        let size = request.inputs.iter().map(|input| input.data.len()).sum();
        reservation.grow_to(size)?;
        reservation.shrink_to(size);
        let held = hold(&mut request.inputs, reservation);
        Ok::<_, Error>((request, held))
    };
    let (mut request, held) = server.options.blocking_pool.run_if(is_long, decode).await??;
    request.model_version = model.version;
    found.mark_canary(&mut request, |key| headers.get(key).map(HeaderValue::as_bytes));
    Ok(Running { inference: server.engine.infer(&found, request)?, held })
}

/// Whether encoding it takes so long that it belongs on the blocking pool.
fn is_long(response: &InferResponse) -> bool {
    response.outputs.iter().map(|output| output.data.len()).sum::<usize>() > LONG
}

/// A response as one flat object, encoded on the blocking pool if it is long.
///
/// Errors: an output has no JSON form.
async fn flat(pool: &BlockingPool, response: InferResponse) -> Result<Vec<u8>> {
    pool.run_if(is_long(&response), move || flat_text(&response)).await?
}

/// A response as one flat object; tensors of one element are scalars.
///
/// Errors: an output has no JSON form.
fn flat_text(response: &InferResponse) -> Result<Vec<u8>> {
    let mut out = b"{\"model_name\":".to_vec();
    push_string(&mut out, response.model_name.as_bytes());
    out.extend_from_slice(b",\"model_version\":\"");
    push_whole(&mut out, response.model_version);
    out.push(b'"');
    if !response.id.is_empty() {
        push_name(&mut out, "id");
        push_string(&mut out, response.id.as_bytes());
    }
    for (name, value) in &*response.parameters {
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
            parameters: vec![("final".into(), Parameter::Bool(false))].into(),
            outputs: smallvec::smallvec![output("text", &[1, 1], &["hi"]), output("words", &[2], &["a", "b"])],
        };
        let text = String::from_utf8(flat_text(&response).unwrap()).unwrap();
        assert_eq!(
            text,
            "{\"model_name\":\"m\",\"model_version\":\"1\",\"id\":\"7\",\"final\":false,\"text\":\"hi\",\
             \"words\":[\"a\",\"b\"]}"
        );
        assert_eq!(event(Ok(b"{}".to_vec())), "data: {}\n\n");
        assert_eq!(event(Err(Error::internal("no"))), "data: {\"error\":\"no\"}\n\n");
    }
}
