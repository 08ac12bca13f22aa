//! How to run: what the command line decides, and what a load request carries.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use server_core::{
    custom_metrics::CustomMetrics, host_policy::HostPolicies, latency::LatencySettings, log_settings::LogSettings,
    metrics::GpuProbe, rate_limit::Amounts, repository::agents::AgentLibraries, trace::Tracer,
};
use server_repositories::Location;

use crate::{AccessLog, ResponseCache, shared_memory::SharedMemoryOptions};

/// Who decides which models are loaded: `--model-control-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ControlMode {
    /// Everything in the repositories, once, at start.
    #[default]
    None,
    /// Everything in the repositories, and whatever changes there.
    Poll,
    /// The start-up list, then whoever calls load and unload.
    Explicit,
}

/// How to run. Filled by the command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// Server name in metadata.
    pub id: String,
    /// Folders with models.
    pub repositories: Vec<PathBuf>,
    /// Paths of object stores with models.
    pub remote_repositories: Vec<Location>,
    /// `--repoagent-directory`: where libraries of repository agents are looked for, for errors.
    pub agent_directory: String,
    /// Those that are there.
    pub agents: Option<Agents>,
    /// `--model-namespacing`: models of different repositories may have one name.
    pub namespaces: bool,
    /// Who decides which models are loaded.
    pub control_mode: ControlMode,
    /// Between two looks at the repositories in poll mode; `None` looks at the start only.
    pub poll_interval: Option<Duration>,
    /// `--load-model`; a single `*` means all.
    pub startup_models: Vec<String>,
    /// `--strict-readiness`.
    pub strict_readiness: bool,
    /// Complete configurations from model files.
    pub auto_complete: bool,
    /// `--model-config-name`.
    pub config_name: Option<String>,
    /// Models loaded at the same time, at least 1.
    pub load_threads: usize,
    /// Tries after a failed load.
    pub load_retries: u32,
    /// `--gpu-fallback=cpu`: on a machine without a GPU, instance groups of `KIND_GPU` run on the CPU.
    pub gpu_fallback: bool,
    /// `--rate-limit=execution_count`, with the amounts of resources that were given: instances that share resources take
    /// turns. `None` lets each run when it can.
    pub rate_limit: Option<Amounts>,
    /// `--host-policy`: where instances run.
    pub host_policies: HostPolicies,
    /// What answers requests in place of models whose configuration has `response_cache.enable`.
    pub response_cache: Option<ResponseCache>,
    /// Where metrics are kept that models, and libraries, define.
    pub custom_metrics: CustomMetrics,
    /// Whether the metrics page tells of the machine's processors and memory.
    pub machine_metrics: bool,
    /// Bytes of the pool of pinned memory that the metrics page shows.
    pub pinned_memory_pool_size: u64,
    /// What clients may share with the server.
    pub shared_memory: SharedMemoryOptions,
    /// Which requests are traced: `--trace-config`.
    pub tracer: Arc<Tracer>,
    /// What is logged, and how: `--log-verbose` and its like.
    pub log_settings: Arc<LogSettings>,
    /// Where requests are logged; the metrics page says how many were not.
    pub access_log: Option<Arc<AccessLog>>,
    /// What the metrics page shows of GPUs, where there are any.
    pub gpus: Option<Arc<dyn GpuProbe>>,
    /// `--metrics-config`: which distributions of latencies models keep, and whether the page shows their counters.
    pub latency: LatencySettings,
    /// `--metrics-interval-ms`: a reading of them counts for so long.
    pub machine_metrics_interval: Duration,
    /// Between two looks at what a request waits for that an instance of a C library asked: where both find it waiting for that instance
    /// itself, the request ends with an error. The instance may also do without an answer, which nobody can tell before.
    pub circle_patience: Duration,
}

impl Options {
    /// The usual [`Options::circle_patience`].
    pub const CIRCLE_PATIENCE: Duration = Duration::from_secs(10);
}

impl Default for Options {
    fn default() -> Self {
        Self {
            id: "triton".into(),
            repositories: Vec::new(),
            remote_repositories: Vec::new(),
            agent_directory: "/opt/tritonserver/repoagents".into(),
            agents: None,
            namespaces: false,
            control_mode: ControlMode::None,
            poll_interval: None,
            startup_models: Vec::new(),
            strict_readiness: true,
            auto_complete: true,
            config_name: None,
            load_threads: 4,
            load_retries: 0,
            gpu_fallback: false,
            rate_limit: None,
            host_policies: HostPolicies::default(),
            response_cache: None,
            custom_metrics: CustomMetrics::default(),
            machine_metrics: true,
            pinned_memory_pool_size: 1 << 28,
            access_log: None,
            gpus: None,
            latency: LatencySettings::default(),
            shared_memory: SharedMemoryOptions::default(),
            tracer: Arc::default(),
            log_settings: Arc::default(),
            machine_metrics_interval: Duration::from_secs(2),
            circle_patience: Self::CIRCLE_PATIENCE,
        }
    }
}

/// Libraries of repository agents.
#[derive(Clone)]
pub struct Agents(pub Arc<dyn AgentLibraries>);

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Agents")
    }
}

/// What the start-up set came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Startup {
    /// Every model of the set is ready.
    AllReady,
    /// Some are not; each reason is in the index and in the log.
    SomeFailed,
}

/// What a load request carries besides the name.
#[derive(Debug, Clone, Default)]
pub struct LoadParameters {
    /// JSON text of a configuration that replaces `config.pbtxt` for this load.
    pub config: Option<String>,
    /// Files that make up the model instead of its folder: path inside it (`1/model.onnx`), content.
    pub files: Vec<(String, Bytes)>,
}
