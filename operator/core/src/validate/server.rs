//! A `TritonServer`: stores, rollouts, flags, GPUs, hosts.

use std::collections::BTreeSet;

use crds::{
    TritonServer,
    parts::{Opaque, Switch, autoscaling::AutoscalingEngine, gpu::Gpu, monitoring::Monitor},
};
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerBehavior, MetricSpec};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use server_core::restriction::ApiGroup;

use super::{
    ending,
    findings::{Findings, spec},
};
use crate::{
    Problem, canonical,
    defaults::{GPU_RESOURCE, OWN_FLAGS},
    labels, names, overrides,
    path::FieldPath,
    source_rules::HostPattern,
    strategic, tls, typed,
};

/// Everything wrong with `server`.
pub fn server(server: &TritonServer) -> Vec<Problem> {
    let mut findings = Findings::new(names::object(server));
    findings.check_name(crds::server::NAME_MAX);
    service_name(server, &mut findings);
    store(server, &mut findings);
    rollout(server, &mut findings);
    gpu(server, &mut findings);
    flags(server, &mut findings);
    ending::check(server, &mut findings);
    pods(server, &mut findings);
    hosts(server, &mut findings);
    autoscaling(server, &mut findings);
    monitors(server, &mut findings);
    pod_template(server, &mut findings);
    findings.problems
}

fn service_name(server: &TritonServer, findings: &mut Findings) {
    let name = server.metadata.name.as_deref().unwrap_or_default();
    if !name.is_empty() && (name < "a" || name.contains('.')) {
        let message = crds::server::NOT_A_SERVICE.trim_start_matches("metadata.name ");
        findings.add("metadata.name", message);
    }
}

fn store(server: &TritonServer, findings: &mut Findings) {
    let Some(store) = &server.spec.model_store else { return };
    if store.empty_dir.is_some() && store.persistent_volume_claim.is_some() {
        findings.add(spec("modelStore"), "is either emptyDir or persistentVolumeClaim: remove one");
    }
}

fn rollout(server: &TritonServer, findings: &mut Findings) {
    let Some(rollout) = &server.spec.rollout else { return };
    if (rollout.max_surge, rollout.max_unavailable) == (Some(0), Some(0)) {
        let message = "maxSurge 0 and maxUnavailable 0 leave a rollout no way to move: raise one of them";
        findings.add(spec("rollout"), message);
    }
}

fn autoscaling(server: &TritonServer, findings: &mut Findings) {
    let Some(autoscaling) = &server.spec.autoscaling else { return };
    if server.spec.replicas.is_some() {
        let message = "stands beside autoscaling: the load decides how many run, so remove replicas (autoscaling.minReplicas and \
                       maxReplicas are the bounds), or remove autoscaling";
        findings.add(spec("replicas"), message);
    }
    let path = spec("autoscaling");
    let is_keda = autoscaling.engine == Some(AutoscalingEngine::Keda);
    let (min, max) = (autoscaling.min_replicas, autoscaling.max_replicas);
    if let Some(min) = min.filter(|min| *min > max) {
        let message = format!("is {min}, above maxReplicas, which is {max}: lower the one or raise the other");
        findings.add(path.field("minReplicas"), message);
    }
    if autoscaling.scale_to_zero.is_some() && min != Some(0) {
        let message = "has no effect while minReplicas is not 0: set minReplicas to 0, or remove scaleToZero";
        findings.add(path.field("scaleToZero"), message);
    }
    if autoscaling.prometheus.is_some() && !is_keda {
        let message = "is asked by KEDA only: set engine to KEDA, or remove prometheus";
        findings.add(path.field("prometheus"), message);
    }
    if is_keda && autoscaling.metrics.as_ref().is_some_and(|metrics| !metrics.raw.is_empty()) {
        let message = "are for a HorizontalPodAutoscaler, which KEDA makes itself: set engine to Operator or PrometheusAdapter, or \
                       remove raw";
        findings.add(path.field("metrics").field("raw"), message);
    }
    let metrics = autoscaling.metrics.as_ref();
    let latency = metrics.and_then(|metrics| metrics.queue_latency.as_ref()?.target);
    if latency.is_some_and(|target| std::time::Duration::from(target).is_zero()) {
        let message = "is no time at all, which nothing stays below: 1ms is the least, or leave it out";
        findings.add(path.field("metrics").field("queueLatency").field("target"), message);
    }
    for (at, raw) in metrics.iter().flat_map(|metrics| &metrics.raw).enumerate() {
        let path = path.field("metrics").field("raw").index(at);
        if !raw.0.contains_key("type") {
            findings.add(path.clone(), "has no type: write Resource, ContainerResource, Pods, Object or External");
        }
        check_type::<MetricSpec>(raw, &path, findings);
    }
    if let Some(behavior) = &autoscaling.behavior {
        check_type::<HorizontalPodAutoscalerBehavior>(behavior, &path.field("behavior"), findings);
    }
}

/// What is passed on as it stands can be read as the type that it is passed on as. A field that is none of it may be one of a later
/// Kubernetes than the lowest that is supported: whether it is, the API server says.
fn check_type<T>(given: &Opaque, path: &FieldPath, findings: &mut Findings)
where
    T: DeserializeOwned + Serialize,
{
    if let Err(wrong) = typed::typed::<T>(&Value::Object(given.0.clone()), "") {
        findings.add(strategic::below(&path.to_string(), &wrong.path), wrong.message);
    }
}

/// Most bytes of `spec.podTemplate`, as JSON: the template it becomes part of is noted in an annotation of the Deployment.
const POD_TEMPLATE_MAX: usize = 32 << 10;
/// Most Secrets it may name: each is looked for.
const POD_TEMPLATE_SECRETS_MAX: usize = 64;

fn pod_template(server: &TritonServer, findings: &mut Findings) {
    let Some(patch) = &server.spec.pod_template else { return };
    let bytes = canonical::to_string(patch).len();
    if bytes > POD_TEMPLATE_MAX {
        let message =
            format!("has {bytes} bytes, the most is {POD_TEMPLATE_MAX}: keep files in a ConfigMap and mount it");
        findings.add(spec("podTemplate"), message);
    }
    let secrets: BTreeSet<String> = overrides::secrets(server).into_iter().map(|(_, name)| name).collect();
    if secrets.len() > POD_TEMPLATE_SECRETS_MAX {
        let message = format!("names {} Secrets, the most is {POD_TEMPLATE_SECRETS_MAX}", secrets.len());
        findings.add(spec("podTemplate"), message);
    }
}

fn monitors(server: &TritonServer, findings: &mut Findings) {
    let Some(monitoring) = &server.spec.monitoring else { return };
    let is_wanted = |monitor: &Monitor| monitor.enabled != Some(Switch::Never);
    if [&monitoring.service_monitor, &monitoring.pod_monitor].into_iter().flatten().filter(|it| is_wanted(it)).count()
        > 1
    {
        let message = "has a ServiceMonitor and a PodMonitor, so that each pod would be counted twice: remove one, or set its \
                       enabled to Never";
        findings.add(spec("monitoring"), message);
    }
    for (name, monitor) in [("serviceMonitor", &monitoring.service_monitor), ("podMonitor", &monitoring.pod_monitor)] {
        let given = monitor.iter().filter_map(|monitor| monitor.tls_config.as_ref()).flat_map(|given| &given.0);
        for (field, _) in given.filter(|(field, _)| FILES_OF_PROMETHEUS.contains(&field.as_str())) {
            let message = "names a file of Prometheus, which is not this server's to use: give ca, cert and keySecret";
            findings.add(spec("monitoring").field(name).field("tlsConfig").field(field), message);
        }
    }
}

/// Fields of a monitor's TLS configuration that name files where Prometheus runs.
const FILES_OF_PROMETHEUS: [&str; 3] = ["caFile", "certFile", "keyFile"];

fn hosts(server: &TritonServer, findings: &mut Findings) {
    let hosts = server.spec.model_access.iter().filter_map(|access| access.hosts.as_ref()).flatten();
    for (at, host) in hosts.enumerate() {
        if let Err(error) = host.parse::<HostPattern>() {
            findings.add(spec("modelAccess").field("hosts").index(at), error.to_string());
        }
    }
}

fn gpu(server: &TritonServer, findings: &mut Findings) {
    if let Some(gpu) = &server.spec.gpu {
        gpu_claims(gpu, findings);
    }
    let resource = server.spec.gpu.as_ref().and_then(|gpu| gpu.resource_name.as_deref()).unwrap_or(GPU_RESOURCE);
    let Some(resources) = &server.spec.resources else { return };
    for (side, quantities) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        if quantities.iter().flatten().any(|(name, _)| name == resource) {
            let path = spec("resources").field(side).field(resource);
            findings.add(path, "GPUs are asked for in spec.gpu.count, which writes this itself: remove it here");
        }
    }
}

fn gpu_claims(gpu: &Gpu, findings: &mut Findings) {
    if gpu.count.is_some() != gpu.resource_claims.is_empty() {
        findings.add(spec("gpu"), "asks for GPUs either by count or by resourceClaims: write one of them");
    }
    if gpu.resource_name.is_some() && !gpu.resource_claims.is_empty() {
        let message = "belongs to count; resourceClaims name their devices themselves: remove it";
        findings.add(spec("gpu").field("resourceName"), message);
    }
    for (at, claim) in gpu.resource_claims.iter().enumerate() {
        let path = spec("gpu").field("resourceClaims").index(at);
        if claim.resource_claim_name.is_some() == claim.resource_claim_template_name.is_some() {
            let message =
                "has devices either from resourceClaimName or from resourceClaimTemplateName: write one of them";
            findings.add(path, message);
        } else if gpu.resource_claims[..at].iter().any(|other| other.name == claim.name) {
            findings.add(path.field("name"), format!("'{}' is the name of another one: names differ", claim.name));
        }
    }
}

fn flags(server: &TritonServer, findings: &mut Findings) {
    let args = server.spec.server.iter().flat_map(|options| &options.extra_args);
    for (at, arg) in args.enumerate() {
        let path = spec("server").field("extraArgs").index(at);
        let Some(flag) = arg.strip_prefix("--") else {
            findings.add(
                path,
                format!("'{arg}' is no flag: write each flag with its value as one item, such as --name=value"),
            );
            continue;
        };
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        if name.is_empty() {
            findings.add(
                path,
                format!("'{arg}' names no flag: write one with its value as one item, such as --name=value"),
            );
            continue;
        }
        if restricts_health(name, value) {
            let message = "restricts health, which the kubelet asks without a header to know whether the pod is ready: leave \
                           health out";
            findings.add(path, message);
            continue;
        }
        if let Some(own) = tls::own_flag(&server.spec, name) {
            let shown = if own == name { format!("--{own}") } else { format!("--{name} begins --{own}, which") };
            let message =
                format!("{shown} is set by the operator: remove it, and name the Secret in spec.tls.secretName");
            findings.add(path, message);
            continue;
        }
        // the server takes names that are cut short, like getopt
        let Some(own) = OWN_FLAGS.iter().find(|own| own.starts_with(name)) else { continue };
        let shown = if *own == name { format!("--{own}") } else { format!("--{name} begins --{own}, which") };
        findings.add(path, format!("{shown} is set by the operator: remove it{}", instead_of(own)));
    }
}

/// What says the same as one of [`OWN_FLAGS`], as the rest of a sentence.
fn instead_of(own: &str) -> &'static str {
    match own {
        "control-socket" | "public-control" => ", and write spec.control: Public to open the ports for control",
        "drain-delay-secs" => ", and use spec.server.drainDelay",
        "drain-timeout-secs" => ", and use spec.server.drainTimeout",
        "exit-timeout-secs" => ", and use spec.server.exitTimeout",
        "load-model" | "model-control-mode" | "model-repository" | "model-store" => {
            "; a server has the models whose TritonModel names it"
        }
        "log-error" | "log-info" | "log-verbose" | "log-warning" => ", and use spec.server.logLevel",
        "metrics-interval-ms" => ", and use spec.server.metricsInterval",
        "startup-hold-secs" => "",
        _ => "; pods serve HTTP at port 8000, gRPC at 8001 and metrics at 8002",
    }
}

/// What whoever writes a server may not say of its pods: whose place they take on a full node, and what the operator tells them.
fn pods(server: &TritonServer, findings: &mut Findings) {
    if let Some(class) = server.spec.priority_class_name.as_deref().filter(|class| class.starts_with("system-")) {
        let message = format!(
            "'{class}' is for the pods of the cluster itself, which take the place of everybody else's: name another PriorityClass"
        );
        findings.add(spec("priorityClassName"), message);
    }
    let Some(metadata) = &server.spec.pod_metadata else { return };
    for (field, keys) in [("labels", &metadata.labels), ("annotations", &metadata.annotations)] {
        for key in keys.keys() {
            let message = if labels::is_of_operator(key) {
                format!("'{key}' is written by the operator alone: remove it")
            } else if labels::is_of_workloads(key) {
                format!("'{key}' is written by Kubernetes alone: remove it")
            } else {
                continue;
            };
            findings.add(spec("podMetadata").field(field).field(key), message);
        }
    }
}

/// Whether a flag asks callers of the health routes for a header; its name may be cut short.
fn restricts_health(name: &str, value: &str) -> bool {
    let is_restriction = name.starts_with("http-re") && "http-restricted-api".starts_with(name);
    let groups = value.split(':').next().unwrap_or_default();
    is_restriction && groups.split(',').any(|group| group.trim() == ApiGroup::Health.name())
}
