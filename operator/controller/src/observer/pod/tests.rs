//! Pods on loopback: what they answer is written down, what they are asked is looked at.

use std::sync::Mutex;

use operator_core::replica::{Phase, Report as Said};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::*;
use crate::scrape::tests::answers_over_tls;

const LIMIT: Duration = Duration::from_secs(30);

/// A port at which the test answers as it likes.
struct Port {
    listener: TcpListener,
    address: SocketAddr,
}

impl Port {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    async fn accept(&self) -> Caller {
        let accepted = tokio::time::timeout(LIMIT, self.listener.accept()).await;
        Caller(accepted.expect("nobody calls").unwrap().0)
    }
}

/// An accepted connection.
struct Caller(TcpStream);

impl Caller {
    /// The next request, in small letters.
    async fn request(&mut self) -> String {
        let mut text = vec![];
        while !text.ends_with(b"\r\n\r\n") {
            let byte = tokio::time::timeout(LIMIT, self.0.read_u8()).await.expect("nothing is asked").unwrap();
            text.push(byte);
        }
        String::from_utf8(text).unwrap().to_lowercase()
    }

    async fn answer(&mut self, status: &str, headers: &str, body: &str) {
        let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
        self.0.write_all(text.as_bytes()).await.unwrap();
    }
}

fn state(hash: &str) -> String {
    format!("{{\"manifestHash\":\"{hash}\",\"models\":{{\"a\":{{\"phase\":\"Ready\",\"versions\":[1]}}}}}}")
}

/// What is published of a pod with an agent and a server at these addresses.
fn follow(
    agent: Option<SocketAddr>,
    server: SocketAddr,
) -> (mpsc::UnboundedReceiver<Heard>, tokio::task::JoinHandle<()>) {
    follow_ends(agent, [End::plain(server); 2])
}

/// The same; the ends are those of the server and of its metrics page.
fn follow_ends(
    agent: Option<SocketAddr>,
    [server, page]: [End; 2],
) -> (mpsc::UnboundedReceiver<Heard>, tokio::task::JoinHandle<()>) {
    let names: BTreeSet<String> = ["a".to_owned(), "b".to_owned()].into();
    let follower = Follower {
        agent,
        server,
        page,
        place: "10.0.0.1 on node n1".into(),
        names: Arc::new(Mutex::new(Arc::new(names))),
        permits: Arc::new(Permits { connects: Semaphore::new(2), long_reports: Semaphore::new(2) }),
        long_reports: Arc::new(Semaphore::new(1)),
        metrics: Arc::new(Metrics::new()),
    };
    let (sender, receiver) = mpsc::unbounded_channel();
    let task = tokio::spawn(follower.run(move |heard| drop(sender.send(heard))));
    (receiver, task)
}

async fn next(heard: &mut mpsc::UnboundedReceiver<Heard>) -> Heard {
    tokio::time::timeout(LIMIT, heard.recv()).await.expect("nothing is published").unwrap()
}

fn says(heard: &Heard) -> Option<&Said> {
    heard.counts(false).map(|report| &**report)
}

#[tokio::test]
async fn an_agent_is_asked_over_one_connection_for_what_is_new() {
    let (agent, server) = (Port::open().await, Port::open().await);
    let (mut heard, task) = follow(Some(agent.address), server.address);
    let mut caller = agent.accept().await;
    let first = caller.request().await;
    assert!(
        first.starts_with("get /state") && !first.contains("prefer:") && !first.contains("if-none-match"),
        "{first}"
    );
    caller.answer("200 OK", "etag: W/\"1\"\r\n", &state("one")).await;
    let now = next(&mut heard).await;
    assert!(now.was_asked && now.unread.is_none() && now.unreachable.is_none());
    assert_eq!(says(&now).unwrap().manifest_hash.as_deref(), Some("one"));

    let second = caller.request().await;
    assert!(second.contains("prefer: wait=10") && second.contains("if-none-match: w/\"1\""), "{second}");
    caller.answer("304 Not Modified", "etag: W/\"1\"\r\n", "").await;
    assert_eq!(next(&mut heard).await, now, "nothing new");

    let third = caller.request().await;
    assert!(third.contains("if-none-match: w/\"1\""), "{third}");
    caller.answer("200 OK", "etag: W/\"2\"\r\n", &state("two")).await;
    assert_eq!(says(&next(&mut heard).await).unwrap().manifest_hash.as_deref(), Some("two"));
    task.abort();
}

#[tokio::test]
async fn an_agent_that_was_started_anew_is_asked_for_all_of_it() {
    let (agent, server) = (Port::open().await, Port::open().await);
    let (mut heard, task) = follow(Some(agent.address), server.address);
    let mut caller = agent.accept().await;
    caller.request().await;
    caller.answer("200 OK", "etag: \"1\"\r\n", &state("one")).await;
    next(&mut heard).await;
    caller.request().await;
    drop(caller); // as its container does
    let mut caller = agent.accept().await;
    let request = caller.request().await;
    assert!(!request.contains("if-none-match"), "{request}");
    caller.answer("200 OK", "etag: \"1\"\r\n", &state("two")).await;
    let now = next(&mut heard).await;
    assert_eq!(says(&now).unwrap().manifest_hash.as_deref(), Some("two"), "without having been called silent between");
    task.abort();
}

#[tokio::test]
async fn the_server_is_asked_in_place_of_an_agent_that_is_away_or_sends_junk() {
    for junk in [None, Some("{\"manifestHash\":7}")] {
        let (agent, server) = (Port::open().await, Port::open().await);
        let address = agent.address;
        let agent = junk.map(|_| agent); // else nobody listens
        let (mut heard, task) = follow(Some(address), server.address);
        if let (Some(agent), Some(junk)) = (&agent, junk) {
            let mut caller = agent.accept().await;
            caller.request().await;
            caller.answer("200 OK", "", junk).await;
        }
        let mut caller = server.accept().await;
        let request = caller.request().await;
        assert!(request.starts_with("post /v2/repository/index"), "{request}");
        caller.answer("200 OK", "", r#"[{"name":"a","version":"7","state":"READY"}]"#).await;
        let now = next(&mut heard).await;
        assert_eq!(says(&now).unwrap().models["a"].versions, [7]);
        let is_told = now.unread.as_ref().is_some_and(|why| why.starts_with("its agent's report cannot be read: "));
        assert_eq!(is_told, junk.is_some(), "{now:?}");
        task.abort();
    }
}

#[tokio::test]
async fn a_report_that_is_too_long_is_told_and_its_pod_is_left_alone_for_a_while() {
    let (agent, server) = (Port::open().await, Port::open().await);
    let (mut heard, task) = follow(Some(agent.address), server.address);
    let mut caller = agent.accept().await;
    caller.request().await;
    caller.0.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 62914560\r\n\r\n").await.unwrap();
    let mut caller = server.accept().await;
    caller.request().await;
    drop(caller);
    let now = next(&mut heard).await;
    assert_eq!(now.unread.as_deref(), Some("its agent's report has more than 1048576 bytes and is not read"));
    assert_eq!(says(&now), None);
    task.abort();
}

#[tokio::test]
async fn a_pod_without_an_agent_is_asked_for_its_index() {
    let server = Port::open().await;
    let (mut heard, task) = follow(None, server.address);
    let mut caller = server.accept().await;
    caller.request().await;
    caller.answer("200 OK", "", "[]").await;
    let now = next(&mut heard).await;
    assert_eq!(says(&now).unwrap().manifest_hash, None, "it follows none");
    task.abort();
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_is_asked_for_its_metrics_in_place_of_a_silent_agent() {
    let page = "nv_inference_request_success{model=\"a\",version=\"3\"} 0\n";
    let page = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len());
    let silent = Port::open().await;
    let nobody = silent.address;
    drop(silent);
    let end = |port| End { address: SocketAddr::from(([127, 0, 0, 1], port)), speaks_tls: true };
    let ends = [answers_over_tls(page.clone(), true).await, answers_over_tls(page, false).await].map(end);
    let (mut heard, task) = follow_ends(Some(nobody), ends);
    let now = next(&mut heard).await;
    let report = says(&now).expect("the server says what is loaded");
    assert_eq!(report.manifest_hash.as_deref(), Some(""), "which manifest that follows, only the agent knows");
    let of = |name: &str| (report.models[name].phase.clone(), report.models[name].versions.clone());
    assert_eq!([of("a"), of("b")], [(Phase::Ready, vec![3]), (Phase::Pending, vec![])]);
    assert_eq!((now.unread, now.unreachable), (None, None));
    task.abort();
}

#[tokio::test]
async fn a_pod_is_within_reach_as_long_as_the_port_of_its_agent_is() {
    // a port that takes no more connections, as behind a NetworkPolicy
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let closed = closed.listen(1).unwrap();
    let address = closed.local_addr().unwrap();
    let mut taken = vec![];
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        taken.push(stream);
    }
    let silent = Port::open().await;
    let agent = silent.address;
    drop(silent);
    for (agent, is_named) in [(Some(agent), false), (None, true)] {
        let (mut heard, task) = follow(agent, address);
        let now = next(&mut heard).await;
        assert_eq!((now.was_asked, now.unreachable.is_some()), (true, is_named), "{now:?}");
        task.abort();
    }
}
