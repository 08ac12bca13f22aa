//! One call between the connection and its method: whether it is allowed, which service answers it, its deadline.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use server_engine::Engine;
use server_proto::{
    health::health_server::HealthServer, inference::grpc_inference_service_server::GrpcInferenceServiceServer,
};
use tokio::time::{Sleep, sleep};
use tonic::{
    Status,
    body::Body,
    codec::CompressionEncoding,
    codegen::{BoxFuture, Service as _},
};

use crate::{
    Compression, Options, Restriction,
    admission::{Admission, Permit},
    error::status,
    restrict,
    service::Service,
};

const INFERENCE: &str = "/inference.GRPCInferenceService/";
const HEALTH: &str = "/grpc.health.v1.Health/";

/// Routes each call to its service. Every connection has its own.
pub(crate) struct Dispatch {
    admission: Arc<Admission>,
    calls: Calls,
    restrictions: Arc<[Restriction]>,
    inference: GrpcInferenceServiceServer<Service>,
    health: HealthServer<Service>,
}

impl Dispatch {
    /// Routes to both services over one engine.
    pub(crate) fn new(engine: Arc<Engine>, admission: Arc<Admission>, options: &Options) -> Self {
        let service = Arc::new(Service::new(engine, admission.clone(), options));
        let mut inference = GrpcInferenceServiceServer::from_arc(service.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Deflate)
            .max_decoding_message_size(options.max_receive_bytes)
            .max_encoding_message_size(options.max_send_bytes);
        if options.response_compression == Compression::Gzip {
            inference = inference.send_compressed(CompressionEncoding::Gzip);
        }
        let health = HealthServer::from_arc(service)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Deflate);
        Self {
            admission,
            calls: Calls::default(),
            restrictions: options.restrictions.clone().into(),
            inference,
            health,
        }
    }

    /// The same routes for one connection.
    pub(crate) fn for_connection(&self) -> Self {
        let Self { admission, restrictions, inference, health, calls: _ } = self;
        Self {
            admission: admission.clone(),
            calls: Calls::default(),
            restrictions: restrictions.clone(),
            inference: inference.clone(),
            health: health.clone(),
        }
    }

    /// The calls this connection has in flight.
    pub(crate) fn calls(&self) -> Calls {
        self.calls.clone()
    }

    fn start(&self, request: Request<Incoming>) -> Result<Call, Refusal> {
        if !is_grpc(request.headers()) {
            return Err(Refusal::NotGrpc);
        }
        let path = request.uri().path();
        let method = path.strip_prefix(INFERENCE);
        if !self.restrictions.is_empty() {
            let method = method.or_else(|| path.strip_prefix(HEALTH)).unwrap_or_default();
            restrict::check(&self.restrictions, method, request.headers()).map_err(status)?;
        }
        let permit = match method {
            Some("ModelInfer" | "ModelStreamInfer") => Some(self.admission.admit().map_err(status)?),
            _ => None,
        };
        let deadline = deadline(request.headers()).map(|duration| Box::pin(sleep(duration)));
        let answer = if method.is_some() {
            self.inference.clone().call(request)
        } else if path.starts_with(HEALTH) {
            self.health.clone().call(request)
        } else {
            return Err(Status::unimplemented(format!("there is no method {path}")).into());
        };
        Ok(Call { answer, deadline, _permit: permit, _counted: Some(self.calls.count()) })
    }
}

impl hyper::service::Service<Request<Incoming>> for Dispatch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, request: Request<Incoming>) -> Call {
        self.start(request).unwrap_or_else(|refusal| {
            let response = refusal.into_response();
            Call { answer: Box::pin(std::future::ready(Ok(response))), deadline: None, _permit: None, _counted: None }
        })
    }
}

/// Why a call is refused before it reaches a method.
enum Refusal {
    /// The content type is not that of gRPC.
    NotGrpc,
    /// Answered with a gRPC status.
    Status(Status),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Refusal {
    fn into_response(self) -> Response<Body> {
        match self {
            Self::Status(status) => status.into_http(),
            Self::NotGrpc => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                response
            }
        }
    }
}

/// A call in flight. Dropping it, as the connection does when the client cancels, cancels its work.
pub(crate) struct Call {
    answer: BoxFuture<Response<Body>, Infallible>,
    deadline: Option<Pin<Box<Sleep>>>,
    _permit: Option<Permit>,
    _counted: Option<Counted>,
}

impl Future for Call {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = self.answer.as_mut().poll(context) {
            return Poll::Ready(answer);
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Ok(Status::deadline_exceeded("Deadline Exceeded").into_http()))
    }
}

/// The calls of one connection that have no response yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls(Arc<AtomicUsize>);

impl Calls {
    /// Whether there are any.
    pub(crate) fn are_in_flight(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    fn count(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }
}

/// One of them.
struct Counted(Calls);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The deadline the client has set. A value that cannot be read is no deadline.
///
/// Source: gRPC over HTTP/2, "Timeout": up to eight digits and a unit.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_in_every_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("-1S", None),
            ("+1S", None),
            ("1x", None),
            ("1", None),
        ] {
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
