//! The HTTPRoute and the GRPCRoute: how a Gateway leads to the Service. Both are kinds of the Gateway API; their rules are the
//! user's own, and lead to the Service where they name nothing else.

use crds::parts::routes::GatewayRoute;
use serde_json::{Map, Value, json};

use super::parts::{metadata, with_annotations, with_labels};
use crate::{kind::Kind, pod, validated::Validated};

/// The HTTPRoute of a server.
pub(super) fn http(server: &Validated<'_>) -> Value {
    let routes = server.server.spec.routes.clone().unwrap_or_default();
    route(server, Kind::HttpRoute, &routes.http.unwrap_or_default(), pod::HTTP_PORT)
}

/// The GRPCRoute of a server.
pub(super) fn grpc(server: &Validated<'_>) -> Value {
    let routes = server.server.spec.routes.clone().unwrap_or_default();
    route(server, Kind::GrpcRoute, &routes.grpc.unwrap_or_default(), pod::GRPC_PORT)
}

fn route(server: &Validated<'_>, kind: Kind, route: &GatewayRoute, port: u16) -> Value {
    let resource = kind.api_resource();
    let rules: Vec<Map<String, Value>> = match route.rules.is_empty() {
        true => vec![Map::new()],
        false => route.rules.iter().map(|rule| rule.0.clone()).collect(),
    };
    let to_service = |mut rule: Map<String, Value>| {
        let is_redirect = rule.get("filters").and_then(Value::as_array).is_some_and(|filters| {
            filters.iter().any(|filter| filter.get("type").is_some_and(|type_| type_ == "RequestRedirect"))
        });
        if !is_redirect && !rule.contains_key("backendRefs") {
            rule.insert("backendRefs".into(), json!([{ "name": server.name, "port": port }]));
        }
        Value::Object(rule)
    };
    let mut spec = json!({
        "parentRefs": route.parent_refs,
        "rules": rules.into_iter().map(to_service).collect::<Vec<_>>(),
    });
    if !route.hostnames.is_empty() {
        spec["hostnames"] = json!(route.hostnames);
    }
    let metadata = with_annotations(metadata(server, server.name), &route.metadata.annotations);
    json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": with_labels(metadata, &route.metadata.labels),
        "spec": spec,
    })
}
