//! What absent fields mean. The definitions carry no defaults, so that what users wrote stays what they wrote; every
//! default the field docs promise is here.

use std::{collections::BTreeMap, time::Duration};

use crds::{
    TritonModelSpec, TritonServerSpec,
    parts::{
        ByteCount,
        gpu::{Gpu, GpuClaim, Percent},
        server::LogLevel,
    },
};

use k8s_openapi::{
    api::core::v1::{ResourceClaim, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{drift, manifest::ManifestLoad};

/// Name of memory among resources.
const MEMORY: &str = "memory";
/// Name of processor time among resources.
const CPU: &str = "cpu";

/// The extended resource GPUs are asked for by.
pub const GPU_RESOURCE: &str = "nvidia.com/gpu";
/// The most GPUs of one replica.
const GPUS_MAX: u32 = 64;
/// Share of GPU memory no model may claim.
pub const GPU_MEMORY_RESERVE: Percent = Percent::new(10);
/// Limit of `/dev/shm`.
pub const SHARED_MEMORY: ByteCount = ByteCount(1 << 30);
/// How long one load may take.
pub const LOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// How many times a failed fetch or load is tried again.
pub const LOAD_RETRIES: u32 = 5;
/// Pause before the first new attempt.
pub const LOAD_BACKOFF: Duration = Duration::from_secs(30);
/// Hub of models that name none.
pub const HUB_ENDPOINT: &str = "https://huggingface.co";
/// Revision of a repository of the hub where none is named.
pub const HUB_REVISION: &str = "main";
/// The longest pause between attempts.
pub const LOAD_BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Memory limit of a server without GPUs whose spec sets none: one server must not take the memory of its whole node.
pub const MEMORY_LIMIT: ByteCount = ByteCount(4 << 30);
/// The same for each GPU of a server that has some: what is loaded into a GPU passes through memory.
pub const MEMORY_LIMIT_PER_GPU: ByteCount = ByteCount(16 << 30);
/// Memory request of a server whose spec sets neither limit nor request.
pub const MEMORY_REQUEST: ByteCount = ByteCount(256 << 20);
/// Memory limit of the agent: it keeps nothing of what it fetches in memory.
pub const AGENT_MEMORY_LIMIT: ByteCount = ByteCount(256 << 20);
/// Memory request of the agent.
pub const AGENT_MEMORY_REQUEST: ByteCount = ByteCount(32 << 20);
/// CPU request of the agent.
pub const AGENT_CPU_REQUEST: &str = "10m";
/// How often gauges are read anew.
pub const METRICS_INTERVAL: Duration = Duration::from_secs(2);
/// How long requests under way may take to finish.
pub const EXIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long no request may have come before a server that was asked to end does so.
pub const DRAIN_DELAY: Duration = Duration::from_secs(5);
/// How long a server that was asked to end serves requests at most.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest of the times that pods keep, and the longest they may take to end: the end of a node or of a namespace waits for them.
pub const POD_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Time beyond draining and finishing that a pod gets to end.
const END_SLACK_SECONDS: u64 = 10;

/// The fewest replicas of an autoscaled server.
pub const MIN_REPLICAS: i32 = 1;
/// Mean time in the queue that replicas are added above.
pub const QUEUE_LATENCY_TARGET: Duration = Duration::from_millis(20);
/// Waiting requests that replicas are added above, for each replica.
pub const REQUESTS_TARGET: i32 = 4;
/// Percent of the time instances execute that replicas are added above. It leaves room for the arrivals of the seconds until a new
/// replica serves.
pub const SATURATION_TARGET: i32 = 70;
/// How long no request may have come before the last replica ends.
pub const SCALE_TO_ZERO_AFTER: Duration = Duration::from_secs(300);

/// Settings of the server process, every one decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// The least important messages still written.
    pub log_level: LogLevel,
    /// How often gauges are read anew.
    pub metrics_interval: Duration,
    /// How long requests under way may take to finish.
    pub exit_timeout: Duration,
    /// How long no request may have come before a server that was asked to end does so.
    pub drain_delay: Duration,
    /// How long it serves requests at most.
    pub drain_timeout: Duration,
    /// Further flags, as the user wrote them.
    pub extra_args: Vec<String>,
}

impl ServerSettings {
    /// The settings of `spec`, defaults filled in.
    pub fn of(spec: &TritonServerSpec) -> Self {
        let options = spec.server.clone().unwrap_or_default();
        Self {
            log_level: options.log_level.unwrap_or_default(),
            metrics_interval: options.metrics_interval.map_or(METRICS_INTERVAL, Into::into),
            exit_timeout: options.exit_timeout.map_or(EXIT_TIMEOUT, Into::into),
            drain_delay: options.drain_delay.map_or(DRAIN_DELAY, Into::into),
            drain_timeout: options.drain_timeout.map_or(DRAIN_TIMEOUT, Into::into),
            extra_args: options.extra_args,
        }
    }

    /// How long a pod may take to end.
    pub fn end(&self) -> Duration {
        let drain = whole_seconds(self.drain_delay.max(self.drain_timeout));
        let seconds = drain.saturating_add(whole_seconds(self.exit_timeout)).saturating_add(END_SLACK_SECONDS);
        Duration::from_secs(seconds)
    }

    /// The flags of `tritonserver` that say the same, the user's own last. Repository, ports and model control are the
    /// caller's to add.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("--exit-timeout-secs={}", whole_seconds(self.exit_timeout)),
            format!("--metrics-interval-ms={}", self.metrics_interval.as_millis()),
        ];
        let log: &[&str] = match self.log_level {
            LogLevel::Error => &["--log-info=false", "--log-warning=false"],
            LogLevel::Warning => &["--log-info=false"],
            LogLevel::Info => &[],
            LogLevel::Verbose => &["--log-verbose=1"],
        };
        flags.extend(log.iter().map(|flag| (*flag).to_owned()));
        flags.extend(self.extra_args.iter().cloned());
        flags
    }
}

/// The server's flags have whole seconds only; a part of a second rounds up, so that nobody gets less than promised.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Flags of `tritonserver` that the operator sets itself, without their dashes.
pub const OWN_FLAGS: [&str; 24] = [
    "allow-grpc",
    "allow-http",
    "allow-metrics",
    "control-socket",
    "drain-delay-secs",
    "drain-timeout-secs",
    "exit-timeout-secs",
    "grpc-address",
    "grpc-port",
    "http-address",
    "http-port",
    "load-model",
    "log-error",
    "log-info",
    "log-verbose",
    "log-warning",
    "metrics-address",
    "metrics-interval-ms",
    "metrics-port",
    "model-control-mode",
    "model-repository",
    "model-store",
    "public-control",
    "startup-hold-secs",
];

/// How many replicas run: none while the server is suspended.
pub fn replicas(spec: &TritonServerSpec) -> i32 {
    if spec.suspend == Some(true) { 0 } else { spec.replicas.unwrap_or(1) }
}

/// CPU, memory and GPUs of the server's container: what the spec asks for, a memory limit if it sets none, and the GPUs. An
/// extended resource needs its limit only: the request follows it.
pub fn resources(spec: &TritonServerSpec) -> ResourceRequirements {
    let mut resources = spec.resources.clone().unwrap_or_default();
    let claims = spec.gpu.as_ref().map_or(0, |gpu| gpu.resource_claims.len() as u64);
    let gpus = if claims > 0 { claims } else { gpus(spec).into() };
    let limit = if gpus == 0 { MEMORY_LIMIT } else { ByteCount(MEMORY_LIMIT_PER_GPU.0.saturating_mul(gpus)) };
    limit_memory(&mut resources, limit, MEMORY_REQUEST);
    if let Some(gpu) = &spec.gpu {
        if let Some(count) = gpu.count {
            let name = gpu.resource_name.clone().unwrap_or_else(|| GPU_RESOURCE.to_owned());
            resources.limits.get_or_insert_default().insert(name, Quantity(count.to_string()));
        }
        if !gpu.resource_claims.is_empty() {
            let claim = |claim: &GpuClaim| ResourceClaim { name: claim.name.clone(), request: claim.request.clone() };
            resources.claims.get_or_insert_default().extend(gpu.resource_claims.iter().map(claim));
        }
    }
    resources
}

/// How many GPUs each replica has, as far as models may count on. What is behind claims only their driver knows: as many as may be.
pub fn gpus(spec: &TritonServerSpec) -> u32 {
    match &spec.gpu {
        Some(gpu) if !gpu.resource_claims.is_empty() => GPUS_MAX,
        Some(gpu) => gpu.count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
        None => 0,
    }
}

/// CPU and memory of the agent's container: what the spec asks for, a memory limit and small requests where it says nothing.
/// A limit without a request is the request as well, so that limits alone are enough for the QoS class Guaranteed.
pub fn agent_resources(spec: &TritonServerSpec) -> ResourceRequirements {
    let mut resources = spec.agent.as_ref().and_then(|agent| agent.resources.clone()).unwrap_or_default();
    limit_memory(&mut resources, AGENT_MEMORY_LIMIT, AGENT_MEMORY_REQUEST);
    let has_cpu = |side: &Option<BTreeMap<String, Quantity>>| side.iter().any(|side| side.contains_key(CPU));
    if !has_cpu(&resources.limits) && !has_cpu(&resources.requests) {
        resources.requests.get_or_insert_default().insert(CPU.into(), Quantity(AGENT_CPU_REQUEST.into()));
    }
    resources
}

/// Sets a memory limit where there is none, of at least the request, and the request where there is none either.
fn limit_memory(resources: &mut ResourceRequirements, limit: ByteCount, request: ByteCount) {
    let limits = resources.limits.get_or_insert_default();
    if limits.contains_key(MEMORY) {
        return;
    }
    let usual = Quantity(limit.to_string());
    let requests = resources.requests.get_or_insert_default();
    let requested = requests.entry(MEMORY.into()).or_insert_with(|| Quantity(request.to_string()));
    // a limit below the request would be refused
    let limit = if is_more(requested, &usual) { requested.clone() } else { usual };
    limits.insert(MEMORY.into(), limit);
}

fn is_more(one: &Quantity, other: &Quantity) -> bool {
    let number = |quantity: &Quantity| drift::quantity(&serde_json::Value::from(quantity.0.as_str()));
    number(one) > number(other)
}

/// GPU memory that the models of one replica may claim together; `None` where models are not admitted by memory.
pub fn gpu_memory_budget(gpu: &Gpu) -> Option<ByteCount> {
    let total = gpu.memory_per_replica?;
    let reserve = gpu.memory_reserve.unwrap_or(GPU_MEMORY_RESERVE);
    Some(ByteCount(total.0 - reserve.of(total).0))
}

/// Patience with a model.
pub fn load(spec: &TritonModelSpec) -> ManifestLoad {
    let policy = spec.load_policy.clone().unwrap_or_default();
    let retry = policy.retry.unwrap_or_default();
    ManifestLoad {
        timeout: policy.timeout.unwrap_or(LOAD_TIMEOUT.into()),
        retries: retry.limit.map_or(LOAD_RETRIES, |limit| u32::try_from(limit).unwrap_or(0)),
        backoff: retry.backoff.unwrap_or(LOAD_BACKOFF.into()),
        fetch_timeout: policy.timeout,
        order: policy.order.unwrap_or_default(),
        settle_time: policy.settle_time,
    }
}

#[cfg(test)]
mod tests {
    use crds::parts::server::ServerOptions;

    use super::*;

    #[test]
    fn settings_become_the_servers_own_flags() {
        let settings = |options| ServerSettings::of(&TritonServerSpec { server: Some(options), ..Default::default() });
        let plain = settings(ServerOptions::default());
        assert_eq!(plain.flags(), ["--exit-timeout-secs=30", "--metrics-interval-ms=2000"]);
        let loud = settings(ServerOptions {
            log_level: Some(LogLevel::Verbose),
            exit_timeout: Some("1500ms".parse().unwrap()),
            extra_args: vec!["--strict-readiness=false".into()],
            ..Default::default()
        });
        let flags =
            ["--exit-timeout-secs=2", "--metrics-interval-ms=2000", "--log-verbose=1", "--strict-readiness=false"];
        assert_eq!(loud.flags(), flags);
    }

    #[track_caller]
    fn check_resources(spec: serde_json::Value, expect: serde_json::Value) {
        let spec: TritonServerSpec = serde_json::from_value(spec).unwrap();
        assert_eq!(serde_json::to_value(resources(&spec)).unwrap(), expect);
    }

    #[test]
    fn a_server_has_a_memory_limit_whether_its_spec_sets_one_or_not() {
        use serde_json::json;
        check_resources(json!({}), json!({ "limits": { "memory": "4Gi" }, "requests": { "memory": "256Mi" } }));
        check_resources(
            json!({ "gpu": { "count": 2 } }),
            json!({ "limits": { "memory": "32Gi", "nvidia.com/gpu": "2" }, "requests": { "memory": "256Mi" } }),
        );
        check_resources(
            json!({ "gpu": { "resourceClaims": [{ "name": "a", "resourceClaimName": "x" }, { "name": "b", "resourceClaimTemplateName": "y", "request": "r" }] } }),
            json!({
                "claims": [{ "name": "a" }, { "name": "b", "request": "r" }],
                "limits": { "memory": "32Gi" }, "requests": { "memory": "256Mi" },
            }),
        );
        check_resources(
            json!({ "resources": { "limits": { "cpu": "2", "memory": "1Gi" } } }),
            json!({ "limits": { "cpu": "2", "memory": "1Gi" } }),
        );
        check_resources(
            json!({ "resources": { "requests": { "memory": "8Gi" } } }),
            json!({ "limits": { "memory": "8Gi" }, "requests": { "memory": "8Gi" } }),
        );
        check_resources(
            json!({ "resources": { "requests": { "cpu": "1", "memory": "512Mi" } } }),
            json!({ "limits": { "memory": "4Gi" }, "requests": { "cpu": "1", "memory": "512Mi" } }),
        );
    }

    #[track_caller]
    fn check_agent(resources: serde_json::Value, expect: serde_json::Value) {
        let spec = serde_json::json!({ "agent": { "resources": resources } });
        let spec: TritonServerSpec = serde_json::from_value(spec).unwrap();
        assert_eq!(serde_json::to_value(agent_resources(&spec)).unwrap(), expect);
    }

    #[test]
    fn an_agent_has_a_memory_limit_and_can_be_guaranteed() {
        use serde_json::json;
        let usual = json!({ "limits": { "memory": "256Mi" }, "requests": { "cpu": "10m", "memory": "32Mi" } });
        check_agent(json!({}), usual);
        let equal = json!({ "cpu": "100m", "memory": "128Mi" });
        check_agent(json!({ "limits": equal }), json!({ "limits": equal }));
        check_agent(json!({ "limits": equal, "requests": equal }), json!({ "limits": equal, "requests": equal }));
        check_agent(
            json!({ "requests": { "cpu": "1", "memory": "1Gi" } }),
            json!({ "limits": { "memory": "1Gi" }, "requests": { "cpu": "1", "memory": "1Gi" } }),
        );
    }

    #[test]
    fn a_tenth_of_the_gpu_memory_is_kept_free_by_default() {
        let gpu = Gpu { count: Some(1), memory_per_replica: Some(ByteCount(1000)), ..Default::default() };
        assert_eq!(gpu_memory_budget(&gpu), Some(ByteCount(900)));
        assert_eq!(gpu_memory_budget(&Gpu { memory_reserve: Some(Percent::new(100)), ..gpu }), Some(ByteCount(0)));
        assert_eq!(gpu_memory_budget(&Gpu { count: Some(1), ..Default::default() }), None);
    }
}
