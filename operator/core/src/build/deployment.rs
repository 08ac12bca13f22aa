//! The Deployment: how many pods, and how they are replaced.

use std::time::Duration;

use crds::parts::rollout::RolloutStrategy;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{
    parts::{metadata, seconds},
    pod_template,
};
use crate::{labels, pinned, replicas, validated::Validated};

/// How long a rollout may stand still.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// How long a pod is ready before it counts, and before an old one goes for it: until every node sends requests to it.
const MIN_READY_SECONDS: i32 = 2;

/// The pods of a server.
pub(super) fn build(server: &Validated<'_>) -> Deployment {
    let rollout = server.server.spec.rollout.clone().unwrap_or_default();
    let mut metadata = metadata(server, server.name);
    let (template, annotations) = match &server.kept {
        Some(kept) => (kept.template.clone(), kept.annotations()),
        None => {
            let template = pod_template::build(server);
            let annotations = pinned::annotations(server.server, &template);
            (template, annotations)
        }
    };
    let before = server.replicas.before.map(|before| (replicas::BEFORE.to_owned(), before.to_string()));
    metadata.annotations = Some(annotations.into_iter().chain(before).collect());
    let strategy = match rollout.strategy.unwrap_or_default() {
        RolloutStrategy::Recreate => DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None },
        RolloutStrategy::RollingUpdate => DeploymentStrategy {
            type_: Some("RollingUpdate".into()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::Int(server.rolling_update.surge)),
                max_unavailable: Some(IntOrString::Int(server.rolling_update.unavailable)),
            }),
        },
    };
    let deadline = rollout.progress_deadline.map_or(PROGRESS_DEADLINE, Into::into);
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: server.replicas.replicas,
            selector: LabelSelector { match_labels: Some(labels::selector(server.name)), ..LabelSelector::default() },
            strategy: Some(strategy),
            min_ready_seconds: Some(MIN_READY_SECONDS),
            progress_deadline_seconds: Some(i32::try_from(seconds(deadline).max(1)).unwrap_or(i32::MAX)),
            template,
            // a paused rollout of somebody else's would go on for ever, and look as if it were under way
            paused: Some(false),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}
