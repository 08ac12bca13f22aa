//! The PrometheusRule: what Prometheus makes of the metrics of a server. What its expressions are is in [`crate::rules`].

use serde_json::{Value, json};

use super::{
    monitor,
    parts::{metadata, with_labels},
};
use crate::{
    kind::Kind,
    rules::{self, About},
    validated::Validated,
};

/// The PrometheusRule of a server.
pub(super) fn build(server: &Validated<'_>) -> Value {
    let resource = Kind::PrometheusRule.api_resource();
    let options = server.server.spec.monitoring.clone().and_then(|it| it.prometheus_rule).unwrap_or_default();
    let interval = monitor::interval(server);
    let about = About {
        namespace: server.namespace,
        server: server.name,
        interval: interval.into(),
        has_replicas: server.replicas.replicas != Some(0),
        may_rest: server.server.spec.autoscaling.as_ref().is_some_and(|it| it.min_replicas == Some(0)),
        gpu_memory: server.server.spec.gpu.as_ref().and_then(|gpu| gpu.memory_per_replica),
        thresholds: options.thresholds.clone().unwrap_or_default(),
    };
    let group = |name: &str, rules: Vec<Value>| {
        json!({
            "name": format!("triton.{}.{}.{name}", server.namespace, server.name),
            "interval": interval.to_string(),
            "rules": rules,
        })
    };
    let mut groups = vec![group("recording", rules::recording(&about))];
    if options.alerts != Some(false) {
        groups.push(group("alerts", rules::alerts(&about)));
    }
    json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": with_labels(metadata(server, server.name), &options.labels),
        "spec": { "groups": groups },
    })
}
