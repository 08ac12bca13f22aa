//! What a request is, as far as an activator has to know: its protocol, whether it only asks for health, how long its client waits.

use std::time::Duration;

use hyper::{
    HeaderMap, Method, Request, Version,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use server_core::grpc_timeout;

/// How long a gRPC client waits.
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static(grpc_timeout::HEADER);

/// The protocols of a server, each at a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// The HTTP interface.
    Http,
    /// The gRPC interface.
    Grpc,
}

/// A question about a server's health. A load balancer asks it again and again: it wakes nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// Whether the server lives or is ready, over HTTP.
    Http,
    /// The same over gRPC, in an answer whose first field says so.
    Grpc,
    /// The same as a stream of changes.
    GrpcWatch,
}

/// The protocol of a request.
pub(super) fn of<B>(request: &Request<B>) -> Protocol {
    let content = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    match request.version() == Version::HTTP_2 && content.starts_with(b"application/grpc") {
        true => Protocol::Grpc,
        false => Protocol::Http,
    }
}

/// Whether a request only asks for the health of its server. That of a model is another matter: only a pod knows it.
pub(super) fn probe<B>(request: &Request<B>) -> Option<Probe> {
    match (of(request), request.uri().path()) {
        (Protocol::Http, "/v2/health/live" | "/v2/health/ready")
            if matches!(*request.method(), Method::GET | Method::HEAD) =>
        {
            Some(Probe::Http)
        }
        (
            Protocol::Grpc,
            "/inference.GRPCInferenceService/ServerLive"
            | "/inference.GRPCInferenceService/ServerReady"
            | "/grpc.health.v1.Health/Check",
        ) => Some(Probe::Grpc),
        (Protocol::Grpc, "/grpc.health.v1.Health/Watch") => Some(Probe::GrpcWatch),
        _ => None,
    }
}

/// How long a gRPC client waits; none where it does not say, or says it in a form that is none.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    grpc_timeout::parse(headers.get(GRPC_TIMEOUT)?.to_str().ok()?)
}

/// Takes out what speaks of one connection only.
///
/// Source: RFC 9110, 7.6.1. `te: trailers` stays, since gRPC asks for it.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all("connection")
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name: &HeaderName| name.as_str() != "te")
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, method: &Method, path: &str, content: &str) -> Request<()> {
        Request::builder().version(version).method(method).uri(path).header(CONTENT_TYPE, content).body(()).unwrap()
    }

    #[test]
    fn only_health_of_the_server_itself_wakes_nobody() {
        let http = |method: Method, path: &str| probe(&request(Version::HTTP_11, &method, path, ""));
        for path in ["/v2/health/live", "/v2/health/ready"] {
            assert_eq!(http(Method::GET, path), Some(Probe::Http));
            assert_eq!(http(Method::HEAD, path), Some(Probe::Http));
            assert_eq!(http(Method::POST, path), None);
        }
        for path in ["/v2", "/v2/models/a/ready", "/v2/health", "/v2/health/ready/", "/", "*"] {
            assert_eq!(http(Method::GET, path), None, "{path}");
        }
        let grpc = |path: &str| probe(&request(Version::HTTP_2, &Method::POST, path, "application/grpc+proto"));
        assert_eq!(grpc("/inference.GRPCInferenceService/ServerReady"), Some(Probe::Grpc));
        assert_eq!(grpc("/grpc.health.v1.Health/Check"), Some(Probe::Grpc));
        assert_eq!(grpc("/grpc.health.v1.Health/Watch"), Some(Probe::GrpcWatch));
        assert_eq!(grpc("/inference.GRPCInferenceService/ModelReady"), None);
        assert_eq!(grpc("/v2/health/live"), None);
    }

    #[test]
    fn http_2_without_grpc_is_http() {
        let of = |version, content| of(&request(version, &Method::POST, "/", content));
        assert_eq!(of(Version::HTTP_2, "application/grpc"), Protocol::Grpc);
        assert_eq!(of(Version::HTTP_2, "application/json"), Protocol::Http);
        assert_eq!(of(Version::HTTP_11, "application/grpc"), Protocol::Http);
    }

    #[test]
    fn a_client_that_names_no_time_has_none() {
        let read = |text: &str| timeout(&HeaderMap::from_iter([(GRPC_TIMEOUT, text.parse().unwrap())]));
        assert_eq!((read("250m"), read("1x")), (Some(Duration::from_millis(250)), None));
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn what_speaks_of_one_connection_is_not_passed_on() {
        let names = ["connection", "keep-alive", "transfer-encoding", "upgrade", "x-mine", "te", "host"];
        let mut headers: HeaderMap =
            names.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("x-mine, TE"))).collect();
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "te"]);
    }
}
