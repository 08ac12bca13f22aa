//! What holds where no flag says otherwise: Triton's defaults, and of our own flags those that change nothing.

use std::{collections::BTreeSet, time::Duration};

use server_core::latency::LatencySettings;

use super::{
    LogFormat,
    cache::CacheArgs,
    endpoint::{Endpoint, TlsArgs},
    parsed::{
        Args, Compression, ControlArgs, ControlMode, GpuFallback, GrpcArgs, HttpArgs, LogArgs, ModelArgs, RateLimit,
        SageMakerArgs, VertexAiArgs,
    },
    tracing::TraceArgs,
};

impl Default for Args {
    fn default() -> Self {
        let everywhere = || "0.0.0.0".to_owned();
        Self {
            id: "triton".into(),
            startup_hold: Duration::ZERO,
            exit_timeout: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            max_inflight_request_bytes: None,
            allow_client_shm: false,
            exit_on_error: true,
            models: ModelArgs {
                repositories: BTreeSet::new(),
                remote_repositories: BTreeSet::new(),
                agent_directory: "/opt/tritonserver/repoagents".into(),
                namespaces: false,
                control_mode: ControlMode::None,
                poll_interval: Some(Duration::from_secs(15)),
                startup_models: BTreeSet::new(),
                strict_readiness: true,
                disable_auto_complete: false,
                strict_config: false,
                config_name: None,
                load_threads: 4,
                load_retries: 0,
                gpu_fallback: GpuFallback::None,
                host_policies: Vec::new(),
                rate_limit: RateLimit::Off,
                resources: Vec::new(),
            },
            http: HttpArgs {
                endpoint: Endpoint::at(everywhere(), 8000),
                tls: TlsArgs::default(),
                max_input_size: 64 << 20,
                restrictions: Vec::new(),
                forwarded_headers: None,
            },
            grpc: GrpcArgs {
                endpoint: Endpoint::at(everywhere(), 8001),
                tls: TlsArgs::default(),
                keepalive_time: Duration::from_secs(7200),
                keepalive_timeout: Duration::from_secs(20),
                pings_without_calls: false,
                min_ping_interval: Duration::from_secs(300),
                max_ping_strikes: 2,
                max_connection_age: None,
                max_connection_age_grace: None,
                compression: Compression::None,
                max_unread_responses: None,
                restrictions: Vec::new(),
                forwarded_headers: None,
            },
            control: ControlArgs::default(),
            sagemaker: SageMakerArgs { endpoint: Endpoint::off(everywhere(), 8080), safe_ports: None },
            vertex_ai: VertexAiArgs { endpoint: Endpoint::off(everywhere(), 8080), default_model: String::new() },
            metrics: Endpoint::at(String::new(), 8002),
            metrics_tls: TlsArgs::default(),
            cpu_metrics: true,
            pinned_memory_pool_size: 1 << 28,
            gpu_metrics: true,
            metrics_interval: Duration::from_secs(2),
            metrics_settings: Vec::new(),
            latency: LatencySettings::default(),
            backend_directory: "/opt/tritonserver/backends".into(),
            backend_settings: Vec::new(),
            cache: CacheArgs { settings: Vec::new(), byte_size: None, directory: "/opt/tritonserver/caches".into() },
            tracing: TraceArgs::default(),
            log: LogArgs { error: true, warning: true, info: true, verbose: 0, format: LogFormat::Default, file: None },
            access_log: None,
            deprecations: Vec::new(),
            unsupported_flags: Vec::new(),
        }
    }
}
