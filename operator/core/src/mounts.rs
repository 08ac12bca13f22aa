//! What the pods of a server mount for their models. It is part of the pod template, so that another mount means other pods: what
//! the owner of the server allows is mounted from the start, and what pods have once stays until they are replaced anyhow.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// What the names of volumes begin with that ConfigMaps of models are.
pub(crate) const CONFIG_MAP: &str = "configmap";
/// The same for claims.
pub(crate) const CLAIM: &str = "claim";
/// The same for Secrets.
pub(crate) const SECRET: &str = "secret";

/// What the pods of a server mount for their models, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    /// ConfigMaps with files of models.
    pub config_maps: BTreeSet<String>,
    /// Claims with files of models.
    pub claims: BTreeSet<String>,
    /// Secrets that open sources.
    pub secrets: BTreeSet<String>,
}

impl Mounts {
    /// What the pods of a template mount.
    pub fn of_template(template: &PodTemplateSpec) -> Self {
        let mut mounts = Self::default();
        for volume in template.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let is = |kind: &str| volume.name.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-'));
            if let Some(config_map) = volume.config_map.as_ref().filter(|_| is(CONFIG_MAP)) {
                mounts.config_maps.insert(config_map.name.clone());
            }
            if let Some(claim) = volume.persistent_volume_claim.as_ref().filter(|_| is(CLAIM)) {
                mounts.claims.insert(claim.claim_name.clone());
            }
            if let Some(secret) = volume.secret.as_ref().filter(|_| is(SECRET)) {
                mounts.secrets.extend(secret.secret_name.clone());
            }
        }
        mounts
    }

    /// What of these is not among `others`.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        let less = |all: &BTreeSet<String>, others: &BTreeSet<String>| all.difference(others).cloned().collect();
        Self {
            config_maps: less(&self.config_maps, &others.config_maps),
            claims: less(&self.claims, &others.claims),
            secrets: less(&self.secrets, &others.secrets),
        }
    }

    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        self.config_maps.is_empty() && self.claims.is_empty() && self.secrets.is_empty()
    }
}
