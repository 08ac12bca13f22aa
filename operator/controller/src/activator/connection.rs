//! One connection of a client, HTTP/1.1, HTTP/2 or TLS, whichever its first bytes are. It is told to end once its server's Service leads
//! elsewhere; what is under way on it ends first.

use std::{convert::Infallible, os::fd::AsFd, pin::pin, sync::Arc, time::Duration};

use hyper::{
    Request,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::watch};

use super::{
    client_socket::{PATIENCE, Spoken, hung_up, spoken},
    forward::Forward,
    hold::Gate,
    tunnel,
};
use crate::keep_alive;

/// Longest head of a request, and what is read ahead of its body.
const HEAD: usize = 64 << 10;
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// Calls of one connection at the same time.
const CALLS: u32 = 256;
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
