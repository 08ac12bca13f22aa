//! Sockets: accepts and drives connections until the shutdown, then finishes what runs.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::{HeaderValue, header::CONNECTION};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use server_core::byte_budget::ByteBudget;
use server_engine::Engine;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use crate::{
    Options,
    application::Application,
    connection::{Activity, MonitoredStream, StallDetector},
    metrics::Metrics,
    server::Server,
};

/// How often a connection is checked for a stalled client; one is closed after one to two of these.
const STALL_INTERVAL: Duration = Duration::from_secs(30);
/// The same during the shutdown, which does not wait for a request that does not arrive.
const STOPPING_STALL_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after an `accept` that failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Largest head of a request. Units: bytes.
const MAX_HEAD: usize = 64 << 10;
/// Silence after which TCP probes a peer.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Serves the inference protocol until `shutdown` is ready, and returns when the last answer is sent.
///
/// From then on nothing is accepted, idle connections are closed, and running requests are answered with
/// `Connection: close`. How long to wait for that is for the caller to decide: dropping the future leaves the
/// connections to themselves.
pub async fn serve(listener: TcpListener, engine: Arc<Engine>, options: Options, shutdown: impl Future<Output = ()>) {
    accept(listener, Arc::new(Server { engine, options }), shutdown).await;
}

/// Serves the metrics page until `shutdown` is ready: `GET /metrics` in Prometheus' text format. `byte_budget` is that
/// of the front ends.
pub async fn serve_metrics(
    listener: TcpListener,
    engine: Arc<Engine>,
    byte_budget: Arc<ByteBudget>,
    shutdown: impl Future<Output = ()>,
) {
    accept(listener, Arc::new(Metrics::new(engine, byte_budget)), shutdown).await;
}

async fn accept(listener: TcpListener, application: Arc<impl Application>, shutdown: impl Future<Output = ()>) {
    let (stop, stopping) = watch::channel(());
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(connection(stream, application.clone(), stopping.clone()));
                }
                Err(error) if is_about_one_connection(&error) => debug!(%error, "a connection ended before it began"),
                Err(error) => {
                    warn!(%error, "cannot accept connections");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    drop(stopping);
    let _ = stop.send(()); // fails only if there are no connections
    stop.closed().await; // each connection holds a receiver
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// What the requests of one connection share: one reference count per request, that no other connection touches.
struct Shared<A> {
    application: Arc<A>,
    activity: Arc<Activity>,
}

/// Drives one connection to its end.
async fn connection(stream: TcpStream, application: Arc<impl Application>, stop: watch::Receiver<()>) {
    if let Err(error) = set_options(&stream) {
        debug!(%error, "a socket option could not be set");
    }
    let activity = Arc::new(Activity::default());
    let shared = Arc::new(Shared { application, activity: activity.clone() });
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move {
            shared.activity.request_begun();
            let mut response = shared.application.answer(&shared.activity, request).await;
            if shared.application.is_leaving() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            shared.activity.answered();
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(MonitoredStream::new(stream, activity.clone()));
    let connection = http1::Builder::new()
        .auto_date_header(false) // Triton sends none
        .max_header_size(MAX_HEAD)
        .serve_connection(io, service);

    let mut connection = pin!(connection);
    let mut has_stopped = stop.clone();
    let mut has_stopped = pin!(has_stopped.changed());
    let mut is_stopping = false;
    let mut next_check = pin!(sleep(STALL_INTERVAL));
    let mut stalls = StallDetector::default();
    let mut is_first = true;
    // The stop signal and the timer are polled only when they may be ready, not on every wake-up of a busy connection:
    // both keep the waker of the first poll, and a task's waker stays the same.
    poll_fn(|context| {
        loop {
            if let Poll::Ready(outcome) = connection.as_mut().poll(context) {
                if let Err(error) = outcome {
                    debug!(%error, "a connection ended early");
                }
                return Poll::Ready(());
            }
            let mut is_done = true;
            if !is_stopping
                && (is_first || stop.has_changed().unwrap_or(true))
                && has_stopped.as_mut().poll(context).is_ready()
            {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
                next_check.as_mut().reset(Instant::now() + STOPPING_STALL_INTERVAL);
                is_first = true;
                is_done = false;
            }
            if is_first || next_check.is_elapsed() {
                while next_check.as_mut().poll(context).is_ready() {
                    if stalls.is_stalled(&activity) {
                        debug!("a connection is closed because its client has stalled");
                        return Poll::Ready(());
                    }
                    let interval = if is_stopping { STOPPING_STALL_INTERVAL } else { STALL_INTERVAL };
                    next_check.as_mut().reset(Instant::now() + interval);
                }
            }
            is_first = false;
            if is_done {
                return Poll::Pending;
            }
        }
    })
    .await;
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    Ok(())
}
