//! States and reasons: models come in service, are replaced, and leave. Serving goes on meanwhile; one model's trouble
//! is its own. A load succeeds as a whole or changes nothing: what served before serves until every version of its
//! successor does.

mod draft;
mod ensembles;
mod take_down;
mod unload;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use server_core::{
    config,
    error::{Error, Result},
    repository::{
        agents::AgentLibraries,
        plan::{self, Plan},
    },
};
use tokio::sync::Semaphore;

use self::{
    draft::{Draft, Keeping, Override, Unreadable},
    unload::in_background,
};
use crate::{
    load_waits::{LoadWaits, Locked},
    loader::Loader,
    model::LoadedModel,
    options::{LoadParameters, Options},
    registry::{Registry, UNLOADED, Version, VersionState},
    repository::Repositories,
    version_to_load::VersionToLoad,
};

/// Loads and unloads. Its public methods block; the engine calls them off the runtime's threads.
pub(crate) struct Lifecycle {
    registry: Arc<Registry>,
    repositories: Repositories,
    loader: Loader,
    config_name: Option<String>,
    agent_directory: String,
    agents: Option<Arc<dyn AgentLibraries>>,
    /// Models need a configuration of their own: nothing is completed.
    is_strict: bool,
    retries: u32,
    /// Configurations given with load requests, by model: they hold until another comes or the folder's own changes.
    overrides: Mutex<HashMap<String, Override>>,
    /// What each ensemble was last loaded from, until it is unloaded.
    ensembles: Mutex<BTreeMap<String, Arc<Draft>>>,
    /// Models that somebody has asked for: others were loaded because an ensemble is made of them.
    requested: Mutex<BTreeSet<String>>,
    /// One load or unload of a model at a time.
    load_locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Loads and unloads that models have asked for.
    pub(crate) waits: LoadWaits,
    /// Bounds how many models load at once.
    pub(crate) permits: Arc<Semaphore>,
}

impl Lifecycle {
    pub(crate) fn new(options: &Options, repositories: Repositories, loader: Loader, registry: Arc<Registry>) -> Self {
        Self {
            registry,
            repositories,
            loader,
            config_name: options.config_name.clone(),
            agent_directory: options.agent_directory.clone(),
            agents: options.agents.as_ref().map(|agents| agents.0.clone()),
            is_strict: !options.auto_complete,
            retries: options.load_retries,
            overrides: Mutex::default(),
            ensembles: Mutex::default(),
            requested: Mutex::default(),
            load_locks: Mutex::default(),
            waits: LoadWaits::default(),
            permits: Arc::new(Semaphore::new(options.load_threads.max(1))),
        }
    }

    /// Asks object stores for the names of their models, which [`Lifecycle::folders`] tells then.
    pub(crate) async fn look_at_remote(&self) {
        self.repositories.look_at_remote().await;
    }

    /// Removes what was fetched from object stores: the server ends.
    pub(crate) fn close_repositories(&self) {
        self.repositories.close();
    }

    /// Names of all model folders. Errors: a repository cannot be read.
    pub(crate) fn folders(&self) -> Result<Vec<String>> {
        Ok(self.repositories.list()?.into_keys().collect())
    }

    /// Where models lie.
    pub(crate) fn repositories(&self) -> &Repositories {
        &self.repositories
    }

    /// Takes the lock that makes loads and unloads of one model follow each other, for a model that asked for it or for a
    /// client.
    ///
    /// Errors: whoever has it waits for the model that asks.
    pub(crate) async fn lock(&self, asked_by: Option<&str>, name: &str) -> Result<Locked<'_>> {
        self.waits.lock(asked_by, name, self.load_lock(name)).await
    }

    /// The same for a client, if nobody has the lock.
    pub(crate) fn try_lock(&self, name: &str) -> Option<Locked<'_>> {
        self.waits.try_lock(self.load_lock(name))
    }

    fn load_lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.load_locks.lock();
        locks.retain(|_, lock| Arc::strong_count(lock) > 1); // the others are nobody's
        locks.entry(name.to_owned()).or_default().clone()
    }

    /// Brings a model to what its folder and the parameters say. Versions that have not changed are left alone.
    ///
    /// Errors: Triton's sentences; every failed version with its reason. What served before still does.
    pub(crate) fn load(&self, name: &str, parameters: LoadParameters) -> Result<()> {
        let draft = match self.read(name, parameters) {
            Ok(draft) => draft,
            Err(Unreadable { answer, reason, is_absent }) => {
                if is_absent {
                    tracing::error!("failed to poll model '{name}': model not found in any model repository.");
                } else {
                    tracing::error!("Poll failed for model directory '{name}': {reason}");
                }
                // Anybody may ask for any name: what is in no repository is not remembered.
                if self.repositories.is_known(name) || self.registry.entry(name).is_some() {
                    self.registry.update(name, |entry| entry.failure = Some(reason));
                }
                return Err(answer);
            }
        };
        if config::is_ensemble(&draft.config) {
            let held = draft.files.clone();
            self.load_ensemble(name, draft)?;
            held.iter().for_each(|held| held.loaded());
            return Ok(());
        }
        let serving = self.serving(name);
        let changes: Vec<_> = serving
            .iter()
            .map(|(version, model)| (*version, model.fingerprint.change_to(&draft.fingerprint(*version))))
            .collect();
        let steps = plan::plan(&draft.wanted, &changes);
        self.registry.update(name, |entry| {
            (entry.failure, entry.lacking) = (None, None);
            // Versions that failed before and are not wanted any more have nothing to tell.
            entry.versions.retain(|number, version| version.model.is_some() || draft.wanted.contains(number));
        });
        let made = self.make(name, &draft, &steps, &serving)?;
        self.ensembles.lock().remove(name); // if it was one
        self.forget_failures(name);
        self.publish(name, made);
        self.keep_override(name, &draft);
        if let Some(held) = &draft.files {
            held.loaded();
        }
        for &version in &steps.unload {
            self.unload_version(name, version);
        }
        Ok(())
    }

    /// A load has succeeded: what was said of those before it, beside what served, is over.
    fn forget_failures(&self, name: &str) {
        self.registry.update(name, |entry| {
            (entry.failure, entry.lacking) = (None, None);
            for version in entry.versions.values_mut().filter(|version| version.model.is_some()) {
                version.reason.clear();
            }
        });
    }

    /// Somebody has asked for the model, which was loaded or could not be. A name that nothing is known of is not kept.
    pub(crate) fn note_requested(&self, name: &str) {
        if self.registry.entry(name).is_some() {
            self.requested.lock().insert(name.to_owned());
        }
    }

    /// The versions that serve, ascending.
    fn serving(&self, name: &str) -> Vec<(u64, Arc<LoadedModel>)> {
        let Some(entry) = self.registry.entry(name) else { return Vec::new() };
        let versions = entry.versions.iter();
        versions.filter_map(|(&number, version)| Some((number, version.model.clone()?))).collect()
    }

    /// A configuration that came with a load and serves now is the one of later loads.
    fn keep_override(&self, name: &str, draft: &Draft) {
        match &draft.keeping {
            Keeping::Keep(given) => drop(self.overrides.lock().insert(name.to_owned(), Override::clone(given))),
            Keeping::Drop => drop(self.overrides.lock().remove(name)),
            Keeping::AsBefore => {}
        }
    }

    ///
    /// Errors: one of them failed; each failed one has its reason in the index, and what was made is taken down again.
    fn make(
        &self,
        name: &str,
        draft: &Draft,
        steps: &Plan,
        serving: &[(u64, Arc<LoadedModel>)],
    ) -> Result<Vec<(u64, LoadedModel)>> {
        let mut made = Vec::with_capacity(steps.load.len() + steps.refresh.len());
        let mut failures = String::new();
        for &version in &steps.load {
            match self.make_version(&draft.version(name, version), !serving.is_empty()) {
                Ok(model) => made.push((version, model)),
                Err(error) => failures += &failure(version, &error),
            }
        }
        let has_failed = !failures.is_empty();
        for (version, model) in serving.iter().filter(|(version, _)| !has_failed && steps.refresh.contains(version)) {
            match self.loader.refresh(&draft.version(name, *version), model) {
                Ok(refreshed) => made.push((*version, refreshed)),
                Err(error) => {
                    self.failed(name, *version, &error);
                    failures += &failure(*version, &error);
                }
            }
        }
        if failures.is_empty() {
            return Ok(made);
        }
        let is_served = |model: &LoadedModel| serving.iter().any(|(_, other)| other.shares_runner(model));
        for (version, model) in made {
            self.registry.update(name, |entry| {
                if let Some(held) = entry.versions.get_mut(&version).filter(|held| held.model.is_none()) {
                    *held = Version::unavailable(UNLOADED.into());
                }
            });
            if !is_served(&model) {
                in_background(name, move || model.runner().drain());
            }
        }
        Err(Error::invalid_argument(format!("load failed for model '{name}': {failures}")))
    }

    /// `is_beside`: another version serves meanwhile.
    fn make_version(&self, target: &VersionToLoad<'_>, is_beside: bool) -> Result<LoadedModel> {
        let (name, version) = (target.key, target.version);
        tracing::info!("loading: {name}:{version}");
        self.registry.update(name, |entry| {
            // A version that serves stays READY while its successor is made.
            let held = entry.versions.entry(version).or_insert_with(|| Version::unavailable(String::new()));
            if held.model.is_none() {
                *held = Version { state: VersionState::Loading, is_beside, ..Version::unavailable(String::new()) };
            }
        });
        let mut result = self.loader.load(target);
        for _ in 0..self.retries {
            if result.is_ok() {
                break;
            }
            result = self.loader.load(target);
        }
        if let Err(error) = &result {
            self.failed(name, version, error);
        }
        result
    }

    fn failed(&self, name: &str, version: u64, error: &Error) {
        tracing::error!("failed to load '{name}' version {version}: {}: {error}", error.code.text());
        self.registry.update(name, |entry| {
            let held = entry.versions.entry(version).or_insert_with(|| Version::unavailable(String::new()));
            held.reason = format!("{}: {error}", error.code.text());
            if held.model.is_none() {
                held.state = VersionState::Unavailable;
            }
        });
    }

    /// Puts versions into service, all at once, and takes down those that they replace.
    fn publish(&self, name: &str, made: Vec<(u64, LoadedModel)>) {
        if made.is_empty() {
            return;
        }
        let replaced: Vec<_> = self.registry.update(name, |entry| {
            let mut replaced = Vec::new();
            for (version, model) in made {
                let model = Arc::new(model);
                let successor = Version {
                    state: VersionState::Ready,
                    model: Some(model.clone()),
                    ..Version::unavailable(String::new())
                };
                let before = entry.versions.insert(version, successor).and_then(|before| before.model);
                if let Some(before) = before.filter(|before| !before.shares_runner(&model)) {
                    model.runner().replaces(before.runner());
                    replaced.push((before, model.runner().clone()));
                }
            }
            replaced
        });
        tracing::info!("successfully loaded '{name}'");
        if !replaced.is_empty() {
            in_background(name, move || {
                for (before, successor) in &replaced {
                    take_down::take_down(before);
                    successor.settle();
                }
            });
        }
    }
}

fn failure(version: u64, error: &Error) -> String {
    format!("version {version} is at UNAVAILABLE state: {}: {error};\n", error.code.text())
}
