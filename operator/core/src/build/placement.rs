//! Which nodes the pods may run on: what the user says of affinity, the kinds of GPU that will do, and how replicas spread.

use crds::TritonServerSpec;
use k8s_openapi::{
    api::core::v1::{Affinity, NodeSelectorRequirement, NodeSelectorTerm, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use crate::{labels, validated::Validated};

/// Label of nodes that says which GPUs they have; NVIDIA's GPU feature discovery sets it.
const GPU_PRODUCT: &str = "nvidia.com/gpu.product";

/// The user's affinity, to nodes with the right kind of GPU only.
pub(super) fn affinity(spec: &TritonServerSpec) -> Option<Affinity> {
    let products = spec.gpu.as_ref().map(|gpu| &gpu.products).filter(|products| !products.is_empty());
    let Some(products) = products else { return spec.affinity.clone() };
    let of_product =
        NodeSelectorRequirement { key: GPU_PRODUCT.into(), operator: "In".into(), values: Some(products.clone()) };
    let mut affinity = spec.affinity.clone().unwrap_or_default();
    let nodes = affinity.node_affinity.get_or_insert_default();
    let required = nodes.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    // one of the terms has to hold, so each has to ask for the product
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_expressions.get_or_insert_default().push(of_product.clone());
    }
    Some(affinity)
}

/// How replicas spread where the user says nothing.
pub(super) fn over_nodes(server: &Validated<'_>) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(LabelSelector {
            match_labels: Some(labels::selector(server.name)),
            ..LabelSelector::default()
        }),
        ..TopologySpreadConstraint::default()
    }
}
