//! The ConfigMap with the manifest: all that the pods get to know. It is mounted as a folder, never by subPath, which
//! would not follow changes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::parts::metadata;
use crate::{Manifest, names, validated::Validated};

/// The manifest, in a form that pods read while it changes.
pub(super) fn build(server: &Validated<'_>) -> ConfigMap {
    ConfigMap {
        metadata: metadata(server, names::manifest_config_map(server.name)),
        data: Some(BTreeMap::from([(names::MANIFEST_KEY.to_owned(), server.manifest.to_json())])),
        ..ConfigMap::default()
    }
}

/// The manifest in such a ConfigMap; none if it was damaged or written by a newer operator.
pub fn manifest_of(config_map: &ConfigMap) -> Option<Manifest> {
    let text = config_map.data.as_ref()?.get(names::MANIFEST_KEY)?;
    Manifest::from_json(text).ok()
}
