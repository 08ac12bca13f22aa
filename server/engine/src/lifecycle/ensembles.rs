//! Ensembles come into service when the models that they are made of serve, leave it when one of those does, and come back
//! with it: what an ensemble was last loaded from is kept until it is unloaded.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use server_core::{
    config::{self, SchedulingChoice},
    ensemble::step_models,
    error::{Error, Result},
};
use tokio::time::timeout;

use super::{Draft, Lifecycle};
use crate::{background::blocking, model::LoadedModel, options::LoadParameters, version_to_load::VersionToLoad};

/// How long a model that had another loaded or unloaded waits for ensembles to be looked at again.
const SOON: Duration = Duration::from_secs(1);

impl Lifecycle {
    /// Names of the models that the model is made of, as its folder and the parameters say; none if it is no ensemble, or
    /// nothing can be read.
    pub(crate) fn parts(&self, name: &str, parameters: &LoadParameters) -> BTreeSet<String> {
        let config = match &parameters.config {
            Some(json) => config::from_json(json).ok(),
            None => self.kept_or_own_ensemble(name),
        };
        let Some(mut config) = config else { return BTreeSet::new() };
        self.resolve_steps(name, &mut config);
        step_models(&config)
    }

    /// The folder's configuration, or the one given before with a load request, if it speaks of an ensemble at all: most
    /// do not, and are not parsed here.
    fn kept_or_own_ensemble(&self, name: &str) -> Option<config::ModelConfig> {
        let folder = self.repositories.find(name).ok()??.only(name).ok()?.open().ok()?;
        let text = self.own_config(folder.path()).ok()?;
        if let Some(kept) = self.overrides.lock().get(name).filter(|kept| kept.instead_of == text) {
            return Some(kept.config.clone());
        }
        let text = text.filter(|text| text.contains("ensemble_scheduling"))?;
        config::from_text(&text).ok()
    }

    /// Says of each step which model of its name it asks: the one of the ensemble's own repository, else the only one there
    /// is. Without namespaces there is nothing to say, whatever the configuration says.
    pub(super) fn resolve_steps(&self, key: &str, config: &mut config::ModelConfig) {
        let Some(SchedulingChoice::EnsembleScheduling(graph)) = &mut config.scheduling_choice else { return };
        let namespaces = self.repositories.namespaces();
        let own = namespaces.split(key).0;
        for step in &mut graph.step {
            step.model_namespace.clear();
            if !namespaces.are_used() {
                continue;
            }
            let mut keys: BTreeSet<String> = self.repositories.known_keys_of(&step.model_name).into_iter().collect();
            keys.extend(self.registry.keys_of(&step.model_name));
            let preferred = namespaces.key(own, &step.model_name);
            let found = if keys.contains(&preferred) { Some(&preferred) } else { keys.first() };
            if let Some(found) = found.filter(|found| **found == preferred || keys.len() == 1) {
                namespaces.split(found).0.clone_into(&mut step.model_namespace);
            }
        }
    }

    /// Ensembles that the model is a part of, whether they serve or wait for one of their parts.
    pub(crate) fn dependents(&self, name: &str) -> Vec<String> {
        let ensembles = self.ensembles.lock();
        let namespaces = self.repositories.namespaces();
        let has_name = |part: &String| namespaces.split(part).1 == namespaces.split(name).1;
        // one that asks for another model of that name may mean this one now
        let uses = |draft: &Draft| step_models(&draft.config).iter().any(|part| part == name || has_name(part));
        ensembles.iter().filter(|(_, draft)| uses(draft)).map(|(ensemble, _)| ensemble.clone()).collect()
    }

    /// The model, and all ensembles that it is a part of, directly or through others.
    pub(crate) fn with_dependents(&self, name: &str) -> BTreeSet<String> {
        let (mut open, mut seen) = (vec![name.to_owned()], BTreeSet::from([name.to_owned()]));
        while let Some(name) = open.pop() {
            open.extend(self.dependents(&name).into_iter().filter(|ensemble| seen.insert(ensemble.clone())));
        }
        seen
    }

    /// Brings an ensemble to what its folder says, with the models it is made of as they serve now.
    ///
    /// Errors: what it lacks, in Triton's words. What served before still does, as long as its own parts do.
    pub(super) fn load_ensemble(&self, name: &str, draft: Draft) -> Result<()> {
        let serving = self.serving(name);
        let draft = Arc::new(draft);
        self.registry.update(name, |entry| {
            entry.failure = None;
            entry.versions.retain(|number, version| version.model.is_some() || draft.wanted.contains(number));
        });
        for version in &draft.wanted {
            tracing::info!("loading: {name}:{version}");
        }
        match self.compile(name, &draft, &serving) {
            Ok(made) => {
                self.ensembles.lock().insert(name.to_owned(), draft.clone());
                self.forget_failures(name);
                self.publish(name, made);
                self.keep_override(name, &draft);
                for (version, _) in serving.iter().filter(|(version, _)| !draft.wanted.contains(version)) {
                    self.unload_version(name, *version);
                }
                self.reassess(name); // a part may have changed meanwhile, and did not know of this ensemble
                Ok(())
            }
            Err(error) if serving.is_empty() => {
                self.ensembles.lock().insert(name.to_owned(), draft);
                Err(self.lacks(name, &error))
            }
            Err(error) => {
                for (version, _) in &serving {
                    self.failed(name, *version, &error);
                }
                self.reassess(name);
                Err(load_failed(name, &error))
            }
        }
    }

    /// Says in log and index what an ensemble lacks that does not serve. Returns what the caller of its load reads.
    pub(crate) fn lacks(&self, name: &str, error: &Error) -> Error {
        tracing::error!("failed to load '{name}': {}: {error}", error.code.text());
        self.registry.update(name, |entry| entry.lacking = Some(error.to_string()));
        load_failed(name, error)
    }

    /// Looks at an ensemble again, for a model that it is made of has come, changed or gone: it is taken out of service if
    /// it lacks something now, and comes back if it does not any more. Returns whether that made a difference to others.
    pub(crate) fn reassess(&self, name: &str) -> bool {
        let Some(draft) = self.ensembles.lock().get(name).cloned() else { return false };
        let serving = self.serving(name);
        match self.compile(name, &draft, &serving) {
            Ok(made) => {
                let makes_a_difference = !made.is_empty();
                if makes_a_difference {
                    self.registry.update(name, |entry| entry.lacking = None);
                    self.publish(name, made);
                }
                makes_a_difference
            }
            Err(error) => {
                self.lacks(name, &error);
                for (version, _) in &serving {
                    self.unload_version(name, *version);
                }
                !serving.is_empty()
            }
        }
    }

    /// Makes every version of an ensemble that is not as it serves.
    fn compile(
        &self,
        name: &str,
        draft: &Draft,
        serving: &[(u64, Arc<LoadedModel>)],
    ) -> Result<Vec<(u64, LoadedModel)>> {
        let mut made = Vec::new();
        let mut config = draft.config.clone();
        self.resolve_steps(name, &mut config); // models may have come and gone since
        for &version in &draft.wanted {
            let before = serving.iter().find(|(other, _)| *other == version).map(|(_, model)| &**model);
            let target = VersionToLoad { config: &config, ..draft.version(name, version) };
            if let Some(model) = self.loader.load_ensemble(&target, before)? {
                made.push((version, model));
            }
        }
        Ok(made)
    }

    /// Looks again at every ensemble that the model is a part of, directly or through others. Those in `later` are about to
    /// be loaded anyway.
    pub(crate) async fn reassess_dependents(self: &Arc<Self>, name: &str, later: impl Fn(&str) -> bool) {
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            for ensemble in self.dependents(&name).into_iter().filter(|ensemble| !later(ensemble)) {
                let lock = self.load_lock(&ensemble);
                let _guard = lock.lock().await;
                let lifecycle = self.clone();
                let work = move || lifecycle.reassess(&ensemble).then_some(ensemble);
                open.extend(blocking(work).await.ok().flatten());
            }
        }
    }

    /// The same for a load or unload that a model asked for: an ensemble that cannot be looked at soon, for it is being loaded
    /// itself and may wait for that model, is looked at afterwards.
    pub(crate) async fn reassess_dependents_soon(
        self: &Arc<Self>,
        name: &str,
        later: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) {
        let (lifecycle, name) = (self.clone(), name.to_owned());
        let look = tokio::spawn(async move { lifecycle.reassess_dependents(&name, later).await });
        _ = timeout(SOON, look).await;
    }

    /// Takes a model out of service, for a model that asked for it or for a client, and with `unload_dependents` also those
    /// that it was made of and that nobody has asked for or uses otherwise.
    ///
    /// Errors: one of them is being loaded by somebody who waits for the model that asks; those before it are gone.
    pub(crate) async fn unload_all(
        self: &Arc<Self>,
        asked_by: Option<&str>,
        name: &str,
        unload_dependents: bool,
    ) -> Result<()> {
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            let parts = self.ensembles.lock().get(&name).map(|draft| step_models(&draft.config)).unwrap_or_default();
            {
                let _guard = self.lock(asked_by, &name).await?;
                self.unload(&name);
            }
            match asked_by {
                Some(_) => self.reassess_dependents_soon(&name, |_| false).await,
                None => self.reassess_dependents(&name, |_| false).await,
            }
            if unload_dependents {
                let is_unused =
                    |part: &String| !self.requested.lock().contains(part) && self.dependents(part).is_empty();
                open.extend(parts.into_iter().filter(is_unused));
            }
        }
        Ok(())
    }
}

fn load_failed(name: &str, error: &Error) -> Error {
    // what a part says ends with a line break of its own
    Error::invalid_argument(format!("load failed for model '{name}': {}\n", error.to_string().trim_end()))
}
