//! One inference over HTTP: the hot path.
//!
//! What takes long (large JSON, compression) runs on the blocking pool, so that the event loop goes on with other
//! connections.

mod decode;
mod encode;
mod output_options;

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
    binary::{self, Layout},
    body::{Body, read},
    compression::Encoding,
    connection::Activity,
    error::Failure,
    server::Server,
};

use self::{decode::Source, output_options::OutputOptions};

/// Longer JSON is decoded on the blocking pool. Units: bytes.
const LONG_JSON: usize = 1 << 20;
/// Longer compressed bodies are inflated on the blocking pool. Units: bytes.
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

    // 1  the model, and whether it gives exactly one response
    let found = server.engine.model(model)?;
    if found.interface().is_decoupled {
        return Err(
            Error::unsupported("HTTP end point doesn't support models with decoupled transaction policy").into()
        );
    }

    // 2  decode
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
    let mut options = OutputOptions::default();
    let inference = if is_long {
        let work = move || {
            let request = source.prepare(&headers, body, &mut options);
            (source, headers, options, request)
        };
        let request;
        (source, headers, options, request) = on_blocking_pool(work).await?;
        server.engine.infer(&found, request?)?
    } else {
        submit(server, &found, &source, &headers, body, &mut options)?
    };

    // 3  run; dropping this future, as happens when the client disconnects, cancels the request
    let mut response = inference.response().await?;

    // 4  encode
    let interface = source.interface;
    let reply = if encode::is_long(&response, &options, reply_encoding) {
        on_blocking_pool(move || encode::write(&mut response, &options, &interface, reply_encoding)).await??
    } else {
        encode::write(&mut response, &options, &interface, reply_encoding)?
    };
    Ok(reply.into_response(headers))
}

/// Decodes a body and queues the request at once: the request is never a field of the future, which saves moving it.
fn submit(
    server: &Server,
    found: &ModelHandle,
    source: &Source,
    headers: &HeaderMap,
    body: Bytes,
    options: &mut OutputOptions,
) -> Result<Inference> {
    server.engine.infer(found, source.prepare(headers, body, options)?)
}

fn json_length(headers: &HeaderMap, body_length: usize) -> Result<usize> {
    Ok(match binary::layout(headers, body_length)? {
        Layout::Json => body_length,
        Layout::JsonThenBinary(length) => length,
        Layout::Raw => 0,
    })
}

/// Runs `work` on the blocking pool.
async fn on_blocking_pool<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::internal("the request could not be processed"))
}
