//! What was fetched before deciding. Decisions get it handed in, so that the same resources and the same surroundings give
//! the same answer, whoever asks and how often.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;

use crate::{
    Manifest, kind::Kind, labels::MODEL_ACCESS, manifest::Keys, optional::Availability, pinned::Pinned,
    scale_to_zero::Way, source_rules::AddressRange,
};

/// Most bytes of a ConfigMap that a manifest carries, which several models share.
pub const CARRIED_MAX: usize = 256 << 10;

/// What surrounds a server at the moment of deciding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The manifest last published, if there is one. A model whose newer form is wrong goes on as it stands there.
    pub manifest: Option<Manifest>,
    /// The pod template the server was given; it stays when only the operator is updated.
    pub template: Option<Pinned>,
    /// Replicas the Deployment is to have; none if there is no Deployment.
    pub replicas: Option<i32>,
    /// Replicas it had before its server was suspended: [`crate::replicas::BEFORE`].
    pub replicas_before: Option<i32>,
    /// ConfigMaps that models name. One that is not here was not looked for: the agent finds it by itself.
    pub config_maps: BTreeMap<String, FoundConfigMap>,
    /// Claims that models or the server name and that do not exist. A pod that mounts one would wait for it for ever.
    pub absent_claims: BTreeSet<String>,
    /// Secrets that the server names, by name. `None` where access is not ruled: on one machine, whoever brings the server up hands
    /// Secrets and claims over himself.
    pub secrets: Option<BTreeMap<String, FoundSecret>>,
    /// Ranges of addresses that sources may be at though they are refused otherwise.
    pub allowed_addresses: Vec<AddressRange>,
    /// TritonModels of the namespace that cannot be read, by name, and why. What the last manifest has of them stays.
    pub unreadable: BTreeMap<String, String>,
    /// Whether new pods do not fit while old ones are there: [`crate::surge::has_no_room`].
    pub has_no_room: bool,
    /// What the cluster has of the kinds that it may not have; one that is not here is absent.
    pub kinds: BTreeMap<Kind, Availability>,
    /// The way to the activators, for a server that may rest.
    pub activators: Option<Way>,
    /// Why a server does not rest that is to.
    pub rests_not: Option<String>,
}

/// A Secret that was looked for, as far as its metadata says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundSecret {
    /// It does not exist, or is not marked with [`MODEL_ACCESS`]. Which of the two is nobody's business who cannot look himself.
    NotForModels,
    /// It exists and is marked.
    ForModels,
    /// The operator has no right to look.
    Unseen,
}

impl FoundSecret {
    /// What a Secret with these labels is.
    pub fn of(labels: Option<&BTreeMap<String, String>>) -> Self {
        let is_marked = labels.and_then(|labels| labels.get(MODEL_ACCESS)).is_some_and(|value| value == "true");
        if is_marked { Self::ForModels } else { Self::NotForModels }
    }
}

/// A ConfigMap that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundConfigMap {
    /// It does not exist.
    Absent,
    /// The manifest can carry it.
    Small(Keys),
    /// Pods have to mount it.
    Large,
}

impl FoundConfigMap {
    /// What a ConfigMap is to a manifest.
    pub fn of(config_map: ConfigMap) -> Self {
        let ConfigMap { data, binary_data, .. } = config_map;
        let keys = Keys { data: data.unwrap_or_default(), binary_data: binary_data.unwrap_or_default() };
        if keys.size() <= CARRIED_MAX { Self::Small(keys) } else { Self::Large }
    }
}
