//! What Prometheus computes from the metrics of a server: recording rules of its load, and alerts. Text only; that Prometheus takes
//! each expression, and what it answers, is tested against a real one.
//!
//! Ensembles are left out of the load: they have no queue of their own, and what their members wait is counted there.
//!
//! Source: Prometheus, "Querying basics" and "Recording rules"; the families are the server's, `server/ARCHITECTURE.md`.

use std::time::Duration;

use crds::parts::{ByteCount, gpu::Percent, monitoring::AlertThresholds};
use serde_json::{Value, json};

/// Mean time in the queue from which on an alert is raised.
const QUEUE_LATENCY: Duration = Duration::from_millis(100);
/// Age of the oldest request in the queue from which on an alert is raised.
const OLDEST_REQUEST: Duration = Duration::from_secs(30);
/// Share of rejected requests from which on an alert is raised.
const REJECTED: Percent = Percent::new(1);
/// Share of GPU memory from which on an alert is raised.
const GPU_MEMORY: Percent = Percent::new(90);

/// Span over which rates are taken. It holds four samples, so that one that is lost leaves no gap.
const WINDOW: Duration = Duration::from_secs(60);

/// What rules are made of.
#[derive(Clone, Debug)]
pub struct About<'a> {
    /// Namespace of the server.
    pub namespace: &'a str,
    /// Name of the server.
    pub server: &'a str,
    /// Between two samples.
    pub interval: Duration,
    /// Whether it is to have replicas.
    pub has_replicas: bool,
    /// Whether it may have none for a while, since nobody asks.
    pub may_rest: bool,
    /// GPU memory of one replica, as its owner says.
    pub gpu_memory: Option<ByteCount>,
    /// From where on alerts are raised.
    pub thresholds: AlertThresholds,
}

/// Labels that the Prometheus operator gives each sample of a pod.
const OF_POD: &str = "namespace, pod, tritonserver";
/// The same of all pods of a server.
const OF_SERVER: &str = "namespace, tritonserver";

impl About<'_> {
    /// Selects the samples of the server.
    fn selector(&self) -> String {
        format!(r#"namespace="{}",tritonserver="{}""#, self.namespace, self.server)
    }

    /// Selects what the operator says of the server.
    fn of_operator(&self) -> String {
        format!(r#"server_namespace="{}",server="{}""#, self.namespace, self.server)
    }

    fn window(&self) -> String {
        let window = WINDOW.max(self.interval.saturating_mul(4));
        format!("{}s", window.as_millis().div_ceil(1000))
    }

    /// Mean time in the queue by `labels`: where requests left the queue, what they waited; where none did, the age of the oldest
    /// that waits, which is 0 where none waits. Absent for a pod of which there are not two samples yet.
    fn queue_latency(&self, labels: &str) -> String {
        let (selector, window) = (self.selector(), self.window());
        let exits = format!("sum by ({labels}) (rate(tritonserver_queue_exits{{{selector}}}[{window}]))");
        let waited = format!("sum by ({labels}) (rate(tritonserver_queue_time_us{{{selector}}}[{window}]))");
        let oldest = format!("max by ({labels}) (tritonserver_queue_oldest_age_us{{{selector}}})");
        format!("{waited} / ({exits} > 0) or ({oldest} and {exits})")
    }
}

/// The recording rules: `triton:MEASURE:pod` for autoscalers that ask for each pod, `triton:MEASURE:server` for the whole.
pub fn recording(about: &About<'_>) -> Vec<Value> {
    let (selector, window) = (about.selector(), about.window());
    let rule = |record: &str, expr: String| json!({ "record": record, "expr": expr });
    let sum = |of: &str| format!("sum by ({OF_SERVER}) ({of}{{{selector}}})");
    vec![
        rule("triton:queue_latency_us:pod", about.queue_latency(OF_POD)),
        // what waits in a second, in seconds: how many wait on average
        rule(
            "triton:queued_requests:pod",
            format!("sum by ({OF_POD}) (rate(tritonserver_queue_time_us{{{selector}}}[{window}])) / 1e6"),
        ),
        rule(
            "triton:pending_requests:pod",
            format!(
                "sum by ({OF_POD}) (avg_over_time(nv_inference_pending_request_count{{{selector}}}[{window}]) \
                 and on (namespace, pod, model, version) tritonserver_instances{{{selector}}})"
            ),
        ),
        rule(
            "triton:saturation_percent:pod",
            format!(
                "max by ({OF_POD}) (rate(tritonserver_busy_us{{{selector}}}[{window}]) \
                 / (tritonserver_instances{{{selector}}} > 0) / 1e4)"
            ),
        ),
        rule("triton:queue_latency_us:server", about.queue_latency(OF_SERVER)),
        rule("triton:queued_requests:server", sum("triton:queued_requests:pod")),
        rule("triton:pending_requests:server", sum("triton:pending_requests:pod")),
        rule(
            "triton:saturation_percent:server",
            format!("avg by ({OF_SERVER}) (triton:saturation_percent:pod{{{selector}}})"),
        ),
    ]
}

/// An alert.
struct Alert {
    /// What it is about; its name is longer.
    name: &'static str,
    severity: &'static str,
    /// How long its expression has to hold.
    lasting: &'static str,
    expr: String,
    summary: String,
    /// What to do.
    description: String,
}

impl Alert {
    fn of(self, about: &About<'_>) -> Value {
        json!({
            "alert": format!("TritonServer{}", self.name),
            "expr": self.expr,
            "for": self.lasting,
            "labels": { "severity": self.severity, "namespace": about.namespace, "tritonserver": about.server },
            "annotations": { "summary": self.summary, "description": self.description },
        })
    }
}

/// The alerts, each with what to do about it.
pub fn alerts(about: &About<'_>) -> Vec<Value> {
    let (selector, of_operator, window) = (about.selector(), about.of_operator(), about.window());
    let (namespace, server, thresholds) = (about.namespace, about.server, &about.thresholds);
    let latency: Duration = thresholds.queue_latency.map_or(QUEUE_LATENCY, Into::into);
    let oldest: Duration = thresholds.oldest_request.map_or(OLDEST_REQUEST, Into::into);
    let rejected = thresholds.rejected.unwrap_or(REJECTED);
    let replicas = |state: &str| format!(r#"max(triton_operator_server_replicas{{{of_operator},state="{state}"}})"#);
    // what the operator says decides; where Prometheus does not ask it, whether any pod answers does
    let wanted = replicas("wanted");
    let mut no_ready_replicas = format!("({wanted} > 0 and {} == 0)", replicas("ready"));
    if !about.may_rest {
        no_ready_replicas.push_str(&format!(" or (absent(up{{{selector}}} == 1) unless {wanted})"));
    }
    let mut alerts = vec![];
    let mut alert = |name, severity, lasting, expr, summary, description| {
        alerts.push(Alert { name, severity, lasting, expr, summary, description });
    };
    if about.has_replicas {
        alert(
            "NoReadyReplicas",
            "critical",
            "5m",
            no_ready_replicas,
            format!("TritonServer {namespace}/{server} has no replica that serves"),
            format!(
                "Nobody can be answered. `kubectl -n {namespace} describe tritonserver {server}` says what its pods wait for: nodes with \
                 room or GPUs, an image, a model that does not load. `kubectl -n {namespace} logs deployment/{server} -c server` \
                 says what the server does."
            ),
        );
    }
    alert(
        "ModelLoadFailed",
        "warning",
        "5m",
        format!(r#"max(triton_operator_server_models{{{of_operator},state="failed"}}) > 0"#),
        format!("TritonServer {namespace}/{server} does not have all of its models"),
        format!(
            "{{{{ $value }}}} of its models were left out or could not be loaded. `kubectl -n {namespace} get tritonmodels` names them, \
             and each says why in its status. A model whose change failed goes on serving what it served before; revert the \
             change, or mend the source and set a new text in the annotation triton-operator.dev/retry of the model."
        ),
    );
    alert(
        "QueueLatencyHigh",
        "warning",
        "5m",
        format!("{} > {}", parenthesised(&about.queue_latency(OF_SERVER)), latency.as_micros()),
        format!("Requests to TritonServer {namespace}/{server} wait long before they are executed"),
        "They have waited for {{ $value | humanize }} µs on average for 5 minutes. Give it more replicas (spec.replicas, or \
             spec.autoscaling with a higher maxReplicas), give the busiest model more instances (instance groups), or let it \
             batch (dynamic batching). tritonserver_queue_time_us by model says which one it is."
            .to_owned(),
    );
    alert(
        "PendingStuck",
        "critical",
        "1m",
        format!("max by (pod, model) (tritonserver_queue_oldest_age_us{{{selector}}}) > {}", oldest.as_micros()),
        format!(
            "Model {{{{ $labels.model }}}} of TritonServer {namespace}/{server} does not take requests out of its queue"
        ),
        format!(
            "The oldest one on pod {{{{ $labels.pod }}}} has waited for {{{{ $value | humanize }}}} µs. An instance may hang: see `kubectl -n \
             {namespace} logs {{{{ $labels.pod }}}} -c server`, and delete the pod if it does. A queue timeout in the model's dynamic \
             batching lets callers go elsewhere."
        ),
    );
    alert(
        "RequestsRejected",
        "warning",
        "5m",
        format!(
            "sum by (model) (rate(nv_inference_request_failure{{{selector},reason=\"REJECTED\"}}[{window}])) / \
             ((sum by (model) (rate(nv_inference_request_success{{{selector}}}[{window}])) \
             + sum by (model) (rate(nv_inference_request_failure{{{selector}}}[{window}]))) > 0) > {}",
            share(rejected)
        ),
        format!("TritonServer {namespace}/{server} rejects requests for model {{{{ $labels.model }}}}"),
        "{{ $value | humanizePercentage }} of them were turned away, since the queue was full or they had waited longer than they \
         may. Add replicas or instances; max_queue_size and the timeouts of the model's dynamic batching say from where \
         on requests are rejected."
            .to_owned(),
    );
    alerts.push(gpu_memory(about));
    alerts.into_iter().map(|alert| alert.of(about)).collect()
}

fn gpu_memory(about: &About<'_>) -> Alert {
    let (selector, namespace, server) = (about.selector(), about.namespace, about.server);
    let threshold = about.thresholds.gpu_memory.unwrap_or(GPU_MEMORY);
    let used = format!("sum by (pod) (nv_gpu_memory_used_bytes{{{selector}}})");
    let (all, what) = match about.gpu_memory {
        Some(budget) => (budget.get().to_string(), "spec.gpu.memoryPerReplica"),
        None => (format!("sum by (pod) (nv_gpu_memory_total_bytes{{{selector}}})"), "the memory of its GPUs"),
    };
    Alert {
        name: "GPUMemoryNearBudget",
        severity: "warning",
        lasting: "10m",
        expr: format!("{used} / {all} > {}", share(threshold)),
        summary: format!("TritonServer {namespace}/{server} has little GPU memory left"),
        description: format!(
            "Pod {{{{ $labels.pod }}}} uses {{{{ $value | humanizePercentage }}}} of {what}. The next load may fail. Give its models a gpuMemory, so \
             that those which do not fit are not loaded; move some to another server; or let them have fewer instances."
        ),
    }
}

fn parenthesised(expression: &str) -> String {
    format!("({expression})")
}

fn share(percent: Percent) -> String {
    // of a million, so that a share of hundredths has no rounding
    let millionths = percent.of(ByteCount(1_000_000)).get();
    format!("{}", millionths as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About<'static> {
        About {
            namespace: "ml",
            server: "vision",
            interval: Duration::from_secs(15),
            has_replicas: true,
            may_rest: false,
            gpu_memory: None,
            thresholds: AlertThresholds::default(),
        }
    }

    fn expression(about: &About<'_>, alert: &str) -> Option<String> {
        let alerts = alerts(about);
        let found = alerts.iter().find(|it| it["alert"] == alert)?;
        Some(found["expr"].as_str().unwrap().to_owned())
    }

    #[test]
    fn pods_that_do_not_answer_are_missed_unless_they_may_be_at_rest() {
        let missed = |about: &About<'_>| expression(about, "TritonServerNoReadyReplicas");
        assert!(missed(&about()).unwrap().contains("absent(up"));
        assert!(!missed(&About { may_rest: true, ..about() }).unwrap().contains("absent(up"));
        assert_eq!(missed(&About { has_replicas: false, ..about() }), None);
    }

    #[test]
    fn rates_are_taken_over_four_samples_at_least() {
        for (seconds, window) in [(1, "[60s]"), (15, "[60s]"), (20, "[80s]")] {
            let about = About { interval: Duration::from_secs(seconds), ..about() };
            let text = serde_json::to_string(&recording(&about)).unwrap();
            assert!(text.contains(window), "{seconds} s: {text}");
        }
    }

    #[test]
    fn gpu_memory_is_compared_with_the_budget_where_there_is_one() {
        let compared =
            |gpu_memory| expression(&About { gpu_memory, ..about() }, "TritonServerGPUMemoryNearBudget").unwrap();
        assert!(
            compared(None).ends_with(
                "/ sum by (pod) (nv_gpu_memory_total_bytes{namespace=\"ml\",tritonserver=\"vision\"}) > 0.9"
            )
        );
        assert!(compared(Some(ByteCount(1024))).ends_with("/ 1024 > 0.9"));
    }
}
