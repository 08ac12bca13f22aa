//! Sockets: connections are accepted and driven until the shutdown comes, then what runs is finished.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::{HeaderValue, Request, Response, header::CONNECTION};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
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
    answer::{Server, answer},
    body::Body,
    connection::{Activity, Patience, Watched},
    metrics::Metrics,
};

/// How often a connection is looked at; a client may keep it waiting for one to two of these.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// The same during the shutdown: nobody waits for a request that does not arrive.
const LAST_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait when the system has no more sockets to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Largest head of a request. Units: bytes.
const MAX_HEAD: usize = 64 << 10;
/// Silence after which a peer is asked whether it is still there.
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

/// What answers requests.
pub(crate) trait Application: Send + Sync + 'static {
    /// Answers one.
    fn answer(&self, activity: &Activity, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;

    /// Whether connections should end with their next answer, so that callers go elsewhere.
    fn is_leaving(&self) -> bool;
}

impl Application for Server {
    fn answer(&self, activity: &Activity, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send {
        answer(self, activity, request)
    }

    fn is_leaving(&self) -> bool {
        self.engine.is_leaving()
    }
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
    let _ = stop.send(()); // nobody listens if there are no connections
    stop.closed().await; // each connection holds a receiver
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// What the requests of one connection share: one handle to copy per request, that no other connection touches.
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
    let io = TokioIo::new(Watched::new(stream, activity.clone()));
    let connection = http1::Builder::new()
        .auto_date_header(false) // Triton sends none
        .max_header_size(MAX_HEAD)
        .serve_connection(io, service);

    let mut connection = pin!(connection);
    let mut has_stopped = stop.clone();
    let mut has_stopped = pin!(has_stopped.changed());
    let mut is_stopping = false;
    let mut next_look = pin!(sleep(LOOK_INTERVAL));
    let mut patience = Patience::default();
    let mut is_first = true;
    // The stop signal and the timer are asked when they have something to say, not on every wake-up of a busy
    // connection: both keep the waker of the first time, and a task's waker stays the same.
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
                next_look.as_mut().reset(Instant::now() + LAST_LOOK_INTERVAL);
                is_first = true;
                is_done = false;
            }
            if is_first || next_look.is_elapsed() {
                while next_look.as_mut().poll(context).is_ready() {
                    if patience.is_over(&activity) {
                        debug!("a client kept its connection waiting for too long");
                        return Poll::Ready(());
                    }
                    let interval = if is_stopping { LAST_LOOK_INTERVAL } else { LOOK_INTERVAL };
                    next_look.as_mut().reset(Instant::now() + interval);
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
