//! One version to load.

use std::{path::Path, sync::Arc};

use server_core::{config::ModelConfig, interface::Interface};

use crate::{cache::Caching, fingerprint::Fingerprint, model::Description, repository_agents::Held};

/// One version to load.
pub(crate) struct VersionToLoad<'a> {
    /// Its name in the registry.
    pub(crate) key: &'a str,
    /// Its repository, where models of several may have one name; else empty.
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) version: u64,
    pub(crate) model_dir: &'a Path,
    /// As written by the user; everything else is filled in here.
    pub(crate) config: &'a ModelConfig,
    pub(crate) fingerprint: Fingerprint,
    /// Files given with the load request.
    pub(crate) files: Option<&'a Arc<Held>>,
}

impl VersionToLoad<'_> {
    /// Its repository, where models of several may have one name.
    pub(crate) fn namespace(&self) -> Option<String> {
        (!self.namespace.is_empty()).then(|| self.namespace.to_owned())
    }

    /// What is known of it once its configuration is complete.
    pub(crate) fn description(
        &self,
        interface: Arc<Interface>,
        config: Arc<ModelConfig>,
        caching: Option<Caching>,
    ) -> Description {
        Description {
            key: self.key.into(),
            interface,
            config,
            fingerprint: self.fingerprint.clone(),
            caching,
            files: self.files.cloned(),
        }
    }
}
