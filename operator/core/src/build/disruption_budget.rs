//! The PodDisruptionBudget: how many replicas a drain of nodes may take at once.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::metadata;
use crate::{labels, validated::Validated};

/// None for one replica: a budget over it would block the drain of its node for ever.
pub(super) fn build(server: &Validated<'_>) -> Option<PodDisruptionBudget> {
    let options = server.server.spec.disruption.clone().unwrap_or_default();
    let is_wanted = options.enabled != Some(false) && server.replicas_expected > 1;
    is_wanted.then(|| PodDisruptionBudget {
        metadata: metadata(server, server.name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(options.max_unavailable.unwrap_or(1))),
            selector: Some(LabelSelector {
                match_labels: Some(labels::selector(server.name)),
                ..LabelSelector::default()
            }),
            // a pod that serves nobody must not keep its node from being drained
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
