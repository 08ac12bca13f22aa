//! The HorizontalPodAutoscaler: asks a metrics API for the load of each pod and sets the replicas of the Deployment. Not those of the
//! TritonServer: its spec is the user's. Whether the operator or prometheus-adapter answers, the object is the same.

use crds::parts::autoscaling::AutoscalingEngine;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube_core::Resource;
use serde_json::{Value, json};

use super::parts::metadata;
use crate::{
    autoscaling::{Autoscale, Target},
    load::MODEL_LABEL,
    validated::Validated,
};

/// None where the load does not decide, or KEDA makes one itself.
pub(super) fn build(server: &Validated<'_>) -> Option<Value> {
    let autoscale = server.autoscale.as_ref().filter(|it| it.engine != AutoscalingEngine::Keda)?;
    Some(json!({
        "apiVersion": HorizontalPodAutoscaler::api_version(&()),
        "kind": HorizontalPodAutoscaler::kind(&()),
        "metadata": metadata(server, server.name),
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": server.name },
            // it leaves a Deployment without replicas alone: from none to one and back is not its business
            "minReplicas": autoscale.least(),
            "maxReplicas": autoscale.max_replicas.max(autoscale.least()),
            "metrics": metrics(autoscale),
            "behavior": autoscale.behavior,
        },
    }))
}

fn metrics(autoscale: &Autoscale) -> Vec<Value> {
    let raw = autoscale.raw.iter().map(|metric| Value::Object(metric.0.clone()));
    autoscale.targets.iter().map(metric).chain(raw).collect()
}

/// The mean over the pods is compared: `AverageValue` of a metric of pods.
fn metric(target: &Target) -> Value {
    let mut metric = json!({ "name": target.metric.name() });
    if !target.models.is_empty() {
        metric["selector"] =
            json!({ "matchExpressions": [{ "key": MODEL_LABEL, "operator": "In", "values": target.models }] });
    }
    json!({
        "type": "Pods",
        "pods": {
            "metric": metric,
            "target": { "type": "AverageValue", "averageValue": target.value.to_string() },
        },
    })
}
