//! Servers and models as large as they may be: what is made of them is what an API server takes.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::BTreeSet;

use crds::{TritonModel, TritonServer, model::NAME_MAX as MODEL_NAME_MAX, server::NAME_MAX as SERVER_NAME_MAX};
use operator_core::{
    Observed, build,
    compile::{self, Compiled, MANIFEST_MAX, Placement},
    decide::{self, Settings},
    kind::Kind,
    names,
    optional::Availability,
};
use serde_json::{Value, json};

/// Longest name of a Service, or value of a label.
const LABEL_MAX: usize = 63;
/// What an API server takes of one ConfigMap.
const CONFIG_MAP_MAX: usize = 1 << 20;

fn server() -> TritonServer {
    serde_json::from_value(json!({
        "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonServer",
        "metadata": { "name": "s".repeat(SERVER_NAME_MAX), "namespace": "n".repeat(63), "uid": "1" },
        "spec": { "monitoring": { "serviceMonitor": {} } },
    }))
    .unwrap()
}

/// A model with the longest name there may be, whose one file has that many bytes.
fn model(number: usize, bytes: usize) -> TritonModel {
    let name = format!("{number:0MODEL_NAME_MAX$}");
    let tensor = |name: &str| json!([{ "name": name, "dataType": "TYPE_FP32", "dims": [-1] }]);
    let text = "ä\"".repeat(bytes / 3);
    serde_json::from_value(json!({
        "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonModel",
        "metadata": { "name": name, "namespace": "n".repeat(63), "uid": name },
        "spec": {
            "serverRef": { "name": "s".repeat(SERVER_NAME_MAX) },
            "config": { "backend": "identity", "inputs": tensor("INPUT0"), "outputs": tensor("OUTPUT0") },
            "source": { "inline": { "files": { "1/about.txt": text } } },
        },
    }))
    .unwrap()
}

fn compiled(count: usize, bytes: usize) -> Compiled {
    let models: Vec<_> = (0..count).map(|number| model(number, bytes)).collect();
    compile::compile(&server(), &models, &Observed::default())
}

fn objects(compiled: &Compiled) -> Vec<(String, Value)> {
    let optional = Kind::ALL.into_iter().filter(|kind| kind.is_optional());
    let kinds = optional.map(|kind| (kind, Availability::Known)).collect();
    let (server, observed) = (server(), Observed { kinds, ..Observed::default() });
    let settings = Settings { image: "registry.example/server:1".into(), ..Settings::default() };
    let validated = decide::decide(&server, compiled, &observed, &settings).unwrap();
    let objects = build::build(&validated).objects();
    objects.into_iter().map(|object| (object.name, object.value)).collect()
}

fn placed(compiled: &Compiled) -> usize {
    compiled.models.iter().filter(|model| model.placement == Placement::Placed).count()
}

#[test]
fn invariant_18_five_hundred_models_with_the_longest_names_fit() {
    let compiled = compiled(500, 12);
    assert_eq!(
        (placed(&compiled), compiled.manifest.models.len(), compiled.problems.as_slice()),
        (500, 500, [].as_slice())
    );
    let objects = objects(&compiled);
    let of = |wanted: &str| objects.iter().find(|(name, _)| name == wanted).unwrap();
    let (_, config_map) = of(&names::manifest_config_map(&"s".repeat(SERVER_NAME_MAX)));
    assert!(serde_json::to_vec(config_map).unwrap().len() < CONFIG_MAP_MAX);
    let mut seen = BTreeSet::new();
    for (name, object) in &objects {
        assert!(seen.insert((object["kind"].as_str().unwrap(), name)), "{name} twice");
        assert!(name.len() <= LABEL_MAX, "{name}");
        let labels = object["metadata"]["labels"].as_object().unwrap();
        assert!(labels.values().all(|value| value.as_str().unwrap().len() <= LABEL_MAX), "{labels:?}");
    }
}

#[test]
fn invariant_18_what_a_manifest_has_no_room_for_is_left_out_and_told() {
    let compiled = compiled(500, 6000);
    let json = compiled.manifest.to_json();
    assert!(
        json.len() <= MANIFEST_MAX + 1024 && placed(&compiled) > 100,
        "{} bytes, {}",
        json.len(),
        placed(&compiled)
    );
    let left_out: Vec<_> = compiled.models.iter().filter(|model| model.placement != Placement::Placed).collect();
    assert_eq!(left_out.len() + compiled.manifest.models.len(), 500);
    for model in left_out {
        let Placement::LeftOut { reason, message } = &model.placement else { panic!("{:?}", model.placement) };
        assert_eq!(reason.to_string(), "ManifestTooLarge");
        assert!(message.contains("of the manifest of TritonServer"), "{message}");
    }
    let (_, config_map) = objects(&compiled).into_iter().find(|(_, object)| object["kind"] == "ConfigMap").unwrap();
    let bytes = config_map["data"][names::MANIFEST_KEY].as_str().unwrap().len();
    assert!(bytes < CONFIG_MAP_MAX, "{bytes}");
}
