//! Sockets: taken in, tuned, given to HTTP/2, aged, and sent home at the end. Knows nothing of calls.

use std::{
    future::{Future, pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    Options,
    dispatch::{Calls, Dispatch},
    gate::Gate,
    socket::{Outbox, Socket},
};

/// Bytes a client may send ahead of being read, per call and per connection: tensors rather than documents.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Largest piece of a message taken at once: big tensors come in few pieces.
const MAX_FRAME: u32 = 1 << 20;
/// Calls one connection may have open. Queues behind have limits of their own.
const MAX_CALLS: u32 = 8192;
/// Calls given up before they were looked at: many deadlines at once are no attack.
const MAX_RESETS: usize = 1024;
/// What connections get to close after their last call.
const GOODBYE: Duration = Duration::from_secs(1);
/// Pause when the process has no file or memory left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Serves connections until `shutdown`, then until the gate is empty, then until they are closed. From `leaving` on they are
/// asked to end once their calls are answered.
pub(crate) async fn serve(
    listener: TcpListener,
    dispatch: Dispatch,
    gate: &Arc<Gate>,
    options: &Options,
    leaving: impl Future<Output = ()>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    // Heard by the connections of that moment: one that comes while the server leaves is served like any other.
    let (goodbye, _) = watch::channel(());
    let mut connections = JoinSet::new();
    let start = |stream: TcpStream, connections: &mut JoinSet<()>| {
        // Small answers leave at once instead of waiting for more.
        if let Err(error) = stream.set_nodelay(true) {
            debug!("connection without TCP_NODELAY: {error}");
        }
        let connection =
            serve_connection(stream, dispatch.another(), builder(options), ages(options), goodbye.subscribe());
        connections.spawn(connection);
    };
    let mut shutdown = pin!(shutdown);
    let leaves_first = async {
        tokio::select! {
            () = leaving => true,
            () = &mut shutdown => false,
        }
    };
    if accept_until(&listener, &mut connections, start, leaves_first).await? {
        goodbye.send_replace(());
        accept_until(&listener, &mut connections, start, shutdown).await?;
    }
    // Callers that still come are told why they are refused, until the last call inside has its answer.
    gate.close();
    accept_until(&listener, &mut connections, start, gate.empty()).await?;
    drop(listener);
    goodbye.send_replace(());
    let _ = timeout(GOODBYE, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Takes connections until `end`, and gives what it ended with.
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

/// A caller that was gone before it was greeted.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Out of files or memory: closing connections give some back.
fn is_exhausted(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS))
}

fn builder(options: &Options) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(options.keepalive_time)
        .keep_alive_timeout(options.keepalive_timeout)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(MAX_CALLS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .auto_date_header(false);
    builder
}

/// When a connection is asked to end, and how much later it must.
#[derive(Clone, Copy)]
struct Ages {
    soft: Option<Duration>,
    grace: Option<Duration>,
}

fn ages(options: &Options) -> Ages {
    Ages { soft: options.max_connection_age, grace: options.max_connection_age_grace }
}

async fn serve_connection(
    stream: TcpStream,
    dispatch: Dispatch,
    builder: http2::Builder<TokioExecutor>,
    ages: Ages,
    mut goodbye: watch::Receiver<()>,
) {
    let (socket, outbox) = Socket::new(stream);
    let calls = dispatch.calls();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), dispatch));
    let leave = async {
        tokio::select! {
            _ = goodbye.changed() => false,
            () = sleep_or_never(ages.soft) => true,
        }
    };
    let is_old = tokio::select! {
        () = drive(connection.as_mut(), &calls, &outbox) => return,
        is_old = leave => is_old,
    };
    connection.as_mut().graceful_shutdown();
    let grace = if is_old { ages.grace } else { None };
    tokio::select! {
        () = drive(connection, &calls, &outbox) => {}
        () = sleep_or_never(grace) => debug!("connection closed at its maximum age"),
    }
}

/// Runs a connection to its end, sending what each turn produced at once.
///
/// A batch wakes many calls of one connection. The runtime would run the connection right after the first of them, which
/// sends one small answer with a system call of its own, and again after the second. So while other calls are under way,
/// the tasks that are ready go first: that saves most of the system calls, which are most of the work. A lone caller
/// does not wait.
async fn drive(mut connection: Pin<&mut impl Future<Output = hyper::Result<()>>>, calls: &Calls, outbox: &Outbox) {
    let mut has_waited = false;
    poll_fn(|context| {
        has_waited = !has_waited && calls.are_under_way();
        if has_waited {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let turn = connection.as_mut().poll(context);
        let sent = outbox.poll_send(context);
        // Broken connections are everyday: clients die, scanners send other protocols.
        if let Poll::Ready(Err(error)) = &turn {
            debug!("gRPC connection ended: {error}");
        }
        if let Poll::Ready(Err(error)) = &sent {
            debug!("gRPC connection broke: {error}");
            return Poll::Ready(());
        }
        turn.map(|_| ())
    })
    .await;
}

async fn sleep_or_never(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
        None => pending().await,
    }
}
