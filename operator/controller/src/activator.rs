//! The command `activator`: stands in for servers that are at rest. Their Services lead here; a request is held until a pod of its
//! server is ready, then passed on. It asks the operator where the pods are (`routes.rs`), listens at a port for each server
//! (`listeners.rs`, `connection.rs`), holds (`hold.rs`), passes on (`forward.rs`, with TLS `tunnel.rs`) and says which servers are wanted (`status.rs`). It
//! has no rights in the cluster, and sends nothing but where the operator says a server's pods are.

mod answers;
mod client_socket;
mod connection;
mod counts;
mod forward;
mod hold;
mod listeners;
mod protocol;
mod routes;
mod status;
#[cfg(test)]
mod tests;
mod tunnel;

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use self::{forward::Forward, hold::Limits, listeners::Listeners};
use crate::telemetry::{self, LogFormat};

/// Arguments of `activator`. Every flag can be given by environment as well.
#[derive(Debug, Clone, Args)]
pub(crate) struct ActivatorArgs {
    /// Where an operator tells where the pods of each server are: HOST:PORT
    #[arg(long, value_name = "ADDRESS", env = "OPERATOR")]
    operator: String,

    /// Address at which to listen for requests to servers, one port for each
    #[arg(long, value_name = "IP", default_value = "0.0.0.0", env = "LISTEN_ADDRESS")]
    address: IpAddr,

    /// Address at which to serve /demand, /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8085", env = "STATUS_ADDRESS")]
    status_address: SocketAddr,

    /// Seconds that a request is held at most
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86_400), env = "HOLD_TIMEOUT")]
    hold_timeout: u32,

    /// Requests held at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=100_000), env = "MAX_HELD")]
    max_held: u32,

    /// The same for one server
    #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000), env = "MAX_HELD_PER_SERVER")]
    max_held_per_server: u32,

    /// Connections open at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=100_000), env = "MAX_CONNECTIONS")]
    max_connections: u32,

    /// The same for one server
    #[arg(long, value_name = "NUMBER", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000), env = "MAX_CONNECTIONS_PER_SERVER")]
    max_connections_per_server: u32,

    /// Seconds for which connections are taken after it was asked to end: until no Service leads here any more
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=3600), env = "DRAIN_DELAY")]
    drain_delay: u32,

    /// How log lines are written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Json, env = "LOG_FORMAT")]
    log_format: LogFormat,

    /// What to log: a level, or levels by module
    #[arg(long, value_name = "FILTER", default_value = "info", env = "LOG_LEVEL")]
    log_level: String,
}

/// Works until a signal ends it, and until what was under way then has ended.
pub(crate) fn run(args: ActivatorArgs) -> anyhow::Result<ExitCode> {
    telemetry::install(args.log_format, &args.log_level)
        .with_context(|| format!("'{}' is no filter for logs", args.log_level))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(activate(args));
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

async fn activate(args: ActivatorArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let uri = routes::uri(&args.operator)?;
    let listener = TcpListener::bind(args.status_address)
        .await
        .with_context(|| format!("cannot listen at {}", args.status_address))?;
    let limits = Limits {
        timeout: Duration::from_secs(args.hold_timeout.into()),
        held: args.max_held as usize,
        held_per_server: args.max_held_per_server as usize,
        connections: args.max_connections as usize,
        connections_per_server: args.max_connections_per_server as usize,
    };
    let listeners = Arc::new(Listeners::new(args.address, limits, Forward::new()));
    tokio::spawn(status::serve(listener, Arc::clone(&listeners)));
    let follow = tokio::spawn(routes::follow(uri, Arc::clone(&listeners)));
    tokio::select! {
        _ = terminate.recv() => tracing::info!("asked to end (SIGTERM)"),
        _ = interrupt.recv() => tracing::info!("asked to end (SIGINT)"),
    }
    // Services lead here until the operator and every node know better
    tokio::time::sleep(Duration::from_secs(args.drain_delay.into())).await;
    listeners.close();
    // what is held still waits for its pods, so routes are followed and demand is told to the end
    tokio::select! {
        () = listeners.closed() => tracing::info!("ended"),
        _ = interrupt.recv() => tracing::info!("asked to end at once (SIGINT)"),
    }
    follow.abort();
    Ok(())
}
