//! Sockets: accepts connections until the shutdown, then waits for those that run.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use server_core::byte_budget::ByteBudget;
use server_engine::Engine;
use server_tls::{AcceptError, Acceptor};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    application::Application,
    drive::{drive, refuse_plain},
    metrics::Metrics,
    options::Options,
    sagemaker::{SageMaker, SageMakerOptions},
    server::Server,
    transport::Transport,
    vertex_ai::{VertexAi, VertexAiRoutes},
};

/// Pause after an `accept` that failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Silence after which TCP probes a peer.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// How long a client may take for its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves the inference protocol until `shutdown` is ready, and returns when the last answer is sent.
///
/// From then on nothing is accepted, idle connections are closed, and running requests are answered with
/// `Connection: close`. How long to wait for that is for the caller to decide: dropping the future leaves the
/// connections to themselves.
pub async fn serve(listener: TcpListener, engine: Arc<Engine>, options: Options, shutdown: impl Future<Output = ()>) {
    let tls = options.tls.clone();
    accept_network(listener, tls, Arc::new(Server { engine, options }), shutdown).await;
}

/// Serves the metrics page until `shutdown` is ready: `GET /metrics` in Prometheus' text format, encrypted
/// with `tls`. `byte_budget` is that of the front ends.
pub async fn serve_metrics(
    listener: TcpListener,
    engine: Arc<Engine>,
    byte_budget: Arc<ByteBudget>,
    tls: Option<Acceptor>,
    shutdown: impl Future<Output = ()>,
) {
    accept_network(listener, tls, Arc::new(Metrics::new(engine, byte_budget)), shutdown).await;
}

/// Serves SageMaker's protocol until `shutdown` is ready.
pub async fn serve_sagemaker(
    listener: TcpListener,
    engine: Arc<Engine>,
    options: Options,
    sagemaker: SageMakerOptions,
    shutdown: impl Future<Output = ()>,
) {
    accept_network(listener, None, Arc::new(SageMaker::new(engine, options, sagemaker)), shutdown).await;
}

/// Serves Vertex AI's protocol until `shutdown` is ready.
pub async fn serve_vertex_ai(
    listener: TcpListener,
    engine: Arc<Engine>,
    options: Options,
    routes: VertexAiRoutes,
    shutdown: impl Future<Output = ()>,
) {
    accept_network(listener, None, Arc::new(VertexAi::new(engine, options, routes)), shutdown).await;
}

/// Serves the inference protocol to this machine, as [`serve`] does to the network; never encrypted.
pub async fn serve_local(
    listener: UnixListener,
    engine: Arc<Engine>,
    options: Options,
    shutdown: impl Future<Output = ()>,
) {
    let application = Arc::new(Server { engine, options });
    accept(listener, shutdown, |socket, stopping| {
        tokio::spawn(drive(Transport::Local(socket), application.clone(), stopping));
    })
    .await;
}

/// Takes the connections to a port.
async fn accept_network(
    listener: TcpListener,
    tls: Option<Acceptor>,
    application: Arc<impl Application>,
    shutdown: impl Future<Output = ()>,
) {
    accept(listener, shutdown, |socket: TcpStream, stopping| {
        if let Err(error) = set_options(&socket) {
            debug!(%error, "a socket option could not be set");
        }
        let application = application.clone();
        match &tls {
            None => tokio::spawn(drive(Transport::Network(socket.into()), application, stopping)),
            Some(tls) => tokio::spawn(drive_encrypted(tls.clone(), socket, application, stopping)),
        };
    })
    .await;
}

/// What takes connections.
trait Listener {
    type Socket;

    /// The next connection. Dropping the future loses none.
    fn next(&self) -> impl Future<Output = io::Result<Self::Socket>> + Send;
}

impl Listener for TcpListener {
    type Socket = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for UnixListener {
    type Socket = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

/// Begins each connection that comes, until the shutdown; waits then until the last one is over.
async fn accept<L: Listener>(
    listener: L,
    shutdown: impl Future<Output = ()>,
    begin: impl Fn(L::Socket, watch::Receiver<()>),
) {
    let (stop, stopping) = watch::channel(());
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.next() => match accepted {
                Ok(socket) => begin(socket, stopping.clone()),
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

/// Drives a connection after its handshake. One that has none when the server stops has asked for nothing, and is dropped.
async fn drive_encrypted(
    tls: Acceptor,
    socket: TcpStream,
    application: Arc<impl Application>,
    mut stop: watch::Receiver<()>,
) {
    let accepted = tokio::select! {
        accepted = timeout(HANDSHAKE_TIMEOUT, tls.accept(socket)) => accepted,
        _ = stop.changed() => return,
    };
    match accepted {
        Ok(Ok(stream)) => drive(Transport::Network(stream), application, stop).await,
        Ok(Err(AcceptError::NotTls(socket))) => refuse_plain(Transport::Network(socket.into())).await,
        Ok(Err(error)) => debug!(%error, "a handshake failed"),
        Err(_) => debug!("a connection is closed because its handshake took too long"),
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    Ok(())
}
