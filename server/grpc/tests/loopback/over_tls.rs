//! The same over encrypted connections, and what only those have.

#![allow(clippy::unwrap_used)] // helpers of tests, which clippy takes for programs

mod decoupled;
#[path = "../../../tls/tests/harness/encrypting.rs"]
mod encrypting;
mod harness;
mod infer;
mod placement;
#[path = "../../../shm/tests/harness/placing.rs"]
mod placing;
mod shutdown;
mod stream;

use std::time::Duration;

use server_grpc::Options;
use server_proto::inference::ServerLiveRequest;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Server, values};

/// Waits until the server has closed the connection.
async fn closed(mut socket: impl AsyncRead + Unpin) {
    let read = async { while socket.read(&mut [0; 100]).await.is_ok_and(|count| count > 0) {} };
    timeout(Duration::from_secs(20), read).await.expect("the connection stays open");
}

#[tokio::test]
async fn what_is_no_handshake_is_closed_and_disturbs_nobody() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for bytes in [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".as_slice(),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x05junk!",
        &[0x16; 100_000],
        &[0; 100_000],
    ] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let _ = socket.write_all(bytes).await; // it may be closed before it has all
        let _ = socket.shutdown().await;
        closed(socket).await;
        assert_eq!(client.model_infer(values("FP32", "1", &[1.0])).await.unwrap().into_inner().id, "1");
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_closed_after_the_timeout() {
    let options = Options { handshake_timeout: Duration::from_millis(300), ..Options::default() };
    let server = Server::with(options).await;
    let mut client = server.client().await;
    for start in [b"".as_slice(), b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01"] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(start).await.unwrap();
        closed(socket).await;
    }
    // the handshake of TLS alone is not enough
    closed(server.connect_encrypted().await).await;
    client.server_live(ServerLiveRequest {}).await.unwrap();
}
