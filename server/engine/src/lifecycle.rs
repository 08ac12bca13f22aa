//! States and reasons: models come in service, are replaced, and leave. Serving goes on meanwhile; one model's trouble
//! is its own. A replaced version serves until its successor does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use server_core::{
    config::{self, ModelConfig},
    error::{Error, Result},
    repository::{self as rules, plan},
    tensor::Name,
};
use tokio::sync::Semaphore;

use crate::{
    loader::{self, Loader},
    machine::Machine,
    model::LoadedModel,
    options::{LoadParameters, Options},
    registry::{Registry, UNLOADED, Version, VersionState},
    repository::{self, Repositories, Stamp},
};

/// Loads and unloads. Its public methods block; the engine calls them off the runtime's threads.
pub(crate) struct Lifecycle {
    registry: Arc<Registry>,
    repositories: Repositories,
    loader: Loader,
    machine: Arc<Machine>,
    config_name: Option<String>,
    retries: u32,
    /// What the folder of a model looked like when it was last read; `None` after a load with its own configuration.
    stamps: Mutex<HashMap<String, Option<Stamp>>>,
    /// One load or unload of a model at a time.
    load_locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Bounds how many models load at once.
    pub(crate) permits: Arc<Semaphore>,
}

/// A model folder as read for one load.
struct Draft {
    model_dir: std::path::PathBuf,
    config: ModelConfig,
    wanted: Vec<u64>,
    stamp: Option<Stamp>,
    files: Option<Arc<tempfile::TempDir>>,
}

impl Lifecycle {
    pub(crate) fn new(options: &Options, loader: Loader, registry: Arc<Registry>, machine: Arc<Machine>) -> Self {
        Self {
            registry,
            repositories: Repositories::new(&options.repositories),
            loader,
            machine,
            config_name: options.config_name.clone(),
            retries: options.load_retries,
            stamps: Mutex::default(),
            load_locks: Mutex::default(),
            permits: Arc::new(Semaphore::new(options.load_threads.max(1))),
        }
    }

    /// Names of all model folders. Errors: a repository cannot be read.
    pub(crate) fn folders(&self) -> Result<Vec<String>> {
        Ok(self.repositories.list()?.into_keys().collect())
    }

    /// The lock that makes loads and unloads of one model follow each other.
    pub(crate) fn load_lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut load_locks = self.load_locks.lock();
        load_locks.retain(|_, lock| Arc::strong_count(lock) > 1); // the others are nobody's
        load_locks.entry(name.to_owned()).or_default().clone()
    }

    /// Brings a model to what its folder and the parameters say.
    ///
    /// Errors: Triton's sentences; every failed version with its reason. What served before still does.
    pub(crate) fn load(&self, name: &str, parameters: LoadParameters) -> Result<()> {
        let draft = match self.read(name, parameters) {
            Ok(draft) => draft,
            Err(error) => {
                tracing::error!("Poll failed for model directory '{name}': {error}");
                // Anybody may ask for any name: what is in no repository is not remembered.
                if self.repositories.find(name).is_some() || self.registry.entry(name).is_some() {
                    self.registry.update(name, |entry| entry.failure = Some(error.to_string()));
                }
                return Err(error);
            }
        };
        let changed = {
            let stamps = self.stamps.lock();
            draft.stamp.is_none() || stamps.get(name) != Some(&draft.stamp)
        };
        let serving: Vec<u64> = self.registry.entry(name).map_or_else(Vec::new, |entry| {
            entry.versions.iter().filter(|(_, version)| version.model.is_some()).map(|(&number, _)| number).collect()
        });
        let steps = plan::plan(&draft.wanted, &serving, changed);
        self.registry.update(name, |entry| {
            entry.failure = None;
            // Versions that failed before and are not wanted any more have nothing to tell.
            entry.versions.retain(|number, version| version.model.is_some() || draft.wanted.contains(number));
        });
        let mut failures = String::new();
        for &version in &steps.load {
            let target = loader::VersionToLoad { name, version, model_dir: &draft.model_dir, config: &draft.config };
            if let Err(error) = self.load_version(&target, draft.files.as_ref(), !serving.is_empty()) {
                failures += &format!("version {version} is at UNAVAILABLE state: {}: {error};\n", error.code.text());
            }
        }
        if !failures.is_empty() {
            self.stamps.lock().remove(name);
            return Err(Error::invalid_argument(format!("load failed for model '{name}': {failures}")));
        }
        self.stamps.lock().insert(name.to_owned(), draft.stamp);
        for &version in &steps.unload {
            self.unload_version(name, version);
        }
        Ok(())
    }

    /// Takes every version of a model out of service. Returns at once; requests inside are finished first.
    pub(crate) fn unload(&self, name: &str) {
        self.stamps.lock().remove(name);
        let Some(entry) = self.registry.entry(name) else { return };
        self.registry.update(name, |entry| entry.failure = None);
        for (&version, held) in &entry.versions {
            if held.model.is_some() {
                self.unload_version(name, version);
            } else {
                self.registry.update(name, |entry| {
                    entry.versions.insert(version, unavailable(UNLOADED.into()));
                });
            }
        }
    }

    /// Closes every queue and waits for the last request of each. `true` if all ended within the limit.
    pub(crate) async fn drain(&self, limit: Duration) -> bool {
        let mut drains = tokio::task::JoinSet::new();
        for (name, entry) in self.registry.entries() {
            for model in entry.versions.values().filter_map(|version| version.model.clone()) {
                let name = name.clone();
                model.close();
                drains.spawn_blocking(move || {
                    model.drain();
                    tracing::info!("successfully unloaded '{name}' version {}", model.interface.version);
                });
            }
        }
        tokio::time::timeout(limit, async { while drains.join_next().await.is_some() {} }).await.is_ok()
    }

    fn read(&self, name: &str, parameters: LoadParameters) -> Result<Draft> {
        let failed = |error: Error| Error::internal(format!("{}: {error}", poll_failed(name)));
        if !parameters.files.is_empty() && parameters.config.is_none() {
            return Err(Error::invalid_argument("Load parameter 'config' must be specified for model file override"));
        }
        let overridden = parameters.config.is_some();
        let files = match parameters.files.as_slice() {
            [] => None,
            files => Some(Arc::new(loader::write_files(files)?)),
        };
        let model_dir = match &files {
            Some(files) => files.path().to_owned(),
            None => match self.repositories.find(name) {
                Some(found) => found.only(name)?,
                None => return Err(Error::internal(poll_failed(name))),
            },
        };
        let stamp = (!overridden).then(|| Stamp::of(&model_dir));
        let config = match parameters.config {
            Some(json) => config::from_json(&json)
                .map_err(|error| Error::invalid_argument(format!("Invalid config override: {error}")))?,
            None => match repository::config_text(&model_dir, self.config_name.as_deref()).map_err(failed)? {
                Some(text) => config::from_text(&text)
                    .map_err(|error| Error::internal(format!("{}: config.pbtxt: {error}", poll_failed(name))))?,
                None => ModelConfig::default(),
            },
        };
        if !config.name.is_empty() && config.name != name {
            return Err(Error::invalid_argument(format!(
                "unexpected directory name '{name}' for model '{}', directory name must equal model name",
                config.name
            )));
        }
        let names = repository::names(&model_dir)
            .map_err(|error| failed(Error::internal(format!("unable to read '{}': {error}", model_dir.display()))))?;
        let folders: Vec<String> = names.into_iter().filter(|name| model_dir.join(name).is_dir()).collect();
        let layout = rules::layout::classify(folders.iter().map(String::as_str));
        for warning in &layout.warnings {
            tracing::warn!("{warning}");
        }
        let wanted = rules::version_policy::select(&config, &layout.versions);
        if wanted.is_empty() {
            return Err(Error::invalid_argument(format!(
                "load failed for model '{name}': at least one version must be available under the version policy of model '{name}'\n"
            )));
        }
        Ok(Draft { model_dir, config, wanted, stamp, files })
    }

    /// `is_beside`: another version serves meanwhile.
    fn load_version(
        &self,
        target: &loader::VersionToLoad<'_>,
        files: Option<&Arc<tempfile::TempDir>>,
        is_beside: bool,
    ) -> Result<()> {
        let (name, version) = (target.name, target.version);
        tracing::info!("loading: {name}:{version}");
        self.registry.update(name, |entry| {
            // A version that serves stays READY while its successor is made.
            let held = entry.versions.entry(version).or_insert_with(|| unavailable(String::new()));
            if held.model.is_none() {
                *held = Version { state: VersionState::Loading, is_beside, ..unavailable(String::new()) };
            }
        });
        let mut result = self.loader.load(target, &self.machine, files);
        for _ in 0..self.retries {
            if result.is_ok() {
                break;
            }
            result = self.loader.load(target, &self.machine, files);
        }
        match result {
            Ok(model) => {
                let ready = VersionState::Ready;
                let successor = Version { state: ready, model: Some(Arc::new(model)), ..unavailable(String::new()) };
                let replaced = self.registry.update(name, |entry| entry.versions.insert(version, successor));
                tracing::info!("successfully loaded '{name}'");
                if let Some(model) = replaced.and_then(|version| version.model) {
                    in_background(name, move || model.drain());
                }
                Ok(())
            }
            Err(error) => {
                tracing::error!("failed to load '{name}' version {version}: {}: {error}", error.code.text());
                self.registry.update(name, |entry| {
                    let held = entry.versions.entry(version).or_insert_with(|| unavailable(String::new()));
                    held.reason = format!("{}: {error}", error.code.text());
                    if held.model.is_none() {
                        held.state = VersionState::Unavailable;
                    }
                });
                Err(error)
            }
        }
    }

    fn unload_version(&self, name: &str, version: u64) {
        let model = self.registry.update(name, |entry| {
            let held = entry.versions.get_mut(&version)?;
            held.state = VersionState::Unloading;
            held.reason.clear();
            held.model.take()
        });
        let Some(model) = model else { return };
        let registry = self.registry.clone();
        let owned: Name = name.into();
        in_background(name, move || {
            finish_unload(&registry, &owned, version, &model);
        });
    }
}

fn finish_unload(registry: &Registry, name: &str, version: u64, model: &LoadedModel) {
    model.drain();
    registry.update(name, |entry| {
        // A load may have brought the version back meanwhile: that state stands.
        if let Some(held) = entry.versions.get_mut(&version)
            && held.state == VersionState::Unloading
        {
            *held = unavailable(UNLOADED.into());
        }
    });
    tracing::info!("successfully unloaded '{name}' version {version}");
}

/// Runs something that blocks until a model is drained, on a thread of its own.
fn in_background(name: &str, work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name(format!("unload {name}"));
    if let Err(error) = thread.spawn(work) {
        tracing::error!(%error, "cannot start a thread to unload '{name}'; it goes when its last request does");
    }
}

fn unavailable(reason: String) -> Version {
    Version { state: VersionState::Unavailable, reason, is_beside: false, model: None }
}

fn poll_failed(name: &str) -> String {
    format!("failed to load '{name}', failed to poll from model repository")
}
