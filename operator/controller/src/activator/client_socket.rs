//! What is seen of a client's socket without taking anything off: what its first bytes speak, and whether the client is still there.

use std::{os::fd::OwnedFd, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::TcpStream;

/// How an HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// First byte of a TLS record with a greeting.
pub(super) const HANDSHAKE: u8 = 22;
/// How long a client may take with its first bytes, and with the head of a request; a connection without requests is closed then.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at first bytes that have come in part.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// Between looks whether a client is still there.
const STILL_THERE: Duration = Duration::from_secs(1);

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
    Tls,
}

/// What the client speaks. Nothing is taken off.
pub(super) async fn spoken(stream: &TcpStream) -> std::io::Result<Spoken> {
    let mut begin = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut begin).await?;
        match &begin[..count] {
            [] => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            [HANDSHAKE, ..] => return Ok(Spoken::Tls),
            found if found == PREFACE => return Ok(Spoken::Http2),
            found if PREFACE.starts_with(found) => tokio::time::sleep(LOOK).await,
            _ => return Ok(Spoken::Http1),
        }
    }
}

/// Waits until the client has ended its side. While a request with a body is held nobody reads, and so nobody else would see that.
pub(super) async fn hung_up(socket: OwnedFd) {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        tokio::time::sleep(STILL_THERE).await;
        let mut watched = [PollFd::new(&socket, PollFlags::RDHUP)];
        let is_known = poll(&mut watched, Some(&at_once)).is_ok();
        if is_known && watched[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
    }
}
