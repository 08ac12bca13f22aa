//! The PodDisruptionBudget: how many replicas a drain of nodes may take at once.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::parts::metadata;
use crate::{labels, validated::Validated};

/// None for one replica, which has nothing to be taken one after the other. One that the load scales has the budget as long as it may have more,
/// so that the object does not come and go with them.
pub(super) fn build(server: &Validated<'_>) -> Option<PodDisruptionBudget> {
    let options = server.server.spec.disruption.clone().unwrap_or_default();
    let may_have = server.autoscale.as_ref().map_or(server.replicas_expected, |autoscale| autoscale.max_replicas);
    let is_wanted = options.enabled != Some(false) && may_have > 1;
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
