//! States and reasons: models come in service, are replaced, and leave. Serving goes on meanwhile; one model's trouble
//! is its own. A load succeeds as a whole or changes nothing: what served before serves until every version of its
//! successor does.

mod ensembles;
mod take_down;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use server_core::{
    config::{self, ModelConfig},
    error::{Error, Result},
    repository::{
        self as rules,
        agents::AgentLibraries,
        plan::{self, Plan},
    },
    tensor::Name,
    version_routing::VersionRouting,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use crate::{
    fingerprint::{self, Fingerprint, FolderFiles},
    load_session::LoadSession,
    load_waits::{LoadWaits, Locked},
    loader::{self, Loader, VersionToLoad},
    model::LoadedModel,
    options::{LoadParameters, Options},
    registry::{Registry, UNLOADED, Version, VersionState},
    repository::{self, ModelFolder, Repositories},
    repository_agents::{self, Held, LoadAgents},
};

/// How often the drain of the whole server looks whether the last request has ended.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);

/// Threads that take models down when the server stops.
const DRAIN_THREADS: usize = 8;

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

/// A configuration that stands in for the folder's own.
#[derive(Clone)]
struct Override {
    config: ModelConfig,
    /// What the folder's configuration was at the time.
    instead_of: Option<String>,
}

/// A model folder as read for one load.
struct Draft {
    name: String,
    /// Its repository, where models of several may have one name; else empty.
    namespace: String,
    model_dir: std::path::PathBuf,
    config: ModelConfig,
    wanted: Vec<u64>,
    /// `None` where the files came with the load request.
    folder: Option<FolderFiles>,
    /// What is kept for the model while it is loaded: files that came with the load request or were fetched, and agents.
    files: Option<Arc<Held>>,
    /// The configuration is one that came with a load request, this or a former one.
    is_config_given: bool,
    /// What becomes of the configuration kept for later loads once this one serves.
    keeping: Keeping,
}

/// What a load does to the configuration that is kept for later loads.
enum Keeping {
    /// Nothing.
    AsBefore,
    /// It brought one.
    Keep(Box<Override>),
    /// It asked for the folder's own.
    Drop,
}

impl Draft {
    fn fingerprint(&self, version: u64) -> Fingerprint {
        match &self.folder {
            Some(folder) => folder.fingerprint(version, &self.config, self.is_config_given),
            None => fingerprint::of_given_files(&self.config),
        }
    }

    fn version<'a>(&'a self, key: &'a str, version: u64) -> VersionToLoad<'a> {
        VersionToLoad {
            key,
            namespace: &self.namespace,
            name: &self.name,
            version,
            model_dir: &self.model_dir,
            config: &self.config,
            fingerprint: self.fingerprint(version),
            files: self.files.as_ref(),
        }
    }
}

/// Why a model's folder cannot be loaded from: what the caller reads, and the reason for log and index.
struct Unreadable {
    answer: Error,
    reason: String,
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Self {
        Self { reason: error.to_string(), answer: error }
    }
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

    /// Loads all models of a name: one, unless repositories are namespaces. Files that come with the load are a model of no
    /// repository.
    ///
    /// Errors: those of each model that failed.
    pub(crate) async fn load_all(
        self: &Arc<Self>,
        session: Arc<LoadSession>,
        name: &str,
        parameters: LoadParameters,
    ) -> Result<()> {
        let mut keys = vec![name.to_owned()];
        if self.repositories.namespaces().are_used() && parameters.files.is_empty() {
            let (lifecycle, name) = (self.clone(), name.to_owned());
            let found = blocking(move || lifecycle.repositories.keys_of(&name)).await?;
            keys = if found.is_empty() { keys } else { found };
        }
        let mut failure: Option<Error> = None;
        for key in keys {
            let result = session.clone().load(key.clone(), parameters.clone()).await;
            self.note_requested(&key);
            if let Err(error) = result {
                failure = Some(match failure {
                    Some(first) => Error::new(first.code, format!("{first}{error}")),
                    None => error,
                });
            }
        }
        failure.map_or(Ok(()), Err)
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
            Err(Unreadable { answer, reason }) => {
                tracing::error!("Poll failed for model directory '{name}': {reason}");
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

    /// Takes every version of a model out of service. Returns at once; requests inside are finished first.
    fn unload(&self, name: &str) {
        self.overrides.lock().remove(name);
        self.ensembles.lock().remove(name);
        self.requested.lock().remove(name);
        self.repositories.forget(name);
        let Some(entry) = self.registry.entry(name) else { return };
        let versions: Vec<u64> = entry.versions.keys().copied().collect();
        drop(entry); // it holds the models, and those wait until nobody does
        self.registry.update(name, |entry| {
            (entry.failure, entry.lacking) = (None, None);
            for held in entry.versions.values_mut().filter(|held| held.model.is_none()) {
                *held = unavailable(UNLOADED.into());
            }
        });
        for version in versions {
            self.unload_version(name, version);
        }
    }

    /// Waits for the last request of all models, then takes every model down. While any request is inside, every model
    /// serves on, for models ask other models; the engine lets no caller in meanwhile. `true` if all ended within the
    /// limit.
    pub(crate) async fn drain(&self, limit: Duration) -> bool {
        let models: Vec<(Name, Arc<LoadedModel>)> = self
            .registry
            .entries()
            .into_iter()
            .flat_map(|(name, entry)| {
                let models: Vec<_> = entry.versions.values().filter_map(|version| version.model.clone()).collect();
                models.into_iter().map(move |model| (name.clone(), model))
            })
            .collect();
        let deadline = Instant::now() + limit;
        for (_, model) in &models {
            model.runner().stop_waiting();
        }
        while !is_quiet(&models) {
            if Instant::now() >= deadline {
                models.iter().for_each(|(_, model)| take_down::say_unreleased(model));
                return false;
            }
            sleep(DRAIN_INTERVAL).await;
        }
        for (_, model) in &models {
            model.runner().close();
        }
        let mut drains = tokio::task::JoinSet::new();
        for share in shares(models, DRAIN_THREADS) {
            drains.spawn_blocking(move || {
                for (name, model) in share {
                    model.runner().drain();
                    tracing::info!("successfully unloaded '{name}' version {}", model.interface.version);
                }
            });
        }
        tokio::time::timeout_at(deadline, async { while drains.join_next().await.is_some() {} }).await.is_ok()
    }

    fn read(&self, key: &str, parameters: LoadParameters) -> Result<Draft, Unreadable> {
        let (namespace, name) = self.repositories.namespaces().split(key);
        // What is wrong with a folder's configuration is said in the log and in the index.
        let poll_failed = |reason: String| Unreadable { answer: Error::internal(poll_failed_text(name)), reason };
        // What is wrong with what a request brings is said nowhere but in its answer.
        let override_failed = |reason: String| {
            let answer = Error::internal(format!("{}: {reason}", poll_failed_text(name)));
            Unreadable { answer, reason }
        };
        // What a store says is for whoever asked, too.
        let not_fetched = |error: Error| Unreadable {
            answer: Error { code: error.code, message: format!("{}: {error}", poll_failed_text(name)).into() },
            reason: error.to_string(),
        };
        if !parameters.files.is_empty() && parameters.config.is_none() {
            let text = "Load parameter 'config' must be specified for model file override";
            return Err(override_failed(text.to_owned()));
        }
        let files = match parameters.files.as_slice() {
            [] => None,
            files => Some(Arc::new(loader::write_files(files).map_err(|error| override_failed(error.to_string()))?)),
        };
        let mut source = match &files {
            Some(files) => ModelFolder::temporary(files),
            None => match self.repositories.find(key).map_err(not_fetched)? {
                Some(found) => {
                    let place = found.only(name).map_err(|error| override_failed(error.to_string()))?;
                    place.open().map_err(not_fetched)?
                }
                None => return Err(Error::internal(poll_failed_text(name)).into()),
            },
        };
        let model_dir = source.path().to_owned();
        let (mut keeping, mut is_config_given) = (Keeping::AsBefore, true);
        let mut config = match parameters.config {
            Some(json) => {
                let config = config::from_json(&json)
                    .map_err(|error| override_failed(format!("Invalid config override: {error}")))?;
                let problems = config::verify_override(&config);
                if !problems.is_empty() {
                    return Err(config::problems_error(name, &problems).into());
                }
                keeping = Keeping::Drop; // of files that came with it, the folder says nothing
                if files.is_none() {
                    let instead_of = self.own_config(&model_dir).unwrap_or_default();
                    // one that says what the folder says stands in for nothing
                    let own = instead_of.as_deref().and_then(|text| config::from_text(text).ok());
                    is_config_given = own.as_ref() != Some(&config);
                    if is_config_given {
                        keeping = Keeping::Keep(Box::new(Override { config: config.clone(), instead_of }));
                    }
                }
                config
            }
            None => {
                let (config, is_kept) = self.folder_config(key, &model_dir).map_err(poll_failed)?;
                is_config_given = is_kept;
                config
            }
        };
        let (mut agents, mut instead) = (LoadAgents::default(), None);
        if repository_agents::has_libraries(&config) {
            let folders = source.folder_names().unwrap_or_default();
            let layout = rules::layout::classify(folders.iter().map(String::as_str));
            source.fetch_versions(&layout.versions).map_err(not_fetched)?; // whatever the agents want to look at
            let place;
            (agents, place) = LoadAgents::load(&config, source.path(), self.agents.as_deref(), &self.agent_directory)
                .map_err(|error| poll_failed(error.to_string()))?;
            if place != source.path() {
                instead = Some(std::mem::replace(&mut source, ModelFolder::local(place)));
                let text = self.own_config(source.path()).map_err(|error| poll_failed(error.to_string()))?;
                if let Some(text) = text.filter(|_| !is_config_given) {
                    config = config::from_text(&text).map_err(|error| poll_failed(error.to_string()))?;
                }
            }
        }
        self.resolve_steps(key, &mut config);
        if !config.name.is_empty() && config.name != name {
            return Err(Error::invalid_argument(format!(
                "unexpected directory name '{name}' for model '{}', directory name must equal model name",
                config.name
            ))
            .into());
        }
        let folders = source
            .folder_names()
            .map_err(|error| poll_failed(format!("unable to read '{}': {error}", model_dir.display())))?;
        let layout = rules::layout::classify(folders.iter().map(String::as_str));
        for warning in &layout.warnings {
            tracing::warn!("{warning}");
        }
        let mut versions = layout.versions.clone();
        if versions.is_empty() && config::is_ensemble(&config) {
            versions.push(1); // it has no files, and folders without files get lost
        }
        let newest = versions.last().map(|&version| source.version_files(version)).unwrap_or_default();
        self.loader.check(name, &newest, &config).map_err(|error| poll_failed(error.to_string()))?;
        let wanted = rules::version_policy::select(&config, &versions);
        if wanted.is_empty() {
            return Err(Error::invalid_argument(format!(
                "load failed for model '{key}': at least one version must be available under the version policy of model '{name}'\n"
            ))
            .into());
        }
        // a mistake in these parameters was found above
        if let Ok(Some(routing)) = VersionRouting::of(&config) {
            let problems = routing.problems_with(name, &wanted, &layout.versions);
            if !problems.is_empty() {
                return Err(poll_failed(config::problems_error(name, &problems).to_string()));
            }
        }
        source.fetch_versions(&wanted).map_err(not_fetched)?;
        let model_dir = source.path().to_owned(); // where the versions lie now
        repository_agents::run(&config, &model_dir).map_err(|error| poll_failed(error.to_string()))?;
        let source = instead.unwrap_or(source); // what changes there is what counts
        let folder = files.is_none().then(|| FolderFiles::of(&source, &config));
        let files = Held::of(files.or_else(|| source.holder()), agents);
        let (name, namespace) = (name.to_owned(), namespace.to_owned());
        Ok(Draft { name, namespace, model_dir, config, wanted, folder, files, is_config_given, keeping })
    }

    /// The configuration that the folder says, or the one given before with a load request if the folder still says
    /// what it said then, and whether it is that one.
    fn folder_config(&self, name: &str, model_dir: &std::path::Path) -> Result<(ModelConfig, bool), String> {
        let text = self.own_config(model_dir).map_err(|error| error.to_string())?;
        let mut overrides = self.overrides.lock();
        if let Some(kept) = overrides.get(name) {
            if kept.instead_of == text {
                return Ok((kept.config.clone(), true));
            }
            overrides.remove(name);
        }
        let own = match text {
            Some(text) => config::from_text(&text).map_err(|error| {
                let path = repository::config_path(model_dir, self.config_name.as_deref());
                format!("failed to read text proto from {}: {error}", path.display())
            }),
            None if self.is_strict => {
                let path = model_dir.join("config.pbtxt");
                Err(format!("failed to open text file for read {}: No such file or directory", path.display()))
            }
            None => Ok(ModelConfig::default()),
        };
        own.map(|config| (config, false))
    }

    fn own_config(&self, model_dir: &std::path::Path) -> Result<Option<String>> {
        repository::config_text(model_dir, self.config_name.as_deref())
    }

    /// Makes every version that the plan loads or refreshes, beside what serves.
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
                    *held = unavailable(UNLOADED.into());
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
            let held = entry.versions.entry(version).or_insert_with(|| unavailable(String::new()));
            if held.model.is_none() {
                *held = Version { state: VersionState::Loading, is_beside, ..unavailable(String::new()) };
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
            let held = entry.versions.entry(version).or_insert_with(|| unavailable(String::new()));
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
                let successor =
                    Version { state: VersionState::Ready, model: Some(model.clone()), ..unavailable(String::new()) };
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

    fn unload_version(&self, name: &str, version: u64) {
        let model = self.registry.update(name, |entry| {
            let held = entry.versions.get_mut(&version)?;
            let model = held.model.take()?;
            held.state = VersionState::Unloading;
            held.reason.clear();
            Some(model)
        });
        let Some(model) = model else { return }; // it does not serve
        let registry = self.registry.clone();
        let owned: Name = name.into();
        in_background(name, move || {
            finish_unload(&registry, &owned, version, &model);
        });
    }
}

/// Whether no request is inside any model. One that is inside may have just asked another model, so the admissions are
/// counted before and after.
fn is_quiet(models: &[(Name, Arc<LoadedModel>)]) -> bool {
    let admitted = || models.iter().map(|(_, model)| model.runner().admitted()).sum::<u64>();
    let before = admitted();
    models.iter().all(|(_, model)| model.runner().in_flight() == 0) && admitted() == before
}

/// Deals the items out into at most `count` shares.
fn shares<T>(items: Vec<T>, count: usize) -> Vec<Vec<T>> {
    let mut shares: Vec<Vec<T>> = (0..count.min(items.len())).map(|_| Vec::new()).collect();
    for (index, item) in items.into_iter().enumerate() {
        shares[index % count].push(item);
    }
    shares
}

fn failure(version: u64, error: &Error) -> String {
    format!("version {version} is at UNAVAILABLE state: {}: {error};\n", error.code.text())
}

fn finish_unload(registry: &Registry, name: &str, version: u64, model: &Arc<LoadedModel>) {
    take_down::take_down(model);
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

/// Runs something that blocks, off the runtime's threads.
pub(crate) async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Result<R> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal(format!("loading ended unexpectedly: {error}")))
}

fn poll_failed_text(name: &str) -> String {
    format!("failed to load '{name}', failed to poll from model repository")
}
