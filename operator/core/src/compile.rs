//! All models of a server into one manifest: who gets a name, what is configured right, what fits. A wrong model never keeps
//! the others out; one that was right before goes on as it was.

mod admit;
mod candidate;

use std::collections::{BTreeMap, btree_map::Entry};

use crds::{
    TritonModel, TritonServer,
    parts::{NameRef, load::Readiness},
};

use crate::{
    Manifest, ManifestModel, ObjectRef, Problem, Reason, access, defaults, labels,
    manifest::ManifestSource,
    names,
    observed::{FoundConfigMap, Observed},
    path, render, validate,
};

pub use self::admit::{GpuMemory, MANIFEST_MAX};
use self::candidate::{Candidate, age, wanted};

/// Kind of the models.
const MODEL: &str = "TritonModel";

/// What becomes of a server and its models.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The manifest for the pods.
    pub manifest: Manifest,
    /// Every problem of the server and of its models.
    pub problems: Vec<Problem>,
    /// What becomes of each model that names the server, and of those that cannot be read and that it serves; by object.
    pub models: Vec<CompiledModel>,
    /// GPU memory of a replica, where models are admitted by it.
    pub gpu_memory: Option<GpuMemory>,
}

/// What becomes of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledModel {
    /// The TritonModel.
    pub object: ObjectRef,
    /// Name by which clients know it.
    pub name: String,
    /// Whether and how it is in the manifest.
    pub placement: Placement,
}

/// Whether and how a model is in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// As the resource has it.
    Placed,
    /// As the last manifest had it: the resource has become wrong since.
    Kept {
        /// Why not as the resource has it.
        reason: Reason,
        /// The first problem, in a sentence.
        message: String,
    },
    /// Not at all.
    LeftOut {
        /// Why.
        reason: Reason,
        /// The first problem, in a sentence.
        message: String,
    },
}

/// Compiles `server` with those of `models` that name it. Models of other servers or namespaces are passed over.
pub fn compile<'a>(
    server: &TritonServer,
    models: impl IntoIterator<Item = &'a TritonModel>,
    observed: &Observed,
) -> Compiled {
    let namespace = names::namespace(server);
    let server_name = server.metadata.name.as_deref().unwrap_or_default();
    let mut problems = validate::server(server);
    problems.extend(access::of_server(server, observed));

    let mut mine: Vec<&TritonModel> = models
        .into_iter()
        .filter(|model| names::namespace(*model) == namespace && model.spec.server_ref.name == server_name)
        .collect();
    mine.sort_by_cached_key(|model| age(model));

    let mut outcomes: BTreeMap<ObjectRef, CompiledModel> = BTreeMap::new();
    let mut owners: BTreeMap<&str, ObjectRef> = BTreeMap::new();
    let mut candidates = vec![];
    // who serves under a name keeps it against whoever comes, however old
    for model in &mine {
        let (object, name) = (names::object(*model), names::wire_name(model));
        if previous(observed, &object, name).is_some() {
            owners.insert(name, object);
        }
    }
    for (entry, error) in unreadable(observed, namespace) {
        let object = ObjectRef { kind: MODEL.into(), namespace: namespace.into(), name: entry.resource.clone() };
        owners.insert(&entry.name, object.clone());
        let message = format!("the TritonModel cannot be read: {error}");
        let placement = Placement::Kept { reason: Reason::InvalidSpec, message };
        candidates.push(Candidate::unreadable(object.clone(), wanted(entry)));
        outcomes.insert(object.clone(), CompiledModel { object, name: entry.name.clone(), placement });
    }
    for model in mine {
        let object = names::object(model);
        let name = names::wire_name(model);
        let outcome = match owners.entry(name) {
            Entry::Occupied(owner) if *owner.get() != object => {
                let conflict = name_conflict(model, server_name, owner.get());
                let left_out = Placement::LeftOut { reason: conflict.reason, message: conflict.message.clone() };
                problems.push(conflict);
                left_out
            }
            free => {
                free.or_insert_with(|| object.clone());
                let previous = previous(observed, &object, name);
                match entry(server, model, observed, previous) {
                    Ok(entry) => {
                        candidates.push(Candidate::new(model, entry, previous));
                        Placement::Placed
                    }
                    Err(found) => {
                        let (reason, message) = first(&found);
                        let is_refused = found.iter().any(|problem| access::is_refusal(problem.reason));
                        problems.extend(found);
                        match previous {
                            Some(entry) => {
                                let mut entry = wanted(entry);
                                if is_refused {
                                    entry.readiness = Readiness::Optional; // new pods cannot fetch it, and must not wait for it
                                }
                                candidates.push(Candidate::kept(model, entry));
                                Placement::Kept { reason, message }
                            }
                            None => Placement::LeftOut { reason, message },
                        }
                    }
                }
            }
        };
        outcomes.insert(object.clone(), CompiledModel { object, name: name.to_owned(), placement: outcome });
    }

    candidates.sort_by(|a, b| a.rank.cmp(&b.rank));
    let may_mount =
        |config_map: &str| access::may_mount(server, observed, |mounts| mounts.config_maps.contains(config_map));
    let admitted = admit::admit(server, &candidates, may_mount);
    for problem in admitted.refused {
        if let Some(outcome) = outcomes.get_mut(&problem.object) {
            outcome.placement = Placement::LeftOut { reason: problem.reason, message: problem.message.clone() };
        }
        problems.push(problem);
    }
    for problem in admitted.kept {
        if let Some(outcome) = outcomes.get_mut(&problem.object) {
            outcome.placement = Placement::Kept { reason: problem.reason, message: problem.message.clone() };
        }
        problems.push(problem);
    }
    problems.sort_by_cached_key(|it| (it.object.clone(), path::steps(&it.path), it.path.clone(), it.message.clone()));
    Compiled {
        manifest: Manifest::new(namespace, server_name, admitted.models).with_sources(access::rules(server, observed)),
        problems,
        models: outcomes.into_values().collect(),
        gpu_memory: admitted.gpu_memory,
    }
}

/// Entries of the last manifest whose resources cannot be read now, and why. They are no more deleted than changed.
fn unreadable<'a>(observed: &'a Observed, namespace: &str) -> impl Iterator<Item = (&'a ManifestModel, &'a String)> {
    let manifest = observed.manifest.as_ref().filter(|manifest| manifest.namespace == namespace);
    let entries = manifest.into_iter().flat_map(|manifest| &manifest.models);
    entries.filter_map(|entry| Some((entry, observed.unreadable.get(&entry.resource)?)))
}

/// The entry of the last manifest that this very resource made.
fn previous<'a>(observed: &'a Observed, object: &ObjectRef, name: &str) -> Option<&'a ManifestModel> {
    let manifest = observed.manifest.as_ref().filter(|manifest| manifest.namespace == object.namespace)?;
    manifest.model(name).filter(|entry| entry.resource == object.name)
}

/// The entry of `model`, or everything wrong with it.
fn entry(
    server: &TritonServer,
    model: &TritonModel,
    observed: &Observed,
    previous: Option<&ManifestModel>,
) -> Result<ManifestModel, Vec<Problem>> {
    let mut problems = validate::model(model);
    let gpus = defaults::gpus(&server.spec);
    let config = match render::render(model, gpus) {
        Ok(config) if problems.is_empty() => config,
        Ok(_) => return Err(problems),
        Err(found) => {
            problems.extend(found);
            return Err(problems);
        }
    };
    let spec = &model.spec;
    let Some(source) = source(model, observed) else { return Err(problems) };
    if let Some(problem) = lost_config_map(model, &source, observed, previous) {
        return Err(vec![problem]);
    }
    if let Some(problem) = access::of_model(server, model, &source, observed) {
        return Err(vec![problem]);
    }
    Ok(ManifestModel {
        name: names::wire_name(model).to_owned(),
        resource: model.metadata.name.clone().unwrap_or_default(),
        source,
        checksum: spec.checksum.as_ref().map(|checksum| checksum.sha256.to_ascii_lowercase()),
        layout: spec.layout.unwrap_or_default(),
        format: spec.format,
        config,
        readiness: spec.readiness.unwrap_or_default(),
        load: defaults::load(spec),
        gpu_memory: spec.gpu_memory,
        retry: model.metadata.annotations.as_ref().and_then(|all| all.get(labels::RETRY)).cloned(),
        rollout: None,
    })
}

/// The source of a model that has exactly one.
fn source(model: &TritonModel, observed: &Observed) -> Option<ManifestSource> {
    let source = &model.spec.source;
    if let Some(inline) = &source.inline {
        return Some(ManifestSource::Inline { files: inline.files.clone() });
    }
    if let Some(config_map) = &source.config_map {
        let (name, items) = (config_map.name.clone(), config_map.items.clone());
        let keys = match observed.config_maps.get(&name) {
            Some(FoundConfigMap::Small(keys)) => Some(keys.taken_by(&items)),
            Some(FoundConfigMap::Absent | FoundConfigMap::Large) | None => None,
        };
        return Some(ManifestSource::ConfigMap { name, items, keys });
    }
    if let Some(pvc) = &source.pvc {
        let path = pvc.path.clone().unwrap_or_default();
        return Some(ManifestSource::Pvc { claim: pvc.claim_name.clone(), path });
    }
    let secret = |secret: &Option<NameRef>| secret.as_ref().map(|secret| secret.name.clone());
    if let Some(http) = &source.http {
        return Some(ManifestSource::Http { uri: http.uri.clone(), secret: secret(&http.secret_ref) });
    }
    if let Some(s3) = &source.s3 {
        return Some(ManifestSource::S3 {
            uri: s3.uri.clone(),
            endpoint: s3.endpoint.clone(),
            region: s3.region.clone(),
            bucket_in_host: s3.path_style == Some(false),
            secret: secret(&s3.secret_ref),
        });
    }
    if let Some(gcs) = &source.gcs {
        let (uri, endpoint) = (gcs.uri.clone(), gcs.endpoint.clone());
        return Some(ManifestSource::Gcs { uri, endpoint, secret: secret(&gcs.secret_ref) });
    }
    if let Some(azure) = &source.azure {
        let (uri, endpoint) = (azure.uri.clone(), azure.endpoint.clone());
        return Some(ManifestSource::Azure { uri, endpoint, secret: secret(&azure.secret_ref) });
    }
    if let Some(hub) = &source.hugging_face {
        return Some(ManifestSource::HuggingFace {
            repo: hub.repo.clone(),
            revision: hub.revision.clone().unwrap_or_else(|| defaults::HUB_REVISION.to_owned()),
            include: hub.include.clone(),
            endpoint: hub.endpoint.clone().unwrap_or_else(|| defaults::HUB_ENDPOINT.to_owned()),
            secret: secret(&hub.secret_ref),
        });
    }
    let oci = source.oci.as_ref()?;
    Some(ManifestSource::Oci {
        reference: oci.reference.clone(),
        secret: secret(&oci.secret_ref),
        plain_http: oci.plain_http.unwrap_or_default(),
    })
}

/// A ConfigMap that is gone while the manifest still carries it: what it held goes on serving.
fn lost_config_map(
    model: &TritonModel,
    source: &ManifestSource,
    observed: &Observed,
    previous: Option<&ManifestModel>,
) -> Option<Problem> {
    let ManifestSource::ConfigMap { name, .. } = source else { return None };
    let is_carried = matches!(previous?.source, ManifestSource::ConfigMap { keys: Some(_), .. });
    let is_lost = is_carried && observed.config_maps.get(name) == Some(&FoundConfigMap::Absent);
    is_lost.then(|| Problem {
        object: names::object(model),
        reason: Reason::SourceNotFound,
        path: "spec.source.configMap.name".into(),
        message: format!(
            "ConfigMap '{name}' does not exist any more: what it held goes on; make it again or name another"
        ),
    })
}

fn name_conflict(model: &TritonModel, server: &str, owner: &ObjectRef) -> Problem {
    let path = if model.spec.model_name.is_some() { "spec.modelName" } else { "metadata.name" };
    Problem {
        object: names::object(model),
        reason: Reason::NameConflict,
        path: path.into(),
        message: format!(
            "TritonServer {server} serves TritonModel {} as '{}' already: give this model another spec.modelName",
            owner.name,
            names::wire_name(model)
        ),
    }
}

fn first(problems: &[Problem]) -> (Reason, String) {
    match problems.first() {
        Some(problem) => (problem.reason, problem.to_string()),
        None => (Reason::InvalidSpec, String::new()),
    }
}
