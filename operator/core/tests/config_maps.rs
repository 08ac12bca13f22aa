//! Models from ConfigMaps: carried by the manifest where they fit, so that no pod is replaced for them; mounted where they do
//! not; waited for where they do not exist, and kept where they are gone.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    TritonModel, TritonModelSpec, TritonServer, TritonServerSpec,
    parts::{
        NameRef,
        source::{ConfigMapSource, KeyPath, ModelSource},
    },
};
use k8s_openapi::{ByteString, api::core::v1::ConfigMap};
use operator_core::{
    Compiled, Manifest, Observed, Reason, compile,
    compile::{MANIFEST_MAX, Placement},
    decide::{self, Settings},
    manifest::{Keys, ManifestSource},
    observed::{CARRIED_MAX, FoundConfigMap},
};

fn model(name: &str, items: &[(&str, &str)]) -> TritonModel {
    let items = items.iter().map(|(key, path)| KeyPath { key: (*key).into(), path: (*path).into() }).collect();
    let config_map = ConfigMapSource { name: format!("files-of-{name}"), items };
    let source = ModelSource { config_map: Some(config_map), ..Default::default() };
    TritonModel::new(name, TritonModelSpec { server_ref: NameRef::new("s"), source, ..Default::default() })
}

fn found(bytes: usize) -> FoundConfigMap {
    FoundConfigMap::of(ConfigMap {
        data: Some([("config.pbtxt".to_owned(), String::new())].into()),
        binary_data: Some([("model.onnx".to_owned(), ByteString(vec![7; bytes]))].into()),
        ..Default::default()
    })
}

fn observed<const N: usize>(found: [(&str, FoundConfigMap); N], last: Option<&Manifest>) -> Observed {
    let config_maps: BTreeMap<_, _> = found.into_iter().map(|(name, it)| (format!("files-of-{name}"), it)).collect();
    Observed { config_maps, manifest: last.cloned(), ..Default::default() }
}

/// What comes of it, and which ConfigMaps the pods mount.
fn run(models: &[TritonModel], observed: &Observed) -> (Compiled, BTreeSet<String>) {
    let server = TritonServer::new("s", TritonServerSpec::default());
    let compiled = compile(&server, models, observed);
    let settings = Settings { image: "image".into(), ..Settings::default() };
    let mounts = decide::decide(&server, &compiled, observed, &settings).unwrap().mounts;
    (compiled, mounts.config_maps)
}

fn keys<'a>(compiled: &'a Compiled, name: &str) -> Option<&'a Keys> {
    match &compiled.manifest.model(name).unwrap().source {
        ManifestSource::ConfigMap { keys, .. } => keys.as_ref(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_small_one_is_carried_and_mounted_nowhere() {
    let (compiled, mounted) = run(&[model("a", &[])], &observed([("a", found(100))], None));
    let keys = keys(&compiled, "a").unwrap();
    assert_eq!(keys.names().into_iter().collect::<Vec<_>>(), ["config.pbtxt", "model.onnx"]);
    assert_eq!(keys.get("model.onnx"), Some([7; 100].as_slice()));
    assert_eq!(mounted, BTreeSet::new());
    assert_eq!(Manifest::from_json(&compiled.manifest.to_json()).unwrap(), compiled.manifest);
}

#[test]
fn only_the_keys_that_are_taken_are_carried() {
    let items = [("model.onnx", "1/model.onnx"), ("missing", "2/model.onnx")];
    let (compiled, _) = run(&[model("a", &items)], &observed([("a", found(100))], None));
    // what is missing is for the agent to tell, as of a mounted one
    assert_eq!(keys(&compiled, "a").unwrap().names().into_iter().collect::<Vec<_>>(), ["model.onnx"]);
}

#[test]
fn another_content_makes_another_manifest() {
    let hash = |bytes| run(&[model("a", &[])], &observed([("a", found(bytes))], None)).0.manifest.hash;
    assert_eq!(hash(100), hash(100));
    assert_ne!(hash(100), hash(101));
}

#[test]
fn a_large_one_is_mounted() {
    let (compiled, mounted) = run(&[model("a", &[])], &observed([("a", found(CARRIED_MAX + 1))], None));
    assert_eq!(keys(&compiled, "a"), None);
    assert_eq!(mounted, BTreeSet::from(["files-of-a".to_owned()]));
}

#[test]
fn one_that_finds_no_room_in_the_manifest_is_mounted_and_keeps_nobody_out() {
    let models = ["a", "b", "c", "d"].map(|name| model(name, &[]));
    let all = ["a", "b", "c", "d"].map(|name| (name, found(CARRIED_MAX - 1)));
    let (compiled, mounted) = run(&models, &observed(all, None));
    assert!(compiled.problems.is_empty(), "{:?}", compiled.problems);
    assert_eq!(compiled.manifest.models.len(), 4);
    assert!(keys(&compiled, "a").is_some() && keys(&compiled, "b").is_some());
    assert_eq!(mounted, BTreeSet::from(["files-of-c".to_owned(), "files-of-d".to_owned()]));
    assert!(compiled.manifest.to_json().len() < MANIFEST_MAX + 1000);
}

#[test]
fn one_that_does_not_exist_yet_is_waited_for_and_replaces_no_pod() {
    let (compiled, mounted) = run(&[model("a", &[])], &observed([("a", FoundConfigMap::Absent)], None));
    assert_eq!(keys(&compiled, "a"), None);
    assert_eq!(mounted, BTreeSet::new());
    assert_eq!(compiled.models[0].placement, Placement::Placed, "the agent tells that it is missing");
}

#[test]
fn what_one_held_goes_on_when_it_is_gone_and_that_is_told() {
    let models = [model("a", &[])];
    let (before, _) = run(&models, &observed([("a", found(100))], None));
    let (after, mounted) = run(&models, &observed([("a", FoundConfigMap::Absent)], Some(&before.manifest)));
    assert_eq!(after.manifest, before.manifest);
    assert_eq!(mounted, BTreeSet::new());
    let Placement::Kept { reason, message } = &after.models[0].placement else { panic!("{:?}", after.models) };
    assert_eq!(*reason, Reason::SourceNotFound);
    assert!(message.contains("'files-of-a' does not exist any more"), "{message}");
}

#[test]
fn on_one_machine_the_agent_finds_them_by_itself() {
    let (compiled, _) = run(&[model("a", &[])], &Observed::default());
    assert_eq!(keys(&compiled, "a"), None);
    assert!(compiled.problems.is_empty());
}
