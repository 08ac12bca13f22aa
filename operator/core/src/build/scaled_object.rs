//! The ScaledObject: KEDA asks the operator, or a Prometheus, for the load of the server, and makes a HorizontalPodAutoscaler of the
//! answer. A kind of KEDA's, written as plain JSON so that no crate follows its versions.
//!
//! KEDA knows one number for the whole server: the sum over its pods, which is divided by the replicas (`AverageValue`). So each replica
//! counts as in the HorizontalPodAutoscaler of the other engines, for a latency too; and KEDA's fallback works, which it does for
//! `AverageValue` alone.
//!
//! Source: KEDA 2, ScaledObject specification, Prometheus and External scalers.

use serde_json::{Value, json};

use super::parts::{metadata, seconds};
use crate::{
    autoscaling::{Autoscale, Target},
    kind::Kind,
    labels,
    load::Metric,
    validated::Validated,
};

/// Seconds between two questions of KEDA's.
const POLLING_SECONDS: i64 = 10;
/// Questions without an answer before the fallback counts.
const FAILURES: i64 = 3;

/// The ScaledObject of a server that KEDA scales.
pub(super) fn build(server: &Validated<'_>) -> Value {
    let autoscale = server.autoscale.as_ref().expect("only what KEDA scales has a ScaledObject");
    let resource = Kind::ScaledObject.api_resource();
    let least = autoscale.least();
    json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata(server, server.name),
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": server.name },
            "minReplicaCount": autoscale.min_replicas,
            "maxReplicaCount": autoscale.max_replicas.max(least),
            "pollingInterval": POLLING_SECONDS,
            "cooldownPeriod": seconds(autoscale.rest_after), // from one replica to none only
            "fallback": { "failureThreshold": FAILURES, "replicas": least, "behavior": "currentReplicasIfHigher" },
            "advanced": {
                "restoreToOriginalReplicaCount": false, // without it the present number stays
                "horizontalPodAutoscalerConfig": { "behavior": autoscale.behavior },
            },
            "triggers": autoscale.targets.iter().map(|target| trigger(server, autoscale, target)).collect::<Vec<_>>(),
        },
    })
}

fn trigger(server: &Validated<'_>, autoscale: &Autoscale, target: &Target) -> Value {
    let name = target.metric.name().replace('_', "-");
    let value = target.value.to_string();
    match &autoscale.prometheus {
        Some(address) => json!({
            "type": "prometheus",
            "name": name,
            "metricType": "AverageValue",
            "metadata": {
                "serverAddress": address,
                "query": query(server, target),
                "threshold": value,
                "ignoreNullValues": "false", // no answer is not an idle server
            },
        }),
        None => {
            let mut metadata = json!({
                "scalerAddress": server.scaler_address,
                "server": server.name,
                "metric": target.metric.name(),
                "target": value,
            });
            if !target.models.is_empty() {
                metadata["models"] = json!(target.models.join(","));
            }
            json!({
                "type": "external",
                "name": name,
                "metricType": "AverageValue",
                "metadata": metadata,
            })
        }
    }
}

/// What Prometheus is asked: the sum over the pods.
fn query(server: &Validated<'_>, target: &Target) -> String {
    let mut labels = format!("namespace=\"{}\",{}=\"{}\"", server.namespace, labels::SERVER, server.name);
    if !target.models.is_empty() {
        // the schema lets names have dots, and no other sign of a pattern
        let names: Vec<_> = target.models.iter().map(|name| name.replace('.', "\\\\.")).collect();
        labels.push_str(&format!(",model=~\"{}\"", names.join("|")));
    }
    let rate = |family: &str| format!("rate({family}{{{labels}}}[1m])");
    match target.metric {
        // while nothing leaves the queue: how old the oldest in it is
        Metric::QueueLatency => format!(
            "sum(sum by (pod) ({}) / (sum by (pod) ({}) > 0) or max by (pod) (tritonserver_queue_oldest_age_us{{{labels}}}))",
            rate("tritonserver_queue_time_us"),
            rate("tritonserver_queue_exits"),
        ),
        Metric::QueuedRequests => format!("sum({}) / 1e6", rate("tritonserver_queue_time_us")),
        // without ensembles, whose requests wait in the queues of their members
        Metric::PendingRequests => format!(
            "sum(nv_inference_pending_request_count{{{labels}}} and on (pod, model, version) tritonserver_instances{{{labels}}})"
        ),
        Metric::Saturation => format!(
            "sum(max by (pod) ({} / 1e4 / (tritonserver_instances{{{labels}}} > 0)))",
            rate("tritonserver_busy_us")
        ),
    }
}
