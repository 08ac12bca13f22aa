//! An activator between real clients and pods, all on loopback.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Frame, Incoming},
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use operator_core::activator::{Route, Routes, SERVER_PORTS};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use super::{forward::Forward, hold::Limits, listeners::Listeners};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const UID: &str = "u1";

fn limits() -> Limits {
    Limits {
        timeout: Duration::from_secs(60),
        held: 100,
        held_per_server: 60,
        connections: 200,
        connections_per_server: 100,
    }
}

/// A pod that answers with what it is sent, and over gRPC with a status in trailers. Its ports.
async fn pod() -> [u16; 2] {
    let mut ports = [0; 2];
    for (index, port) in ports.iter_mut().enumerate() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        *port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let io = TokioIo::new(stream);
                tokio::spawn(async move {
                    if index == 0 {
                        drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service_fn(echo)).await);
                    } else {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        drop(builder.serve_connection(io, service_fn(echo)).await);
                    }
                });
            }
        });
    }
    ports
}

async fn echo(request: Request<Incoming>) -> Result<Response<super::answers::Body>, Infallible> {
    let (head, body) = request.into_parts();
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed_unsync());
    for (name, copy) in [("host", "got-host"), ("grpc-timeout", "got-timeout"), ("te", "got-te")] {
        if let Some(value) = head.headers.get(name) {
            response.headers_mut().insert(copy, value.clone());
        }
    }
    response.headers_mut().insert("path", head.uri.path().parse().unwrap());
    Ok(response)
}

/// An activator with one server. Nobody has a port in [`SERVER_PORTS`] for long, so that one that is free is found soon.
struct Activator {
    listeners: Arc<Listeners>,
    address: SocketAddr,
    route: Route,
}

impl Activator {
    async fn start(limits: Limits, pod_ports: [u16; 2]) -> Self {
        let listeners = Arc::new(Listeners::new(LOOPBACK, limits, Forward::to_ports(pod_ports)));
        let seed = std::process::id() as usize * 37 + pod_ports[0] as usize;
        for attempt in 0..50 {
            let port = SERVER_PORTS.clone().nth((seed + attempt * 101) % SERVER_PORTS.len()).unwrap();
            if TcpListener::bind((LOOPBACK, port)).await.is_err() {
                continue;
            }
            let route = Route {
                namespace: "ml".into(),
                name: "vision".into(),
                port,
                is_led_here: true,
                pods: vec![],
                why: "".into(),
            };
            let activator = Self { listeners, address: SocketAddr::new(LOOPBACK, port), route };
            activator.set(|_| {});
            until(|| activator.listeners.demand().servers.contains_key(UID)).await;
            return activator;
        }
        panic!("no free port");
    }

    fn set(&self, change: impl FnOnce(&mut Route)) {
        let mut route = self.route.clone();
        change(&mut route);
        self.listeners.set(Routes { servers: [(UID.to_owned(), route)].into() });
    }

    fn is_wanted(&self) -> bool {
        self.listeners.demand().servers[UID].is_wanted
    }

    fn held(&self) -> i64 {
        self.listeners.shared.counts.held.get()
    }

    async fn http(&self) -> http1::SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn grpc(&self) -> (http2::SendRequest<super::answers::Body>, JoinHandle<hyper::Result<()>>) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        (sender, tokio::spawn(connection))
    }
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let reached = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reached).await.expect("it does not come about");
}

fn post(path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "vision.ml").body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "vision.ml").body(Full::default()).unwrap()
}

fn call(method: &str) -> hyper::http::request::Builder {
    let uri = format!("http://vision.ml/inference.GRPCInferenceService/{method}");
    Request::post(uri).header("content-type", "application/grpc").header("te", "trailers")
}

fn body(text: &'static str) -> super::answers::Body {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

async fn text<B: hyper::body::Body>(response: Response<B>) -> (StatusCode, String)
where
    B::Error: std::fmt::Debug,
{
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn requests_of_both_protocols_are_held_until_a_pod_is_ready() {
    let activator = Activator::start(limits(), pod().await).await;
    assert!(!activator.is_wanted());
    let mut answers = vec![];
    for _ in 0..25 {
        let mut http = activator.http().await;
        answers.push(tokio::spawn(async move {
            let response = http.send_request(post("/v2/models/a/infer?x=1", "hello")).await.unwrap();
            assert_eq!(response.headers()["path"], "/v2/models/a/infer");
            assert_eq!(response.headers()["got-host"], "vision.ml");
            text(response).await
        }));
    }
    let (grpc, _connection) = activator.grpc().await;
    for _ in 0..25 {
        let mut grpc = grpc.clone();
        answers.push(tokio::spawn(async move {
            let request = call("ModelInfer").header("grpc-timeout", "50S").body(body("hello")).unwrap();
            let response = grpc.send_request(request).await.unwrap();
            assert_eq!(response.headers()["got-te"], "trailers");
            let left = response.headers()["got-timeout"].to_str().unwrap().strip_suffix('m').unwrap();
            assert!((1..=50_000).contains(&left.parse::<u32>().unwrap()), "{left}");
            let status = response.status();
            let collected = response.into_body().collect().await.unwrap();
            assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
            (status, String::from_utf8_lossy(&collected.to_bytes()).into_owned())
        }));
    }
    until(|| activator.held() == 50).await;
    assert!(activator.is_wanted());
    activator.set(|route| route.pods = vec![LOOPBACK]);
    for answer in answers {
        assert_eq!(answer.await.unwrap(), (StatusCode::OK, "hello".to_owned()));
    }
    assert_eq!(activator.held(), 0);
    assert!(activator.is_wanted(), "the last one came a moment ago");
}

#[tokio::test]
async fn a_stream_is_held_and_goes_both_ways_afterwards() {
    let activator = Activator::start(limits(), pod().await).await;
    let (mut grpc, _connection) = activator.grpc().await;
    let (sender, mut receiver) = mpsc::channel::<&'static str>(1);
    let frames = futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|text| text.map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
    });
    let request = call("ModelStreamInfer").body(StreamBody::new(frames).boxed_unsync()).unwrap();
    let response = tokio::spawn(async move { grpc.send_request(request).await.unwrap() });
    sender.send("one").await.unwrap();
    until(|| activator.held() == 1).await;
    activator.set(|route| route.pods = vec![LOOPBACK]);
    let mut body = response.await.unwrap().into_body();
    let mut next = async || body.frame().await.unwrap().unwrap();
    assert_eq!(&next().await.into_data().unwrap()[..], b"one");
    sender.send("two").await.unwrap();
    assert_eq!(&next().await.into_data().unwrap()[..], b"two");
    drop(sender);
    assert_eq!(next().await.into_trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn health_wakes_nobody_and_everything_else_does() {
    let ports = pod().await;
    let activator = Activator::start(limits(), ports).await;
    let mut http = activator.http().await;
    for path in ["/v2/health/live", "/v2/health/ready"] {
        assert_eq!(text(http.send_request(get(path)).await.unwrap()).await, (StatusCode::OK, String::new()));
    }
    let (mut grpc, _connection) = activator.grpc().await;
    let request = call("ServerReady").body(body("\0\0\0\0\0")).unwrap();
    let collected = grpc.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(&collected.to_bytes()[..], [0, 0, 0, 0, 2, 8, 1]);
    assert!(!activator.is_wanted());
    // once there is a pod, it answers
    activator.set(|route| route.pods = vec![LOOPBACK]);
    let response = http.send_request(get("/v2/health/ready")).await.unwrap();
    assert_eq!(response.headers()["path"], "/v2/health/ready");
    assert!(!activator.is_wanted());
    drop(response.into_body().collect().await.unwrap());
    // unless it went away a moment ago
    let gone = Activator::start(limits(), [1, 1]).await;
    gone.set(|route| route.pods = vec![LOOPBACK]);
    assert_eq!(gone.http().await.send_request(get("/v2/health/ready")).await.unwrap().status(), StatusCode::OK);
    http.ready().await.unwrap();
    assert_eq!(http.send_request(get("/v2/models/a/ready")).await.unwrap().status(), StatusCode::OK);
    assert!(activator.is_wanted());
}

#[tokio::test]
async fn more_than_is_held_is_refused_with_a_cure() {
    let activator = Activator::start(Limits { held: 3, held_per_server: 2, ..limits() }, pod().await).await;
    let mut answers = vec![];
    for _ in 0..2 {
        let mut http = activator.http().await;
        answers.push(tokio::spawn(async move { text(http.send_request(post("/v2/x", "a")).await.unwrap()).await }));
    }
    until(|| activator.held() == 2).await;
    let (status, body_text) = text(activator.http().await.send_request(get("/v2")).await.unwrap()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let error: serde_json::Value = serde_json::from_str(&body_text).unwrap();
    assert!(error["error"].as_str().unwrap().contains("--max-held-per-server"), "{body_text}");
    let (mut grpc, _connection) = activator.grpc().await;
    let refused = grpc.send_request(call("ModelInfer").body(body("a")).unwrap()).await.unwrap();
    assert_eq!((refused.status(), &refused.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
    activator.set(|route| route.pods = vec![LOOPBACK]);
    for answer in answers {
        assert_eq!(answer.await.unwrap().0, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_client_that_leaves_makes_room() {
    let activator = Activator::start(limits(), pod().await).await;
    let mut stream = TcpStream::connect(activator.address).await.unwrap();
    let head = "POST /v2/models/a/infer HTTP/1.1\r\nhost: vision\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b'x'; 1000]).await.unwrap();
    let (mut grpc, _connection) = activator.grpc().await;
    let call = tokio::spawn(async move { grpc.send_request(call("ModelInfer").body(body("a")).unwrap()).await });
    until(|| activator.held() == 2).await;
    drop(stream);
    until(|| activator.held() == 1).await;
    call.abort();
    until(|| activator.held() == 0).await;
}

#[tokio::test]
async fn whoever_waits_for_too_long_learns_why() {
    let activator = Activator::start(Limits { timeout: Duration::from_millis(300), ..limits() }, pod().await).await;
    activator.set(|route| route.why = "vision-x: ImagePullBackOff".into());
    let (status, answer) = text(activator.http().await.send_request(get("/v2")).await.unwrap()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.contains("within 300ms: vision-x: ImagePullBackOff"), "{answer}");
    let (mut grpc, _connection) = activator.grpc().await;
    let mut ask = async |timeout: &str| {
        let request = call("ModelInfer").header("grpc-timeout", timeout).body(body("a")).unwrap();
        let refused = grpc.send_request(request).await.unwrap();
        refused.headers()["grpc-status"].to_str().unwrap().to_owned()
    };
    assert_eq!([ask("100m").await, ask("1H").await, ask("junk").await], ["4", "14", "14"]);
    // nobody is told of a server that is served here no more that it is at rest
    let waiting = Activator::start(limits(), pod().await).await;
    let mut http = waiting.http().await;
    let answer = tokio::spawn(async move { text(http.send_request(get("/v2")).await.unwrap()).await });
    until(|| waiting.held() == 1).await;
    waiting.listeners.set(Routes::default());
    let (status, answer) = answer.await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.contains("not reached here any more"), "{answer}");
}

#[tokio::test]
async fn a_request_that_reached_no_pod_goes_to_another() {
    let ports = pod().await;
    let activator = Activator::start(limits(), ports).await;
    // nobody listens there
    let gone: IpAddr = "127.0.0.9".parse().unwrap();
    activator.set(|route| route.pods = vec![gone]);
    let mut http = activator.http().await;
    let answer = tokio::spawn(async move { text(http.send_request(post("/v2/x", "body")).await.unwrap()).await });
    until(|| activator.held() == 1).await;
    activator.set(|route| route.pods = vec![gone, LOOPBACK]);
    assert_eq!(answer.await.unwrap(), (StatusCode::OK, "body".to_owned()));
}

#[tokio::test]
async fn connections_end_once_their_service_leads_elsewhere() {
    let activator = Activator::start(limits(), pod().await).await;
    activator.set(|route| route.pods = vec![LOOPBACK]);
    let mut http = activator.http().await;
    drop(http.send_request(get("/v2")).await.unwrap().into_body().collect().await.unwrap());
    let (mut grpc, ended) = activator.grpc().await;
    let (sender, mut receiver) = mpsc::channel::<&'static str>(1);
    let frames = futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|text| text.map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
    });
    let stream = call("ModelStreamInfer").body(StreamBody::new(frames).boxed_unsync()).unwrap();
    let mut answer = grpc.send_request(stream).await.unwrap().into_body();
    activator.set(|route| (route.pods, route.is_led_here) = (vec![LOOPBACK], false));
    // an idle one is closed; a stream goes on to its own end
    until(|| http.is_closed()).await;
    let is_told = async {
        while grpc.send_request(call("ServerReady").body(body("")).unwrap()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), is_told).await.expect("no new calls on that connection");
    sender.send("late").await.unwrap();
    assert_eq!(&answer.frame().await.unwrap().unwrap().into_data().unwrap()[..], b"late");
    drop(sender);
    assert_eq!(answer.frame().await.unwrap().unwrap().into_trailers().unwrap()["grpc-status"], "0");
    drop((answer, grpc));
    tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_activator_that_ends_answers_what_it_holds() {
    let activator = Activator::start(limits(), pod().await).await;
    let mut http = activator.http().await;
    let answer = tokio::spawn(async move { http.send_request(post("/v2/x", "held")).await.unwrap() });
    until(|| activator.held() == 1).await;
    activator.listeners.close();
    let closed = activator.listeners.closed();
    let mut closed = std::pin::pin!(closed);
    let is_refused = async {
        while TcpStream::connect(activator.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = &mut closed => panic!("a request is held"),
        () = is_refused => {}
    }
    assert!(activator.is_wanted(), "its pods are still wanted");
    activator.set(|route| route.pods = vec![LOOPBACK]);
    let response = answer.await.unwrap();
    assert_eq!(response.headers()["connection"], "close");
    assert_eq!(text(response).await, (StatusCode::OK, "held".to_owned()));
    tokio::time::timeout(Duration::from_secs(60), closed).await.unwrap();
}

#[tokio::test]
async fn junk_ends_its_own_connection_only() {
    let limits = Limits { connections_per_server: 3, ..limits() };
    let activator = Activator::start(limits, pod().await).await;
    activator.set(|route| route.pods = vec![LOOPBACK]);
    let long_head = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let junk: [&[u8]; 5] = [
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\nmore",
        b"SSH-2.0-x\r\n\r\n",
        long_head.as_bytes(),
        b"GET",
    ];
    for junk in junk {
        let mut stream = TcpStream::connect(activator.address).await.unwrap();
        let _ = stream.write_all(junk).await;
        let _ = stream.shutdown().await;
        let mut answer = vec![];
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(60), read).await.expect("the connection ends");
    }
    until(|| activator.listeners.shared.counts.connections.get() == 0).await;
    // one too many hears it; the others go on
    let mut first = activator.http().await;
    let _others = [activator.http().await, activator.http().await];
    until(|| activator.listeners.shared.counts.connections.get() == 3).await;
    let mut answer = String::new();
    let mut stream = TcpStream::connect(activator.address).await.unwrap();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("--max-connections-per-server"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(answer.contains(&format!("content-length: {}\r\n", body.len())) && body.starts_with("{\"error\":"));
    assert_eq!(text(first.send_request(get("/v2")).await.unwrap()).await.0, StatusCode::OK);
}

#[tokio::test]
async fn only_ports_for_servers_are_opened_and_each_for_one_server() {
    let activator = Activator::start(limits(), pod().await).await;
    let other = Route { name: "other".into(), ..activator.route.clone() };
    let outside = Route { port: 22, ..other.clone() };
    let servers = [(UID.to_owned(), activator.route.clone()), ("u2".to_owned(), other), ("u3".to_owned(), outside)];
    activator.listeners.set(Routes { servers: servers.into() });
    tokio::time::timeout(Duration::from_millis(700), std::future::pending::<()>()).await.unwrap_err();
    assert_eq!(activator.listeners.demand().servers.into_keys().collect::<Vec<_>>(), [UID]);
    assert!(activator.listeners.is_ready());
}

#[tokio::test]
async fn a_connection_with_tls_is_held_as_a_whole_and_led_to_the_port_that_its_greeting_speaks_of() {
    let pods = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let ports = [0, 1].map(|at: usize| pods[at].local_addr().unwrap().port());
    for (pod, protocols) in pods.iter().zip([&[][..], &[b"h2".as_slice()]]) {
        let activator = Activator::start(limits(), ports).await;
        let greeting = super::tunnel::tests::greets(protocols);
        let mut client = TcpStream::connect(activator.address).await.unwrap();
        client.write_all(&greeting[..9]).await.unwrap();
        tokio::task::yield_now().await;
        client.write_all(&greeting[9..]).await.unwrap();
        until(|| activator.held() == 1).await;
        assert!(activator.is_wanted());
        activator.set(|route| route.pods = vec![LOOPBACK]);
        let (mut stream, _) = tokio::time::timeout(Duration::from_secs(30), pod.accept()).await.unwrap().unwrap();
        let mut came = vec![0; greeting.len()];
        stream.read_exact(&mut came).await.unwrap();
        assert_eq!(came, greeting);
        stream.write_all(b"an answer").await.unwrap();
        let mut answer = [0; 9];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"an answer");
        assert_eq!(activator.held(), 0);
        // the end of one side is that of the other
        drop(client);
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_client_with_tls_that_goes_away_is_not_held() {
    let activator = Activator::start(limits(), pod().await).await;
    let mut client = TcpStream::connect(activator.address).await.unwrap();
    client.write_all(&super::tunnel::tests::greets(&[])).await.unwrap();
    until(|| activator.held() == 1).await;
    drop(client);
    until(|| activator.held() == 0).await;
    // what only looks like TLS is closed
    let mut junk = TcpStream::connect(activator.address).await.unwrap();
    junk.write_all(&[22, 3, 1, 0, 4, 9, 9, 9, 9]).await.unwrap();
    assert!(matches!(junk.read(&mut [0; 9]).await, Ok(0) | Err(_)));
}
