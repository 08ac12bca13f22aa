//! The command line: Triton's flags, forms and defaults, read from words into [`Args`]. Pure: nothing is opened here.
//!
//! The table in `args/table.rs` knows every flag; `args/getopt.rs` takes the line apart; `args/defaults.rs` says what holds without a flag; this file applies one to the
//! other and checks what no single flag can.

mod cache;
mod defaults;
mod endpoint;
mod error;
mod flag;
mod getopt;
mod refused;
mod setting;
mod table;
mod tracing;
mod usage;
mod value;
mod vertex_ai;

use std::{collections::BTreeSet, ffi::OsString, path::PathBuf, time::Duration};

pub(crate) use server_core::log_settings::LogFormat;
use server_core::{header_forwarding::HeaderPattern, latency::LatencySettings, restriction::ApiGroup};
use server_engine::Location;

pub(crate) use self::{
    cache::CacheArgs,
    endpoint::{Endpoint, TlsArgs},
    error::ArgsError,
    setting::{CacheSetting, HostPolicySetting, LimitedResource, MetricsSetting, Restriction, Setting},
    tracing::TraceArgs,
    usage::usage,
};
use self::{
    flag::{Effect, Flag},
    refused::Refused,
    value::{PORTS, Word},
};
use crate::listeners::Service;

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// Serve.
    Run(Box<Args>),
    /// Show the usage text.
    Help,
    /// Show the version.
    Version,
}

/// Everything the flags say. `wire::run` takes it apart completely, so that a new field cannot be forgotten.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Args {
    /// Server name in metadata.
    pub(crate) id: String,
    /// How long callers wait for the start-up set.
    pub(crate) startup_hold: Duration,
    /// How long the exit may take.
    pub(crate) exit_timeout: Duration,
    /// How long to go on serving before it.
    pub(crate) drain_delay: Duration,
    pub(crate) drain_timeout: Duration,
    /// Most bytes of requests in flight, 0 for no limit; `None` leaves it to the machine.
    pub(crate) max_inflight_request_bytes: Option<u64>,
    pub(crate) allow_client_shm: bool,
    /// Whether a start-up model that fails ends the program.
    pub(crate) exit_on_error: bool,
    /// What to serve.
    pub(crate) models: ModelArgs,
    /// REST.
    pub(crate) http: HttpArgs,
    /// gRPC.
    pub(crate) grpc: GrpcArgs,
    /// Who may load and unload models.
    pub(crate) control: ControlArgs,
    /// SageMaker's protocol.
    pub(crate) sagemaker: SageMakerArgs,
    /// Vertex AI's protocol.
    pub(crate) vertex_ai: VertexAiArgs,
    /// The metrics page.
    pub(crate) metrics: Endpoint,
    /// TLS of that page.
    pub(crate) metrics_tls: TlsArgs,
    /// Whether that page shows processors and memory.
    pub(crate) cpu_metrics: bool,
    /// Bytes.
    pub(crate) pinned_memory_pool_size: u64,
    /// Whether that page shows GPUs.
    pub(crate) gpu_metrics: bool,
    /// How long a reading of them counts.
    pub(crate) metrics_interval: Duration,
    /// `--metrics-config`, in the order given, and what it comes to.
    pub(crate) metrics_settings: Vec<MetricsSetting>,
    pub(crate) latency: LatencySettings,
    /// Where backends lie.
    pub(crate) backend_directory: String,
    /// `--backend-config`, in the order given.
    pub(crate) backend_settings: Vec<Setting>,
    /// The response cache.
    pub(crate) cache: CacheArgs,
    /// Which requests are traced.
    pub(crate) tracing: TraceArgs,
    /// What to log, how and where.
    pub(crate) log: LogArgs,
    /// File of the access log.
    pub(crate) access_log: Option<PathBuf>,
    /// Sentences about flags that have a successor.
    pub(crate) deprecations: Vec<String>,
    /// Flags given that this server does not support and ignores.
    pub(crate) unsupported_flags: Vec<&'static str>,
}

/// Repositories and what is loaded from them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelArgs {
    /// Folders on this machine.
    pub(crate) repositories: BTreeSet<PathBuf>,
    /// Paths of object stores.
    pub(crate) remote_repositories: BTreeSet<Location>,
    /// `--repoagent-directory`.
    pub(crate) agent_directory: String,
    /// `--model-namespacing`.
    pub(crate) namespaces: bool,
    pub(crate) control_mode: ControlMode,
    /// Between two looks in poll mode; `None` for none after the first.
    pub(crate) poll_interval: Option<Duration>,
    pub(crate) startup_models: BTreeSet<String>,
    pub(crate) strict_readiness: bool,
    /// `--disable-auto-complete-config`.
    pub(crate) disable_auto_complete: bool,
    /// `--strict-model-config`, its older name.
    pub(crate) strict_config: bool,
    pub(crate) config_name: Option<String>,
    pub(crate) load_threads: u32,
    pub(crate) load_retries: u32,
    pub(crate) gpu_fallback: GpuFallback,
    /// `--host-policy`, in the order given.
    pub(crate) host_policies: Vec<HostPolicySetting>,
    pub(crate) rate_limit: RateLimit,
    /// `--rate-limit-resource`, in the order given.
    pub(crate) resources: Vec<LimitedResource>,
}

/// Who decides which models are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlMode {
    None,
    Poll,
    Explicit,
}

/// What happens to instance groups of `KIND_GPU` on a machine without a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GpuFallback {
    /// They are refused.
    None,
    /// They run on the CPU.
    Cpu,
}

/// How instances that share resources take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RateLimit {
    Off,
    ExecutionCount,
}

/// The REST front end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HttpArgs {
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: TlsArgs,
    pub(crate) max_input_size: u64,
    /// Which calls must bring which header.
    pub(crate) restrictions: Vec<Restriction>,
    /// Headers that become parameters of requests.
    pub(crate) forwarded_headers: Option<HeaderPattern>,
}

/// The gRPC front end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GrpcArgs {
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: TlsArgs,
    pub(crate) keepalive_time: Duration,
    pub(crate) keepalive_timeout: Duration,
    /// Whether either side may ping while there is no call.
    pub(crate) pings_without_calls: bool,
    /// Least time between two pings of a client.
    pub(crate) min_ping_interval: Duration,
    /// Pings that may come sooner; 0 for any number.
    pub(crate) max_ping_strikes: u32,
    pub(crate) max_connection_age: Option<Duration>,
    pub(crate) max_connection_age_grace: Option<Duration>,
    pub(crate) compression: Compression,
    /// Responses of one request that may wait to be read; `None` for any number.
    pub(crate) max_unread_responses: Option<usize>,
    /// Which calls must bring which header.
    pub(crate) restrictions: Vec<Restriction>,
    /// Metadata that becomes parameters of requests.
    pub(crate) forwarded_headers: Option<HeaderPattern>,
}

/// Where control calls are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ControlArgs {
    /// A Unix socket for them; `None` for the ports.
    pub(crate) socket: Option<PathBuf>,
    /// Whether the ports take them beside the socket.
    pub(crate) is_public: bool,
}

/// SageMaker's front end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SageMakerArgs {
    pub(crate) endpoint: Endpoint,
    /// Ports that the other front ends may have.
    pub(crate) safe_ports: Option<(u16, u16)>,
}

/// Vertex AI's front end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VertexAiArgs {
    pub(crate) endpoint: Endpoint,
    /// The model that answers predictions; empty if not given.
    pub(crate) default_model: String,
}

/// Whether gRPC responses are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    /// At any level.
    Some,
}

/// What is logged, how and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogArgs {
    pub(crate) error: bool,
    pub(crate) warning: bool,
    pub(crate) info: bool,
    pub(crate) verbose: u32,
    pub(crate) format: LogFormat,
    pub(crate) file: Option<PathBuf>,
}

/// What a host policy may say.
const HOST_POLICY_SETTINGS: [&str; 2] = ["numa-node", "cpu-cores"];

/// The words after the program's name, behind those that the environment stands for. Errors: one is not text.
pub(crate) fn words() -> Result<Vec<String>, ArgsError> {
    let words = std::env::args_os().skip(1).map(OsString::into_string);
    let given = words.collect::<Result<Vec<_>, _>>();
    let given = given.map_err(|word| ArgsError::NotText(word.to_string_lossy().into_owned()))?;
    Ok(vertex_ai::flags(|name| std::env::var(name).ok(), &given).into_iter().chain(given).collect())
}

/// Reads a command line, the program's name left out.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Command, ArgsError> {
    let names: Vec<_> = table::flags().map(|flag| (flag.name, flag.takes())).collect();
    let mut args = Args::default();
    for given in getopt::split(words, &names)? {
        let flag = table::flags().find(|flag| flag.name == given.name).expect("getopt only gives names of the table");
        match apply(flag, &given.value, &mut args)? {
            None => {}
            Some(command) => return Ok(command),
        }
    }
    args.settle()?;
    Ok(Command::Run(Box::new(args)))
}

fn apply(flag: &'static Flag, text: &str, args: &mut Args) -> Result<Option<Command>, ArgsError> {
    let refused = |refused| ArgsError::Value { flag: flag.name, text: text.to_owned(), refused };
    match flag.effect {
        Effect::Set(set) => set(args, text).map_err(refused)?,
        Effect::Unused(check) => {
            check(text).map_err(refused)?;
            if !flag.is_default(text) && !args.unsupported_flags.contains(&flag.name) {
                args.unsupported_flags.push(flag.name);
            }
        }
        Effect::Help => return Ok(Some(Command::Help)),
        Effect::Version => return Ok(Some(Command::Version)),
    }
    Ok(None)
}

/// Each category is known and belongs to one group.
fn check_restrictions(flag: &'static str, kind: &'static str, restrictions: &[Restriction]) -> Result<(), ArgsError> {
    let mut seen = BTreeSet::new();
    for category in restrictions.iter().flat_map(|restriction| &restriction.categories) {
        if ApiGroup::from_name(category).is_none() {
            return Err(ArgsError::UnknownCategory { flag, kind, category: category.clone() });
        }
        if !seen.insert(category) {
            return Err(ArgsError::RepeatedCategory { flag, kind, category: category.clone() });
        }
    }
    Ok(())
}

// === impl Args ===

impl Args {
    /// What no flag can say alone: defaults that follow another flag, and combinations that make no sense.
    fn settle(&mut self) -> Result<(), ArgsError> {
        if self.metrics.address.is_empty() {
            self.metrics.address.clone_from(&self.http.endpoint.address);
        }
        let models = &mut self.models;
        if models.repositories.is_empty() {
            return Err(ArgsError::NoRepository);
        }
        let is_url = |path: &PathBuf| Location::is_url(&path.to_string_lossy());
        for url in models.repositories.extract_if(.., |path| is_url(path)) {
            models.remote_repositories.insert(Location::parse(&url.to_string_lossy())?);
        }
        if models.control_mode != ControlMode::Explicit && !models.startup_models.is_empty() {
            return Err(ArgsError::StartupModels);
        }
        if models.startup_models.len() > 1 && models.startup_models.contains("*") {
            return Err(ArgsError::Wildcard);
        }
        let settings = models.host_policies.iter().map(|setting| &setting.key);
        if let Some(unknown) = settings.into_iter().find(|key| !HOST_POLICY_SETTINGS.contains(&key.as_str())) {
            return Err(ArgsError::HostPolicySetting(unknown.clone()));
        }
        let (http, grpc, metrics) = (&self.http.endpoint, &self.grpc.endpoint, &self.metrics);
        let endpoints = [http, grpc, metrics, &self.sagemaker.endpoint, &self.vertex_ai.endpoint];
        if endpoints.iter().all(|endpoint| !endpoint.is_allowed) {
            return Err(ArgsError::NoEndpoint);
        }
        self.cache.configs()?;
        self.deprecations.extend(self.tracing.settle());
        let settings = self.metrics_settings.iter();
        let pairs: Vec<_> = settings.map(MetricsSetting::pair).collect::<Result<_, _>>()?;
        self.latency = LatencySettings::parse(pairs)?;
        check_restrictions("http-restricted-api", "api", &self.http.restrictions)?;
        check_restrictions("grpc-restricted-protocol", "protocol", &self.grpc.restrictions)?;
        let front_ends = [
            (Service::Http, &self.http.endpoint, &self.http.tls),
            (Service::Grpc, &self.grpc.endpoint, &self.grpc.tls),
            (Service::Metrics, &self.metrics, &self.metrics_tls),
        ];
        for (service, _, tls) in front_ends.into_iter().filter(|(_, endpoint, _)| endpoint.is_allowed) {
            tls.check(service.name())?;
        }
        self.check_ports()
    }

    fn check_ports(&self) -> Result<(), ArgsError> {
        let endpoints = [
            (Service::Http, &self.http.endpoint),
            (Service::Grpc, &self.grpc.endpoint),
            (Service::Metrics, &self.metrics),
            (Service::SageMaker, &self.sagemaker.endpoint),
            (Service::VertexAi, &self.vertex_ai.endpoint),
        ];
        let allowed: Vec<_> = endpoints.into_iter().filter(|(_, endpoint)| endpoint.is_allowed).collect();
        for (service, endpoint) in &allowed {
            if let Some(port) = endpoint.impossible_port {
                let (flag, text) = (service.port_flag(), port.to_string());
                let refused = Refused::number(&text, true).expected(PORTS);
                return Err(ArgsError::Value { flag, text, refused });
            }
        }
        if let Some((first, last)) = self.sagemaker.safe_ports.filter(|_| self.sagemaker.endpoint.is_allowed) {
            let outside = |(service, endpoint): &&(Service, &Endpoint)| {
                *service != Service::SageMaker && !(first..=last).contains(&endpoint.port)
            };
            if let Some((service, endpoint)) = allowed.iter().find(outside) {
                return Err(ArgsError::UnsafePort(service.requests(), endpoint.port, first, last));
            }
        }
        for (index, (one, a)) in allowed.iter().enumerate() {
            for (other, b) in &allowed[index + 1..] {
                if a.clashes_with(b) {
                    let (one, other) = (one.requests(), other.requests());
                    return Err(ArgsError::PortClash(one, other, a.address.clone(), a.port));
                }
            }
        }
        Ok(())
    }
}

impl Word for ControlMode {
    const FORM: &'static str = "<mode>";
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("poll", Self::Poll), ("explicit", Self::Explicit)];
}

impl Word for RateLimit {
    const FORM: &'static str = "<mode>";
    const WORDS: &'static [(&'static str, Self)] = &[("off", Self::Off), ("execution_count", Self::ExecutionCount)];
}

impl Word for GpuFallback {
    const FORM: &'static str = "<device>";
    const WORDS: &'static [(&'static str, Self)] = &[("none", Self::None), ("cpu", Self::Cpu)];
}

impl Word for Compression {
    const FORM: &'static str = "<level>";
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("low", Self::Some), ("medium", Self::Some), ("high", Self::Some)];

    fn refused(_: &str) -> Option<String> {
        Some("invalid argument for --grpc_infer_response_compression_level".into())
    }
}

impl Word for LogFormat {
    const FORM: &'static str = "<format>";
    const WORDS: &'static [(&'static str, Self)] =
        &[("default", Self::Default), ("ISO8601", Self::Iso8601), ("json", Self::Json)];
}

#[cfg(test)]
mod tests;
