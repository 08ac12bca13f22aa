//! The examples beside the definitions: right in every field, and complete: no field of ours is without one.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crds::TritonModel;
use operator_core::{
    Observed, compile,
    documents::{self, Document, Resource},
};
use serde_json::Value;

/// Fields whose inside is Kubernetes' own and explained there.
const THEIRS: [&str; 10] = [
    "spec.affinity",
    "spec.agent.resources",
    "spec.autoscaling.behavior",
    "spec.autoscaling.metrics.raw",
    "spec.networkPolicy.clients",
    "spec.networkPolicy.monitoring",
    "spec.resources",
    "spec.server.env",
    "spec.tolerations",
    "spec.topologySpreadConstraints",
];

/// Of a choice the example shows one way and names the others in a comment.
const OTHER_CHOICES: [&str; 4] = [
    "spec.gpu.resourceClaims",
    "spec.modelStore.persistentVolumeClaim",
    "spec.versions.policy.all",
    "spec.versions.policy.specific",
];

fn documents() -> Vec<Document> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../crds/examples");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut documents = vec![];
    for file in files {
        let read = documents::read(&fs::read_to_string(&file).unwrap());
        let mistakes: Vec<String> = read.mistakes.iter().map(ToString::to_string).collect();
        assert!(mistakes.is_empty(), "{}: {mistakes:#?}", file.display());
        documents.extend(read.documents);
    }
    documents
}

#[test]
fn every_example_compiles_without_a_problem() {
    let documents = documents();
    let models: Vec<_> = documents
        .iter()
        .filter_map(|document| match &document.resource {
            Resource::Model(model) => Some(model.as_ref()),
            _ => None,
        })
        .collect();
    let servers = documents.iter().filter_map(|document| match &document.resource {
        Resource::Server(server) => Some(server.as_ref()),
        _ => None,
    });
    let mut placed = 0;
    for server in servers {
        let of_server = |model: &&&TritonModel| Some(&model.spec.server_ref.name) == server.metadata.name.as_ref();
        let compiled = compile(server, models.iter().filter(of_server).copied(), &Observed::default());
        let problems: Vec<String> = compiled.problems.iter().map(ToString::to_string).collect();
        assert!(problems.is_empty(), "{problems:#?}");
        placed += compiled.manifest.models.len();
    }
    assert_eq!(placed, models.len());
}

/// What a sample is made of: the YAML files of its folder, or its one file.
fn samples() -> Vec<(PathBuf, Vec<Document>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/samples");
    let entries = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "yaml");
    let files = |path: &Path| if path.is_dir() { entries(path) } else { vec![path.to_owned()] };
    let read = |path: &PathBuf| documents::read(&fs::read_to_string(path).unwrap());
    entries(&folder)
        .into_iter()
        .map(|sample| {
            let read: Vec<_> = files(&sample).iter().filter(|path| is_yaml(path)).map(read).collect();
            let mistakes: Vec<String> = read.iter().flat_map(|one| &one.mistakes).map(ToString::to_string).collect();
            assert!(mistakes.is_empty(), "{}: {mistakes:#?}", sample.display());
            (sample, read.into_iter().flat_map(|one| one.documents).collect())
        })
        .collect()
}

#[test]
fn every_sample_compiles_without_a_problem_all_of_its_models_on_its_server() {
    let samples = samples();
    assert!(samples.len() >= 4, "{samples:?}");
    for (sample, documents) in samples {
        let models: Vec<_> = documents
            .iter()
            .filter_map(|document| match &document.resource {
                Resource::Model(model) => Some(model.as_ref()),
                _ => None,
            })
            .collect();
        let servers: Vec<_> = documents
            .iter()
            .filter_map(|document| match &document.resource {
                Resource::Server(server) => Some(server.as_ref()),
                _ => None,
            })
            .collect();
        let [server] = servers.as_slice() else { panic!("{} has {} servers", sample.display(), servers.len()) };
        let compiled = compile(server, models.iter().copied(), &Observed::default());
        let problems: Vec<String> = compiled.problems.iter().map(ToString::to_string).collect();
        assert!(problems.is_empty(), "{}: {problems:#?}", sample.display());
        assert_eq!(compiled.manifest.models.len(), models.len(), "{}", sample.display());
        assert!(!models.is_empty(), "{}", sample.display());
        for model in models {
            assert_eq!(
                Some(model.spec.server_ref.name.as_str()),
                server.metadata.name.as_deref(),
                "{}",
                sample.display()
            );
        }
    }
}

#[test]
fn every_source_has_a_sample_of_its_own_and_what_it_uses_is_allowed() {
    let schema = crds::definition::schema_of("TritonModel").unwrap();
    let sources = schema["properties"]["spec"]["properties"]["source"]["properties"].as_object().unwrap();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/samples/sources");
    let read = |file: &str| {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut read = documents::read(&text);
        assert!(read.mistakes.is_empty() && read.documents.len() == 1, "{file}: {:#?}", read.mistakes);
        read.documents.remove(0).resource
    };
    let Resource::Server(server) = read("server.yaml") else { panic!("no server") };
    let access = server.spec.model_access.clone().unwrap();
    for source in sources.keys() {
        let Resource::Model(model) = read(&format!("{}.yaml", source.to_lowercase())) else { panic!("{source}") };
        let written = serde_json::to_value(&model.spec.source).unwrap();
        assert!(written[source].is_object(), "{source}: {written}");
        let manifest = compile(&server, [model.as_ref()], &Observed::default()).manifest;
        let secret = manifest.models[0].source.secret().map(str::to_owned);
        assert!(secret.iter().all(|secret| access.secrets.contains(secret)), "{source}: {secret:?}");
        let claim = model.spec.source.pvc.as_ref().map(|pvc| &pvc.claim_name);
        assert!(claim.iter().all(|claim| access.claims.contains(*claim)), "{source}: {claim:?}");
    }
}

#[test]
fn every_field_has_an_example() {
    let mut shown = BTreeSet::new();
    for document in documents() {
        match &document.resource {
            Resource::Server(server) => written(&serde_json::to_value(server).unwrap(), "TritonServer", &mut shown),
            Resource::Model(model) => written(&serde_json::to_value(model).unwrap(), "TritonModel", &mut shown),
            Resource::ConfigMap(_) | Resource::Secret(_) => {}
        }
    }
    let mut missing = vec![];
    for kind in ["TritonServer", "TritonModel"] {
        let schema = crds::definition::schema_of(kind).unwrap();
        let mut fields = vec![];
        declared(&schema["properties"]["spec"], "spec".into(), &mut fields);
        let is_elsewhere = |field: &String| {
            let below = |parent: &&str| field.starts_with(&format!("{parent}."));
            THEIRS.iter().any(below)
                || OTHER_CHOICES.iter().any(|choice| field == choice || below(choice))
                || field == "spec.service.annotations" // empty there, and so left out
        };
        missing.extend(
            fields
                .into_iter()
                .filter(|field| !is_elsewhere(field) && !shown.contains(&format!("{kind}.{field}")))
                .map(|field| format!("{kind}.{field}")),
        );
    }
    assert!(missing.is_empty(), "no example shows {missing:#?}");
}

/// Every path of fields in `value`; items of a list count as the list.
fn written(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| written(field, &format!("{path}.{name}"), found))
        }
        Value::Array(items) => items.iter().for_each(|item| written(item, path, found)),
        _ => {}
    }
}

/// Every path of fields a schema declares.
fn declared(schema: &Value, path: String, found: &mut Vec<String>) {
    if schema["items"].is_object() {
        return declared(&schema["items"], path, found);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        declared(field, format!("{path}.{name}"), found);
    }
    found.push(path);
}
