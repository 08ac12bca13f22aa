//! The ServiceMonitor or PodMonitor: how Prometheus finds the metrics page of each pod. Both are kinds of the Prometheus operator.

use std::time::Duration;

use crds::parts::monitoring::Monitor;
use serde_json::{Value, json};

use super::parts::{metadata, with_labels};
use crate::{kind::Kind, labels, validated::Validated};

/// How often Prometheus asks where nothing else is said.
const INTERVAL: Duration = Duration::from_secs(15);

/// How often Prometheus asks the pods of a server.
pub(super) fn interval(server: &Validated<'_>) -> crds::parts::Duration {
    let monitoring = server.server.spec.monitoring.clone().unwrap_or_default();
    let monitor = match server.optional.makes(Kind::PodMonitor) {
        true => monitoring.pod_monitor,
        false => monitoring.service_monitor,
    };
    monitor.and_then(|monitor| monitor.interval).unwrap_or(INTERVAL.into())
}

/// The ServiceMonitor of a server.
pub(super) fn of_service(server: &Validated<'_>) -> Value {
    let monitoring = server.server.spec.monitoring.clone().unwrap_or_default();
    let selector = json!({ "matchLabels": {
        "app.kubernetes.io/managed-by": labels::MANAGER,
        labels::SERVER: server.name,
    } });
    let spec = json!({
        "endpoints": [endpoint(server, &monitoring.service_monitor)],
        "selector": selector,
        // the series say whose they are
        "targetLabels": [labels::SERVER],
    });
    monitor(server, Kind::ServiceMonitor, monitoring.service_monitor, spec)
}

/// The PodMonitor of a server.
pub(super) fn of_pods(server: &Validated<'_>) -> Value {
    let monitoring = server.server.spec.monitoring.clone().unwrap_or_default();
    let spec = json!({
        "podMetricsEndpoints": [endpoint(server, &monitoring.pod_monitor)],
        "selector": { "matchLabels": labels::selector(server.name) },
        "podTargetLabels": [labels::SERVER],
    });
    monitor(server, Kind::PodMonitor, monitoring.pod_monitor, spec)
}

fn endpoint(server: &Validated<'_>, options: &Option<Monitor>) -> Value {
    let mut endpoint = json!({ "port": "metrics", "path": "/metrics", "interval": interval(server).to_string() });
    if server.server.spec.tls.is_some() {
        let own = options.as_ref().and_then(|options| options.tls_config.as_ref());
        endpoint["scheme"] = json!("https");
        endpoint["tlsConfig"] = own.map_or_else(|| json!({ "insecureSkipVerify": true }), |own| json!(own));
    }
    endpoint
}

fn monitor(server: &Validated<'_>, kind: Kind, options: Option<Monitor>, spec: Value) -> Value {
    let resource = kind.api_resource();
    json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": with_labels(metadata(server, server.name), &options.unwrap_or_default().labels),
        "spec": spec,
    })
}
