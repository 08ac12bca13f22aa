//! What an activator answers itself: health, and why a request was not passed on, in the form of each protocol.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::json;

use super::protocol::{Probe, Protocol};

/// Any body, whose end says by an error that it was cut off.
pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Codes of gRPC.
const OK: u16 = 0;
const DEADLINE_EXCEEDED: u16 = 4;
const UNIMPLEMENTED: u16 = 12;
const UNAVAILABLE: u16 = 14;
/// A message of one field: number 1, and it is 1. So say `live`, `ready` and `SERVING`.
const YES: &[u8] = &[0, 0, 0, 0, 2, 0x08, 0x01];

/// Why a request was not passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// There are too many of its server.
    #[error(
        "server '{server}' is at rest and starts for {limit} requests that wait already, which is the most for one server; try again \
         in a moment, or raise the activator's --max-held-per-server"
    )]
    FullForServer { server: String, limit: usize },
    /// There are too many in all.
    #[error(
        "server '{server}' is at rest, and {limit} requests wait at its activator for their servers already, which is the most; try \
         again in a moment, or raise the activator's --max-held"
    )]
    Full { server: String, limit: usize },
    /// No pod became ready in time.
    #[error(
        "server '{server}' is at rest, and none of its pods became ready within {limit:?}{}; see the status of TritonServer \
         '{server}', or raise the activator's --hold-timeout",
        because(why)
    )]
    TimeOver { server: String, limit: Duration, why: String },
    /// The client did not wait longer.
    #[error(
        "server '{server}' is at rest, and none of its pods became ready before the deadline of the call, {limit:?}{}",
        because(why)
    )]
    ClientTimeOver { server: String, limit: Duration, why: String },
    /// It was passed on, and no answer came.
    #[error("server '{server}': the pod {pod} gave no answer: {why}")]
    Lost { server: String, pod: String, why: String },
    /// The server was removed, or does not scale to zero any more.
    #[error("server '{server}' is not reached here any more; connect again")]
    Gone { server: String },
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

impl Refusal {
    /// One word, for counting.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::FullForServer { .. } => "full_for_server",
            Self::Full { .. } => "full",
            Self::TimeOver { .. } => "time_over",
            Self::ClientTimeOver { .. } => "client_time_over",
            Self::Lost { .. } => "lost",
            Self::Gone { .. } => "gone",
        }
    }

    /// The answer.
    pub(super) fn answer(&self, protocol: Protocol) -> Response<Body> {
        let message = self.to_string();
        match protocol {
            Protocol::Grpc => {
                let code = if matches!(self, Self::ClientTimeOver { .. }) { DEADLINE_EXCEEDED } else { UNAVAILABLE };
                grpc_status(code, &message)
            }
            Protocol::Http => {
                let text = json!({ "error": message }).to_string();
                let mut response = Response::new(whole(text.into()));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                response
            }
        }
    }
}

/// What a server at rest answers to a question about its health: it takes requests.
pub(super) fn healthy(probe: Probe) -> Response<Body> {
    match probe {
        Probe::Http => Response::new(whole(Bytes::new())),
        Probe::Grpc => {
            let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from(OK))]);
            let body = Full::new(Bytes::from_static(YES)).with_trailers(std::future::ready(Some(Ok(trailers))));
            let mut response = Response::new(body.map_err(never).boxed_unsync());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response
        }
        // clients take that as healthy and ask no more (gRPC health checking protocol)
        Probe::GrpcWatch => grpc_status(UNIMPLEMENTED, "health is not watched while a server is at rest"),
    }
}

/// A response of gRPC that has a status and nothing else.
fn grpc_status(code: u16, message: &str) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(never).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    if let Ok(message) = HeaderValue::try_from(percent_encoded(message)) {
        headers.insert(GRPC_MESSAGE, message);
    }
    response
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(never).boxed_unsync()
}

fn never(never: Infallible) -> hyper::Error {
    match never {}
}

/// A text as `grpc-message` carries it.
///
/// Source: gRPC over HTTP/2, "Status-Message".
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => encoded.push_str("%25"),
            b' '..=b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_server_the_limit_and_the_cure() {
        let full = Refusal::FullForServer { server: "ml/vision".into(), limit: 256 };
        let http = full.answer(Protocol::Http);
        assert_eq!(http.status(), StatusCode::SERVICE_UNAVAILABLE);
        let grpc = full.answer(Protocol::Grpc);
        assert_eq!((grpc.status(), &grpc.headers()[GRPC_STATUS]), (StatusCode::OK, &HeaderValue::from(14_u16)));
        let message = grpc.headers()[GRPC_MESSAGE].to_str().unwrap();
        for part in ["'ml/vision'", "256", "--max-held-per-server"] {
            assert!(message.contains(part), "{part} in {message}");
        }
        let why = "0 of 1 replicas are ready; 100 % of nodes: größe\n".to_owned();
        let late = Refusal::ClientTimeOver { server: "ml/vision".into(), limit: Duration::from_secs(2), why };
        let grpc = late.answer(Protocol::Grpc);
        assert_eq!(grpc.headers()[GRPC_STATUS], HeaderValue::from(4_u16));
        let message = grpc.headers()[GRPC_MESSAGE].to_str().unwrap();
        assert!(message.ends_with("2s: 0 of 1 replicas are ready; 100 %25 of nodes: gr%C3%B6%C3%9Fe%0A"), "{message}");
    }
}
