//! `spec.podTemplate`: the owner of a server has the last word about its pods, where that breaks nothing the operator relies on and
//! gives the pods no more rights than its own template has. Whoever may write a TritonServer need not be allowed to make pods, so
//! what a pod could do to its node or with the Secrets of others is refused here.

mod rights;

use std::collections::BTreeSet;

use crds::{TritonServer, parts::Opaque};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value, json};

use crate::{
    labels,
    mounts::{CLAIM, CONFIG_MAP, SECRET},
    pod,
    strategic::{self, Mistake, below, item, items},
    typed::typed,
};

/// What the names of volumes begin with that models use.
const OWN_VOLUMES: [&str; 3] = [CLAIM, CONFIG_MAP, SECRET];
/// Prefix of annotations that are the operator's.
const OWN_ANNOTATIONS: &str = "triton-operator.dev/";

/// `base` with what the server says of its pod template merged into it.
///
/// Errors: every place that cannot be followed, is unknown, or is refused; paths are those of `spec.podTemplate`.
pub(crate) fn apply(base: PodTemplateSpec, server: &TritonServer) -> Result<PodTemplateSpec, Vec<Mistake>> {
    let Some(patch) = &server.spec.pod_template else { return Ok(base) };
    let base = serde_json::to_value(base).expect("a template is plain data");
    let none = Map::new();
    let mut merged = Value::Object(strategic::merge(base.as_object().unwrap_or(&none), &patch.0)?);
    restrict_added_containers(&base, &mut merged);
    let (template, known, mut mistakes) =
        typed::<PodTemplateSpec>(&merged, "a pod template").map_err(|wrong| vec![wrong])?;
    refuse_changes(&base, &known, &mut mistakes);
    rights::refuse(&known, &mut mistakes);
    rights::refuse_loss(&base, &known, &mut mistakes);
    if mistakes.is_empty() { Ok(template) } else { Err(mistakes) }
}

/// Secrets that the patch names, each with its place.
pub(crate) fn secrets(server: &TritonServer) -> BTreeSet<(String, String)> {
    server.spec.pod_template.iter().flat_map(secrets_in).collect()
}

/// Secrets that what is passed on as it is names, each with its place.
pub(crate) fn secrets_in(given: &Opaque) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (name, value) in &given.0 {
        secrets_below(name, value, &mut found);
    }
    found
}

/// Fields that hold the name of a Secret, by the field above them; of `imagePullSecrets` only the kubelet learns what they hold.
const SECRET_NAMES: [(&str, &str); 6] = [
    ("secretKeyRef", "name"),
    ("secretRef", "name"),
    ("secret", "name"),
    ("secret", "secretName"),
    ("nodePublishSecretRef", "name"),
    ("keySecret", "name"),
];

fn secrets_below(path: &str, value: &Value, found: &mut BTreeSet<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path_of_field = below(path, name);
                let parent = path.rsplit('.').next().unwrap_or(path);
                let is_name = SECRET_NAMES.contains(&(parent, name.as_str())) || name == "secretName";
                match value {
                    Value::String(secret) if is_name => drop(found.insert((path_of_field, secret.clone()))),
                    _ => secrets_below(&path_of_field, value, found),
                }
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| secrets_below(&item(path, at, value), value, found));
        }
        _ => {}
    }
}

/// Containers that the patch adds are as restricted as ours where it says nothing else, so that the pods go on satisfying Pod Security
/// `restricted`.
fn restrict_added_containers(base: &Value, merged: &mut Value) {
    for list in ["containers", "initContainers"] {
        let ours: Vec<Value> = items(base, list).iter().map(|container| container["name"].clone()).collect();
        let Some(containers) = merged.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut) else {
            continue;
        };
        for container in containers.iter_mut().filter(|container| !ours.contains(&container["name"])) {
            let Some(fields) = container.as_object_mut() else { continue };
            let context = fields.entry("securityContext").or_insert_with(|| json!({}));
            let Some(context) = context.as_object_mut() else { continue };
            context.entry("allowPrivilegeEscalation").or_insert(json!(false));
            let capabilities = context.entry("capabilities").or_insert_with(|| json!({}));
            if let Some(capabilities) = capabilities.as_object_mut() {
                capabilities.entry("drop").or_insert(json!(["ALL"]));
            }
        }
    }
}

/// Fields of the pod that stay as they are built, and what says the same.
const OF_POD: [(&str, &str); 6] = [
    ("restartPolicy", "pods of a Deployment are always restarted"),
    ("serviceAccountName", "use spec.serviceAccountName"),
    ("serviceAccount", "use spec.serviceAccountName"),
    ("automountServiceAccountToken", "the pods are given no token of the API server"),
    ("terminationGracePeriodSeconds", "it follows from spec.server.drainTimeout and spec.server.exitTimeout"),
    ("nodeName", "use spec.nodeSelector or spec.affinity"),
];

/// Fields of our containers that stay as they are built, and what says the same.
const OF_CONTAINER: [(&str, &str); 9] = [
    ("image", "use spec.image"),
    ("imagePullPolicy", "use spec.image.pullPolicy"),
    ("command", "the operator starts it"),
    ("args", "use spec.server.extraArgs for flags of the server"),
    ("resources", "use spec.resources, spec.gpu and spec.agent.resources"),
    ("startupProbe", "use spec.probes"),
    ("readinessProbe", "use spec.probes"),
    ("livenessProbe", "use spec.probes"),
    ("restartPolicy", "the operator relies on it"),
];

/// Refuses changes of what the operator relies on.
fn refuse_changes(base: &Value, merged: &Value, mistakes: &mut Vec<Mistake>) {
    let mut refuse =
        |path: String, why: &str| mistakes.push(Mistake { path, message: format!("cannot be changed: {why}") });
    let none = Map::new();
    for name in merged["metadata"].as_object().unwrap_or(&none).keys() {
        if !matches!(name.as_str(), "labels" | "annotations") {
            refuse(format!("metadata.{name}"), "pods are given labels and annotations only");
        }
    }
    let selected: BTreeSet<String> = labels::common("").into_keys().collect();
    for name in selected.iter().filter(|name| base["metadata"]["labels"][*name] != merged["metadata"]["labels"][*name])
    {
        refuse(format!("metadata.labels[{name}]"), "the pods are found by it");
    }
    let annotations = |template: &Value| template["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let (ours, now) = (annotations(base), annotations(merged));
    let names: BTreeSet<&String> = ours.keys().chain(now.keys()).collect();
    for name in names.into_iter().filter(|name| name.starts_with(OWN_ANNOTATIONS) && ours.get(*name) != now.get(*name))
    {
        refuse(format!("metadata.annotations[{name}]"), "it is the operator's own");
    }
    for (field, why) in OF_POD.iter().filter(|(field, _)| base["spec"][field] != merged["spec"][field]) {
        refuse(format!("spec.{field}"), why);
    }
    for list in ["containers", "initContainers"] {
        for container in items(base, list) {
            let name = container["name"].as_str().unwrap_or_default();
            let path = format!("spec.{list}[{name}]");
            let Some(now) = items(merged, list).iter().find(|it| it["name"] == container["name"]) else {
                refuse(path, "it is what the pod is for");
                continue;
            };
            for (field, why) in OF_CONTAINER.iter().filter(|(field, _)| container[field] != now[field]) {
                refuse(format!("{path}.{field}"), why);
            }
            let lists = [
                ("ports", "it is what is asked"),
                ("volumeMounts", "the container lives on it"),
                ("env", "the agent goes by it"),
            ];
            let is_kept = |list: &str| list != "env" || name == pod::AGENT_CONTAINER;
            for (list, why) in lists.into_iter().filter(|(list, _)| is_kept(list)) {
                let now = now[list].as_array().map_or(&[][..], Vec::as_slice);
                for (at, ours) in container[list].as_array().into_iter().flatten().enumerate() {
                    if !now.contains(ours) {
                        refuse(item(&format!("{path}.{list}"), at, ours), why);
                    }
                }
            }
            let ours: Vec<&str> =
                container["volumeMounts"].as_array().into_iter().flatten().filter_map(mount_path).collect();
            for mount in now["volumeMounts"].as_array().into_iter().flatten().filter_map(mount_path) {
                let hides = |own: &&&str| !ours.contains(&mount) && is_within(own, mount);
                if let Some(own) = ours.iter().find(hides) {
                    refuse(format!("{path}.volumeMounts[{mount}]"), &format!("it would hide {own}"));
                }
            }
        }
    }
    for (at, volume) in items(base, "volumes").iter().enumerate() {
        if !items(merged, "volumes").contains(volume) {
            refuse(item("spec.volumes", at, volume), "the containers live on it");
        }
    }
    for volume in items(merged, "volumes").iter().filter(|volume| !items(base, "volumes").contains(volume)) {
        let name = volume["name"].as_str().unwrap_or_default();
        let is_ours = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-'));
        let is_known = items(base, "volumes").iter().any(|it| it["name"] == name);
        if !is_known && OWN_VOLUMES.into_iter().any(is_ours) {
            refuse(format!("spec.volumes[{name}]"), "what models use is named so: choose another name");
        }
    }
    // the sidecar has to be ready for what comes after it
    let first = |value: &Value| items(value, "initContainers").first().map(|it| it["name"].clone());
    if first(base) != first(merged)
        && items(merged, "initContainers").iter().any(|it| it["name"] == pod::AGENT_CONTAINER)
    {
        refuse("spec.initContainers".into(), "the agent is the first of them");
    }
}

fn mount_path(mount: &Value) -> Option<&str> {
    mount["mountPath"].as_str()
}

/// Whether `path` is `folder` or below it.
fn is_within(path: &str, folder: &str) -> bool {
    let folder = folder.trim_end_matches('/');
    path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}
