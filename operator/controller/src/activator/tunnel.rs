//! A connection with TLS, which nobody here can read: it is held as a whole until a pod is ready, and then led to the port of that pod
//! which the client's greeting speaks of. Whatever is asked on it, health included, wakes the server.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    answers::Refusal,
    client_socket::{LOOK, PATIENCE, hung_up},
    forward::{CONNECT, GONE, PROBE},
    hold::Gate,
};
use crate::keep_alive;

/// Longest greeting.
const GREETING: usize = 16 << 10;
/// What HTTP/2 and HTTP/1.1 are called in a greeting (ALPN).
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// Bytes that are read at once.
const PIECE: usize = 64 << 10;
/// How long nothing comes either way on a connection that is to end, until it does: somebody may wait for a slow answer.
const SILENCE: Duration = Duration::from_secs(60);

/// What a greeting asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    /// There is more to come.
    Part,
    /// HTTP/2 and nothing else, as gRPC does.
    Grpc,
    /// Anything else.
    Http,
}

/// Holds the connection and leads it to a pod; `ports` are those of pods for HTTP and gRPC. It ends with either side; or, once `to_end`
/// is over, when nothing has come either way for a while.
pub(super) async fn serve(stream: TcpStream, gate: &Arc<Gate>, ports: [u16; 2], to_end: impl Future<Output = ()>) {
    let Ok(Ok(is_grpc)) = timeout(PATIENCE, is_grpc(&stream)).await else { return };
    let port = ports[usize::from(is_grpc)];
    let under_way = gate.begin();
    let Ok(socket) = rustix::io::dup(&stream) else { return };
    let pod = tokio::select! {
        pod = reach(gate, port) => pod,
        () = hung_up(socket) => return,
    };
    match pod {
        Ok(pod) => {
            gate.shared.counts.ended("passed_on");
            // whether it is in use is seen at the pods from here on
            drop(under_way);
            lead(stream, pod, to_end).await;
        }
        Err(refusal) => {
            gate.shared.counts.ended(refusal.outcome());
            tracing::debug!(server = gate.server, %refusal, "a connection with TLS was not passed on");
        }
    }
}

/// A connection to a pod, as soon as one is ready.
async fn reach(gate: &Gate, port: u16) -> Result<TcpStream, Refusal> {
    let deadline = gate.deadline(None);
    let (mut held, mut lost): (_, Option<IpAddr>) = (None, None);
    loop {
        let pod = gate.wait_for_pod(deadline, &mut held, lost).await?;
        match timeout(CONNECT, connect(SocketAddr::new(pod, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            _ if deadline.left().is_zero() => return Err(gate.time_over(deadline)),
            _ => lost = Some(pod),
        }
    }
}

/// A connection that ends when its pod goes away without a word: nobody here can ask on it.
async fn connect(pod: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(pod).await?;
    stream.set_nodelay(true)?;
    keep_alive::watch(&stream, PROBE, GONE)?;
    Ok(stream)
}

/// Whether the client is one of gRPC, by its greeting. Nothing is taken off.
async fn is_grpc(stream: &TcpStream) -> io::Result<bool> {
    let mut begin = vec![0; GREETING];
    loop {
        let count = stream.peek(&mut begin).await?;
        match greeting(&begin[..count])? {
            Greeting::Part if count == 0 || count == GREETING => return Err(io::ErrorKind::InvalidData.into()),
            Greeting::Part => tokio::time::sleep(LOOK).await,
            whole => return Ok(whole == Greeting::Grpc),
        }
    }
}

fn greeting(bytes: &[u8]) -> io::Result<Greeting> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest)?;
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let protocols: Vec<&[u8]> = accepted.client_hello().alpn().into_iter().flatten().collect();
                let is_grpc = protocols.contains(&HTTP2) && !protocols.contains(&HTTP1);
                return Ok(if is_grpc { Greeting::Grpc } else { Greeting::Http });
            }
            Err((error, _)) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
    Ok(Greeting::Part)
}

/// Passes everything on, both ways. What breaks one way ends both.
async fn lead(client: TcpStream, pod: TcpStream, to_end: impl Future<Output = ()>) {
    let (begun, last) = (Instant::now(), AtomicU64::new(0));
    let note = || last.store(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    let ((from_client, to_client), (from_pod, to_pod)) = (client.into_split(), pod.into_split());
    let both = async { tokio::try_join!(pass(from_client, to_pod, note), pass(from_pod, to_client, note)) };
    let silent = async {
        to_end.await;
        loop {
            let silence = begun.elapsed().saturating_sub(Duration::from_millis(last.load(Ordering::Relaxed)));
            match SILENCE.checked_sub(silence).filter(|left| !left.is_zero()) {
                Some(left) => tokio::time::sleep(left).await,
                None => return,
            }
        }
    };
    // how it ends is none of our business
    tokio::select! {
        _ = both => {}
        () = silent => {}
    }
}

/// Passes one way on, to its end.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, note: impl Fn()) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = from.read(&mut piece).await?;
        note();
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..count]).await?;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::activator::client_socket::HANDSHAKE;

    /// The greeting of a client that speaks these protocols.
    pub(in crate::activator) fn greets(protocols: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let name = "vision.example.com".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = vec![];
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn the_kernel_looks_after_a_connection_to_a_pod() {
        let pod = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(pod.local_addr().unwrap()).await.unwrap();
        assert_eq!(keep_alive::tests::patience(&stream), Some(GONE));
    }

    #[tokio::test]
    async fn a_connection_that_breaks_on_one_side_ends_on_the_other() {
        let end = || async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (far, near) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
            (far.unwrap(), near.unwrap().0)
        };
        let ((mut client, from_client), (pod, to_pod)) = (end().await, end().await);
        let led = tokio::spawn(lead(from_client, to_pod, std::future::pending()));
        // as if it had gone: no end that could be passed on, an error
        rustix::net::sockopt::set_socket_linger(&pod, Some(Duration::ZERO)).unwrap();
        drop(pod);
        timeout(Duration::from_secs(60), led).await.expect("both sides end").unwrap();
        assert!(matches!(client.read(&mut [0; 9]).await, Ok(0) | Err(_)));
    }

    #[test]
    fn a_greeting_tells_grpc_from_http_once_it_is_whole() {
        for (protocols, expect) in [
            (&[HTTP2][..], Greeting::Grpc),
            (&[b"grpc-exp", HTTP2], Greeting::Grpc),
            (&[HTTP2, HTTP1], Greeting::Http),
            (&[HTTP1], Greeting::Http),
            (&[], Greeting::Http),
        ] {
            let bytes = greets(protocols);
            assert_eq!(bytes[0], HANDSHAKE);
            assert_eq!(greeting(&bytes).unwrap(), expect, "{protocols:?}");
            for part in [0, 1, 5, 60, bytes.len() - 1] {
                assert_eq!(greeting(&bytes[..part]).unwrap(), Greeting::Part, "{part} bytes");
            }
        }
        assert!(greeting(&[HANDSHAKE, 3, 1, 0, 4, 9, 9, 9, 9]).is_err());
    }
}
