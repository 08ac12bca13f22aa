//! Resources, what was found, and what becomes of the models.

use crds::parts::load::Readiness;
use serde_json::{Value, json};

use super::*;
use crate::{Compiled, Manifest, compile, compile::Placement};

fn server(spec: Value) -> TritonServer {
    serde_json::from_value(json!({
        "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonServer",
        "metadata": { "name": "vision", "namespace": "ml" }, "spec": spec,
    }))
    .unwrap()
}

fn model(name: &str, source: Value) -> TritonModel {
    serde_json::from_value(json!({
        "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonModel",
        "metadata": { "name": name, "namespace": "ml" },
        "spec": { "serverRef": { "name": "vision" }, "format": "onnx", "source": source },
    }))
    .unwrap()
}

fn with_secret(uri: &str) -> TritonModel {
    model("m", json!({ "http": { "uri": uri, "secretRef": { "name": "token" } } }))
}

fn found(secrets: &[(&str, FoundSecret)]) -> Observed {
    let secrets = secrets.iter().map(|(name, found)| ((*name).to_owned(), *found)).collect();
    Observed { secrets: Some(secrets), ..Observed::default() }
}

/// What becomes of one model: a word, and the reason with its message.
#[track_caller]
fn check(server: &TritonServer, model: &TritonModel, observed: &Observed, expect: &str) -> Manifest {
    let Compiled { manifest, models, .. } = compile(server, [model], observed);
    let became = match &models[0].placement {
        Placement::Placed => "placed".to_owned(),
        Placement::Kept { reason, message } => format!("kept {reason} {message}"),
        Placement::LeftOut { reason, message } => format!("left out {reason} {message}"),
    };
    assert_eq!(became, expect);
    manifest
}

const NOT_LISTED: &str = "left out AccessDenied spec.source.http.secretRef.name: TritonServer vision does not let its models use \
                          Secret 'token': its owner adds it to spec.modelAccess.secrets";
const NOT_MARKED: &str = "left out CredentialsMissing spec.source.http.secretRef.name: there is no Secret 'token' with the label \
                          triton-operator.dev/model-access: \"true\": its owner makes it or sets the label";

#[test]
fn a_secret_opens_a_source_only_if_its_owner_and_that_of_the_server_let_it() {
    let (model, marked) = (with_secret("https://h/m.onnx"), found(&[("token", FoundSecret::ForModels)]));
    let lists_it = server(json!({ "modelAccess": { "secrets": ["token", "later"] } }));
    let manifest = check(&server(json!({})), &model, &marked, NOT_LISTED);
    assert!(manifest.models.is_empty(), "nothing is told to the pods");
    check(&server(json!({ "modelAccess": { "secrets": ["other"] } })), &model, &marked, NOT_LISTED);
    check(&lists_it, &model, &found(&[("token", FoundSecret::NotForModels)]), NOT_MARKED);
    check(&lists_it, &model, &found(&[]), NOT_MARKED);
    let manifest = check(&lists_it, &model, &marked, "placed");
    assert_eq!(manifest.sources.secrets, Some(vec!["token".to_owned()]), "and only what is marked is allowed");
    let unseen = "left out AccessDenied spec.source.http.secretRef.name: the operator is not allowed to look for the label of Secret \
                  'token': it was installed without the right to get Secrets (chart value modelSecrets.enabled)";
    check(&lists_it, &model, &found(&[("token", FoundSecret::Unseen)]), unseen);
}

#[test]
fn a_secret_that_only_a_model_names_is_not_even_looked_for() {
    let server = server(json!({
        "modelAccess": { "secrets": ["b"] },
        "server": { "env": [
            { "name": "A", "valueFrom": { "secretKeyRef": { "name": "a", "key": "k" } } },
            { "name": "C", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "k" } } },
        ] },
    }));
    assert_eq!(secrets_to_look_for(&server), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
}

#[test]
fn what_was_allowed_before_goes_on_serving_and_opens_nothing_any_more() {
    let (model, server) = (with_secret("https://h/m.onnx"), server(json!({ "modelAccess": { "secrets": ["token"] } })));
    let before = check(&server, &model, &found(&[("token", FoundSecret::ForModels)]), "placed");
    let mut observed = found(&[("token", FoundSecret::NotForModels)]);
    observed.manifest = Some(before.clone());
    let after = check(&server, &model, &observed, &NOT_MARKED.replace("left out", "kept"));
    assert_eq!(after.models[0].content_hash(), before.models[0].content_hash(), "it is not loaded anew");
    assert_eq!(after.models[0].readiness, Readiness::Optional, "and holds back no new pod, which cannot fetch it");
    assert!(!after.sources.allows_secret("token"));
}

#[test]
fn a_claim_is_for_models_if_the_server_lists_it() {
    let (model, nothing) = (model("m", json!({ "pvc": { "claimName": "models" } })), found(&[]));
    let expect = "left out AccessDenied spec.source.pvc.claimName: TritonServer vision does not let its models use claim 'models': \
                  its owner adds it to spec.modelAccess.claims";
    check(&server(json!({})), &model, &nothing, expect);
    let manifest = check(&server(json!({ "modelAccess": { "claims": ["models"] } })), &model, &nothing, "placed");
    assert!(manifest.sources.allows_claim("models") && !manifest.sources.allows_claim("other"));
}

#[test]
fn a_model_is_fetched_from_hosts_that_the_server_lists() {
    let from = |uri: &str| model("m", json!({ "http": { "uri": uri } }));
    let server = server(json!({ "modelAccess": { "hosts": ["*.hub.example", "10.0.0.0/8"] } }));
    for uri in
        ["https://a.hub.example/m.onnx", "http://10.1.2.3:9000/m.onnx", "https://a-name-that-may-lead-there/m.onnx"]
    {
        check(&server, &from(uri), &found(&[]), "placed");
    }
    let expect = "left out AccessDenied spec.source.http.uri: TritonServer vision does not let its models be fetched from \
                  '192.168.0.1': its owner adds it to spec.modelAccess.hosts";
    check(&server, &from("http://192.168.0.1/m.onnx"), &found(&[]), expect);
}

#[test]
fn the_environment_of_a_server_is_filled_from_marked_secrets_only() {
    let server = server(json!({ "server": { "env": [
        { "name": "A", "value": "x" },
        { "name": "B", "valueFrom": { "secretKeyRef": { "name": "token", "key": "k" } } },
        { "name": "C", "valueFrom": { "configMapKeyRef": { "name": "token", "key": "k" } } },
    ] } }));
    let problems =
        |observed: &Observed| of_server(&server, observed).iter().map(ToString::to_string).collect::<Vec<_>>();
    let expect = "spec.server.env[1].valueFrom.secretKeyRef.name: there is no Secret 'token' with the label \
                  triton-operator.dev/model-access: \"true\": its owner makes it or sets the label";
    assert_eq!(problems(&found(&[("token", FoundSecret::NotForModels)])), [expect]);
    assert_eq!(problems(&found(&[("token", FoundSecret::ForModels)])), [""; 0]);
    assert_eq!(problems(&Observed::default()), [""; 0]);
}

#[test]
fn on_one_machine_nothing_is_asked() {
    let manifest = check(&server(json!({})), &with_secret("http://127.0.0.1/m.onnx"), &Observed::default(), "placed");
    assert!(manifest.sources.is_empty());
}

#[test]
fn a_secret_is_marked_by_the_value_true() {
    let labels = |value: &str| BTreeMap::from([(MODEL_ACCESS.to_owned(), value.to_owned())]);
    assert_eq!(FoundSecret::of(Some(&labels("true"))), FoundSecret::ForModels);
    assert_eq!(FoundSecret::of(Some(&labels("false"))), FoundSecret::NotForModels);
    assert_eq!(FoundSecret::of(None), FoundSecret::NotForModels);
}

#[test]
fn a_secret_is_mounted_only_once_its_owner_has_marked_it() {
    let server = server(json!({ "modelAccess": { "secrets": ["marked", "plain", "absent"] } }));
    let compiled = crate::compile(&server, [], &Observed::default());
    let secrets = |observed: &Observed| wanted_mounts(&server, &compiled.manifest, observed).secrets;
    let observed = found(&[("marked", FoundSecret::ForModels), ("plain", FoundSecret::NotForModels)]);
    assert_eq!(secrets(&observed), BTreeSet::from(["marked".to_owned()]));
    assert!(secrets(&found(&[("marked", FoundSecret::Unseen)])).is_empty());
}
