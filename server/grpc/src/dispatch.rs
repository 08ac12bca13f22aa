//! One call between the connection and its method: whether it is allowed, its deadline, and its answer to the transport.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Request, Response, StatusCode, request::Parts};
use http_body::Body as _;
use hyper::body::Incoming;
use server_core::grpc_timeout;
use server_engine::{AccessLog, Protocol};
use tokio::{net::TcpStream, time::sleep};
use tonic::{Code, Status};

use crate::{framing::body::ResponseBody, large_parts::LargeParts, service::Service};

/// Passes each call to the service. Every connection has its own.
pub(crate) struct Dispatch {
    service: Arc<Service>,
    access_log: Option<Arc<AccessLog>>,
    /// Known only where calls are logged.
    client: Option<SocketAddr>,
    calls: Calls,
}

impl Dispatch {
    /// Passes calls to that service.
    pub(crate) fn new(service: Arc<Service>, access_log: Option<Arc<AccessLog>>) -> Self {
        Self { service, access_log, client: None, calls: Calls::default() }
    }

    /// The same for one connection.
    pub(crate) fn for_connection(&self, stream: &TcpStream) -> Self {
        let client = self.access_log.as_ref().and_then(|_| stream.peer_addr().ok());
        Self { client, ..Self::new(self.service.clone(), self.access_log.clone()) }
    }

    /// The calls this connection has in flight.
    pub(crate) fn calls(&self) -> Calls {
        self.calls.clone()
    }

    /// Answers one call. Dropping the future, as the connection does when the client cancels, cancels its work.
    pub(crate) fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + Send + use<> {
        let service = self.service.clone();
        let in_flight = self.calls.count();
        let (head, body) = request.into_parts();
        tracing::debug!("gRPC request: {}", head.uri.path());
        let log = self.access_log.as_ref();
        let mut access = log.map(|log| log.begin(Protocol::Grpc, self.client, head.method.as_str(), head.uri.path()));
        async move {
            let mut response = answer(&service, &head, body).await;
            if response.body().is_end_stream()
                && let Some(mut access) = access.take()
            {
                access.answered(status_of(&response));
                access.ended();
            }
            response.body_mut().hold(in_flight.answered(), access);
            Ok(response)
        }
    }
}

/// The status of a call that ended without a message: its headers say it. What is no gRPC is unknown to it.
fn status_of(response: &Response<ResponseBody>) -> u32 {
    let status = response.headers().get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
    status.unwrap_or(Code::Unknown as u32)
}

async fn answer(service: &Service, head: &Parts, body: Incoming) -> Response<ResponseBody> {
    if !is_grpc(&head.headers) {
        let mut response = Response::new(ResponseBody::default());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let mut deadline = deadline(&head.headers).map(|duration| Box::pin(sleep(duration)));
    let mut response = pin!(service.call(head, body));
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

/// The calls of one connection: how many have no response yet, and how many have got one. Each that is not over, for its
/// response is not sent to its end, holds a reference.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    in_flight: AtomicUsize,
    answered: AtomicUsize,
    large_parts: LargeParts,
}

/// References to the calls of a connection without a call: its dispatch and its driver have them.
const IDLE_REFERENCES: usize = 2;

impl Calls {
    /// Whether there are any that have no response yet.
    pub(crate) fn are_in_flight(&self) -> bool {
        self.0.in_flight.load(Ordering::Relaxed) > 0
    }

    /// How many have got a response so far.
    pub(crate) fn answered(&self) -> usize {
        self.0.answered.load(Ordering::Relaxed)
    }

    /// The large parts of their responses.
    pub(crate) fn large_parts(&self) -> &LargeParts {
        &self.0.large_parts
    }

    /// Whether there are any that are not over.
    pub(crate) fn are_open(&self) -> bool {
        Arc::strong_count(&self.0) > IDLE_REFERENCES
    }

    fn count(&self) -> Counted {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        Counted(Some(self.clone()))
    }
}

/// One that has no response yet.
struct Counted(Option<Calls>);

impl Counted {
    /// It has one. What is returned lives as long as that is being sent.
    fn answered(mut self) -> Option<Calls> {
        let calls = self.leave();
        calls.iter().for_each(|calls| _ = calls.0.answered.fetch_add(1, Ordering::Relaxed));
        calls
    }

    fn leave(&mut self) -> Option<Calls> {
        let calls = self.0.take();
        if let Some(calls) = &calls {
            calls.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        calls
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.leave();
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
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
        for (text, expected) in [("application/grpc", true), ("application/grpc+proto", true), ("text/plain", false)] {
            let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, text.parse().unwrap())]);
            assert_eq!(is_grpc(&headers), expected, "{text}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
