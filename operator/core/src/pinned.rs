//! The pod template a server keeps. An update of the operator brings another default image and may build other templates; by
//! itself neither replaces pods, and an image never gets flags it does not know. Nor does a model: what pods mount stays while it is
//! needed or not. So the Deployment carries the template it was given and a hash of what it was asked for in it; while the latter
//! stays, so does the former.

use std::collections::{BTreeMap, BTreeSet};

use crds::TritonServer;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::PodTemplateSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{canonical, labels::UPGRADE, mounts::Mounts};

/// Annotation of a Deployment: its pod template as it was built.
pub const TEMPLATE: &str = "triton-operator.dev/template";
/// Annotation of a Deployment: hash of its pod template and of what was asked for in it.
pub const TEMPLATE_SEAL: &str = "triton-operator.dev/template-seal";

/// Annotation of a Deployment: what the server let its models use when its pod template was built.
pub const TEMPLATE_ACCESS: &str = "triton-operator.dev/template-access";

/// Fields of the spec that leave no trace in a pod, or, as `modelAccess`, none but mounts.
const OUTSIDE: [&str; 10] = [
    "autoscaling",
    "disruption",
    "modelAccess",
    "monitoring",
    "networkPolicy",
    "replicas",
    "rollout",
    "routes",
    "service",
    "suspend",
];
/// Fields of `spec.gpu` that leave no trace in a pod.
const OUTSIDE_GPU: [&str; 2] = ["memoryPerReplica", "memoryReserve"];

/// A template as a Deployment was given it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pinned {
    text: String,
    seal: String,
    access: Option<String>,
}

/// The template a Deployment was given.
pub fn pinned_of(deployment: &Deployment) -> Option<Pinned> {
    let annotations = deployment.metadata.annotations.as_ref()?;
    Some(Pinned {
        text: annotations.get(TEMPLATE)?.clone(),
        seal: annotations.get(TEMPLATE_SEAL)?.clone(),
        access: annotations.get(TEMPLATE_ACCESS).cloned(),
    })
}

/// A template that was built for what is asked for still, what it mounts aside.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// The template.
    pub(crate) template: PodTemplateSpec,
    /// What it mounts for models.
    pub(crate) mounts: Mounts,
    /// What the server let its models use when it was built: those that did not exist are not among the mounts.
    access: Access,
    pinned: Pinned,
}

/// Claims that a server lets its models use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Access {
    claims: BTreeSet<String>,
}

impl Access {
    fn of(server: &TritonServer) -> Self {
        let access = server.spec.model_access.clone().unwrap_or_default();
        Self { claims: access.claims.into_iter().collect() }
    }
}

/// The template that the server keeps as far as its own words about pods go: nobody has changed it since, and it does not follow the
/// operator.
pub(crate) fn kept(server: &TritonServer, template: Option<&Pinned>) -> Option<Kept> {
    let pinned = template.filter(|_| !follows_the_operator(server))?;
    let template: PodTemplateSpec = serde_json::from_str(&pinned.text).ok()?;
    let mounts = Mounts::of_template(&template);
    let (sealed, access) = match &pinned.access {
        Some(text) => (seal(&[&inputs(server), text, &pinned.text]), serde_json::from_str(text).ok()?),
        None => {
            // of an operator that mounted what models named
            let access = Access { claims: mounts.claims.clone() };
            (seal(&[&inputs_with_mounts(server, &mounts), &pinned.text]), access)
        }
    };
    (pinned.seal == sealed).then(|| Kept { template, mounts, access, pinned: pinned.clone() })
}

impl Kept {
    /// Whether it can be kept although the pods of `server` would now mount `wanted`: they have all of it, or may not be replaced for
    /// what they lack. What the owner of the server has listed since is mounted, as every other change of his; so is a listed Secret
    /// that its owner has made or marked since.
    pub(crate) fn is_enough(&self, server: &TritonServer, wanted: &Mounts) -> bool {
        let missing = wanted.without(&self.mounts);
        let may_restart = server.spec.model_access.as_ref().and_then(|access| access.allow_pod_restart) == Some(true);
        let is_newly_allowed =
            missing.claims.difference(&self.access.claims).next().is_some() || !missing.secrets.is_empty();
        missing.is_empty() || !(may_restart || is_newly_allowed)
    }

    /// The annotations that pin it: those it was given.
    pub(crate) fn annotations(&self) -> BTreeMap<String, String> {
        let Pinned { text, seal, access } = self.pinned.clone();
        let access = access.map(|access| (TEMPLATE_ACCESS.to_owned(), access));
        [(TEMPLATE_SEAL.to_owned(), seal), (TEMPLATE.to_owned(), text)].into_iter().chain(access).collect()
    }
}

/// The annotations that pin `template`, built for `server` as it is now.
pub(crate) fn annotations(server: &TritonServer, template: &PodTemplateSpec) -> BTreeMap<String, String> {
    let (text, access) = (canonical::to_string(template), canonical::to_string(&Access::of(server)));
    let seal = seal(&[&inputs(server), &access, &text]);
    BTreeMap::from([
        (TEMPLATE_SEAL.to_owned(), seal),
        (TEMPLATE_ACCESS.to_owned(), access),
        (TEMPLATE.to_owned(), text),
    ])
}

fn follows_the_operator(server: &TritonServer) -> bool {
    server.metadata.annotations.as_ref().and_then(|all| all.get(UPGRADE)).is_some_and(|value| value == "true")
}

/// What users say about the pods of `server`, what they mount for models aside: their own words, nothing of the operator's.
fn inputs(server: &TritonServer) -> String {
    canonical::to_string(&json!({ "spec": words_about_pods(server) }))
}

/// The same as operators wrote it that had no word for access.
fn inputs_with_mounts(server: &TritonServer, mounts: &Mounts) -> String {
    let Mounts { config_maps, claims, secrets } = mounts;
    let spec = words_about_pods(server);
    canonical::to_string(&json!({ "spec": spec, "configMaps": config_maps, "claims": claims, "secrets": secrets }))
}

fn words_about_pods(server: &TritonServer) -> Value {
    let mut spec = serde_json::to_value(&server.spec).expect("a spec is plain data");
    remove(&mut spec, &OUTSIDE);
    if let Some(gpu) = spec.get_mut("gpu") {
        remove(gpu, &OUTSIDE_GPU);
    }
    spec
}

fn seal(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            hash.update([0]);
        }
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

fn remove(value: &mut Value, fields: &[&str]) {
    if let Some(object) = value.as_object_mut() {
        object.retain(|name, _| !fields.contains(&name.as_str()));
    }
}
