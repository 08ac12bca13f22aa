//! One connection of a client, HTTP/1.1, HTTP/2 or TLS, whichever its first bytes are. It is told to end once its server's Service leads
//! elsewhere; what is under way on it ends first.

use std::{
    convert::Infallible,
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hyper::{
    Request,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{net::TcpStream, sync::watch};

use super::{forward::Forward, hold::Gate, tunnel};
use crate::keep_alive;

/// How an HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// How long a client may take with its first bytes, and with the head of a request; a connection without requests is closed then.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at first bytes that have come in part.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// Longest head of a request, and what is read ahead of its body.
const HEAD: usize = 64 << 10;
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// Calls of one connection at the same time.
const CALLS: u32 = 256;
/// Between looks whether a client is still there.
const STILL_THERE: Duration = Duration::from_secs(1);
/// Between probes of a connection, and how long a client may give no sign of life.
const PROBE: Duration = Duration::from_secs(30);
const GONE: Duration = Duration::from_secs(120);

/// Serves a connection to its end; `closing` says that the activator ends.
pub(super) async fn serve(stream: TcpStream, gate: Arc<Gate>, forward: Forward, mut closing: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let _ = keep_alive::watch(&stream, PROBE, GONE);
    let spoken = tokio::select! {
        found = tokio::time::timeout(PATIENCE, spoken(&stream)) => match found {
            Ok(Ok(spoken)) => spoken,
            _ => return, // nothing came
        },
        _ = closing.wait_for(|closing| *closing) => return,
    };
    let to_end = {
        let gate = Arc::clone(&gate);
        async move {
            tokio::select! {
                () = gate.led_elsewhere() => {}
                _ = closing.wait_for(|closing| *closing) => {}
            }
        }
    };
    if spoken == Spoken::Tls {
        return tunnel::serve(stream, &gate, forward.ports(), to_end).await;
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let (gate, forward) = (Arc::clone(&gate), forward.clone());
        // boxed: a call waits for long, and its connection polls all of them
        Box::pin(async move { Ok::<_, Infallible>(forward.answer(&gate, request).await) })
    });
    let mut to_end = pin!(to_end);
    // clients come and go: how a connection ends is none of our business
    if spoken == Spoken::Http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(CALLS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(STREAM_WINDOW)
            .keep_alive_interval(PROBE)
            .keep_alive_timeout(PROBE)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        tokio::select! {
            _ = &mut connection => return,
            () = &mut to_end => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
        let mut gone = pin!(hung_up(socket));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        tokio::select! {
            _ = &mut connection => return,
            () = &mut gone => return,
            () = &mut to_end => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            _ = &mut connection => {}
            () = &mut gone => {}
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

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
    Tls,
}

/// What the client speaks. Nothing is taken off.
async fn spoken(stream: &TcpStream) -> std::io::Result<Spoken> {
    let mut begin = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut begin).await?;
        match &begin[..count] {
            [] => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            [tunnel::HANDSHAKE, ..] => return Ok(Spoken::Tls),
            found if found == PREFACE => return Ok(Spoken::Http2),
            found if PREFACE.starts_with(found) => tokio::time::sleep(LOOK).await,
            _ => return Ok(Spoken::Http1),
        }
    }
}
