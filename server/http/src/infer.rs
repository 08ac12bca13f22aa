//! One inference over HTTP: body in, the engine's answer, body out. The hot path.
//!
//! What takes long (large JSON, compression) is done on a blocking thread, so that it holds up nobody else.

mod outgoing;
mod prepare;

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Response};
use hyper::body::Incoming;
use server_core::{
    error::{Error, Result},
    interface::ModelId,
};
use server_engine::{Inference, ModelHandle};

use crate::{
    answer::{Server, read},
    binary::{self, Layout},
    body::Body,
    compression::Encoding,
    connection::Activity,
    error::Failure,
};

use self::{outgoing::Wishes, prepare::Source};

/// Longer JSON is read on a blocking thread. Units: bytes.
const LONG_JSON: usize = 1 << 20;
/// Longer compressed bodies are unpacked on a blocking thread. Units: bytes.
const LONG_COMPRESSED: usize = 32 << 10;

/// Answers `POST .../infer`.
pub(crate) async fn infer(
    server: &Server,
    activity: &Activity,
    model: ModelId<'_>,
    headers: HeaderMap,
    body: Incoming,
) -> Result<Response<Body>, Failure> {
    let received_at = Instant::now();
    let body = read(body, activity).await?;

    // 1  who is meant, and whether one answer is what it gives
    let found = server.engine.model(model)?;
    if found.interface().is_decoupled {
        return Err(
            Error::unsupported("HTTP end point doesn't support models with decoupled transaction policy").into()
        );
    }

    // 2  bytes become a request
    let encoding = Encoding::of_request(&headers)?;
    let reply_encoding = Encoding::of_response(&headers);
    let is_long = match encoding {
        Encoding::Identity => body.len() > LONG_JSON && json_length(&headers, body.len())? > LONG_JSON,
        Encoding::Gzip | Encoding::Deflate => body.len() > LONG_COMPRESSED,
    };
    let max_input_size = server.options.max_input_size;
    let interface = found.interface().clone();
    let mut source = Source { interface, version: model.version, encoding, max_input_size, received_at };
    let mut headers = headers;
    let mut wishes = Wishes::default();
    let inference = if is_long {
        let work = move || {
            let request = source.prepare(&headers, body, &mut wishes);
            (source, headers, wishes, request)
        };
        let request;
        (source, headers, wishes, request) = apart(work).await?;
        server.engine.infer(&found, request?)?
    } else {
        submit(server, &found, &source, &headers, body, &mut wishes)?
    };

    // 3  the engine; dropping this future, as happens when the client leaves, cancels the request
    let mut response = inference.response().await?;

    // 4  the answer becomes bytes
    let interface = source.interface;
    let reply = if outgoing::is_long(&response, &wishes, reply_encoding) {
        apart(move || outgoing::write(&mut response, &wishes, &interface, reply_encoding)).await??
    } else {
        outgoing::write(&mut response, &wishes, &interface, reply_encoding)?
    };
    Ok(reply.into_response(headers))
}

/// Reads a body and hands the request over at once: it is not kept in the future, which saves moving it.
fn submit(
    server: &Server,
    found: &ModelHandle,
    source: &Source,
    headers: &HeaderMap,
    body: Bytes,
    wishes: &mut Wishes,
) -> Result<Inference> {
    server.engine.infer(found, source.prepare(headers, body, wishes)?)
}

fn json_length(headers: &HeaderMap, body_length: usize) -> Result<usize> {
    Ok(match binary::layout(headers, body_length)? {
        Layout::Json => body_length,
        Layout::JsonThenBinary(length) => length,
        Layout::Raw => 0,
    })
}

/// Runs what takes long on a thread for such things.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::internal("the request could not be processed"))
}
