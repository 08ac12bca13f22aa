//! The pod template a server keeps. An update of the operator brings another default image and may build other templates; by
//! itself neither replaces pods, and an image never gets flags it does not know. So the Deployment carries the template it was
//! given and a hash of what it was asked for in it; while the latter stays, so does the former.

use std::collections::BTreeMap;

use crds::TritonServer;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::PodTemplateSpec};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{canonical, mounts::Mounts};

/// Annotation of a Deployment: its pod template as it was built.
pub const TEMPLATE: &str = "triton-operator.dev/template";
/// Annotation of a Deployment: hash of its pod template and of what was asked for in it.
pub const TEMPLATE_SEAL: &str = "triton-operator.dev/template-seal";

/// Fields of the spec that leave no trace in a pod.
const OUTSIDE: [&str; 6] = ["disruption", "monitoring", "replicas", "rollout", "service", "suspend"];
/// Fields of `spec.gpu` that leave no trace in a pod.
const OUTSIDE_GPU: [&str; 2] = ["memoryPerReplica", "memoryReserve"];

/// A template as a Deployment was given it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pinned {
    text: String,
    seal: String,
}

/// The template a Deployment was given.
pub fn pinned_of(deployment: &Deployment) -> Option<Pinned> {
    let annotations = deployment.metadata.annotations.as_ref()?;
    Some(Pinned { text: annotations.get(TEMPLATE)?.clone(), seal: annotations.get(TEMPLATE_SEAL)?.clone() })
}

impl Pinned {
    /// The template, if it was built for `inputs` and nobody has changed it since.
    pub(crate) fn built_for(&self, inputs: &str) -> Option<PodTemplateSpec> {
        (self.seal == seal(inputs, &self.text)).then(|| serde_json::from_str(&self.text).ok())?
    }
}

/// What users say about the pods of `server`: their own words, nothing of the operator's.
pub(crate) fn inputs(server: &TritonServer, mounts: &Mounts) -> String {
    let mut spec = serde_json::to_value(&server.spec).expect("a spec is plain data");
    remove(&mut spec, &OUTSIDE);
    if let Some(gpu) = spec.get_mut("gpu") {
        remove(gpu, &OUTSIDE_GPU);
    }
    let Mounts { config_maps, claims, secrets } = mounts;
    canonical::to_string(&json!({ "spec": spec, "configMaps": config_maps, "claims": claims, "secrets": secrets }))
}

/// The annotations that pin `template`.
pub(crate) fn annotations(inputs: &str, template: &PodTemplateSpec) -> BTreeMap<String, String> {
    let text = canonical::to_string(template);
    BTreeMap::from([(TEMPLATE_SEAL.to_owned(), seal(inputs, &text)), (TEMPLATE.to_owned(), text)])
}

fn seal(inputs: &str, template: &str) -> String {
    hex::encode(Sha256::new().chain_update(inputs).chain_update([0]).chain_update(template).finalize())
}

fn remove(value: &mut Value, fields: &[&str]) {
    if let Some(object) = value.as_object_mut() {
        object.retain(|name, _| !fields.contains(&name.as_str()));
    }
}
