//! The server beside us, through its model repository API, at its control socket or its HTTP port. Every call has a limit, and
//! tells apart whether the server refused or was not there.

mod address;

use std::{collections::BTreeMap, io, pin::pin, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

pub use self::address::{Address, NoAddress, reachable};
use crate::state::Memory;

/// How long a question may take that the server answers from memory.
const QUESTION: Duration = Duration::from_secs(5);
/// How long it may take until there is a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How the server's answer ends if a model could not even be read.
const POLL_FAILED: &str = "failed to poll from model repository";

/// What the server says of an ensemble, one of whose models is not there, not loaded, or not in the version it needs.
const LACKS_A_MODEL: [&str; 3] =
    ["contains models that are not available", "which has no loaded version", "whose required version"];

/// Whether a refused load may succeed once another model has been loaded. `message`: the server's reason.
pub fn lacks_a_model(message: &str) -> bool {
    LACKS_A_MODEL.iter().any(|words| message.contains(words))
}

/// An index of ten thousand models is about two megabytes.
const LARGEST_ANSWER: usize = 64 << 20;

/// The server at its HTTP port or its control socket.
#[derive(Debug, Clone)]
pub struct Server {
    address: Address,
    largest_answer: usize,
}

/// A call that did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody answers at its address: the server is not up.
    #[error("the server does not answer: {0}")]
    Absent(String),
    /// It was there and went away before it answered.
    #[error("the server went away before it answered: {0}")]
    Lost(String),
    /// Its answer is longer than that many bytes.
    #[error("the server's answer has more than {0} bytes")]
    TooLarge(usize),
    /// The server's own words.
    #[error("{0}")]
    Refused(String),
    /// No answer within the limit.
    #[error("no answer after {0:?}")]
    TimedOut(Duration),
}

/// What the server says of its models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    models: BTreeMap<String, Vec<Entry>>,
}

/// How a drain stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainState {
    /// How long it has lasted.
    pub lasts: Duration,
    /// Inference requests that have come since.
    pub requests: u64,
    /// How long none has come.
    pub silence: Duration,
}

#[derive(Debug, Deserialize)]
struct DrainReport {
    lasts_ms: u64,
    requests: u64,
    silence_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Entry {
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    reason: String,
    /// What came with a load request and stands in for what the folder says.
    #[serde(default)]
    r#override: Option<String>,
    /// What the version holds in memory, by device.
    #[serde(default)]
    memory: Vec<OnDevice>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct OnDevice {
    r#type: String,
    byte_size: u64,
}

impl Server {
    /// The server at that address.
    pub fn new(address: impl Into<Address>) -> Self {
        Self { address: address.into(), largest_answer: LARGEST_ANSWER }
    }

    /// Reads no answer that is longer, in bytes.
    pub fn with_largest_answer(mut self, bytes: usize) -> Self {
        self.largest_answer = bytes;
        self
    }

    /// Whether it is up.
    pub async fn is_live(&self) -> bool {
        self.call(Method::GET, "/v2/health/live", Bytes::new(), QUESTION).await.is_ok()
    }

    /// Whether traffic may come.
    pub async fn is_ready(&self) -> bool {
        self.call(Method::GET, "/v2/health/ready", Bytes::new(), QUESTION).await.is_ok()
    }

    /// Every model with the states of its versions, which of them serve what somebody gave with a load request, and what they hold in
    /// memory: our server says that when it is asked, others pass over the question.
    pub async fn index(&self) -> Result<Index, CallError> {
        let question = Bytes::from_static(br#"{"overrides":true,"memory":true}"#);
        let body = self.call(Method::POST, "/v2/repository/index", question, QUESTION).await?;
        Index::parse(&body).map_err(|error| CallError::Refused(format!("the index cannot be read: {error}")))
    }

    /// Loads a model, or loads it anew; returns when it serves.
    ///
    /// Errors: `Refused` with the server's reason; what served before goes on.
    pub async fn load(&self, name: &str, limit: Duration) -> Result<(), CallError> {
        self.load_with(name, Bytes::new(), limit).await
    }

    /// The same with the configuration that the model's folder has, as JSON: a configuration that somebody gave with a load request
    /// holds for later loads, too, until another one comes.
    pub async fn load_with_own_config(&self, name: &str, config: &str, limit: Duration) -> Result<(), CallError> {
        let body = serde_json::json!({ "parameters": { "config": config } });
        self.load_with(name, body.to_string().into(), limit).await
    }

    async fn load_with(&self, name: &str, body: Bytes, limit: Duration) -> Result<(), CallError> {
        match self.call(Method::POST, &format!("/v2/repository/models/{}/load", encode(name)), body, limit).await {
            Ok(_) => Ok(()),
            // What is wrong with a folder or its configuration is in the index.
            Err(CallError::Refused(message)) if message.ends_with(POLL_FAILED) => {
                let index = self.index().await.ok();
                let reason = index.as_ref().and_then(|index| index.reason(name));
                Err(CallError::Refused(reason.map_or_else(|| message.clone(), |reason| format!("{message}: {reason}"))))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a model out of service; returns before its last request has ended.
    pub async fn unload(&self, name: &str, limit: Duration) -> Result<(), CallError> {
        let path = format!("/v2/repository/models/{}/unload", encode(name));
        self.call(Method::POST, &path, Bytes::new(), limit).await.map(drop)
    }

    /// Has the server ask callers to go elsewhere for as long as `lease`, or goes on with that; it is ready again after a lease of zero.
    ///
    /// Errors: `Refused` by a server that cannot.
    pub async fn drain(&self, lease: Duration) -> Result<DrainState, CallError> {
        let body = serde_json::json!({ "lease_ms": u64::try_from(lease.as_millis()).unwrap_or(u64::MAX) });
        let answer = self.call(Method::POST, "/v2/health/drain", body.to_string().into(), QUESTION).await?;
        if lease.is_zero() {
            return Ok(DrainState::default());
        }
        let report: DrainReport = serde_json::from_slice(&answer)
            .map_err(|error| CallError::Refused(format!("how the drain stands cannot be read: {error}")))?;
        let (lasts, silence) = (Duration::from_millis(report.lasts_ms), Duration::from_millis(report.silence_ms));
        Ok(DrainState { lasts, requests: report.requests, silence })
    }

    async fn call(&self, method: Method, path: &str, body: Bytes, limit: Duration) -> Result<Bytes, CallError> {
        timeout(limit, self.exchange(method, path, body)).await.unwrap_or(Err(CallError::TimedOut(limit)))
    }

    /// One call on a connection of its own: one left over from a server that has ended would look like a server that went away.
    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CallError> {
        let host = match &self.address {
            Address::Port(address) => reachable(*address).to_string(),
            Address::Socket(_) => "localhost".to_owned(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .body(Full::new(body))
            .map_err(|error| CallError::Refused(format!("'{path}' is no path: {error}")))?;
        match &self.address {
            Address::Port(address) => {
                self.send(connected(TcpStream::connect(reachable(*address))).await?, request).await
            }
            Address::Socket(path) => self.send(connected(UnixStream::connect(path)).await?, request).await,
        }
    }

    async fn send(
        &self,
        socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Bytes, CallError> {
        let lost = |error: hyper::Error| CallError::Lost(deepest(&error));
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(lost)?;
        let mut answer = pin!(async {
            let response = sender.send_request(request).await.map_err(lost)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), self.largest_answer).collect().await;
            let body = body.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    CallError::TooLarge(self.largest_answer)
                } else {
                    CallError::Lost(error.to_string())
                }
            })?;
            answer_of(status, body.to_bytes())
        });
        // both end with this future: a call that is given up leaves no connection
        tokio::select! {
            answer = &mut answer => answer,
            _ = connection => answer.await, // the server has closed; what it sent before is still to be read
        }
    }
}

async fn connected<S>(connecting: impl Future<Output = io::Result<S>>) -> Result<S, CallError> {
    match timeout(CONNECT, connecting).await {
        Ok(connected) => connected.map_err(|error| CallError::Absent(error.to_string())),
        Err(_) => Err(CallError::Absent(format!("no connection after {CONNECT:?}"))),
    }
}

fn answer_of(status: StatusCode, body: Bytes) -> Result<Bytes, CallError> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    if status == StatusCode::OK {
        return Ok(body);
    }
    Err(CallError::Refused(match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => refusal.error.trim_end().to_owned(),
        Err(_) => format!("the server answered {status}"),
    }))
}

impl Index {
    /// Reads the answer of the index endpoint.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let mut models: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for entry in serde_json::from_slice::<Vec<Entry>>(json)? {
            models.entry(entry.name.clone()).or_default().push(entry);
        }
        Ok(Self { models })
    }

    /// Versions of a model that take requests, in order.
    pub fn ready_versions(&self, name: &str) -> Vec<u64> {
        let ready = self.entries(name).filter(|entry| entry.state == "READY");
        let mut versions: Vec<u64> = ready.filter_map(|entry| entry.version.parse().ok()).collect();
        versions.sort_unstable();
        versions
    }

    /// A version of it is being loaded or is finishing what it runs.
    pub fn is_changing(&self, name: &str) -> bool {
        self.entries(name).any(|entry| matches!(entry.state.as_str(), "LOADING" | "UNLOADING"))
    }

    /// Why versions of it do not serve, if the server says so.
    pub fn reason(&self, name: &str) -> Option<&str> {
        self.entries(name).map(|entry| entry.reason.as_str()).find(|reason| !matches!(*reason, "" | "unloaded"))
    }

    /// Bytes that its versions hold on the host and on GPUs, if the server can tell.
    pub fn memory(&self, name: &str) -> Option<Memory> {
        let mut memory: Option<Memory> = None;
        for OnDevice { r#type, byte_size } in self.entries(name).flat_map(|entry| &entry.memory) {
            let memory = memory.get_or_insert_default();
            let of_kind = if r#type == "GPU" { &mut memory.gpu } else { &mut memory.cpu };
            *of_kind = of_kind.saturating_add(*byte_size);
        }
        memory
    }

    /// Models with a version that takes requests.
    pub fn serving(&self) -> impl Iterator<Item = &str> {
        let serves = |entries: &&Vec<Entry>| entries.iter().any(|entry| entry.state == "READY");
        self.models.iter().filter(move |(_, entries)| serves(entries)).map(|(name, _)| name.as_str())
    }

    /// What of it came with a load request, be it `config` or `files`, if it serves such.
    pub fn overridden(&self, name: &str) -> Option<&str> {
        self.entries(name).find_map(|entry| entry.r#override.as_deref())
    }

    fn entries(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.models.get(name).into_iter().flatten()
    }
}

/// A model name as part of a path.
fn encode(name: &str) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
    text
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn memory_is_summed_over_versions_and_devices() {
        let index = Index::parse(
            br#"[{"name":"a","version":"1","memory":[{"type":"CPU","id":0,"byte_size":1},{"type":"GPU","id":0,"byte_size":10}]},
                 {"name":"a","version":"2","memory":[{"type":"GPU","id":0,"byte_size":20},{"type":"GPU","id":1,"byte_size":40}]},
                 {"name":"b","version":"1"}]"#,
        )
        .unwrap();
        assert_eq!(index.memory("a"), Some(Memory { cpu: 1, gpu: 70 }));
        assert_eq!((index.memory("b"), index.memory("c")), (None, None));
        assert!(Index::parse(br#"[{"name":"a","memory":[{"type":"CPU","byte_size":-1}]}]"#).is_err());
    }

    #[test]
    fn the_index_tells_what_serves_and_why_not() {
        let index = Index::parse(
            br#"[{"name":"a","version":"2","state":"READY"},{"name":"a","version":"10","state":"READY"},
                 {"name":"a","version":"1","state":"UNAVAILABLE","reason":"unloaded"},
                 {"name":"b","version":"1","state":"UNAVAILABLE","reason":"Internal - no"},
                 {"name":"c","version":"1","state":"LOADING"},{"name":"d"},{"name":"e","reason":"no folder"},
                 {"name":"f","version":"3","state":"READY","override":"files"}]"#,
        )
        .unwrap();
        assert_eq!(index.ready_versions("a"), [2, 10]);
        assert_eq!((index.reason("a"), index.reason("b")), (None, Some("Internal - no")));
        assert!(index.is_changing("c") && !index.is_changing("a") && !index.is_changing("unheard of"));
        assert_eq!((index.ready_versions("d").len(), index.reason("e")), (0, Some("no folder")));
        assert_eq!(index.serving().collect::<Vec<_>>(), ["a", "f"]);
        assert_eq!((index.overridden("f"), index.overridden("a")), (Some("files"), None));
    }

    #[test]
    fn names_are_safe_in_a_path() {
        assert_eq!(encode("resnet-50_v1.5"), "resnet-50_v1.5");
        assert_eq!(encode("a b/c?"), "a%20b%2Fc%3F");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_absent_not_refusing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let folder = tempfile::tempdir().unwrap();
        let (nothing, left) = (folder.path().join("nothing.sock"), folder.path().join("left.sock"));
        drop(std::os::unix::net::UnixListener::bind(&left).unwrap()); // its file stays
        for address in [address.into(), Address::Socket(nothing), Address::Socket(left)] {
            let server = Server::new(address.clone());
            assert!(!server.is_live().await, "{address}");
            let loaded = server.load("m", Duration::from_secs(1)).await;
            assert!(matches!(loaded, Err(CallError::Absent(_))), "{address}: {loaded:?}");
        }
    }

    /// The outcome of a load at a control socket, where that is answered and then closed, and the head of the request.
    async fn loaded(answer: &'static str) -> (Result<(), CallError>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let server = Server::new(Address::Socket(path)).with_largest_answer(50);
        let answering = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap()
        };
        tokio::join!(server.load("a b", Duration::from_secs(20)), answering)
    }

    #[tokio::test]
    async fn a_control_socket_takes_calls_like_a_port() {
        let (outcome, head) = loaded("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(outcome, Ok(()));
        let expect = "POST /v2/repository/models/a%20b/load HTTP/1.1\r\nhost: localhost\r\n\r\n";
        assert_eq!(head, expect);
        let refused = |text: &str| Err(CallError::Refused(text.to_owned()));
        for (answer, expect) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\n{\"error\":\"it is private \"}", refused("it is private")),
            (
                "HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n<>",
                refused("the server answered 500 Internal Server Error"),
            ),
            (
                "HTTP/1.1 200 OK\r\n\r\n[more than fifty bytes of an index that nobody asked for]",
                Err(CallError::TooLarge(50)),
            ),
        ] {
            assert_eq!(loaded(answer).await.0, expect, "{answer}");
        }
        for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "junk\r\n\r\n"] {
            let outcome = loaded(answer).await.0;
            assert!(matches!(outcome, Err(CallError::Lost(_))), "{answer}: {outcome:?}");
        }
    }
}
