//! What the pods of a server mount for their models. It is part of the pod template, so that another mount means other pods: what
//! the owner of the server allows is mounted from the start, and what pods have once stays until they are replaced anyhow.

use std::collections::BTreeSet;

use crds::TritonServer;
use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::{
    Manifest,
    access::FoundSecret,
    build::{CLAIM_VOLUME, CONFIG_MAP_VOLUME, SECRET_VOLUME},
    manifest::ManifestSource,
    observed::{FoundConfigMap, Observed},
};

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
    /// What pods that are made now mount: the Secrets and claims that the server lets models use, and the ConfigMaps that are too
    /// large for the manifest. A claim that does not exist is not mounted, since a pod would wait for it. Nor is a Secret that its
    /// owner has not marked: what runs in the pod is chosen by whoever writes the server, down to the image.
    pub fn wanted(server: &TritonServer, manifest: &Manifest, observed: &Observed) -> Self {
        let access = server.spec.model_access.iter();
        let is_there = |claim: &&String| !observed.absent_claims.contains(*claim);
        let is_for_models = |secret: &&String| {
            observed.secrets.as_ref().is_none_or(|found| found.get(*secret) == Some(&FoundSecret::ForModels))
        };
        let large = manifest.sources().filter_map(|source| match source {
            ManifestSource::ConfigMap { name, keys: None, .. } => Some(name),
            _ => None,
        });
        let exists = |name: &&String| observed.config_maps.get(*name) != Some(&FoundConfigMap::Absent);
        Self {
            config_maps: large.filter(exists).cloned().collect(),
            claims: access.clone().flat_map(|access| &access.claims).filter(is_there).cloned().collect(),
            secrets: access.flat_map(|access| &access.secrets).filter(is_for_models).cloned().collect(),
        }
    }

    /// What the pods of a template mount.
    pub fn of_template(template: &PodTemplateSpec) -> Self {
        let mut mounts = Self::default();
        for volume in template.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let is = |kind: &str| volume.name.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-'));
            if let Some(config_map) = volume.config_map.as_ref().filter(|_| is(CONFIG_MAP_VOLUME)) {
                mounts.config_maps.insert(config_map.name.clone());
            }
            if let Some(claim) = volume.persistent_volume_claim.as_ref().filter(|_| is(CLAIM_VOLUME)) {
                mounts.claims.insert(claim.claim_name.clone());
            }
            if let Some(secret) = volume.secret.as_ref().filter(|_| is(SECRET_VOLUME)) {
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
