//! The NetworkPolicy: who may reach which port of the pods. The agent's is for the operator alone; control of the server has no port.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::parts::{metadata, some};
use crate::{labels, load, pod, tls, validated::Validated};

/// Label that the API server gives every namespace: its name.
const NAMESPACE: &str = "kubernetes.io/metadata.name";

/// Who may reach the pods, if the server asks for a policy.
pub(super) fn build(server: &Validated<'_>) -> Option<NetworkPolicy> {
    let options = server.server.spec.network_policy.as_ref().filter(|options| options.enabled == Some(true))?;
    let of_operator = server.operator_namespace.clone().map(|namespace| {
        vec![NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector {
                match_labels: Some([(NAMESPACE.to_owned(), namespace)].into()),
                ..LabelSelector::default()
            }),
            ..NetworkPolicyPeer::default()
        }]
    });
    let monitoring = some(&options.monitoring).map(|mut peers| {
        let spec = &server.server.spec;
        // for its load, or for what is loaded where it would want a certificate to tell
        let is_asked = load::is_wanted(spec) || spec.tls.as_ref().is_some_and(tls::is_mutual);
        peers.extend(of_operator.iter().flatten().filter(|_| is_asked).cloned());
        peers
    });
    Some(NetworkPolicy {
        metadata: metadata(server, server.name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(labels::selector(server.name)),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![
                rule(&[pod::HTTP_PORT, pod::GRPC_PORT], some(&options.clients)),
                rule(&[pod::METRICS_PORT], monitoring),
                rule(&[pod::AGENT_PORT], of_operator),
            ]),
            egress: None,
        }),
    })
}

/// `from` none: everybody.
fn rule(ports: &[u16], from: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    let port = |number: &u16| NetworkPolicyPort {
        port: Some(IntOrString::Int((*number).into())),
        protocol: Some("TCP".into()),
        end_port: None,
    };
    NetworkPolicyIngressRule { from, ports: Some(ports.iter().map(port).collect()) }
}
