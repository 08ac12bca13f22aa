//! The Services: one address in front of the ready pods, and, if asked for, a name that resolves to each of them.

use crds::parts::service::ServiceType;
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::parts::{filled, metadata};
use crate::{labels, names, pod, validated::Validated};

/// The address in front of the ready pods.
pub(super) fn build(server: &Validated<'_>) -> Service {
    let options = server.server.spec.service.clone().unwrap_or_default();
    let mut metadata = metadata(server, server.name);
    metadata.annotations = filled(&options.annotations);
    let type_ = match options.type_.unwrap_or_default() {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(type_.into()),
            selector: Some(labels::selector(server.name)),
            ports: Some(ports(server)),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The name that resolves to each ready pod.
pub(super) fn build_headless(server: &Validated<'_>) -> Option<Service> {
    let is_wanted = server.server.spec.service.as_ref().and_then(|service| service.headless) == Some(true);
    is_wanted.then(|| {
        let mut metadata = metadata(server, names::headless_service(server.name));
        // a ServiceMonitor selects by this label, and must find each pod once
        metadata.labels.iter_mut().for_each(|labels| drop(labels.remove(labels::SERVER)));
        Service {
            metadata,
            spec: Some(ServiceSpec {
                type_: Some("ClusterIP".into()),
                cluster_ip: Some("None".into()),
                selector: Some(labels::selector(server.name)),
                ports: Some(ports(server)),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    })
}

fn ports(server: &Validated<'_>) -> Vec<ServicePort> {
    let is_encrypted = server.server.spec.tls.is_some();
    let port = |name: &str, number: u16, protocol: &str| ServicePort {
        name: Some(name.into()),
        port: number.into(),
        target_port: Some(IntOrString::String(name.into())),
        protocol: Some("TCP".into()),
        app_protocol: Some(if is_encrypted { "https" } else { protocol }.to_owned()),
        ..ServicePort::default()
    };
    vec![
        port("http", pod::HTTP_PORT, "http"),
        port("grpc", pod::GRPC_PORT, "kubernetes.io/h2c"),
        port("metrics", pod::METRICS_PORT, "http"),
    ]
}
