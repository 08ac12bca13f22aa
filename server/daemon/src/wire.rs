//! Wires the server together: what the command line says becomes listeners, front ends, engine and backends.
//!
//! This file makes things and hands them over; what happens to them over time is `lifecycle.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, iter,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use rustix::process::{Resource, getrlimit, setrlimit};
use server_capi::Libraries;
use server_core::{
    backend::Settings,
    byte_budget::ByteBudget,
    control::PrivateControl,
    error::Error,
    host_policy::HostPolicies,
    rate_limit::Amounts,
    restriction::ApiGroup,
    trace::{Ids, Mode, Tracer},
};
use server_engine::{AccessLog, BlockingPool, CacheConfig, Engine, ResponseCache};
use server_tls::{Acceptor, Files, PemFile, Protocol};
use server_traces::Traces;
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::{info, warn};

use crate::{
    args::{
        Args, CacheArgs, Compression, ControlArgs, ControlMode, GpuFallback, GrpcArgs, HostPolicySetting, HttpArgs,
        LimitedResource, ModelArgs, RateLimit, Restriction, Setting, TlsArgs, TraceArgs,
    },
    clouds,
    control_socket::ControlSocket,
    crash,
    drain::Limits,
    lifecycle::{self, Exit, Fatal, FrontEnds},
    listeners::{HandedOver, Listener},
    service::Service,
    signals::Signals,
    start_tables, telemetry,
};

/// Threads beyond those that load: unloading, reading folders, waiting for the last request of a model.
const OTHER_BLOCKING_THREADS: usize = 16;

/// How long traces that wait may take to be written or sent when the server ends.
const TRACES_TIMEOUT: Duration = Duration::from_secs(5);

/// How long lines of the access log that wait may take to be written when the server ends.
const ACCESS_LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the files of certificates are looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(2);

/// Which part of its memory the server gives to requests in flight, if the command line does not say.
const REQUEST_SHARE_OF_MEMORY: u64 = 4;

/// Serves until a signal, or until something makes it pointless.
pub(crate) fn run(args: Args) -> Result<(), Fatal> {
    let mut handed_over = HandedOver::take();
    let options = start_tables::options(&args);
    let Args {
        id,
        startup_hold,
        exit_timeout,
        drain_delay,
        drain_timeout,
        max_inflight_request_bytes,
        allow_client_shm,
        exit_on_error,
        models,
        http,
        grpc,
        control,
        sagemaker,
        vertex_ai,
        metrics,
        metrics_tls,
        cpu_metrics,
        pinned_memory_pool_size,
        gpu_metrics,
        metrics_interval,
        metrics_settings: _,
        latency,
        backend_directory,
        backend_settings,
        cache,
        mut tracing,
        log,
        access_log,
        deprecations,
        unsupported_flags,
    } = args;
    let log_settings =
        telemetry::install(&log).map_err(|error| Fatal::LogFile { path: log.file.unwrap_or_default(), error })?;
    let crash_note = std::env::var_os(crash::NOTE);
    if let Err(error) = crash::install(crash_note.as_deref().map(Path::new)) {
        warn!(path = ?crash_note, %error, "crashes are not noted for whoever starts the next process");
    }
    for sentence in deprecations {
        warn!("{sentence}");
    }
    for sentence in tracing.batches.fill(|name| std::env::var(name).ok()) {
        warn!("{sentence}");
    }
    if !unsupported_flags.is_empty() {
        warn!("flags that this server does not support are ignored: --{}", unsupported_flags.join(", --"));
    }
    let access_log =
        access_log.map(|path| AccessLog::open(&path).map_err(|error| Fatal::AccessLog { path, error })).transpose()?;
    raise_file_limit();
    info!(table = options, "Options");
    server_tls::install_provider();

    let ModelArgs {
        repositories,
        remote_repositories,
        agent_directory,
        namespaces,
        control_mode,
        poll_interval,
        startup_models,
        strict_readiness,
        disable_auto_complete,
        strict_config,
        config_name,
        load_threads,
        load_retries,
        gpu_fallback,
        host_policies,
        rate_limit,
        resources,
    } = models;
    let chosen_models = match control_mode {
        ControlMode::Explicit if !startup_models.contains("*") => Some(startup_models.clone()),
        _ => None,
    };
    let byte_budget = Arc::new(ByteBudget::new(match max_inflight_request_bytes {
        Some(bytes) => saturating(bytes),
        None => saturating(server_shm::available_memory().unwrap_or(0) / REQUEST_SHARE_OF_MEMORY),
    }));
    let blocking_pool = BlockingPool::default();
    let engine_blocking_pool = blocking_pool.clone();
    let HttpArgs { endpoint: http, tls: http_tls, max_input_size, restrictions, forwarded_headers } = http;
    let ControlArgs { socket: control_path, is_public } = control;
    let private_control = control_path
        .as_ref()
        .filter(|_| !is_public)
        .map(|path| PrivateControl { socket: path.to_string_lossy().into() });
    let mut http_options = server_http::Options {
        max_input_size: saturating(max_input_size),
        restrictions: restrictions.into_iter().map(restricted).collect(),
        private_control: private_control.clone(),
        takes_drains: false,
        forwarded_headers,
        byte_budget: byte_budget.clone(),
        blocking_pool: blocking_pool.clone(),
        tls: None,
        access_log: access_log.clone(),
    };
    // SageMaker and Vertex AI authenticate in front of the server; what is restricted stays restricted through the other door.
    let cloud_options = http_options.clone();
    // The socket is for whoever runs the server: what is asked of callers of the ports is not asked of them.
    let control_options = server_http::Options {
        restrictions: Vec::new(),
        private_control: None,
        takes_drains: true,
        forwarded_headers: None,
        ..http_options.clone()
    };
    let GrpcArgs {
        endpoint: grpc,
        tls: grpc_tls,
        keepalive_time,
        keepalive_timeout,
        pings_without_calls,
        min_ping_interval,
        max_ping_strikes,
        max_connection_age,
        max_connection_age_grace,
        compression,
        max_unread_responses,
        restrictions,
        forwarded_headers,
    } = grpc;
    let mut grpc_options = server_grpc::Options {
        keepalive_time,
        keepalive_timeout,
        pings: server_grpc::PingPolicy {
            min_interval: min_ping_interval,
            max_strikes: max_ping_strikes,
            permits_without_calls: pings_without_calls,
        },
        max_connection_age,
        max_connection_age_grace,
        response_compression: match compression {
            Compression::None => server_grpc::Compression::None,
            Compression::Some => server_grpc::Compression::Gzip,
        },
        max_unread_responses: max_unread_responses.unwrap_or(usize::MAX),
        restrictions: restrictions.into_iter().map(restricted).collect(),
        private_control,
        forwarded_headers,
        byte_budget: byte_budget.clone(),
        blocking_pool: blocking_pool.clone(),
        access_log: access_log.clone(),
        ..server_grpc::Options::default()
    };
    let load_threads = saturating(load_threads.into());
    let cache_config = cache_config(&cache)?;
    let cache_directory = PathBuf::from(cache.directory);
    let backend_settings = merge(&backend_directory, &backend_settings);
    info!(table = start_tables::agents(), "Repository agents");
    info!(table = start_tables::backends(&backend_settings), "Backends");
    let gpus = (metrics.is_allowed && gpu_metrics).then(|| server_backends::gpu_probe(metrics_interval));
    let gpus = gpus.and_then(|probe| probe.inspect_err(|error| info!("The metrics page shows no GPUs: {error}")).ok());
    let mut engine_options = server_engine::Options {
        id,
        repositories: repositories.into_iter().collect(),
        remote_repositories: remote_repositories.into_iter().collect(),
        agents: Some(server_engine::Agents(Arc::new(server_capi::Agents::new(agent_directory.clone().into())))),
        agent_directory,
        namespaces,
        control_mode: match control_mode {
            ControlMode::Explicit => server_engine::ControlMode::Explicit,
            ControlMode::Poll => server_engine::ControlMode::Poll,
            ControlMode::None => server_engine::ControlMode::None,
        },
        poll_interval,
        startup_models: startup_models.into_iter().collect(),
        strict_readiness,
        auto_complete: !(disable_auto_complete || strict_config),
        config_name,
        load_threads,
        load_retries,
        gpu_fallback: gpu_fallback == GpuFallback::Cpu,
        rate_limit: match rate_limit {
            RateLimit::Off => None,
            RateLimit::ExecutionCount => Some(amounts(&resources)),
        },
        host_policies: host_policies_of(&host_policies),
        response_cache: None, // opened below, where there is a runtime
        custom_metrics: server_capi::custom_metrics(),
        machine_metrics: cpu_metrics,
        pinned_memory_pool_size,
        access_log: access_log.clone(),
        gpus,
        shared_memory: server_engine::SharedMemoryOptions {
            is_allowed: allow_client_shm,
            byte_budget: byte_budget.clone(),
            blocking_pool: blocking_pool.clone(),
        },
        tracer: Arc::default(), // made below, where there is a runtime
        log_settings,
        machine_metrics_interval: metrics_interval,
        circle_patience: server_engine::Options::CIRCLE_PATIENCE,
        latency,
    };

    // Models of a multi-model endpoint are linked into a repository of their own, which goes with the process.
    let linked_models = (sagemaker.endpoint.is_allowed && control_mode == ControlMode::Explicit)
        .then(|| tempfile::Builder::new().prefix("tritonserver-sagemaker-").tempdir())
        .transpose()
        .map_err(Fatal::Runtime)?;
    engine_options.repositories.extend(linked_models.as_ref().map(|folder| folder.path().to_owned()));

    let runtime = runtime(load_threads).map_err(Fatal::Runtime)?;
    let traces = traces(&tracing, runtime.handle())?;
    engine_options.tracer = Arc::new(tracer(&tracing, &traces)?);
    let served = runtime.block_on(async {
        http_options.tls = acceptor(Service::Http, http.is_allowed, &http_tls)?;
        grpc_options.tls = acceptor(Service::Grpc, grpc.is_allowed, &grpc_tls)?;
        let metrics_tls = acceptor(Service::Metrics, metrics.is_allowed, &metrics_tls)?;
        // Sockets before models: a probe is answered while they load.
        let http = Listener::open(Service::Http, &http, &mut handed_over)?;
        let grpc = Listener::open(Service::Grpc, &grpc, &mut handed_over)?;
        let has_metrics = metrics.is_allowed;
        let metrics = Listener::open(Service::Metrics, &metrics, &mut handed_over)?;
        let sagemaker = Listener::open(Service::SageMaker, &sagemaker.endpoint, &mut handed_over)?;
        let vertex = Listener::open(Service::VertexAi, &vertex_ai.endpoint, &mut handed_over)?;
        let control = match &control_path {
            None => None,
            Some(path) => Some((path, ControlSocket::open(path).await?)),
        };
        let signals = Signals::install().map_err(Fatal::Runtime)?;

        if let Some(config) = cache_config {
            let opened = match server_capi::CacheLibrary::chosen(&config.name, &config.settings, &cache_directory) {
                Some(library) => library.map(|library| {
                    ResponseCache::of_library(Arc::new(library), engine_blocking_pool, byte_budget.clone())
                }),
                None => ResponseCache::open(&config, engine_blocking_pool, byte_budget.clone()).await,
            };
            engine_options.response_cache = Some(opened.map_err(|error| Fatal::Start { error })?);
        }
        let backends = server_backends::all(&backend_settings);
        let auto_complete = engine_options.auto_complete;
        let backends = Libraries::new(backends, backend_settings, backend_directory.into(), auto_complete);
        let engine = Engine::new(engine_options, Arc::new(backends));
        let mut front_ends = FrontEnds::new(startup_hold);
        if let Some(listener) = http {
            let (engine, stopped) = (engine.clone(), front_ends.stopped());
            front_ends.add(listener, |socket| async {
                server_http::serve(socket, engine, http_options, stopped).await;
                Ok(())
            });
        }
        if let Some(listener) = grpc {
            let (engine, stopped) = (engine.clone(), front_ends.stopped());
            front_ends.add(listener, |socket| server_grpc::serve(socket, engine, grpc_options, stopped));
        }
        if let Some(listener) = metrics {
            let (engine, stopped) = (engine.clone(), front_ends.stopped());
            front_ends.add(listener, |socket| async {
                server_http::serve_metrics(socket, engine, byte_budget, metrics_tls, stopped).await;
                Ok(())
            });
        }
        if let Some(listener) = sagemaker {
            let sagemaker = clouds::sagemaker_options(linked_models.as_ref().map(|folder| folder.path().to_owned()))?;
            let (engine, stopped, options) = (engine.clone(), front_ends.stopped(), cloud_options.clone());
            front_ends.add(listener, |socket| async {
                server_http::serve_sagemaker(socket, engine, options, sagemaker, stopped).await;
                Ok(())
            });
        }
        if let Some(listener) = vertex {
            let routes = clouds::vertex_ai_routes(vertex_ai, &engine, chosen_models, has_metrics)?;
            let (engine, stopped) = (engine.clone(), front_ends.stopped());
            front_ends.add(listener, |socket| async {
                server_http::serve_vertex_ai(socket, engine, cloud_options, routes, stopped).await;
                Ok(())
            });
        }
        // its file stays until all is over
        let _control_socket = control.map(|(path, (socket, listener))| {
            let serve = server_http::serve_local(listener, engine.clone(), control_options, front_ends.stopped());
            front_ends.add_control(path, serve);
            socket
        });
        let exit = Exit {
            drain: Limits { delay: drain_delay, timeout: drain_timeout },
            timeout: exit_timeout,
            on_error: exit_on_error,
        };
        lifecycle::live(engine, front_ends, signals, exit).await
    });
    runtime.block_on(traces.close(TRACES_TIMEOUT));
    access_log.iter().for_each(|log| log.flush(ACCESS_LOG_TIMEOUT));
    // What still runs here was given its time: a load that hangs must not keep the process.
    runtime.shutdown_background();
    served
}

/// Where traces go.
///
/// Errors: the address of the collector is none, or there is no thread to be had.
fn traces(args: &TraceArgs, runtime: &Handle) -> Result<Arc<Traces>, Fatal> {
    match args.mode {
        Mode::Triton => Traces::files(args.file.clone().into()).map_err(Fatal::Runtime),
        Mode::OpenTelemetry => {
            let variable = |name: &str| std::env::var(name).ok();
            let mut settings = otlp::Settings::new("triton-server");
            if let Some(url) = args.url.clone().or_else(|| collector_of_environment(variable)) {
                settings.url = url;
            }
            settings.headers = otlp::headers_of_environment(variable);
            settings.resource = otlp::resource_of_environment("triton-inference-server", variable, &args.resource);
            settings.max_queue_size = saturating(args.batches.max_queue_size().into());
            settings.schedule_delay = Duration::from_millis(args.batches.schedule_delay().into());
            settings.max_export_batch_size = saturating(args.batches.max_export_batch_size().into());
            let refused = |text: String| Fatal::Start {
                error: Error::invalid_argument(format!("--trace-config opentelemetry,url: {text}")),
            };
            Traces::collector(settings, runtime).map_err(refused)
        }
    }
}

/// The collector that the environment names, in the words of OpenTelemetry.
fn collector_of_environment(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        .or_else(|| Some(format!("{}/v1/traces", given("OTEL_EXPORTER_OTLP_ENDPOINT")?.trim_end_matches('/'))))
}

/// Which requests are traced.
///
/// Errors: the system has no random bytes.
fn tracer(args: &TraceArgs, traces: &Arc<Traces>) -> Result<Tracer, Fatal> {
    let ids = Arc::new(Ids::new(server_traces::seed().map_err(Fatal::Runtime)?));
    Ok(Tracer::new(args.mode, args.values, args.shown(), ids, traces.clone()))
}

/// Few threads: front ends and schedulers wait far more than they compute; models have threads of their own.
fn runtime(load_threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(available_parallelism().map_or(1, NonZeroUsize::get))
        .max_blocking_threads(load_threads.saturating_add(OTHER_BLOCKING_THREADS))
        .thread_name("server")
        .enable_all()
        .build()
}

/// What encrypts the connections of a front end, if anything does. Its certificates are followed from now on.
fn acceptor(service: Service, is_allowed: bool, tls: &TlsArgs) -> Result<Option<Acceptor>, Fatal> {
    if !is_allowed || !tls.is_on() {
        return Ok(None);
    }
    let [certificate, key, client_roots] = service.tls_flags();
    let file = |flag, path: &String| PemFile { flag, path: path.into() };
    let files = Files {
        certificate: file(certificate, &tls.server_cert),
        key: file(key, &tls.server_key),
        client_roots: tls.use_ssl_mutual.then(|| file(client_roots, &tls.root_cert)),
    };
    let protocol = match service {
        Service::Http | Service::Metrics | Service::SageMaker | Service::VertexAi => Protocol::Http1,
        Service::Grpc => Protocol::Http2,
    };
    let (acceptor, reloader) =
        Acceptor::load(files, protocol).map_err(|error| Fatal::Certificates { service, error })?;
    tokio::spawn(acceptor.clone().follow(reloader, CERTIFICATE_INTERVAL));
    Ok(Some(acceptor))
}

/// Connections are files: a low limit that came with the shell must not turn callers away.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            warn!("cannot raise the limit of open files: {error}");
        }
    }
}

fn saturating(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The response cache that the command line asks for, if any.
///
/// Errors: it asks for several.
fn cache_config(args: &CacheArgs) -> Result<Option<CacheConfig>, Fatal> {
    if let Some(bytes) = args.byte_size {
        warn!(
            "Warning: '--response-cache-byte-size' has been deprecated! This will default to the 'local' cache \
             implementation with the provided byte size for its config. Please use '--cache-config' instead. The equivalent \
             --cache-config CLI args would be: '--cache-config=local,size={bytes}'"
        );
    }
    let mut configs = args.configs().expect("checked with the command line").into_iter();
    let first = configs.next().map(|(name, settings)| CacheConfig { name, settings });
    if configs.next().is_some() {
        let text = "found multiple cache configurations, but only a single cache is currently supported";
        return Err(Fatal::Start { error: Error::invalid_argument(text) });
    }
    Ok(first)
}

/// What there is of each resource. The last word about one counts.
fn amounts(resources: &[LimitedResource]) -> Amounts {
    let mut amounts = Amounts::default();
    for LimitedResource { name, count, device } in resources {
        amounts.set(name, u64::from(*count), *device);
    }
    amounts
}

/// Where instances run, by policy.
fn host_policies_of(settings: &[HostPolicySetting]) -> HostPolicies {
    let mut policies = HostPolicies::default();
    for HostPolicySetting { policy, key, value } in settings {
        policies.set(policy, key, value);
    }
    policies
}

fn restricted(restriction: Restriction) -> server_core::restriction::Restriction {
    let Restriction { categories, header, value } = restriction;
    let known = |name: &String| ApiGroup::from_name(name).expect("categories were checked with the command line");
    server_core::restriction::Restriction { groups: categories.iter().map(known).collect(), header, value }
}

/// The settings of each backend: where backends lie, those for all, then its own on top. The last of two wins.
fn merge(backend_directory: &str, given: &[Setting]) -> BTreeMap<String, Settings> {
    let mut names: BTreeSet<&str> = given.iter().filter_map(|setting| setting.name.as_deref()).collect();
    names.extend(server_backends::NAMES);
    names.insert(""); // a library that nothing is said of has those for all
    let of = |name: &str| {
        let for_all = given.iter().filter(|setting| setting.name.is_none());
        let for_one = given.iter().filter(|setting| setting.name.as_deref() == Some(name));
        let settings = for_all.chain(for_one).map(|setting| (setting.key.clone(), setting.value.clone()));
        iter::once(("backend-directory".to_owned(), backend_directory.to_owned())).chain(settings).collect()
    };
    names.into_iter().map(|name| (name.to_owned(), of(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: Option<&str>, key: &str, value: &str) -> Setting {
        Setting { name: name.map(Into::into), key: key.into(), value: value.into() }
    }

    #[test]
    fn settings_for_all_reach_every_backend_and_its_own_win() {
        let given = [
            setting(Some("onnxruntime"), "size", "2"),
            setting(None, "size", "1"),
            setting(None, "batch", "4"),
            setting(Some("onnxruntime"), "size", "3"),
            setting(Some("dali"), "x", "y"),
        ];
        let merged = merge("/backends", &given);
        let of = |name: &str| format!("{:?}", merged[name]);
        let directory = r#""backend-directory": "/backends""#;
        assert_eq!(of("dali"), format!(r#"{{{directory}, "batch": "4", "size": "1", "x": "y"}}"#));
        assert_eq!(of("identity"), format!(r#"{{{directory}, "batch": "4", "size": "1"}}"#));
        assert_eq!(of("onnxruntime"), format!(r#"{{{directory}, "batch": "4", "size": "3"}}"#));
    }

    #[test]
    fn every_group_of_calls_can_be_restricted() {
        let categories = ApiGroup::ALL.iter().map(|group| group.name().to_owned()).collect();
        let restriction = Restriction { categories, header: "key".into(), value: "secret".into() };
        assert_eq!(restricted(restriction).groups, ApiGroup::ALL);
    }
}
