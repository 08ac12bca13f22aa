//! The life of the server: it serves from the first moment, loads beside that, and leaves in order after a signal.
//!
//! With `--startup-hold-secs`, front ends do not answer until the start-up models are loaded or have failed, or the time is over:
//! callers that connected while one process took over from another wait for models and get no refusal.
//!
//! Order of leaving: callers are sent elsewhere while all is served (`drain.rs`), the engine takes no new work and says so, what
//! runs ends, models unload, front ends close.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use server_core::error::Error;
use server_engine::{Engine, IndexEntry, Leaving, Startup};
use server_tls::LoadError;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{error, info, warn};

use crate::{
    control_socket::ControlSocketError,
    drain::{Drain, Limits, Step},
    listeners::{ListenError, Listener},
    service::Service,
    signals::Signals,
    table::table,
};

/// What connections get at least to take their answers and close, even if the work took all the time there was. Longer
/// than the front ends wait for a request of which only a part arrived: that is no reason to call the exit a bad one.
const CLOSING_TIME: Duration = Duration::from_secs(3);

/// How often it is looked whether callers still come.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// Why the server ends without being asked to, or not as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    #[error("cannot write the log to '{path}': {error}", path = path.display())]
    LogFile { path: PathBuf, error: io::Error },
    #[error("cannot write the access log to '{path}': {error}", path = path.display())]
    AccessLog { path: PathBuf, error: io::Error },
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    ControlSocket(#[from] ControlSocketError),
    #[error("failed to start {} service: Invalid argument - {error}", service.title())]
    Certificates { service: Service, error: LoadError },
    #[error("failed to start {} service: Invalid argument - {reason}", service.title())]
    FrontEndOptions { service: Service, reason: String },
    #[error("creating server: {} - {error}", error.code.text())]
    Start { error: Error },
    #[error("{service} ended: {reason}")]
    FrontEnd { service: String, reason: String },
    #[error("Exit timeout expired. Exiting immediately.")]
    ExitTimeout,
}

/// How the server ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exit {
    /// How long everything is served after a signal, while callers are asked to go elsewhere.
    pub(crate) drain: Limits,
    /// How long work in flight may take.
    pub(crate) timeout: Duration,
    /// Whether a start-up model that fails ends the server.
    pub(crate) on_error: bool,
}

/// Front ends that serve, each in a task of its own.
pub(crate) struct FrontEnds {
    tasks: JoinSet<(String, io::Result<()>)>,
    hold: Duration,
    open: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    /// Each by name, and where it is.
    addresses: Vec<(String, String)>,
}

impl FrontEnds {
    /// None yet. Callers wait until the start-up models are loaded or have failed, but no longer than `hold`.
    pub(crate) fn new(hold: Duration) -> Self {
        let (open, stop) = (watch::Sender::new(hold.is_zero()), watch::Sender::new(false));
        Self { tasks: JoinSet::new(), hold, open, stop, addresses: Vec::new() }
    }

    /// Becomes ready when front ends shall finish their connections and return.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        sent(&self.stop)
    }

    /// Starts one.
    pub(crate) fn add<S>(&mut self, listener: Listener, serve: impl FnOnce(TcpListener) -> S)
    where
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        let Listener { service, address, socket } = listener;
        let opened = timeout(self.hold, sent(&self.open));
        let serve = serve(socket);
        self.spawn(service.to_string(), address.to_string(), async move {
            let _ = opened.await; // sent or not: the time is over
            serve.await
        });
    }

    /// Starts the one at the control socket. Nobody waits there: who controls the server may see how it starts.
    pub(crate) fn add_control(&mut self, path: &Path, serve: impl Future<Output = ()> + Send + 'static) {
        self.spawn("ControlService".to_owned(), path.display().to_string(), async {
            serve.await;
            Ok(())
        });
    }

    fn spawn(&mut self, name: String, address: String, serve: impl Future<Output = io::Result<()>> + Send + 'static) {
        info!("{name} listens at {address}");
        self.addresses.push((name.clone(), address));
        self.tasks.spawn(async move { (name, serve.await) });
    }

    /// Waits for one to end, which none does before it is stopped.
    async fn ended(&mut self) -> Fatal {
        let (service, reason) = match self.tasks.join_next().await {
            Some(Ok((service, Err(error)))) => (service, error.to_string()),
            Some(Ok((service, Ok(())))) => (service, "it ended without being stopped".into()),
            Some(Err(error)) => ("a front end".into(), error.to_string()),
            None => return std::future::pending().await,
        };
        Fatal::FrontEnd { service, reason }
    }

    /// Lets all of them finish. `true` if they did in time.
    async fn close(mut self, deadline: Instant) -> bool {
        self.stop.send_replace(true);
        timeout_at(deadline, async { while self.tasks.join_next().await.is_some() {} }).await.is_ok()
    }
}

/// Becomes ready when `true` is sent, or when the sender is gone.
fn sent(what: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static + use<> {
    let mut receiver = what.subscribe();
    async move {
        let _ = receiver.wait_for(|is_set| *is_set).await;
    }
}

/// Serves until a signal ends it well, or something ends it badly. Models load meanwhile.
pub(crate) async fn live(
    engine: Arc<Engine>,
    mut front_ends: FrontEnds,
    mut signals: Signals,
    exit: Exit,
) -> Result<(), Fatal> {
    let (addresses, open) = (front_ends.addresses.clone(), front_ends.open.clone());
    let reason = tokio::select! {
        number = signals.received() => {
            info!("Signal ({number}) received.");
            open.send_replace(true);
            drain(&engine, exit.drain).await;
            Ok(())
        }
        fatal = start(&engine, &addresses, &open, exit.on_error) => Err(fatal),
        fatal = front_ends.ended() => Err(fatal),
    };
    let is_complete = leave(&engine, front_ends, exit.timeout).await;
    if !is_complete {
        server_backends::kill_processes(); // nobody is left who would end them
    }
    reason.and(if is_complete { Ok(()) } else { Err(Fatal::ExitTimeout) })
}

/// Gives callers time to learn that this server goes.
async fn drain(engine: &Engine, limits: Limits) {
    if limits.are_zero() {
        return;
    }
    info!("Serving on while callers go elsewhere, {limits}.");
    let began = Instant::now();
    let mut drain = Drain::new(limits, began.into_std());
    while let Step::Serve { is_ready } = drain.next(Instant::now().into_std(), engine.late_requests()) {
        let is_change = engine.leaves() == Leaving::WhileReady && !is_ready;
        if is_change {
            warn!("Callers still come after {:?}: not ready from here on.", began.elapsed());
        }
        if is_change || engine.leaves() == Leaving::No {
            engine.begin_leaving(is_ready);
        }
        sleep(DRAIN_INTERVAL).await;
    }
}

/// Loads the start-up models and logs the result; then follows the repositories, if they are polled. Returns only if the
/// start ends the server.
async fn start(
    engine: &Arc<Engine>,
    addresses: &[(String, String)],
    open: &watch::Sender<bool>,
    exit_on_error: bool,
) -> Fatal {
    let started = engine.start().await;
    open.send_replace(true);
    if let Ok(index) = engine.index(false) {
        let rows: Vec<_> = index.into_iter().map(row).collect();
        info!(table = table(["Model", "Version", "Status"], &rows), "Models");
    }
    let failure = match started {
        Ok(Startup::AllReady) => None,
        Ok(Startup::SomeFailed) => Some(Error::internal("failed to load all models")),
        Err(error) => Some(error),
    };
    if let Some(failure) = failure {
        let fatal = Fatal::Start { error: failure };
        if exit_on_error {
            return fatal;
        }
        error!("error: {fatal}");
    }
    // The lines that scripts wait for before they send requests: models are loaded or have failed.
    for (service, address) in addresses {
        info!("Started {service} at {address}");
    }
    engine.follow_repositories().await;
    std::future::pending().await
}

fn row(entry: IndexEntry) -> [String; 3] {
    let IndexEntry { name, version, state, reason } = entry;
    let version = version.map_or_else(|| "-".to_owned(), |version| version.to_string());
    let state = state.map_or("-", |state| state.text());
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    [name, version, if reason.is_empty() { state.to_owned() } else { format!("{state}: {reason}") }]
}

/// `true` if all work ended in time.
async fn leave(engine: &Engine, front_ends: FrontEnds, limit: Duration) -> bool {
    let begun = Instant::now();
    info!("Waiting for in-flight requests to complete.");
    // Front ends stay until the engine is empty: probes and late callers learn that the server exits.
    if !engine.shutdown(limit).await {
        return false;
    }
    front_ends.close((begun + limit).max(Instant::now() + CLOSING_TIME)).await
}
