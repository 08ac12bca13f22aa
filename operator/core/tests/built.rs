//! Resources in, every object the cluster shall hold out: each `built/NAME.yaml` with its `built/NAME.out`.
//! `UPDATE=1 cargo test -p operator-core` writes the latter anew; the difference is for people to read.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use crds::{TritonModel, TritonServer};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::PodTemplateSpec};
use operator_core::{
    Observed,
    build::{self, Kind, Object},
    compile,
    documents::{self, Resource},
    drift, pinned,
    validated::{self, Settings},
};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/built")
}

fn settings() -> Settings {
    Settings { image: "registry.example/triton-server:1.0".into() }
}

fn resources(text: &str) -> (TritonServer, Vec<TritonModel>) {
    let read = documents::read(text);
    assert!(read.mistakes.is_empty(), "{:?}", read.mistakes);
    let (mut server, mut models) = (None, vec![]);
    for document in read.documents {
        match document.resource {
            Resource::Server(read) => server = Some(*read),
            Resource::Model(model) => models.push(*model),
            Resource::ConfigMap(_) | Resource::Secret(_) => {}
        }
    }
    (server.unwrap(), models)
}

fn objects(server: &TritonServer, models: &[TritonModel], observed: &Observed, settings: &Settings) -> Vec<Object> {
    let compiled = compile(server, models, observed);
    let validated = validated::validate(server, &compiled, observed, settings).unwrap();
    build::build(&validated).objects()
}

fn built(file: &str, observed: &Observed) -> Vec<Object> {
    let (server, models) = resources(&fs::read_to_string(folder().join(file)).unwrap());
    objects(&server, &models, observed, &settings())
}

fn everywhere() -> Observed {
    Observed { has_service_monitors: true, ..Observed::default() }
}

fn template(objects: &[Object]) -> PodTemplateSpec {
    let deployment = objects.iter().find(|object| object.kind == Kind::Deployment).unwrap();
    serde_json::from_value(deployment.value["spec"]["template"].clone()).unwrap()
}

#[test]
fn every_case_is_built_as_it_is_written_down() {
    let mut cases: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    let mut stale = vec![];
    for case in cases {
        let mut objects = built(case.file_name().unwrap().to_str().unwrap(), &everywhere());
        for object in objects.iter_mut().filter(|object| object.kind == Kind::Deployment) {
            object.value["metadata"]["annotations"][pinned::TEMPLATE] = json!("(spec.template below, as JSON)");
        }
        let found: String =
            objects.iter().map(|object| format!("---\n{}", serde_yaml::to_string(&object.value).unwrap())).collect();
        let expected = case.with_extension("out");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != found {
            stale.push(format!("{}\n{found}", expected.display()));
        }
    }
    assert!(stale.is_empty(), "these came out otherwise:\n{}", stale.join("\n"));
}

#[test]
fn every_object_is_owned_labelled_and_hashed() {
    for object in built("everything.yaml", &everywhere()) {
        let metadata = &object.value["metadata"];
        assert_eq!(metadata["ownerReferences"][0]["uid"], "00000000-0000-0000-0000-000000000002", "{object:?}");
        assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "triton-operator", "{object:?}");
        assert_eq!(metadata["annotations"][build::APPLIED_HASH].as_str().unwrap().len(), 64, "{object:?}");
        assert_eq!(metadata["name"], json!(object.name));
        assert!(object.value.get("status").is_none(), "{object:?}");
    }
}

#[test]
fn the_same_resources_give_the_same_bytes_in_any_order() {
    let (server, mut models) = resources(&fs::read_to_string(folder().join("everything.yaml")).unwrap());
    let one = objects(&server, &models, &everywhere(), &settings());
    models.reverse();
    assert_eq!(one, objects(&server, &models, &everywhere(), &settings()));
}

#[test]
fn models_that_need_no_volume_leave_the_pods_alone() {
    let (server, models) = resources(&fs::read_to_string(folder().join("everything.yaml")).unwrap());
    let observed = everywhere();
    let without = objects(&server, &models[..3], &observed, &settings());
    let with = objects(&server, &models, &observed, &settings());
    assert_eq!(template(&without), template(&with), "an inline model was added");
    assert_ne!(without, with, "and the manifest tells of it");
    let mut changed = models.clone();
    changed[2].spec.source.http.as_mut().unwrap().uri = "https://example.com/other.zip".into();
    changed[3].spec.priority = Some(3);
    assert_eq!(template(&objects(&server, &changed, &observed, &settings())), template(&with));
}

#[test]
fn a_claim_that_does_not_exist_is_not_mounted() {
    let observed = Observed { absent_claims: BTreeSet::from(["models.of.ours".into()]), ..everywhere() };
    let text = serde_json::to_string(&template(&built("everything.yaml", &observed))).unwrap();
    assert!(!text.contains("models.of.ours"), "{text}");
}

#[test]
fn an_update_of_the_operator_replaces_no_pods() {
    let (server, models) = resources(&fs::read_to_string(folder().join("minimal.yaml")).unwrap());
    let before = objects(&server, &models, &Observed::default(), &settings());
    let deployment = before.iter().find(|object| object.kind == Kind::Deployment).unwrap();
    let live: Deployment = serde_json::from_value(deployment.value.clone()).unwrap();
    let pinned = Observed { template: pinned::pinned_of(&live), ..Observed::default() };
    let newer = Settings { image: "registry.example/triton-server:2.0".into() };
    assert_eq!(objects(&server, &models, &pinned, &newer), before);

    let image = |server: &TritonServer| {
        let containers = template(&objects(server, &models, &pinned, &newer)).spec.unwrap().containers;
        containers[0].image.clone().unwrap()
    };
    let mut tampered = live.clone();
    let annotation = tampered.metadata.annotations.as_mut().unwrap().get_mut(pinned::TEMPLATE).unwrap();
    *annotation = annotation.replace("triton-server:1.0", "evil:1.0");
    let observed = Observed { template: pinned::pinned_of(&tampered), ..Observed::default() };
    assert_eq!(objects(&server, &models, &observed, &settings()), before, "a changed template is not kept");

    let mut scaled = server.clone();
    scaled.spec.replicas = Some(7);
    assert!(image(&scaled).ends_with(":1.0"), "more of the same pods");
    let mut changed = server.clone();
    changed.spec.runtime_class_name = Some("nvidia".into());
    assert!(image(&changed).ends_with(":2.0"), "its pods are replaced anyhow");
    let mut follower = server.clone();
    follower.metadata.annotations = Some([(validated::UPGRADE.to_owned(), "true".to_owned())].into());
    assert!(image(&follower).ends_with(":2.0"), "it asks to be");
}

#[test]
fn pods_of_an_earlier_operator_are_told_of() {
    let (server, models) = resources(&fs::read_to_string(folder().join("minimal.yaml")).unwrap());
    let deployment = objects(&server, &models, &Observed::default(), &settings()).swap_remove(2);
    let pinned = pinned::pinned_of(&serde_json::from_value(deployment.value).unwrap());
    let observed = Observed { template: pinned, ..Observed::default() };
    let compiled = compile(&server, &models, &observed);
    let remarks = |settings: &Settings| {
        build::build(&validated::validate(&server, &compiled, &observed, settings).unwrap()).remarks
    };
    assert!(remarks(&settings()).is_empty());
    let newer = Settings { image: "registry.example/triton-server:2.0".into() };
    assert!(remarks(&newer)[0].contains("earlier operator"), "{:?}", remarks(&newer));
}

#[test]
fn replicas_are_written_only_if_the_user_says_how_many() {
    let replicas = |objects: &[Object]| {
        objects.iter().find(|object| object.kind == Kind::Deployment).unwrap().value["spec"].get("replicas").cloned()
    };
    assert_eq!(replicas(&built("minimal.yaml", &everywhere())), None);
    assert_eq!(replicas(&built("everything.yaml", &everywhere())), Some(json!(3)));
    assert_eq!(replicas(&built("account_and_claim.yaml", &everywhere())), Some(json!(0)), "suspended");
}

#[test]
fn a_single_replica_has_no_budget_that_would_block_a_drain() {
    let has_budget =
        |observed| built("minimal.yaml", &observed).iter().any(|object| object.kind == Kind::PodDisruptionBudget);
    assert!(!has_budget(everywhere()));
    assert!(has_budget(Observed { replicas: Some(4), ..everywhere() }), "an autoscaler has made it four");
}

#[test]
fn a_monitor_where_the_cluster_knows_none_is_left_out_and_said_so() {
    let (server, models) = resources(&fs::read_to_string(folder().join("everything.yaml")).unwrap());
    let observed = Observed::default();
    let compiled = compile(&server, &models, &observed);
    let validated = validated::validate(&server, &compiled, &observed, &settings()).unwrap();
    assert!(validated.remarks[0].contains("ServiceMonitor"), "{:?}", validated.remarks);
    assert!(build::build(&validated).objects().iter().all(|object| object.kind != Kind::ServiceMonitor));
}

#[test]
fn a_server_whose_name_no_service_can_have_is_refused() {
    let (mut server, models) = resources(&fs::read_to_string(folder().join("minimal.yaml")).unwrap());
    server.metadata.name = Some("my.server".into());
    let compiled = compile(&server, &models, &Observed::default());
    let problems = validated::validate(&server, &compiled, &Observed::default(), &settings()).unwrap_err();
    assert_eq!(problems[0].path, "metadata.name");
}

#[test]
fn what_was_built_has_not_drifted_from_itself() {
    for object in built("everything.yaml", &everywhere()) {
        assert_eq!(drift::drifted(&object.value, &object.value), Vec::<String>::new());
        let mut live = object.value.clone();
        live["metadata"]["labels"]["theirs"] = json!("x");
        live["metadata"]["managedFields"] = json!([]);
        assert_eq!(drift::drifted(&object.value, &live), Vec::<String>::new());
        live["metadata"]["labels"]["app.kubernetes.io/managed-by"] = Value::Null;
        assert_eq!(drift::drifted(&object.value, &live).len(), 1);
    }
}

/// The rules of Pod Security `restricted`, word for word where they are about fields we write.
#[test]
fn pods_satisfy_the_restricted_standard() {
    for case in ["minimal.yaml", "everything.yaml", "account_and_claim.yaml"] {
        let spec = template(&built(case, &everywhere())).spec.unwrap();
        assert_eq!((spec.host_network, spec.host_pid, spec.host_ipc), (None, None, None));
        let pod = spec.security_context.unwrap();
        assert_eq!(pod.run_as_non_root, Some(true));
        assert_eq!(pod.seccomp_profile.unwrap().type_, "RuntimeDefault");
        for container in spec.containers.into_iter().chain(spec.init_containers.unwrap()) {
            let own = container.security_context.unwrap();
            assert_eq!((own.allow_privilege_escalation, own.privileged), (Some(false), None));
            assert_eq!(own.read_only_root_filesystem, Some(true));
            assert_eq!(own.capabilities.unwrap().drop.unwrap(), ["ALL"]);
            assert!(container.ports.unwrap().iter().all(|port| port.host_port.is_none()));
        }
        for volume in spec.volumes.unwrap() {
            let value = serde_json::to_value(&volume).unwrap();
            let allowed = ["configMap", "emptyDir", "secret", "persistentVolumeClaim"];
            assert!(allowed.iter().any(|kind| value.get(kind).is_some()), "{value}");
        }
    }
}
