//! Everything the flags say.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use server_core::{header_forwarding::HeaderPattern, latency::LatencySettings, log_settings::LogFormat};
use server_engine::Location;

use super::{
    cache::CacheArgs,
    endpoint::{Endpoint, TlsArgs},
    setting::{HostPolicySetting, LimitedResource, MetricsSetting, Restriction, Setting},
    tracing::TraceArgs,
    value::Word,
};

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
