//! Connections: accepted, configured, served as HTTP/2, closed at their maximum age or at shutdown. Knows nothing of calls.

use std::{
    future::{Future, pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use server_tls::{Acceptor, Stream};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tracing::{debug, warn};

use crate::{
    Options,
    admission::Admission,
    dispatch::{Calls, Dispatch},
    keepalive::{KeepAlive, unanswered},
    pings::{PingPolicy, Pings},
    socket::{Socket, WriteBuffer, yield_turn},
};

/// Largest flow-control windows of HTTP/2, per call and per connection, in bytes: sized for tensors.
const MAX_STREAM_WINDOW: u32 = 4 << 20;
const MAX_CONNECTION_WINDOW: u32 = 16 << 20;
/// Smallest windows: what every HTTP/2 connection begins with.
const MIN_WINDOW: u32 = 65_535;
/// What arrives within a window is in memory before it is read and reserved, so that a connection may have a small part of
/// the budget there.
const CONNECTIONS_PER_BUDGET: usize = 64;
/// Largest HTTP/2 frame accepted, in bytes.
const MAX_FRAME: u32 = 1 << 20;
/// Calls one connection may have open. The queues of models have limits of their own.
const MAX_CALLS: u32 = 8192;
/// Calls a client may reset before the server has accepted them: many expired deadlines at once are no attack.
const MAX_RESETS: usize = 1024;
/// A connection that is silent for so long is probed by TCP. It detects a host that is gone while the keepalive of HTTP/2,
/// two hours by default, still waits.
const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// How long a client may leave everything unread that was sent to it before its connection is closed; up to twice that.
/// Long, for a socket accepts more only once a good part of its buffer, some megabytes, is read.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(300);
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
    let start = |stream: TcpStream, connections: &mut JoinSet<()>| {
        if let Err(error) = set_options(&stream) {
            debug!("connection without the options of TCP: {error}");
        }
        let server = Server {
            dispatch: dispatch.for_connection(&stream),
            builder: builder(options),
            ages: ages(options),
            keep_alive: keep_alive(options),
            pings: options.pings,
            handshake_end: Instant::now() + options.handshake_timeout,
            close_requested: close_requested.subscribe(),
        };
        match &options.tls {
            None => connections.spawn(server.serve(stream.into())),
            Some(tls) => connections.spawn(server.serve_encrypted(tls.clone(), stream)),
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

fn builder(options: &Options) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (stream_window, connection_window) = windows(options.byte_budget.limit());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(MAX_CALLS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .auto_date_header(false);
    builder
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

fn keep_alive(options: &Options) -> KeepAlive {
    KeepAlive {
        time: options.keepalive_time,
        timeout: options.keepalive_timeout,
        pings_without_calls: options.pings.permits_without_calls,
    }
}

/// What serves one connection.
struct Server {
    dispatch: Dispatch,
    builder: http2::Builder<TokioExecutor>,
    ages: Ages,
    keep_alive: KeepAlive,
    pings: PingPolicy,
    handshake_end: Instant,
    close_requested: watch::Receiver<()>,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody reads what would be sent.
    Broken,
    /// What was sent last, answers or the word to leave, is on its way still: a socket that is closed while the client sends
    /// loses it.
    Complete,
}

impl Server {
    async fn serve(self, stream: Stream) {
        let (socket, write_buffer) = Socket::new(stream, self.dispatch.calls().large_parts().clone());
        // when this is over, the calls of the connection are cancelled
        if self.run(socket, &write_buffer).await == End::Complete {
            let _ = timeout(CLOSE_TIMEOUT, poll_fn(|context| write_buffer.poll_close(context))).await;
        }
    }

    async fn run(self, socket: Socket, write_buffer: &WriteBuffer) -> End {
        let Self { dispatch, builder, ages, keep_alive, pings, handshake_end, mut close_requested } = self;
        let calls = dispatch.calls();
        let answer = service_fn(move |request| dispatch.answer(request));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), answer));
        let leave = async {
            tokio::select! {
                _ = close_requested.changed() => false,
                () = sleep_or_never(ages.soft) => true,
            }
        };
        let mut waits = pin!(async {
            tokio::select! {
                reason = stalled(write_buffer, handshake_end) => reason,
                () = unanswered(write_buffer, &calls, keep_alive) => "the client does not answer a keepalive ping",
            }
        });
        let mut pings = Pings::new(pings);
        let closed = |reason: &str| {
            debug!("connection closed: {reason}");
            End::Broken
        };
        let is_old = tokio::select! {
            end = drive(connection.as_mut(), &calls, write_buffer, &mut pings) => return end,
            reason = &mut waits => return closed(reason),
            is_old = leave => is_old,
        };
        connection.as_mut().graceful_shutdown();
        let grace = if is_old { ages.grace } else { None };
        tokio::select! {
            end = drive(connection, &calls, write_buffer, &mut pings) => end,
            reason = waits => closed(reason),
            () = sleep_or_never(grace) => closed("it has reached its maximum age"),
        }
    }

    /// The same after the handshake of TLS. A connection that has none when connections are asked to end is dropped:
    /// its client has asked for nothing.
    async fn serve_encrypted(mut self, tls: Acceptor, socket: TcpStream) {
        let accepted = tokio::select! {
            accepted = timeout_at(self.handshake_end, tls.accept(socket)) => accepted,
            _ = self.close_requested.changed() => return,
        };
        match accepted {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => debug!("TLS handshake failed: {error}"),
            Err(_) => debug!("connection closed: no TLS handshake came in time"),
        }
    }
}

/// Completes when the client keeps the connection waiting for too long, with the reason.
async fn stalled(write_buffer: &WriteBuffer, handshake_end: Instant) -> &'static str {
    sleep_until(handshake_end).await;
    if !write_buffer.is_handshake_received() {
        return "no HTTP/2 handshake came in time";
    }
    let mut blocked_at = None;
    loop {
        sleep(UNREAD_TIMEOUT).await;
        let now = write_buffer.blocked_at();
        if now.is_some() && now == blocked_at {
            return "the client does not read";
        }
        blocked_at = now;
    }
}

/// Runs a connection to its end, sending what each poll produced with one system call.
///
/// A batch wakes many calls of one connection. The runtime would poll the connection right after the first of them, which
/// sends one small response with a system call of its own, and again after the second. So when a call was answered while
/// others are in flight, the connection yields once to the tasks that are ready: that saves most of the system calls, which
/// are most of the work. A lone call does not wait, and neither does what arrives.
async fn drive(
    mut connection: Pin<&mut impl Future<Output = hyper::Result<()>>>,
    calls: &Calls,
    write_buffer: &WriteBuffer,
    pings: &mut Pings,
) -> End {
    let mut answered = 0;
    let mut has_yielded = false;
    poll_fn(|context| {
        let answered_now = calls.answered();
        has_yielded = !has_yielded && answered_now != answered && calls.are_in_flight();
        if has_yielded {
            ready!(yield_turn(context));
        }
        answered = answered_now;
        let polled = connection.as_mut().poll(context);
        if are_too_many(write_buffer, calls, pings) {
            debug!("connection closed: the client pings too often");
            write_buffer.tell_too_many_pings();
            return Poll::Ready(End::Complete);
        }
        let sent = write_buffer.poll_send(context);
        // Broken connections are common: clients die, scanners send other protocols.
        if let Poll::Ready(Err(error)) = &polled {
            debug!("gRPC connection ended: {error}");
        }
        if let Poll::Ready(Err(error)) = &sent {
            debug!("gRPC connection broke: {error}");
            return Poll::Ready(End::Broken);
        }
        polled.map(|ended| if ended.is_ok() { End::Complete } else { End::Broken })
    })
    .await
}

/// Whether the client has pinged too often, with what came last.
fn are_too_many(write_buffer: &WriteBuffer, calls: &Calls, pings: &mut Pings) -> bool {
    let count = write_buffer.take_pings();
    if count == 0 {
        return false;
    }
    if write_buffer.take_has_sent_for_calls() {
        pings.forget();
    }
    let (now, has_calls) = (Instant::now(), calls.are_open());
    (0..count).any(|_| pings.is_too_many(now, has_calls))
}

async fn sleep_or_never(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::socket::tests::pair;

    const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_no_handshake_or_reads_nothing_is_noticed() {
        let (mut client, mut socket, write_buffer) = pair().await;
        assert_eq!(
            stalled(&write_buffer, Instant::now() + HANDSHAKE_TIMEOUT).await,
            "no HTTP/2 handshake came in time"
        );
        client.write_all(&[0; 33]).await.unwrap();
        socket.read_exact(&mut [0; 33]).await.unwrap();
        // Writes until the socket takes no more, which the client never reads.
        let unread = async { while socket.write_all(&[0; 64 << 10]).await.is_ok() {} };
        tokio::select! {
            reason = stalled(&write_buffer, Instant::now() + HANDSHAKE_TIMEOUT) => assert_eq!(reason, "the client does not read"),
            () = unread => panic!("the connection broke"),
        }
    }

    /// Reads so many bytes without letting the runtime become idle: a paused clock runs on then, though bytes are on their way.
    async fn read_without_idling(client: &TcpStream, mut left: usize) {
        let mut buffer = vec![0; 64 << 10];
        while left > 0 {
            let most = left.min(buffer.len());
            match client.try_read(&mut buffer[..most]) {
                Ok(0) => panic!("the connection ended"),
                Ok(count) => left -= count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_or_is_idle_is_not_stalled() {
        let (mut client, mut socket, write_buffer) = pair().await;
        client.write_all(&[0; 33]).await.unwrap();
        socket.read_exact(&mut [0; 33]).await.unwrap();
        let reads_slowly = async {
            for _ in 0..60 {
                sleep(UNREAD_TIMEOUT / 2).await;
                let blocked_at = write_buffer.blocked_at();
                read_without_idling(&client, 8 << 20).await;
                while blocked_at.is_some() && write_buffer.blocked_at() == blocked_at {
                    tokio::task::yield_now().await; // the same holds until the kernel says that there is space
                }
            }
        };
        tokio::select! {
            reason = stalled(&write_buffer, Instant::now() + HANDSHAKE_TIMEOUT) => panic!("{reason}"),
            () = async { while socket.write_all(&[0; 64 << 10]).await.is_ok() {} } => panic!("the connection broke"),
            () = reads_slowly => {}
        }
        let (mut client, mut socket, write_buffer) = pair().await;
        client.write_all(&[0; 33]).await.unwrap();
        socket.read_exact(&mut [0; 33]).await.unwrap();
        tokio::select! {
            reason = stalled(&write_buffer, Instant::now() + HANDSHAKE_TIMEOUT) => panic!("{reason}"),
            () = sleep(UNREAD_TIMEOUT * 10) => {}
        }
    }

    #[test]
    fn windows_are_a_small_part_of_the_budget() {
        assert_eq!(windows(None), (4 << 20, 16 << 20));
        assert_eq!(windows(Some(4 << 30)), (4 << 20, 16 << 20));
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
