//! The command `run`: the controller on a cluster. Wires client, watches, queue and leader together, and ends in order.

use std::{
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use clap::{ArgAction, Args};
use kube::Config;
use operator_core::{decide::Settings, source_rules::AddressRange};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    activators::{ActivatorService, Activators, routes},
    client::client,
    config_maps::ConfigMaps,
    context::Context,
    events::Events,
    health::{self, Health},
    leader::{Leader, Lost},
    load_args::LoadArgs,
    metrics::Metrics,
    observer::Observer,
    queue::{Queue, work},
    reconcile::reconcile,
    scrape::Loads,
    secrets::Secrets,
    telemetry::{self, LogFormat},
    traces::Traces,
    watches::Watches,
    written::Written,
};

/// Arguments of `run`. Every flag can be given by environment as well.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Namespaces to manage; by default all of them
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "WATCH_NAMESPACES")]
    watch_namespaces: Vec<String>,

    /// Image of servers whose spec names none
    #[arg(long, value_name = "IMAGE", env = "SERVER_IMAGE")]
    image: String,

    /// Let one of several operators work, the one that holds the lease
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, env = "LEADER_ELECTION")]
    leader_election: bool,

    /// Namespace of the lease; by default that of the operator's pod
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,

    /// Name of the lease: operators with the same one take turns
    #[arg(long, value_name = "NAME", default_value = "triton-operator", env = "LEASE_NAME")]
    lease_name: String,

    /// Look for the label of Secrets that servers let their models use; without it, models can use none
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, env = "MODEL_SECRETS")]
    model_secrets: bool,

    /// Ranges of addresses that models may be fetched from although they are refused otherwise: loopback, link-local, metadata
    /// and the like, such as 169.254.169.254/32
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', env = "ALLOW_SOURCE_ADDRESSES")]
    allow_source_addresses: Vec<AddressRange>,

    /// Host and port at which KEDA reaches the operator's external scaler; without it, KEDA scales only servers that name a Prometheus
    #[arg(long, value_name = "HOST:PORT", env = "SCALER_ADDRESS")]
    scaler_address: Option<String>,

    /// Name of this operator among several; by default that of its machine and process
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,

    /// Address at which to serve /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080", env = "METRICS_ADDRESS")]
    metrics_address: SocketAddr,

    #[command(flatten)]
    loads: LoadArgs,

    /// Service of the activators, in the namespace of the lease; without it, servers do not scale to zero
    #[arg(long, value_name = "NAME", env = "ACTIVATOR_SERVICE")]
    activator_service: Option<String>,

    /// Address at which to tell activators where servers are
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8084", env = "ROUTES_ADDRESS")]
    routes_address: SocketAddr,

    /// Servers reconciled at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..), env = "CONCURRENCY")]
    concurrency: u16,

    /// Collector that gets the operator's own traces, and those of the agents in the pods of servers (OTLP over HTTP), such as
    /// http://collector:4318/v1/traces; without it there are none
    #[arg(long, value_name = "URL", env = "TRACE_COLLECTOR")]
    trace_collector: Option<String>,

    /// How log lines are written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Json, env = "LOG_FORMAT")]
    log_format: LogFormat,

    /// What to log: a level, or levels by module
    #[arg(long, value_name = "FILTER", default_value = "info", env = "LOG_LEVEL")]
    log_level: String,
}

/// Works until a signal ends it. Where another operator may lead, it ends at once and begins anew as one that waits.
pub(crate) fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    telemetry::install(args.log_format, &args.log_level)
        .with_context(|| format!("'{}' is no filter for logs", args.log_level))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(control(args));
    // a watch that hangs must not keep the process
    runtime.shutdown_background();
    match ended {
        Err(error) if error.is::<Lost>() => Err(begin_anew(&error)),
        ended => ended.map(|()| ExitCode::SUCCESS),
    }
}

/// Begins anew in the place of this process, of which nothing is left that could write. The container goes on: the kubelet would pause for up
/// to five minutes before it starts one again that ends time after time, as where the API server is slow for a while. Returns only why that
/// failed.
fn begin_anew(lost: &anyhow::Error) -> anyhow::Error {
    tracing::warn!(error = %lost, "begins anew");
    let become_it = |program: PathBuf| Command::new(program).args(std::env::args_os().skip(1)).exec();
    let failed = std::env::current_exe().map_or_else(|error| error, become_it);
    anyhow::anyhow!("{lost}; and this program cannot begin anew: {failed}")
}

async fn control(args: RunArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = health::listen(args.metrics_address)
        .await
        .with_context(|| format!("cannot listen at {}", args.metrics_address))?;
    let routes = match &args.activator_service {
        Some(_) => Some(
            TcpListener::bind(args.routes_address)
                .await
                .with_context(|| format!("cannot listen at {}", args.routes_address))?,
        ),
        None => None,
    };
    let config = Config::infer().await.context("no cluster: neither a service account nor a kubeconfig was found")?;
    let namespace = args.lease_namespace;
    let lease_namespace = namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = client(config)?;
    let load_ports = args.loads.open(namespace.as_deref()).await?;

    let traces = Traces::start(args.trace_collector.as_deref())
        .map_err(|error| anyhow::anyhow!("--trace-collector: {error}"))?;
    let metrics = Arc::new(Metrics::new());
    let (queue, requests) = Queue::new();
    let written = Arc::new(Written::default());
    let watches = Watches::start(&client, &args.watch_namespaces, &queue, &metrics, &written);
    let is_ready = Arc::new(AtomicBool::new(false));
    let health =
        Health { metrics: Arc::clone(&metrics), watches: Arc::clone(&watches), is_ready: Arc::clone(&is_ready) };
    tokio::spawn(health::serve(listener, health));
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("asked to end (SIGTERM)"),
            _ = interrupt.recv() => tracing::info!("asked to end (SIGINT)"),
        }
    };
    let mut stop = std::pin::pin!(stop);
    tokio::select! {
        () = watches.filled() => {}
        () = &mut stop => return Ok(()),
    }
    watches.look_for_optional_kinds().await;
    is_ready.store(true, Ordering::Relaxed);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), servers = watches.keys().len(), "every resource was read");
    tokio::spawn(Arc::clone(&watches).follow_optional_kinds());
    let loads = Loads::new(&metrics);
    tokio::spawn(loads.clone().follow(Arc::clone(&watches)));
    if let Some(listener) = routes {
        tokio::spawn(routes::serve(listener, Arc::clone(&watches), queue.clone()));
    }
    let service = args.activator_service.map(|name| ActivatorService { namespace: lease_namespace.clone(), name });
    let activators = Activators::start(&client, service.as_ref(), &queue);
    load_ports.serve(&client, &loads, &watches, &activators);

    let identity = args.identity.unwrap_or_else(identity);
    let (leads, leading) = watch::channel(!args.leader_election);
    let leader = args
        .leader_election
        .then(|| Leader::new(&client, (&lease_namespace, &args.lease_name), identity.clone(), leads.clone()));
    let context = Arc::new(Context {
        events: Events::start(&client, identity, &metrics),
        client,
        watches,
        queue: queue.clone(),
        settings: Settings { image: args.image, namespace, scaler_address: args.scaler_address },
        metrics: Arc::clone(&metrics),
        traces: traces.clone(),
        observer: Observer::new(&queue, &metrics),
        loads: loads.clone(),
        activators,
        config_maps: ConfigMaps::default(),
        secrets: Secrets::new(args.model_secrets),
        allowed_addresses: args.allow_source_addresses,
        written,
    });
    metrics.leads(*leading.borrow());
    let mut shown = leading.clone();
    tokio::spawn(async move {
        while shown.changed().await.is_ok() {
            metrics.leads(*shown.borrow_and_update());
        }
    });
    let working = work(
        queue,
        requests,
        args.concurrency.into(),
        leading,
        |key, failing_for| reconcile(Arc::clone(&context), key, failing_for),
        stop,
    );
    let working = async {
        working.await;
        context.events.flush().await;
    };
    match &leader {
        None => working.await,
        Some(leader) => tokio::select! {
            // another one may lead from now on: nothing more is written, not even to the end of a reconcile
            lost = leader.run() => return Err(lost.into()),
            () = working => leader.release().await,
        },
    }
    drop(leads);
    traces.close().await;
    tracing::info!("ended");
    Ok(())
}

fn identity() -> String {
    format!("{}_{}", rustix::system::uname().nodename().to_string_lossy(), std::process::id())
}
