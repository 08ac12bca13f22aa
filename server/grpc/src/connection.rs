//! Connections: accepted, configured, served as HTTP/2, closed at their maximum age or at shutdown. Knows nothing of calls.

use std::{
    future::{Future, pending, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use http::Response;
use server_http2::{Config, Connection, End, KeepAlive, UnreadBudget};
use server_tls::{Acceptor, Stream};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinSet, coop::unconstrained},
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::Status;
use tracing::{debug, warn};

use crate::{Options, admission::Admission, dispatch::Dispatch};

/// Largest flow-control windows of HTTP/2, per call and per connection, in bytes: sized for tensors. A picture of 640 x 640
/// numbers in three colours has 4.9 MB, and need not wait.
const MAX_STREAM_WINDOW: u32 = 8 << 20;
const MAX_CONNECTION_WINDOW: u32 = 32 << 20;
/// Smallest windows: what every HTTP/2 connection begins with.
const MIN_WINDOW: u32 = 65_535;
/// What arrives within a window is in memory before it is read and reserved, so that a connection may have a small part of
/// the budget there.
const CONNECTIONS_PER_BUDGET: usize = 64;
/// Streams that do not read what they are sent may have so small a part of the budget in memory besides, all together, so that
/// other calls on their connections go on; and so many bytes where there is no budget.
const UNREAD_PER_BUDGET: usize = 4;
const MAX_UNREAD: usize = 256 << 20;
/// Largest HTTP/2 frame accepted, in bytes.
const MAX_FRAME: u32 = 1 << 20;
/// Calls one connection may have open. The queues of models have limits of their own.
const MAX_CALLS: u32 = 8192;
/// Largest list of headers of a call, as HTTP/2 counts it, in bytes.
const MAX_HEADER_LIST: u32 = 16 << 10;
/// A connection that is silent for so long is probed by TCP. It detects a host that is gone while the keepalive of HTTP/2,
/// two hours by default, still waits.
const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// How long connections may take to close after their last call.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often connections are asked to end while the server leaves.
const LEAVING_INTERVAL: Duration = Duration::from_secs(1);
/// Pause when the process has no file descriptor or memory left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Serves connections until `shutdown`, then until no inference call is in flight, then until they are closed. While what `leaving`
/// makes completes at once, the connections of each second are asked to end once their calls are answered.
pub(crate) async fn serve<L: Future<Output = ()>>(
    listener: TcpListener,
    dispatch: Dispatch,
    admission: &Arc<Admission>,
    options: &Options,
    leaving: impl Fn() -> L,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    // Received by the connections of that moment: one accepted later is served like any other.
    let (close_requested, _) = watch::channel(());
    let mut connections = JoinSet::new();
    let too_large = Arc::new(too_large());
    let unread = UnreadBudget::new(options.byte_budget.limit().map_or(MAX_UNREAD, |bytes| bytes / UNREAD_PER_BUDGET));
    let start = |stream: TcpStream, connections: &mut JoinSet<()>| {
        if let Err(error) = set_options(&stream) {
            debug!("connection without the options of TCP: {error}");
        }
        let server = Server {
            dispatch: dispatch.for_connection(&stream),
            config: config(options, &unread, &too_large),
            ages: ages(options),
            close_requested: close_requested.subscribe(),
        };
        match &options.tls {
            None => connections.spawn(unconstrained(server.serve(stream.into()))),
            Some(tls) => connections.spawn(unconstrained(server.serve_encrypted(tls.clone(), stream))),
        };
    };
    let mut shutdown = pin!(shutdown);
    loop {
        let leaves_first = async {
            tokio::select! {
                () = leaving() => true,
                () = &mut shutdown => false,
            }
        };
        if !accept_until(&listener, &mut connections, start, leaves_first).await? {
            break;
        }
        // clients that have nowhere else to go come back, and are asked again: somewhere else may have come
        close_requested.send_replace(());
        let stops = async { timeout(LEAVING_INTERVAL, &mut shutdown).await.is_ok() };
        if accept_until(&listener, &mut connections, start, stops).await? {
            break;
        }
    }
    // New calls are refused with the reason until the last call in flight has its response.
    admission.close();
    accept_until(&listener, &mut connections, start, admission.drained()).await?;
    drop(listener);
    close_requested.send_replace(());
    let _ = timeout(CLOSE_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Accepts connections until `end` completes, and returns its value.
async fn accept_until<E>(
    listener: &TcpListener,
    connections: &mut JoinSet<()>,
    start: impl Fn(TcpStream, &mut JoinSet<()>),
    end: impl Future<Output = E>,
) -> io::Result<E> {
    let mut end = pin!(end);
    loop {
        tokio::select! {
            biased;
            ended = &mut end => return Ok(ended),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => start(stream, connections),
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) if is_exhausted(&error) => {
                    warn!("cannot take a gRPC connection: {error}");
                    sleep(EXHAUSTED).await;
                }
                Err(error) => return Err(error),
            },
        }
    }
}

/// The client was gone before its connection was accepted.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Out of file descriptors or memory: connections that close free some.
fn is_exhausted(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS))
}

/// Small responses are sent at once instead of waiting for more; hosts that are gone are detected.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, TCP_KEEPALIVE_IDLE)?;
    Ok(())
}

/// Flow-control windows of a call and of a connection, for that many bytes of requests in flight. A call has a quarter of its
/// connection's, so that what is sent for a call that is refused does not hold the others up.
fn windows(budget: Option<usize>) -> (u32, u32) {
    let share = budget.map_or(usize::MAX, |bytes| bytes / CONNECTIONS_PER_BUDGET);
    let share = u32::try_from(share).unwrap_or(u32::MAX);
    ((share / 4).clamp(MIN_WINDOW, MAX_STREAM_WINDOW), share.clamp(MIN_WINDOW, MAX_CONNECTION_WINDOW))
}

/// The answer to a call with too much metadata; other servers of gRPC begin it with the same words.
fn too_large() -> Response<()> {
    let text = format!(
        "received metadata size exceeds hard limit ({MAX_HEADER_LIST} bytes, names and 32 bytes for each entry included): send less metadata"
    );
    Status::resource_exhausted(text).into_http()
}

fn config(options: &Options, unread: &Arc<UnreadBudget>, too_large: &Arc<Response<()>>) -> Config {
    let (stream_window, connection_window) = windows(options.byte_budget.limit());
    Config {
        stream_window,
        connection_window,
        unread: unread.clone(),
        max_frame: MAX_FRAME,
        max_calls: MAX_CALLS,
        max_header_list: MAX_HEADER_LIST,
        too_large: too_large.clone(),
        pings: options.pings,
        keep_alive: KeepAlive {
            time: options.keepalive_time,
            timeout: options.keepalive_timeout,
            pings_without_calls: options.pings.permits_without_calls,
        },
        handshake_end: Instant::now() + options.handshake_timeout,
    }
}

/// After how long a connection is asked to end, and how much later it is closed.
#[derive(Clone, Copy)]
struct Ages {
    soft: Option<Duration>,
    grace: Option<Duration>,
}

fn ages(options: &Options) -> Ages {
    Ages { soft: options.max_connection_age, grace: options.max_connection_age_grace }
}

/// What serves one connection.
struct Server {
    dispatch: Dispatch,
    config: Config,
    ages: Ages,
    close_requested: watch::Receiver<()>,
}

impl Server {
    async fn serve(self, stream: Stream) {
        let Self { dispatch, config, ages, mut close_requested } = self;
        let answer = |request, body| dispatch.answer(request, body);
        let mut connection = Connection::new(stream, &config, answer);
        let leave = async {
            tokio::select! {
                _ = close_requested.changed() => false,
                () = sleep_or_never(ages.soft) => true,
            }
        };
        let mut end = tokio::select! {
            end = poll_fn(|context| connection.poll(context)) => Some(end),
            is_old = leave => {
                connection.leave();
                let grace = if is_old { ages.grace } else { None };
                tokio::select! {
                    end = poll_fn(|context| connection.poll(context)) => Some(end),
                    () = sleep_or_never(grace) => None,
                }
            }
        };
        if end.is_none() {
            debug!("connection closed: it has reached its maximum age");
            end = Some(End::Broken);
        }
        if end == Some(End::Complete) {
            let _ = timeout(CLOSE_TIMEOUT, poll_fn(|context| connection.poll_close(context))).await;
        }
    }

    /// The same after the handshake of TLS. A connection that has none when connections are asked to end is dropped:
    /// its client has asked for nothing.
    async fn serve_encrypted(mut self, tls: Acceptor, socket: TcpStream) {
        let accepted = tokio::select! {
            accepted = timeout_at(self.config.handshake_end, tls.accept(socket)) => accepted,
            _ = self.close_requested.changed() => return,
        };
        match accepted {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => debug!("TLS handshake failed: {error}"),
            Err(_) => debug!("connection closed: no TLS handshake came in time"),
        }
    }
}

async fn sleep_or_never(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_a_small_part_of_the_budget() {
        assert_eq!(windows(None), (8 << 20, 32 << 20));
        assert_eq!(windows(Some(4 << 30)), (8 << 20, 32 << 20));
        assert_eq!(windows(Some(128 << 20)), (512 << 10, 2 << 20));
        assert_eq!(windows(Some(1000)), (65_535, 65_535));
    }

    #[tokio::test]
    async fn hosts_that_are_gone_are_detected_by_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_options(&stream).unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(rustix::net::sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(rustix::net::sockopt::tcp_keepidle(&stream).unwrap(), TCP_KEEPALIVE_IDLE);
    }
}
