//! Annotates pods, so that the kubelet hands over at once what is new for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use operator_core::{Manifest, adopt_words, labels, manifest::ManifestSource, replica::Replica, rollout::Adopt};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{metrics::Metrics, queue::ServerKey, watches::Watches};

/// Annotates pods with what they may adopt, if `adopt` says so, and with hashes of the manifest and of the ConfigMaps that its
/// models come from: any changed annotation makes the kubelet hand all of it over at once, not at its next round. One patch for
/// each pod on which something differs.
///
/// Errors: a pod could not be patched; the others were.
pub(crate) async fn annotate_pods(
    (client, watches, metrics): (&Client, &Watches, &Metrics),
    key: &ServerKey,
    pods: &[Arc<Pod>],
    replicas: &[Replica],
    manifest: &Manifest,
    adopt: Option<&Adopt>,
) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let sources = sources_hash(manifest, |name| watches.config_map_version(&key.namespace, name));
    let mut done = Ok(());
    for (pod, replica) in pods.iter().zip(replicas).filter(|(_, replica)| !replica.is_leaving) {
        let adopt = adopt.and_then(|adopt| adopt.get(&replica.name));
        let annotations = annotations(pod.annotations(), replica, &manifest.hash, sources.as_deref(), adopt);
        if annotations.is_empty() {
            continue;
        }
        let patch = json!({ "metadata": { "annotations": annotations } });
        match api.patch_metadata(&replica.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => metrics.wrote("Pod", "patch"),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => done = Err(error),
        }
    }
    done
}

/// The annotations of a pod that are to change; `null` takes one away.
fn annotations(
    now: &BTreeMap<String, String>,
    replica: &Replica,
    manifest_hash: &str,
    sources: Option<&str>,
    adopt: Option<&BTreeSet<String>>,
) -> Map<String, Value> {
    let mut changes = Map::new();
    let has = |annotation, value: &str| now.get(annotation).is_some_and(|current| current == value);
    // an agent that has said nothing yet reads what there is when it begins
    let follows = replica.report.as_ref().and_then(|report| report.manifest_hash.as_deref());
    if let Some(follows) = follows.filter(|follows| !follows.is_empty()) {
        if follows != manifest_hash && !has(labels::MANIFEST_HASH, manifest_hash) {
            changes.insert(labels::MANIFEST_HASH.into(), manifest_hash.into());
        }
        if let Some(sources) = sources.filter(|sources| !has(labels::SOURCES_HASH, sources)) {
            changes.insert(labels::SOURCES_HASH.into(), sources.into());
        }
    }
    match adopt.map(adopt_words::to_text) {
        Some(text) if text.is_empty() => {
            if now.contains_key(labels::ADOPT) {
                changes.insert(labels::ADOPT.into(), Value::Null);
            }
        }
        Some(text) if !has(labels::ADOPT, &text) => {
            changes.insert(labels::ADOPT.into(), text.into());
        }
        Some(_) | None => {}
    }
    changes
}

/// Which ConfigMaps the pods mount for their models, and in which version each is; nothing if they mount none.
fn sources_hash(manifest: &Manifest, version: impl Fn(&str) -> Option<String>) -> Option<String> {
    let names: BTreeSet<&str> = manifest
        .sources()
        .filter_map(|source| match source {
            ManifestSource::ConfigMap { name, keys: None, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let all: Vec<_> = names.into_iter().map(|name| format!("{name}={}", version(name).unwrap_or_default())).collect();
    (!all.is_empty()).then(|| hex::encode(Sha256::digest(all.join(","))))
}

#[cfg(test)]
mod tests {
    use operator_core::{Observed, compile, replica::Report};

    use super::*;

    #[test]
    fn a_pod_is_patched_only_where_its_annotations_differ() {
        let follows = |hash: Option<&str>| Replica {
            report: hash.map(|hash| Report { manifest_hash: Some(hash.into()), ..Report::default() }),
            ..Replica::default()
        };
        let words = |all: &[&str]| all.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
        let check = |now: &[(&str, &str)], replica: &Replica, adopt: Option<&[&str]>, expect: Value| {
            let now = now.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let adopt = adopt.map(words);
            assert_eq!(Value::from(annotations(&now, replica, "h2", Some("s1"), adopt.as_ref())), expect);
        };
        let sources = (labels::SOURCES_HASH, "s1");
        check(&[sources], &follows(Some("h2")), Some(&[]), json!({}));
        check(
            &[sources],
            &follows(Some("h1")),
            Some(&["b", "a"]),
            json!({ labels::MANIFEST_HASH: "h2", labels::ADOPT: "a,b" }),
        );
        check(
            &[sources, (labels::MANIFEST_HASH, "h2"), (labels::ADOPT, "a,b")],
            &follows(Some("h1")),
            Some(&["b", "a"]),
            json!({}),
        );
        check(&[sources, (labels::ADOPT, "a")], &follows(Some("h2")), Some(&[]), json!({ labels::ADOPT: null }));
        check(&[sources, (labels::ADOPT, "a")], &follows(Some("h2")), None, json!({}));
        // one that starts learns what it may adopt before it says anything
        check(&[], &follows(None), Some(&["a"]), json!({ labels::ADOPT: "a" }));
    }

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
