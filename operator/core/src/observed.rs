//! What was fetched before deciding. Decisions get it handed in, so that the same resources and the same surroundings give
//! the same answer, whoever asks and how often.

use std::collections::BTreeSet;

use crate::{Manifest, build::Pinned};

/// What surrounds a server at the moment of deciding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The manifest the pods were last told, if there is one. A model whose newer form is wrong goes on as it stands there.
    pub manifest: Option<Manifest>,
    /// The pod template the server was given; it stays when only the operator is updated.
    pub template: Option<Pinned>,
    /// Replicas the Deployment has, where nobody but an autoscaler says how many.
    pub replicas: Option<i32>,
    /// Claims that models name and that do not exist. A pod that mounts one would wait for it for ever.
    pub absent_claims: BTreeSet<String>,
    /// Whether the cluster knows ServiceMonitors.
    pub has_service_monitors: bool,
}
