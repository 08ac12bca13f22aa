//! How the server is reached from outside the cluster: routes of the Gateway API, or an Ingress.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Opaque, schema};

/// Routes that lead from outside the cluster to the Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Routes {
    /// An HTTPRoute of the Gateway API to port 8000. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<GatewayRoute>,
    /// A GRPCRoute of the Gateway API to port 8001. A Gateway does not let it share a host name with an HTTPRoute. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GatewayRoute>,
    /// An Ingress. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<IngressRoute>,
}

/// A route of the Gateway API, gateway.networking.k8s.io/v1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRoute {
    /// The Gateways it belongs to.
    #[schemars(length(min = 1, max = 32))]
    pub parent_refs: Vec<ParentRef>,
    /// Host names it answers to. Default: those of the listeners it belongs to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(regex(pattern = HOST_NAME_PATTERN), length(min = 1, max = 253)))]
    pub hostnames: Vec<String>,
    /// Rules as the Gateway API takes them: matches, filters, timeouts and so on. A rule without backendRefs leads to the Service.
    /// Default: one rule that takes everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rules: Vec<Opaque>,
    /// Labels and annotations of its own.
    #[serde(flatten)]
    pub metadata: RouteMetadata,
}

/// Labels and annotations of an object that leads to the server from outside, fields of the route itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RouteMetadata {
    /// Labels of the object that is made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the object that is made, such as those that the controller of a Gateway or Ingress reads.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

/// What a host name of a route must look like: a name, or `*.` and a name.
pub const HOST_NAME_PATTERN: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// A Gateway, or something else a route belongs to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace. Default: that of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// The listener of the Gateway, by name. Default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
    /// The listener of the Gateway, by port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// API group of its kind. Default: gateway.networking.k8s.io.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub group: Option<String>,
    /// Its kind. Default: Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: Option<String>,
}

/// An Ingress in front of the Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressRoute {
    /// IngressClass that serves it. Default: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// Host name it answers to. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = HOST_NAME_PATTERN), length(min = 1, max = 253))]
    pub host: Option<String>,
    /// Path below which it answers. Default: /.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"), length(min = 1, max = 1024))]
    pub path: Option<String>,
    /// Which port of the Service it leads to: Http (8000) or Grpc (8001; most controllers need an annotation for it). Default: Http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<IngressProtocol>,
    /// TLS: answered with the certificate of a Secret of the namespace. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<IngressTls>,
    /// Labels and annotations of its own.
    #[serde(flatten)]
    pub metadata: RouteMetadata,
}

/// Which interface an Ingress leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum IngressProtocol {
    /// Port 8000.
    #[default]
    Http,
    /// Port 8001.
    Grpc,
}

/// The certificate an Ingress answers with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressTls {
    /// Secret of the namespace with the certificate and its key.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}
