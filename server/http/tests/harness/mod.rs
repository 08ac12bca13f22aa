//! A server with identity models on a port of its own, or at a Unix socket, and a client that speaks HTTP by hand, to see what is on the wire.

#![allow(dead_code, clippy::unwrap_used)] // each test program uses its own part of it; a test may panic

#[path = "../../../tls/tests/harness/encrypting.rs"]
mod encrypting;
mod wire;

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use server_core::{
    backend::Backends,
    interface::ModelId,
    request::{InferRequest, VersionChoice},
    tensor::{DataType, Tensor},
};
use server_engine::{ControlMode, Engine, Inference, Options as EngineOptions};
use server_http::Options;
use server_tls::Protocol;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::oneshot,
    task::JoinHandle,
};

use self::{encrypting::Encrypting, wire::Wire};

/// Whether connections are encrypted: in the test program `over_tls`, which is made of the tests of others.
pub(crate) const OVER_TLS: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"over_tls");

/// Whether connections are of this machine: in the test program `over_unix_sockets`.
pub(crate) const OVER_UNIX_SOCKETS: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"over_unix_sockets");

/// Generous: only a server that hangs takes so long.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Name of the Unix socket in the server's folder.
const SOCKET: &str = "control.sock";

/// A running server. Its model folder is deleted when it is dropped.
pub(crate) struct TestServer {
    pub(crate) engine: Arc<Engine>,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) served: JoinHandle<()>,
    encrypting: Option<Encrypting>,
    folder: tempfile::TempDir,
}

impl TestServer {
    /// A server of these models: name, and configuration without name; it may begin with another backend than identity.
    pub(crate) async fn with(models: &[(&str, &str)]) -> Self {
        Self::open(models, ControlMode::None, Options::default()).await
    }

    pub(crate) async fn open(models: &[(&str, &str)], control_mode: ControlMode, options: Options) -> Self {
        Self::of_backends(models, control_mode, options, server_backends::all(&Default::default())).await
    }

    pub(crate) async fn of_backends(
        models: &[(&str, &str)],
        control_mode: ControlMode,
        mut options: Options,
        backends: Arc<dyn Backends>,
    ) -> Self {
        let encrypting = OVER_TLS.then(|| Encrypting::new(Protocol::Http1));
        options.tls = encrypting.as_ref().map(|encrypting| encrypting.acceptor.clone());
        let folder = tempfile::tempdir().unwrap();
        for (name, config) in models {
            add_model(folder.path(), name, config);
        }
        let engine_options =
            EngineOptions { repositories: vec![folder.path().to_owned()], control_mode, ..EngineOptions::default() };
        let engine = Engine::new(engine_options, backends);
        engine.start().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { _ = stopped.await };
        let served = if OVER_UNIX_SOCKETS {
            let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
            tokio::spawn(server_http::serve_local(listener, engine.clone(), options, shutdown))
        } else {
            tokio::spawn(server_http::serve(listener, engine.clone(), options, shutdown))
        };
        Self { engine, address, stop: Some(stop), served, encrypting, folder }
    }

    pub(crate) fn add_model(&self, name: &str, config: &str) {
        add_model(self.folder.path(), name, config);
    }

    /// Its model folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn client(&self) -> Client {
        Client { stream: BufReader::new(self.connect().await.unwrap()) }
    }

    async fn connect(&self) -> std::io::Result<Wire> {
        Ok(match &self.encrypting {
            None if OVER_UNIX_SOCKETS => Wire::Local(UnixStream::connect(self.folder.path().join(SOCKET)).await?),
            None => Wire::Plain(TcpStream::connect(self.address).await?),
            Some(encrypting) => Wire::Tls(Box::new(encrypting.connect(self.address).await)),
        })
    }

    /// Whether nobody listens any more.
    pub(crate) async fn is_gone(&self) -> bool {
        match self.encrypting {
            Some(_) => TcpStream::connect(self.address).await.is_err(),
            None => self.connect().await.is_err(),
        }
    }

    /// One request on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.client().await.send("GET", path, &[], b"").await
    }

    /// One request on a connection of its own.
    pub(crate) async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.client().await.send("POST", path, &[], body.as_ref()).await
    }
}

fn add_model(folder: &Path, name: &str, config: &str) {
    fs::create_dir_all(folder.join(name).join("1")).unwrap();
    let backend = if config.starts_with("backend:") { "" } else { "backend: \"identity\" " };
    fs::write(folder.join(name).join("config.pbtxt"), format!("{backend}{config}")).unwrap();
}

/// Configuration of an identity model with one tensor.
pub(crate) fn one_tensor(data_type: &str, dims: &str, extra: &str) -> String {
    format!(
        "{extra} input {{ name: \"INPUT0\" data_type: TYPE_{data_type} dims: {dims} }}
         output {{ name: \"OUTPUT0\" data_type: TYPE_{data_type} dims: {dims} }}"
    )
}

/// A connection.
pub(crate) struct Client {
    stream: BufReader<Wire>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    #[track_caller]
    pub(crate) fn is_error(&self, status: u16, message: &str) {
        let expect = serde_json::json!({ "error": message }).to_string();
        assert_eq!((self.status, self.text()), (status, &*expect));
        assert_eq!(self.header("content-type"), Some("application/json"));
    }
}

impl Client {
    /// Connects to a server that is not the one of the inference protocol.
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self { stream: BufReader::new(Wire::Plain(TcpStream::connect(address).await.unwrap())) }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        self.write([head.as_bytes(), body].concat()).await;
        self.receive().await
    }

    pub(crate) async fn post(&mut self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send("POST", path, &[], body.as_ref()).await
    }

    /// JSON followed by binary data.
    pub(crate) async fn post_binary(&mut self, path: &str, json: &str, data: &[u8]) -> Answer {
        let length = json.len().to_string();
        let body = [json.as_bytes(), data].concat();
        self.send("POST", path, &[("Inference-Header-Content-Length", &length)], &body).await
    }

    pub(crate) async fn receive(&mut self) -> Answer {
        tokio::time::timeout(TIMEOUT, self.receive_whole()).await.expect("the server did not answer")
    }

    async fn receive_whole(&mut self) -> Answer {
        let (status, headers) = self.receive_head().await;
        let mut answer = Answer { status, headers, body: Vec::new() };
        if let Some(length) = answer.header("content-length") {
            answer.body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut answer.body).await.unwrap();
        } else if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.receive_chunk().await {
                answer.body.extend(chunk);
            }
        }
        answer
    }

    pub(crate) async fn receive_head(&mut self) -> (u16, Vec<(String, String)>) {
        let status_line = self.line().await;
        let status = status_line.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {status_line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        (status.parse().unwrap(), headers)
    }

    /// The next chunk of a chunked body; `None` after the last.
    pub(crate) async fn receive_chunk(&mut self) -> Option<Vec<u8>> {
        let length = usize::from_str_radix(&self.line().await, 16).unwrap();
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk).await.unwrap();
        chunk.truncate(length);
        (length > 0).then_some(chunk)
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// Writes as much as the server takes; an error counts as the end.
    pub(crate) async fn write_until_refused(&mut self, bytes: impl AsRef<[u8]>) {
        _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Ends this side of the connection; the server can still write.
    pub(crate) async fn end(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Closes the connection with a reset.
    pub(crate) fn reset(self) {
        self.stream.into_inner().reset();
    }

    /// The final response, behind any number of interim ones.
    pub(crate) async fn receive_final(&mut self) -> Answer {
        let first = self.receive().await;
        self.receive_rest(first).await
    }

    /// The final response, if the first was an interim one.
    pub(crate) async fn receive_rest(&mut self, mut answer: Answer) -> Answer {
        while answer.status < 200 {
            answer = self.receive().await;
        }
        answer
    }

    /// Everything until the server closes; an error counts as the end.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let read = self.stream.read_to_end(&mut rest);
        let _ = tokio::time::timeout(TIMEOUT, read).await.expect("the server did not close the connection");
        rest
    }
}

impl TestServer {
    /// Gives a slow model work of its own, so that the next requests have to wait. The work ends with what is returned.
    pub(crate) async fn keep_busy(&self, model: &str) -> Inference {
        let inference = self.infer(model, &[1]).unwrap();
        until(|| self.pending() == 0).await;
        inference
    }

    /// Hands the engine a request with one number.
    pub(crate) fn infer(&self, model: &str, shape: &[i64]) -> server_core::error::Result<Inference> {
        let request = InferRequest {
            model_name: model.into(),
            model_version: VersionChoice::Latest,
            id: String::new(),
            inputs: smallvec::smallvec![Tensor {
                name: "INPUT0".into(),
                data_type: DataType::Fp32,
                shape: shape.into(),
                data: vec![0; 4].into(),
            }],
            outputs: smallvec::smallvec![],
            parameters: vec![],
            sequence: None,
            priority: 0,
            timeout: None,
            received_at: std::time::Instant::now(),
            callers: None,
            trace: None,
        };
        let id = ModelId { name: &request.model_name.clone(), version: request.model_version };
        self.engine.infer(&self.engine.model(id).unwrap(), request)
    }

    /// Requests that wait for the first model.
    pub(crate) fn pending(&self) -> u64 {
        self.engine.statistics(None).unwrap()[0].pending
    }
}

/// Waits until a condition holds; panics after [`TIMEOUT`].
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + TIMEOUT;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "the condition did not hold in time");
        tokio::task::yield_now().await;
    }
}
