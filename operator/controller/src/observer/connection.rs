//! One connection to a pod. The kernel probes it every second, so that a pod that was cut off is known within seconds though
//! nothing is sent; answers are read up to a limit, and every wait has one.

use std::{
    error::Error as _,
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{ETAG, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpSocket,
    sync::Semaphore,
    task::JoinHandle,
};

use super::tls;
use crate::keep_alive;

/// How long a pod may take to accept a connection, and to send what it has begun to send.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long nothing may come from a pod, not even from its kernel, before the connection counts as lost.
const CUT_OFF: Duration = Duration::from_secs(3);
/// Between probes of an idle connection.
const PROBE: Duration = Duration::from_secs(1);
/// An answer up to this length may be read at any time; longer ones wait for their turn.
const SHORT_ANSWER: u64 = 32 << 10;
/// What is read ahead of an answer, and the longest head of one.
const BUFFER: usize = 16 << 10;

/// What an answer may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Within this time it has to begin.
    pub(crate) begins_within: Duration,
    /// Longest one that is read, in bytes.
    pub(crate) longest: usize,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Where it is.
    pub(crate) address: SocketAddr,
    /// Whether it speaks TLS.
    pub(crate) speaks_tls: bool,
}

impl End {
    /// One that does not speak TLS.
    pub(crate) const fn plain(address: SocketAddr) -> Self {
        Self { address, speaks_tls: false }
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: JoinHandle<()>,
}

/// An answer that was read.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) status: StatusCode,
    /// Names what was said, if the pod knows how to.
    pub(crate) tag: Option<HeaderValue>,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing comes from there, not even from its kernel.
    Unreachable,
    /// It is longer than is read.
    TooLong,
    /// Nobody listens, or whoever does gives no answer.
    Silent,
}

impl Connection {
    /// Opens one to an end, with TLS if that speaks it.
    pub(crate) async fn open(end: End) -> Result<Self, Failure> {
        let connect = async { socket(&end.address)?.connect(end.address).await };
        let stream = match tokio::time::timeout(PATIENCE, connect).await {
            Ok(connected) => connected.map_err(|error| of_io(&error))?,
            Err(_) => return Err(Failure::Unreachable),
        };
        if !end.speaks_tls {
            return Self::over(stream).await;
        }
        match tokio::time::timeout(PATIENCE, tls::connect(stream, end.address)).await {
            Ok(shaken) => Self::over(shaken.map_err(|error| of_io(&error))?).await,
            Err(_) => Err(Failure::Silent),
        }
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Self, Failure> {
        let shake_hands = http1::Builder::new().max_buf_size(BUFFER).max_headers(64).handshake(TokioIo::new(stream));
        let (sender, connection) = shake_hands.await.map_err(|error| of_http(&error))?;
        // what goes wrong is told to whoever waits for an answer
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, driver })
    }

    /// Sends a request. An answer that is long is read once there is room in `turns`.
    pub(crate) async fn ask(
        &mut self,
        request: Request<Empty<Bytes>>,
        limits: Limits,
        turns: [&Semaphore; 2],
    ) -> Result<Received, Failure> {
        let asked = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let response = match tokio::time::timeout(limits.begins_within + PATIENCE, asked).await {
            Ok(response) => response.map_err(|error| of_http(&error))?,
            Err(_) => return Err(Failure::Silent),
        };
        let length = response.body().size_hint().exact();
        if length.is_some_and(|length| length > limits.longest as u64) {
            return Err(Failure::TooLong);
        }
        let _turns = match length {
            Some(length) if length <= SHORT_ANSWER => None,
            // never closed
            _ => Some((turns[0].acquire().await, turns[1].acquire().await)),
        };
        tokio::time::timeout(PATIENCE, read(response, limits.longest)).await.unwrap_or(Err(Failure::Silent))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn read(response: Response<Incoming>, longest: usize) -> Result<Received, Failure> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, longest).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Failure::TooLong
        } else {
            error.downcast_ref().map_or(Failure::Silent, of_http)
        }
    })?;
    Ok(Received { status: head.status, tag: head.headers.get(ETAG).cloned(), body: body.to_bytes() })
}

fn socket(address: &SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    keep_alive::watch(&socket, PROBE, CUT_OFF)?;
    Ok(socket)
}

/// Whether the network or the other kernel is away, or only the program.
fn of_io(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::TimedOut
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::PermissionDenied => Failure::Unreachable, // the last: a firewall on this side
        _ => Failure::Silent,
    }
}

fn of_http(error: &hyper::Error) -> Failure {
    error.source().and_then(|source| source.downcast_ref()).map_or(Failure::Silent, of_io)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn get() -> Request<Empty<Bytes>> {
        Request::get("/state").header("host", "pod").body(Empty::new()).unwrap()
    }

    /// Asks a pod that answers its first request with `head`, then with pieces of 64 KiB until nobody takes them. What came of it, and
    /// how much was sent.
    async fn ask(head: &str, turns: [&Semaphore; 2]) -> (Result<Received, Failure>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let head = head.to_owned();
        let sent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let (piece, mut sent) = (vec![b' '; 64 << 10], 0);
            while sent < 64 << 20 && stream.write_all(&piece).await.is_ok() {
                sent += piece.len();
            }
            sent
        });
        let mut connection = Connection::open(End::plain(address)).await.unwrap();
        let answer = connection.ask(get(), Limits { begins_within: PATIENCE, longest: 1 << 20 }, turns).await;
        drop(connection);
        (answer, tokio::time::timeout(Duration::from_secs(60), sent).await.unwrap().unwrap())
    }

    #[tokio::test]
    async fn an_answer_of_any_length_is_read_up_to_its_limit_only() {
        let turns = [&Semaphore::new(1), &Semaphore::new(1)];
        for head in ["content-length: 67108864\r\n", "content-length: 99999999999999\r\n", ""] {
            let (answer, sent) = ask(&format!("HTTP/1.1 200 OK\r\n{head}\r\n"), turns).await;
            assert_eq!(answer.unwrap_err(), Failure::TooLong, "{head}");
            // what the sockets hold is sent beyond what is read
            assert!(sent < 32 << 20, "{sent} bytes were taken");
        }
        assert_eq!((turns[0].available_permits(), turns[1].available_permits()), (1, 1));
    }

    #[tokio::test]
    async fn whatever_answers_otherwise_is_silent() {
        let turns = [&Semaphore::new(1), &Semaphore::new(1)];
        for junk in
            ["SSH-2.0-x\r\n", "HTTP/1.1 abc\r\n\r\n", "\0\0\0\0", "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"]
        {
            assert_eq!(ask(junk, turns).await.0.unwrap_err(), Failure::Silent, "{junk:?}");
        }
        let long_head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(BUFFER));
        assert_eq!(ask(&long_head, turns).await.0.unwrap_err(), Failure::Silent);
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(Connection::open(End::plain(nobody)).await.unwrap_err(), Failure::Silent);
    }

    #[tokio::test]
    async fn a_long_answer_waits_for_its_turn_and_a_short_one_does_not() {
        let turns = [&Semaphore::new(0), &Semaphore::new(0)];
        let head = |length: u64| format!("HTTP/1.1 200 OK\r\netag: \"a\"\r\ncontent-length: {length}\r\n\r\n");
        let received = ask(&head(SHORT_ANSWER), turns).await.0.unwrap();
        assert_eq!((received.body.len() as u64, received.tag.unwrap().to_str().unwrap()), (SHORT_ANSWER, "\"a\""));
        let long = head(SHORT_ANSWER + 1);
        let waiting = ask(&long, turns);
        assert!(tokio::time::timeout(Duration::from_millis(300), waiting).await.is_err());
    }

    #[tokio::test]
    async fn the_kernel_looks_after_each_connection() {
        let socket = socket(&"127.0.0.1:1".parse().unwrap()).unwrap();
        assert_eq!(keep_alive::tests::patience(&socket), Some(CUT_OFF));
        let of = |kind: ErrorKind| of_io(&kind.into());
        assert_eq!(
            [of(ErrorKind::TimedOut), of(ErrorKind::HostUnreachable)],
            [Failure::Unreachable, Failure::Unreachable]
        );
        assert_eq!(
            [of(ErrorKind::ConnectionRefused), of(ErrorKind::ConnectionReset)],
            [Failure::Silent, Failure::Silent]
        );
    }
}
