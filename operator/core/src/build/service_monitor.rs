//! The ServiceMonitor: how Prometheus finds the metrics page of each pod. A kind of the Prometheus operator, written as
//! plain JSON so that no crate follows its versions.

use std::time::Duration;

use kube_core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::metadata;
use crate::{labels, validated::Validated};

const INTERVAL: Duration = Duration::from_secs(15);

/// How the API server names ServiceMonitors.
pub(super) fn api_resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("monitoring.coreos.com", "v1", "ServiceMonitor");
    ApiResource::from_gvk_with_plural(&kind, "servicemonitors")
}

/// The ServiceMonitor of a server.
pub(super) fn build(server: &Validated<'_>) -> Value {
    let monitor =
        server.server.spec.monitoring.clone().and_then(|monitoring| monitoring.service_monitor).unwrap_or_default();
    let interval = monitor.interval.unwrap_or(INTERVAL.into());
    let mut metadata = metadata(server, server.name);
    let mut all = monitor.labels;
    all.extend(metadata.labels.take().unwrap_or_default());
    metadata.labels = Some(all);
    let resource = api_resource();
    json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata,
        "spec": {
            "endpoints": [{ "port": "metrics", "path": "/metrics", "interval": interval.to_string() }],
            "selector": { "matchLabels": {
                "app.kubernetes.io/managed-by": labels::MANAGER,
                labels::SERVER: server.name,
            } },
            // the series say whose they are
            "targetLabels": [labels::SERVER],
        },
    })
}
