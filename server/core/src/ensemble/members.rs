//! Whether the models that an ensemble is made of are there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use server_proto::inference::{ModelEnsembling, model_config::SchedulingChoice};

use crate::{
    config::ModelConfig,
    error::{Error, Result},
    interface::Interface,
    repository::model_key,
    request::VersionChoice,
};

/// What is known of a model that an ensemble is made of.
#[derive(Debug, Clone)]
pub enum Member {
    /// No model of that name can be loaded: no folder, no readable configuration, or it was unloaded.
    Missing,
    /// It was loaded and no version of it serves.
    Failed {
        /// Why not; empty if nothing failed.
        reason: String,
    },
    /// It is an ensemble that itself lacks a part.
    Invalid {
        /// What it lacks.
        reason: String,
    },
    /// Versions of it serve.
    Ready(BTreeMap<u64, Arc<Interface>>),
}

/// The models that an ensemble is made of, by key.
pub type Members = BTreeMap<String, Member>;

/// Keys of the models that an ensemble's steps ask, each once; none for a model that is no ensemble.
pub fn step_models(config: &ModelConfig) -> BTreeSet<String> {
    match &config.scheduling_choice {
        Some(SchedulingChoice::EnsembleScheduling(graph)) => {
            let named = graph.step.iter().filter(|step| !step.model_name.is_empty());
            named.map(|step| model_key(&step.model_namespace, &step.model_name)).collect()
        }
        _ => BTreeSet::new(),
    }
}

/// The version that a step's `model_version` means: `-1` is the latest. A step that names none has 0, which never is there.
pub(super) fn version_choice(model_version: i64) -> Option<VersionChoice> {
    match model_version {
        -1 => Some(VersionChoice::Latest),
        number => u64::try_from(number).ok().map(VersionChoice::Exact),
    }
}

/// Checks that every model of the graph is there in the version that its step wants.
///
/// Errors: `InvalidArgument` in Triton's words.
pub(super) fn check(ensemble: &str, graph: &ModelEnsembling, members: &Members) -> Result<()> {
    let is_missing = |name: &str| matches!(members.get(name), None | Some(Member::Missing));
    let mut missing: Vec<&str> = graph.step.iter().map(|step| step.model_name.as_str()).collect();
    missing.retain(|name| is_missing(name));
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        let names = missing.join(", ");
        return Err(Error::invalid_argument(format!(
            "ensemble {ensemble} contains models that are not available or ambiguous: {names}"
        )));
    }
    for step in &graph.step {
        let name = &step.model_name;
        let depends = format!("ensemble '{ensemble}' depends on '{name}'");
        let problem = match members.get(name) {
            Some(Member::Failed { reason }) if reason.is_empty() => format!("{depends} which has no loaded version."),
            Some(Member::Failed { reason }) => {
                format!("{depends} which has no loaded version. Model '{name}' loading failed with error: {reason}")
            }
            Some(Member::Invalid { reason }) => {
                format!("{depends} which is not valid. Model '{name}' failed with error: {reason}")
            }
            Some(Member::Ready(versions)) => match version_choice(step.model_version) {
                Some(VersionChoice::Latest) => continue,
                Some(VersionChoice::Exact(number)) if versions.contains_key(&number) => continue,
                _ => format!("{depends} whose required version {} is not loaded.", step.model_version),
            },
            Some(Member::Missing) | None => continue, // named above
        };
        return Err(Error::invalid_argument(problem));
    }
    Ok(())
}

/// The interface that a step's requests will meet, as far as that is known when the ensemble is loaded.
pub(super) fn interface<'a>(members: &'a Members, name: &str, version: VersionChoice) -> Option<&'a Arc<Interface>> {
    let Some(Member::Ready(versions)) = members.get(name) else { return None };
    match version {
        VersionChoice::Latest => versions.last_key_value().map(|(_, interface)| interface),
        VersionChoice::Exact(number) => versions.get(&number),
    }
}

/// The error of an ensemble that is, through others, made of itself. `last` is the model on the way that leads back.
pub fn circular(ensemble: &str, last: &str) -> Error {
    Error::invalid_argument(format!("circular dependency between ensembles: {ensemble} -> ... -> {last} -> {ensemble}"))
}
