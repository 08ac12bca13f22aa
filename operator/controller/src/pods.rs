//! Annotates pods, so that the kubelet hands over at once what is new for them.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use operator_core::{Manifest, labels, manifest::ManifestSource, replica::Replica};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{metrics::Metrics, queue::ServerKey, watches::Watches};

/// Tells pods that have not seen the manifest, or the ConfigMaps that its models come from, of what is new: a changed
/// annotation makes the kubelet hand all of it over at once, not at its next round. It only makes things quicker, so nothing is
/// made of a failure.
pub(crate) async fn nudge_pods(
    (client, watches, metrics): (&Client, &Watches, &Metrics),
    key: &ServerKey,
    pods: &[Arc<Pod>],
    replicas: &[Replica],
    manifest: &Manifest,
) {
    let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let sources = sources_hash(manifest, |name| watches.config_map_version(&key.namespace, name));
    for (pod, replica) in pods.iter().zip(replicas) {
        let Some(follows) = replica.report.as_ref().and_then(|report| report.manifest_hash.as_deref()) else {
            continue;
        };
        if replica.is_leaving || follows.is_empty() {
            continue;
        }
        let has_annotation =
            |annotation, hash: &str| pod.annotations().get(annotation).is_some_and(|current| current == hash);
        let mut annotations = serde_json::Map::new();
        if follows != manifest.hash && !has_annotation(labels::MANIFEST_HASH, &manifest.hash) {
            annotations.insert(labels::MANIFEST_HASH.into(), manifest.hash.clone().into());
        }
        if let Some(sources) = sources.as_ref().filter(|hash| !has_annotation(labels::SOURCES_HASH, hash)) {
            annotations.insert(labels::SOURCES_HASH.into(), sources.clone().into());
        }
        if annotations.is_empty() {
            continue;
        }
        let patch = json!({ "metadata": { "annotations": annotations } });
        match api.patch_metadata(&replica.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => metrics.wrote("Pod", "patch"),
            Err(error) => {
                tracing::debug!(server = %key, pod = replica.name, %error, "the pod was not annotated")
            }
        }
    }
}

/// Which ConfigMaps the pods mount for their models, and in which version each is; nothing if they mount none.
fn sources_hash(manifest: &Manifest, version: impl Fn(&str) -> Option<String>) -> Option<String> {
    let names: BTreeSet<&str> = manifest
        .models
        .iter()
        .filter_map(|model| match &model.source {
            ManifestSource::ConfigMap { name, keys: None, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let all: Vec<_> = names.into_iter().map(|name| format!("{name}={}", version(name).unwrap_or_default())).collect();
    (!all.is_empty()).then(|| hex::encode(Sha256::digest(all.join(","))))
}

#[cfg(test)]
mod tests {
    use operator_core::{Observed, compile};

    use super::*;

    fn manifest() -> Manifest {
        let server = serde_json::from_value(json!({
            "apiVersion": "x", "kind": "TritonServer", "metadata": { "name": "s", "namespace": "ml" }, "spec": {},
        }));
        let models: Vec<_> = ["a", "b", "c", "d"]
            .map(|name| {
                serde_json::from_value(json!({
                    "apiVersion": "x", "kind": "TritonModel", "metadata": { "name": name, "namespace": "ml" },
                    "spec": { "serverRef": { "name": "s" }, "source": { "http": { "uri": "http://x/m.zip" } } },
                }))
                .unwrap()
            })
            .into();
        compile(&server.unwrap(), &models, &Observed::default()).manifest
    }

    #[test]
    fn the_hash_of_sources_follows_their_versions_and_nothing_else() {
        let mut manifest = manifest();
        assert_eq!(sources_hash(&manifest, |_| Some("1".into())), None);
        for (model, name) in manifest.models.iter_mut().zip(["x", "y"]) {
            model.source = ManifestSource::ConfigMap { name: name.into(), items: vec![], keys: None };
        }
        let hash = |y: Option<&str>| {
            sources_hash(&manifest, |name| if name == "y" { y.map(str::to_owned) } else { Some("1".into()) }).unwrap()
        };
        assert_eq!(hash(Some("1")), hash(Some("1")));
        assert_ne!(hash(Some("1")), hash(Some("2")));
        assert_ne!(hash(Some("1")), hash(None));
    }
}
