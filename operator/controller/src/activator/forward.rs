//! Passes a request on to a pod and its answer back, streams and trailers included. A request that did not reach its pod goes to
//! another one, or waits again; one that did is never sent twice.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request, Response, Uri, Version,
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    header::HeaderValue,
    http::uri::{PathAndQuery, Scheme},
};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use operator_core::pod::{GRPC_PORT, HTTP_PORT};
use server_core::grpc_timeout;

use super::{
    answers::{self, Body, Refusal},
    hold::{Gate, UnderWay},
    protocol::{self, GRPC_TIMEOUT, Protocol},
};
use crate::long_poll::cause;

/// How long a pod may take to accept a connection.
pub(super) const CONNECT: Duration = Duration::from_secs(1);
/// How long a connection without requests is kept, and how many of a pod.
const IDLE: Duration = Duration::from_secs(20);
const IDLE_PER_POD: usize = 32;
/// Between probes of a connection to a pod, and how long that may give no sign of life, or take nothing of what it is sent: it went away
/// with its node.
pub(super) const PROBE: Duration = Duration::from_secs(5);
pub(super) const GONE: Duration = Duration::from_secs(30);
/// What is read ahead of an answer that its client does not take.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Connections to pods.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    http: Client<HttpConnector, Untaken>,
    grpc: Client<HttpConnector, Untaken>,
    ports: [u16; 2],
}

impl Forward {
    /// Connects to the ports that pods have.
    pub(super) fn new() -> Self {
        Self::to_ports([HTTP_PORT, GRPC_PORT])
    }

    pub(super) fn to_ports(ports: [u16; 2]) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        connector.set_keepalive(Some(PROBE));
        connector.set_keepalive_interval(Some(PROBE));
        connector.set_keepalive_retries(Some(3));
        connector.set_tcp_user_timeout(Some(GONE));
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new());
        builder.pool_idle_timeout(IDLE).pool_max_idle_per_host(IDLE_PER_POD);
        let http = builder.build(connector.clone());
        builder.http2_only(true);
        builder.http2_initial_stream_window_size(STREAM_WINDOW);
        builder.http2_initial_connection_window_size(CONNECTION_WINDOW);
        builder.http2_keep_alive_interval(PROBE * 4).http2_keep_alive_timeout(PROBE * 2);
        let grpc = builder.build(connector);
        Self { http, grpc, ports }
    }

    /// Ports of pods: HTTP, gRPC.
    pub(super) const fn ports(&self) -> [u16; 2] {
        self.ports
    }

    /// The answer to a request for the server of `gate`.
    pub(super) async fn answer(&self, gate: &Arc<Gate>, request: Request<Incoming>) -> Response<Body> {
        let protocol = protocol::of(&request);
        if let Some(probe) = protocol::probe(&request) {
            gate.shared.counts.ended("probe");
            let Some(pod) = gate.pod(None) else { return answers::healthy(probe) };
            let (head, body) = request.into_parts();
            let request = to_pod(Request::from_parts(head, Untaken::new(body)), protocol, self.address(pod, protocol));
            return match self.client(protocol).request(request).await {
                Ok(response) => passed_back(response, None),
                Err(_) => answers::healthy(probe), // it went away a moment ago
            };
        }
        let under_way = gate.begin();
        match self.pass_on(gate, request, protocol).await {
            Ok(response) => {
                gate.shared.counts.ended("passed_on");
                passed_back(response, Some(under_way))
            }
            Err(refusal) => {
                gate.shared.counts.ended(refusal.outcome());
                tracing::debug!(server = gate.server, %refusal, "a request was not passed on");
                refusal.answer(protocol)
            }
        }
    }

    async fn pass_on(
        &self,
        gate: &Gate,
        request: Request<Incoming>,
        protocol: Protocol,
    ) -> Result<Response<Incoming>, Refusal> {
        let deadline = gate.deadline(protocol::timeout(request.headers()).filter(|_| protocol == Protocol::Grpc));
        let (head, body) = request.into_parts();
        let body = Untaken::new(body);
        let (mut held, mut lost) = (None, None);
        loop {
            let pod = gate.wait_for_pod(deadline, &mut held, lost).await?;
            let address = self.address(pod, protocol);
            let mut request = to_pod(Request::from_parts(head.clone(), body.clone()), protocol, address);
            if deadline.is_clients() {
                // what is left of it
                let left = HeaderValue::try_from(grpc_timeout::format(deadline.left()));
                left.into_iter().for_each(|left| drop(request.headers_mut().insert(GRPC_TIMEOUT, left)));
            }
            match self.client(protocol).request(request).await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_connect() && !deadline.left().is_zero() => lost = Some(pod),
                Err(error) if error.is_connect() => return Err(gate.time_over(deadline)),
                Err(error) => {
                    let (server, pod, why) = (gate.server.clone(), address.to_string(), cause(&error));
                    return Err(Refusal::Lost { server, pod, why });
                }
            }
        }
    }

    fn address(&self, pod: IpAddr, protocol: Protocol) -> SocketAddr {
        let [http, grpc] = self.ports;
        SocketAddr::new(pod, if protocol == Protocol::Grpc { grpc } else { http })
    }

    fn client(&self, protocol: Protocol) -> &legacy::Client<HttpConnector, Untaken> {
        if protocol == Protocol::Grpc { &self.grpc } else { &self.http }
    }
}

/// The request as a pod at `address` is to get it.
fn to_pod(mut request: Request<Untaken>, protocol: Protocol, address: SocketAddr) -> Request<Untaken> {
    let host = request.uri().authority().and_then(|it| HeaderValue::try_from(it.as_str()).ok());
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    // `OPTIONS *` has no form with an address
    let path = if path.as_str().starts_with('/') { path } else { PathAndQuery::from_static("/") };
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(address.to_string()).path_and_query(path);
    *request.uri_mut() = uri.build().expect("a scheme, an address and a path that was read");
    let is_grpc = protocol == Protocol::Grpc;
    *request.version_mut() = if is_grpc { Version::HTTP_2 } else { Version::HTTP_11 };
    protocol::strip_hop_by_hop(request.headers_mut());
    if let Some(host) = host.filter(|_| !is_grpc) {
        request.headers_mut().entry("host").or_insert(host);
    }
    request
}

/// The answer as its client is to get it; `under_way` lasts as long as its body.
fn passed_back(response: Response<Incoming>, under_way: Option<UnderWay>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    protocol::strip_hop_by_hop(&mut head.headers);
    head.version = Version::default();
    Response::from_parts(head, Passing { body, _under_way: under_way }.boxed_unsync())
}

/// The body of a request, which stays takable until somebody takes of it.
#[derive(Clone, Debug)]
pub(super) struct Untaken(Arc<Mutex<Incoming>>);

impl Untaken {
    fn new(body: Incoming) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    fn with<T>(&self, act: impl FnOnce(Pin<&mut Incoming>) -> T) -> T {
        act(Pin::new(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl HttpBody for Untaken {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.with(|body| body.poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}

/// The body of an answer on its way.
struct Passing {
    body: Incoming,
    _under_way: Option<UnderWay>,
}

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
