//! What the pods of a server mount for their models: decided by the manifest and by what exists.

use std::collections::BTreeSet;

use crate::{Manifest, manifest::ManifestSource};

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
    /// What the pods of a server with that manifest mount. ConfigMaps and claims that do not exist are not mounted:
    /// `is_absent_config_map` and `is_absent_claim` say so by name.
    pub fn of(
        manifest: &Manifest,
        is_absent_config_map: impl Fn(&str) -> bool,
        is_absent_claim: impl Fn(&str) -> bool,
    ) -> Self {
        let mut mounts = Self::default();
        for source in manifest.sources() {
            match source {
                ManifestSource::ConfigMap { name, keys: None, .. } if !is_absent_config_map(name) => {
                    mounts.config_maps.insert(name.clone());
                }
                ManifestSource::Pvc { claim, .. } if !is_absent_claim(claim) => {
                    mounts.claims.insert(claim.clone());
                }
                ManifestSource::ConfigMap { .. }
                | ManifestSource::Pvc { .. }
                | ManifestSource::Http { .. }
                | ManifestSource::HuggingFace { .. }
                | ManifestSource::Oci { .. }
                | ManifestSource::Inline { .. } => {}
            }
            mounts.secrets.extend(source.secret().map(str::to_owned));
        }
        mounts
    }
}
