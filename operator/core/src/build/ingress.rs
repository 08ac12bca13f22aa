//! The Ingress: how an ingress controller leads to the Service.

use crds::parts::routes::IngressProtocol;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    IngressTLS, ServiceBackendPort,
};

use super::parts::{metadata, with_annotations, with_labels};
use crate::validated::Validated;

/// The Ingress of a server, if it asks for one.
pub(super) fn build(server: &Validated<'_>) -> Option<Ingress> {
    let route = server.server.spec.routes.as_ref()?.ingress.as_ref()?;
    let port = match route.protocol.unwrap_or_default() {
        IngressProtocol::Http => "http",
        IngressProtocol::Grpc => "grpc",
    };
    let path = HTTPIngressPath {
        path: Some(route.path.clone().unwrap_or_else(|| "/".into())),
        path_type: "Prefix".into(),
        backend: IngressBackend {
            service: Some(IngressServiceBackend {
                name: server.name.into(),
                port: Some(ServiceBackendPort { name: Some(port.into()), number: None }),
            }),
            resource: None,
        },
    };
    let tls = route.tls.as_ref().map(|tls| {
        vec![IngressTLS {
            hosts: route.host.clone().map(|host| vec![host]),
            secret_name: Some(tls.secret_name.clone()),
        }]
    });
    Some(Ingress {
        metadata: with_labels(
            with_annotations(metadata(server, server.name), &route.metadata.annotations),
            &route.metadata.labels,
        ),
        spec: Some(IngressSpec {
            ingress_class_name: route.class_name.clone(),
            rules: Some(vec![IngressRule {
                host: route.host.clone(),
                http: Some(HTTPIngressRuleValue { paths: vec![path] }),
            }]),
            tls,
            default_backend: None,
        }),
        status: None,
    })
}
