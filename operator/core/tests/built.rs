//! Resources in, every object the cluster shall hold out: each `built/NAME.yaml` with its `built/NAME.out`.
//! `UPDATE=1 cargo test -p operator-core` writes the latter anew; the difference is for people to read.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use crds::{TritonModel, TritonServer};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::PodTemplateSpec};
use operator_core::{
    Observed,
    build::{self, Object},
    compile,
    decide::{self, Settings},
    documents::{self, Resource},
    drift,
    kind::Kind,
    labels,
    observed::{FoundConfigMap, FoundSecret},
    optional::Availability,
    pinned, replicas,
    scale_to_zero::Way,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/built")
}

fn settings() -> Settings {
    Settings {
        image: "registry.example/triton-server:1.0".into(),
        namespace: Some("operators".into()),
        scaler_address: Some("scaler.operators:9090".into()),
    }
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
    let validated = decide::decide(server, &compiled, observed, settings).unwrap();
    build::build(&validated).objects()
}

fn built(file: &str, observed: &Observed) -> Vec<Object> {
    let (server, models) = resources(&fs::read_to_string(folder().join(file)).unwrap());
    objects(&server, &models, observed, &settings())
}

fn everywhere() -> Observed {
    let optional = Kind::ALL.into_iter().filter(|kind| kind.is_optional());
    Observed { kinds: optional.map(|kind| (kind, Availability::Known)).collect(), ..Observed::default() }
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
fn invariant_2_the_same_resources_give_the_same_bytes_in_any_order() {
    let (server, mut models) = resources(&fs::read_to_string(folder().join("everything.yaml")).unwrap());
    let one = objects(&server, &models, &everywhere(), &settings());
    models.reverse();
    assert_eq!(one, objects(&server, &models, &everywhere(), &settings()));
}

#[test]
fn a_server_that_may_rest_has_a_slice_that_leads_to_activators_or_nowhere() {
    let slice = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let observed = Observed { activators: Some(Way { port: 20007, is_ipv6: false, addresses }), ..everywhere() };
        let objects = built("minimal.yaml", &observed);
        objects.into_iter().find(|object| object.kind == Kind::EndpointSlice).unwrap()
    };
    let Object { name, value, .. } = slice(&["10.0.0.1", "10.0.0.2"]);
    let server = value["metadata"]["ownerReferences"][0]["name"].as_str().unwrap();
    assert_eq!(name, format!("{server}-activator"));
    assert_eq!(value["metadata"]["labels"]["kubernetes.io/service-name"], server);
    assert_eq!(value["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"], "triton-operator");
    let addresses: Vec<_> = value["endpoints"].as_array().unwrap().iter().map(|it| &it["addresses"][0]).collect();
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.2"]);
    // by the names that the ports of the Service have
    let ports: Vec<_> = value["ports"].as_array().unwrap().iter().map(|it| (&it["name"], &it["port"])).collect();
    assert_eq!(ports, [(&json!("http"), &json!(20007)), (&json!("grpc"), &json!(20007))]);
    assert_eq!(slice(&[]).value["endpoints"], json!([]), "it keeps its port");
    assert!(built("minimal.yaml", &everywhere()).iter().all(|object| object.kind != Kind::EndpointSlice));
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

/// A server with one replica on a GPU, where each new pod is an outage; and what the cluster has of it.
fn on_one_gpu(access: Value) -> TritonServer {
    let metadata = json!({ "name": "vision", "namespace": "ml", "uid": "00000000-0000-0000-0000-000000000009" });
    let spec = json!({ "replicas": 1, "gpu": { "count": 1 }, "modelAccess": access });
    serde_json::from_value(json!({
        "apiVersion": crds::API_VERSION, "kind": "TritonServer", "metadata": metadata, "spec": spec,
    }))
    .unwrap()
}

fn model(name: &str, source: Value) -> TritonModel {
    serde_json::from_value(json!({
        "apiVersion": crds::API_VERSION, "kind": "TritonModel", "metadata": { "name": name, "namespace": "ml" },
        "spec": { "serverRef": { "name": "vision" }, "format": "onnx", "source": source },
    }))
    .unwrap()
}

fn after(objects: &[Object]) -> Observed {
    let deployment = objects.iter().find(|object| object.kind == Kind::Deployment).unwrap();
    let live: Deployment = serde_json::from_value(deployment.value.clone()).unwrap();
    Observed { template: pinned::pinned_of(&live), ..on_a_cluster() }
}

fn on_a_cluster() -> Observed {
    let marked = |name: &str| (name.to_owned(), FoundSecret::ForModels);
    Observed {
        secrets: Some([marked("token"), marked("new")].into()),
        config_maps: [("large".to_owned(), FoundConfigMap::Large)].into(),
        ..Observed::default()
    }
}

/// What the pods mount for models, by name of the volume.
fn mounted(objects: &[Object]) -> Vec<String> {
    let volumes = template(objects).spec.unwrap().volumes.unwrap();
    let names = volumes.into_iter().map(|volume| volume.name);
    names.filter(|name| ["claim-", "configmap-", "secret-"].iter().any(|kind| name.starts_with(kind))).collect()
}

#[test]
fn no_model_replaces_a_pod() {
    let access = json!({ "secrets": ["token"], "claims": ["models", "made-later"] });
    let server = on_one_gpu(access.clone());
    let no_claim = Observed { absent_claims: BTreeSet::from(["made-later".into()]), ..on_a_cluster() };
    let first = objects(&server, &[], &no_claim, &settings());
    assert_eq!(mounted(&first), ["claim-models", "secret-token"], "from the start, without a model");
    let models = [
        model("secret", json!({ "http": { "uri": "https://h/m.onnx", "secretRef": { "name": "token" } } })),
        model("not-there", json!({ "http": { "uri": "https://h/m.onnx", "secretRef": { "name": "not-there" } } })),
        model("claim", json!({ "pvc": { "claimName": "models" } })),
        model("late-claim", json!({ "pvc": { "claimName": "made-later" } })),
        model("large", json!({ "configMap": { "name": "large" } })),
    ];
    let second = objects(&server, &models, &after(&first), &settings());
    assert_eq!(template(&second), template(&first));
    let compiled = compile(&server, &models, &after(&first));
    let placed: Vec<&str> = compiled.manifest.models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(placed, ["claim", "secret"]);
    let problems: Vec<String> =
        compiled.problems.iter().map(|it| format!("{} {} {it}", it.object.name, it.reason)).collect();
    let cure = "mounted, and are not replaced for it: set spec.modelAccess.allowPodRestart: true there";
    assert_eq!(
        problems,
        [
            format!(
                "large NotMounted spec.source.configMap.name: the pods of TritonServer vision do not have ConfigMap 'large' {cure}"
            ),
            format!(
                "late-claim NotMounted spec.source.pvc.claimName: the pods of TritonServer vision do not have claim \
                 'made-later' {cure}"
            ),
            "not-there AccessDenied spec.source.http.secretRef.name: TritonServer vision does not let its models use Secret \
             'not-there': its owner adds it to spec.modelAccess.secrets"
                .to_owned(),
        ]
    );

    let mut may = access;
    may["allowPodRestart"] = json!(true);
    let third = objects(&on_one_gpu(may), &models, &after(&first), &settings());
    assert_eq!(mounted(&third), ["configmap-large", "claim-made-later", "claim-models", "secret-token"]);
}

#[test]
fn what_the_owner_of_a_server_lists_is_mounted_and_what_he_strikes_out_stays_with_the_pods_there_are() {
    let first = objects(&on_one_gpu(json!({ "secrets": ["token"] })), &[], &on_a_cluster(), &settings());
    let struck = on_one_gpu(json!({}));
    let second = objects(&struck, &[], &after(&first), &settings());
    assert_eq!(template(&second), template(&first));
    let again = objects(&on_one_gpu(json!({ "secrets": ["token"] })), &[], &after(&second), &settings());
    assert_eq!(again, first, "and is there if he thinks better of it");
    let more = objects(&on_one_gpu(json!({ "secrets": ["new", "token"] })), &[], &after(&second), &settings());
    assert_eq!(mounted(&more), ["secret-new", "secret-token"]);
    let mut replaced = struck;
    replaced.spec.runtime_class_name = Some("nvidia".into());
    assert_eq!(
        mounted(&objects(&replaced, &[], &after(&second), &settings())),
        [""; 0],
        "until they are replaced anyhow"
    );
}

#[test]
fn pods_of_an_operator_that_mounted_what_models_named_are_left_alone() {
    let server = on_one_gpu(json!({}));
    let with_mounts = on_one_gpu(json!({ "secrets": ["token"], "claims": ["models"] }));
    let text = serde_json::to_string(&template(&objects(&with_mounts, &[], &on_a_cluster(), &settings()))).unwrap();
    let text = serde_json::to_string(&serde_json::from_str::<Value>(&text).unwrap()).unwrap();
    let inputs =
        json!({ "claims": ["models"], "configMaps": [], "secrets": ["token"], "spec": { "gpu": { "count": 1 } } });
    let seal = Sha256::new().chain_update(inputs.to_string()).chain_update([0]).chain_update(&text).finalize();
    let metadata = json!({ "annotations": { pinned::TEMPLATE: text, pinned::TEMPLATE_SEAL: hex::encode(seal) } });
    let live: Deployment = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
    let observed = Observed { template: pinned::pinned_of(&live), ..on_a_cluster() };
    assert_eq!(mounted(&objects(&server, &[], &observed, &settings())), ["claim-models", "secret-token"]);
    assert_eq!(
        mounted(&objects(&with_mounts, &[], &observed, &settings())),
        ["claim-models", "secret-token"],
        "now that its owner lists what is mounted"
    );
    let more = on_one_gpu(json!({ "secrets": ["new", "token"] }));
    assert_eq!(mounted(&objects(&more, &[], &observed, &settings())), ["secret-new", "secret-token"]);
}

#[test]
fn an_update_of_the_operator_replaces_no_pods() {
    let (server, models) = resources(&fs::read_to_string(folder().join("minimal.yaml")).unwrap());
    let before = objects(&server, &models, &Observed::default(), &settings());
    let deployment = before.iter().find(|object| object.kind == Kind::Deployment).unwrap();
    let live: Deployment = serde_json::from_value(deployment.value.clone()).unwrap();
    let pinned = Observed { template: pinned::pinned_of(&live), ..Observed::default() };
    let newer = Settings { image: "registry.example/triton-server:2.0".into(), ..settings() };
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
    follower.metadata.annotations = Some([(labels::UPGRADE.to_owned(), "true".to_owned())].into());
    assert!(image(&follower).ends_with(":2.0"), "it asks to be");
}

#[test]
fn pods_of_an_earlier_operator_are_told_of() {
    let (server, models) = resources(&fs::read_to_string(folder().join("minimal.yaml")).unwrap());
    let deployment = objects(&server, &models, &Observed::default(), &settings()).swap_remove(2);
    let pinned = pinned::pinned_of(&serde_json::from_value(deployment.value).unwrap());
    let observed = Observed { template: pinned, ..Observed::default() };
    let compiled = compile(&server, &models, &observed);
    let remarks =
        |settings: &Settings| build::build(&decide::decide(&server, &compiled, &observed, settings).unwrap()).remarks;
    assert!(remarks(&settings()).is_empty());
    let newer = Settings { image: "registry.example/triton-server:2.0".into(), ..settings() };
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
    let validated = decide::decide(&server, &compiled, &observed, &settings()).unwrap();
    assert!(validated.remarks[0].contains("ServiceMonitor"), "{:?}", validated.remarks);
    assert!(build::build(&validated).objects().iter().all(|object| object.kind != Kind::ServiceMonitor));
}

#[test]
fn a_server_whose_name_no_service_can_have_is_refused() {
    let (mut server, models) = resources(&fs::read_to_string(folder().join("minimal.yaml")).unwrap());
    server.metadata.name = Some("my.server".into());
    let compiled = compile(&server, &models, &Observed::default());
    let problems = decide::decide(&server, &compiled, &Observed::default(), &settings()).unwrap_err();
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
            let allowed = ["configMap", "downwardAPI", "emptyDir", "secret", "persistentVolumeClaim"];
            assert!(allowed.iter().any(|kind| value.get(kind).is_some()), "{value}");
        }
    }
}

/// An update of the operator replaces no pods, though it would build other ones today.
#[test]
fn invariant_11_pods_keep_the_template_that_an_older_operator_gave_them() {
    let text = fs::read_to_string(folder().join("../older/deployment.yaml")).unwrap();
    let mut deployment: Value = serde_yaml::from_str(&text).unwrap();
    let given = deployment["spec"]["template"].clone();
    deployment["metadata"]["annotations"][pinned::TEMPLATE] = json!(given.to_string());
    let deployment: Deployment = serde_json::from_value(deployment).unwrap();
    let observed = Observed { template: pinned::pinned_of(&deployment), ..everywhere() };
    let (server, models) = resources(&fs::read_to_string(folder().join("minimal.yaml")).unwrap());
    let given: PodTemplateSpec = serde_json::from_value(given).unwrap();
    assert_eq!(template(&objects(&server, &models, &observed, &settings())), given);
    assert_ne!(template(&objects(&server, &models, &everywhere(), &settings())), given, "it is an older one");
}

fn kinds(spec: Value, observed: &Observed) -> (BTreeSet<Kind>, Vec<String>) {
    let mut server = on_one_gpu(json!({}));
    server.spec = serde_json::from_value(spec).unwrap();
    let compiled = compile(&server, &[], observed);
    let validated = decide::decide(&server, &compiled, observed, &settings()).unwrap();
    let built = build::build(&validated);
    let optional = built.objects().into_iter().map(|object| object.kind).filter(|kind| kind.is_optional());
    (optional.collect(), built.remarks)
}

#[test]
fn one_monitor_is_made_and_the_service_has_it_unless_pods_are_asked_for() {
    let kinds = |monitoring: Value| kinds(json!({ "monitoring": monitoring }), &everywhere()).0;
    assert_eq!(kinds(json!({})), [Kind::ServiceMonitor].into());
    assert_eq!(kinds(json!({ "podMonitor": {} })), [Kind::PodMonitor].into());
    assert_eq!(kinds(json!({ "podMonitor": { "enabled": "Never" } })), [Kind::ServiceMonitor].into());
    assert_eq!(
        kinds(json!({ "serviceMonitor": { "enabled": "Never" }, "prometheusRule": {} })),
        [Kind::PrometheusRule].into()
    );
}

/// What the cluster does not know is left out and named where it was asked for, and made as soon as it is known.
#[test]
fn invariant_4_objects_of_kinds_that_come_later_are_made_then_and_missed_until_then() {
    let spec = json!({
        "monitoring": { "podMonitor": { "enabled": "Always" }, "prometheusRule": { "enabled": "Always" } },
        "routes": { "http": { "parentRefs": [{ "name": "g" }] }, "grpc": { "parentRefs": [{ "name": "g" }] } },
    });
    let all: BTreeSet<Kind> = [Kind::PodMonitor, Kind::PrometheusRule, Kind::HttpRoute, Kind::GrpcRoute].into();
    let (made, remarks) = kinds(spec.clone(), &Observed::default());
    assert!(made.is_empty());
    assert_eq!(remarks.len(), all.len(), "{remarks:?}");
    let mut observed = Observed::default();
    for kind in &all {
        let name = kind.api_resource().kind;
        assert!(remarks.iter().any(|remark| remark.starts_with(&format!("no {name} is made"))), "{remarks:?}");
        observed.kinds.insert(*kind, Availability::Known);
        let (made, remarks) = kinds(spec.clone(), &observed);
        assert!(made.contains(kind) && !remarks.iter().any(|remark| remark.contains(&name)), "{made:?} {remarks:?}");
    }
    assert_eq!(kinds(spec, &observed), (all, vec![]));
}

fn scaled(spec: Value, observed: &Observed) -> Vec<Object> {
    let mut server = on_one_gpu(json!({}));
    server.spec = serde_json::from_value(spec).unwrap();
    objects(&server, &[], observed, &settings())
}

fn replicas_of(objects: &[Object]) -> (Option<i64>, Option<&str>) {
    let deployment = objects.iter().find(|object| object.kind == Kind::Deployment).unwrap();
    let before = &deployment.value["metadata"]["annotations"][replicas::BEFORE];
    (deployment.value["spec"]["replicas"].as_i64(), before.as_str())
}

#[test]
fn the_field_of_an_autoscaler_is_left_out_and_comes_back_after_a_suspension() {
    let scaled_to = |present: Option<i32>, before: Option<i32>, suspend: bool| {
        let observed = Observed { replicas: present, replicas_before: before, ..everywhere() };
        scaled(json!({ "suspend": suspend, "autoscaling": { "minReplicas": 2, "maxReplicas": 8 } }), &observed)
    };
    assert_eq!(replicas_of(&scaled_to(None, None, false)), (Some(2), None));
    assert_eq!(replicas_of(&scaled_to(Some(5), None, false)), (None, None));
    let suspended = scaled_to(Some(5), None, true);
    assert_eq!(replicas_of(&suspended), (Some(0), Some("5")));
    assert!(!suspended.iter().any(|object| object.kind == Kind::HorizontalPodAutoscaler));
    assert_eq!(replicas_of(&scaled_to(Some(0), Some(5), false)), (Some(5), None));
}

#[test]
fn one_object_scales_a_server_and_it_is_that_of_its_engine() {
    let scalers = |engine: &str, observed: &Observed| {
        let made = scaled(json!({ "autoscaling": { "engine": engine, "maxReplicas": 2 } }), observed);
        let scalers = [Kind::HorizontalPodAutoscaler, Kind::ScaledObject];
        made.into_iter().map(|object| object.kind).filter(|kind| scalers.contains(kind)).collect::<Vec<_>>()
    };
    assert_eq!(scalers("Operator", &everywhere()), [Kind::HorizontalPodAutoscaler]);
    assert_eq!(scalers("PrometheusAdapter", &everywhere()), [Kind::HorizontalPodAutoscaler]);
    assert_eq!(scalers("KEDA", &everywhere()), [Kind::ScaledObject]);
    assert_eq!(scalers("KEDA", &Observed::default()), []);
    let plain = scaled(json!({}), &everywhere());
    assert!(!plain.iter().any(|object| object.kind == Kind::HorizontalPodAutoscaler));
}

#[test]
fn keda_is_not_sent_to_an_operator_that_does_not_answer_it() {
    let mut server = on_one_gpu(json!({}));
    server.spec = serde_json::from_value(json!({ "autoscaling": { "engine": "KEDA", "maxReplicas": 2 } })).unwrap();
    let compiled = compile(&server, &[], &everywhere());
    let deaf = Settings { scaler_address: None, ..settings() };
    let observed = everywhere();
    let validated = decide::decide(&server, &compiled, &observed, &deaf).unwrap();
    let built = build::build(&validated);
    assert!(!built.objects().iter().any(|object| object.kind == Kind::ScaledObject));
    assert!(built.remarks.iter().any(|remark| remark.starts_with("no ScaledObject is made: ")), "{:?}", built.remarks);
}

#[test]
fn a_budget_does_not_come_and_go_with_the_replicas_of_an_autoscaler() {
    let has_budget = |min: i32, max: i32, present: i32| {
        let observed = Observed { replicas: Some(present), ..everywhere() };
        let made = scaled(json!({ "autoscaling": { "minReplicas": min, "maxReplicas": max } }), &observed);
        made.iter().any(|object| object.kind == Kind::PodDisruptionBudget)
    };
    assert!(has_budget(1, 4, 1) && has_budget(1, 4, 3) && has_budget(2, 4, 2));
    assert!(!has_budget(1, 1, 1));
}
