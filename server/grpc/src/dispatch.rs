//! One call between the connection and its method: whether it is allowed, its deadline, and its answer to the transport.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Response, StatusCode};
use http_body::Body as _;
use server_core::grpc_timeout;
use server_engine::{AccessLog, Protocol};
use server_http2::Request;
use tokio::{net::TcpStream, time::sleep};
use tonic::{Code, Status};

use crate::{
    framing::{body::ResponseBody, receive::RequestBody},
    service::Service,
};

/// Passes each call to the service. Every connection has its own.
pub(crate) struct Dispatch {
    service: Arc<Service>,
    access_log: Option<Arc<AccessLog>>,
    /// Known only where calls are logged.
    client: Option<SocketAddr>,
}

impl Dispatch {
    /// Passes calls to that service.
    pub(crate) fn new(service: Arc<Service>, access_log: Option<Arc<AccessLog>>) -> Self {
        Self { service, access_log, client: None }
    }

    /// The same for one connection.
    pub(crate) fn for_connection(&self, stream: &TcpStream) -> Self {
        let client = self.access_log.as_ref().and_then(|_| stream.peer_addr().ok());
        Self { client, ..Self::new(self.service.clone(), self.access_log.clone()) }
    }

    /// Answers one call. Dropping the future, as the connection does when the client cancels, cancels its work.
    pub(crate) fn answer(
        &self,
        request: Request,
        body: RequestBody,
    ) -> impl Future<Output = Response<ResponseBody>> + Send + use<> {
        let service = self.service.clone();
        tracing::debug!("gRPC request: {}", request.path());
        let log = self.access_log.as_ref();
        let mut access = log.map(|log| log.begin(Protocol::Grpc, self.client, request.method(), request.path()));
        async move {
            let mut response = answer(&service, &request, body).await;
            if response.body().is_end_stream()
                && let Some(mut access) = access.take()
            {
                access.answered(status_of(&response));
                access.ended();
            }
            response.body_mut().hold(access);
            response
        }
    }
}

/// The status of a call that ended without a message: its headers say it. What is no gRPC is unknown to it.
fn status_of(response: &Response<ResponseBody>) -> u32 {
    let status = response.headers().get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
    status.unwrap_or(Code::Unknown as u32)
}

async fn answer(service: &Service, request: &Request, body: RequestBody) -> Response<ResponseBody> {
    if !is_grpc(request.headers()) {
        let mut response = Response::new(ResponseBody::default());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let mut deadline = deadline(request.headers()).map(|duration| Box::pin(sleep(duration)));
    let mut response = pin!(service.call(request, body));
    let outcome = poll_fn(|context| {
        if let Poll::Ready(outcome) = response.as_mut().poll(context) {
            return Poll::Ready(outcome);
        }
        let Some(deadline) = &mut deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(Status::deadline_exceeded("Deadline Exceeded")))
    });
    outcome.await.unwrap_or_else(Status::into_http)
}

/// Whether it is gRPC, in whatever format; gRPC-Web is another protocol, which a proxy has to translate.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(http::header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    matches!(content_type.strip_prefix(b"application/grpc"), Some([] | [b'+' | b';' | b' ', ..]))
}

/// The deadline the client has set. A value that cannot be read is no deadline.
pub(crate) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    grpc_timeout::parse(headers.get(grpc_timeout::HEADER)?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_cannot_be_read_is_none() {
        for (text, expected) in [("250m", Some(Duration::from_millis(250))), ("1x", None)] {
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]);
            assert_eq!(deadline(&headers), expected, "{text:?}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }

    #[test]
    fn only_grpc_is_grpc() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("text/plain", false),
        ] {
            let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, text.parse().unwrap())]);
            assert_eq!(is_grpc(&headers), expected, "{text}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
