//! The EndpointSlice that leads the Service of a server to the activators. It is there for as long as the server may rest, and keeps
//! its port at the activators; addresses are in it only while requests are to go there. The slices of its pods are made by the
//! cluster and stand beside it.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use super::parts::metadata;
use crate::{labels, names, validated::Validated};

/// The way to the activators, if the server may rest.
pub(super) fn build(server: &Validated<'_>) -> Option<EndpointSlice> {
    let way = server.activators.as_ref()?;
    let mut metadata = metadata(server, names::activator_slice(server.name));
    metadata.labels.get_or_insert_default().extend([
        (labels::SERVICE_NAME.to_owned(), server.name.to_owned()),
        (labels::SLICE_MANAGED_BY.to_owned(), labels::MANAGER.to_owned()),
    ]);
    let endpoint = |address: &std::net::IpAddr| Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
        ..Endpoint::default()
    };
    // both protocols come in at one port: an activator sees which is which
    let port = |name: &str, protocol: &str| EndpointPort {
        name: Some(name.to_owned()),
        port: Some(way.port.into()),
        protocol: Some("TCP".to_owned()),
        app_protocol: Some(protocol.to_owned()),
    };
    Some(EndpointSlice {
        metadata,
        address_type: if way.is_ipv6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints: way.addresses.iter().map(endpoint).collect(),
        ports: Some(vec![port("http", "http"), port("grpc", "kubernetes.io/h2c")]),
    })
}
