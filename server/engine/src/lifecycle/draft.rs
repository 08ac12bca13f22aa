//! What one load reads: the model's folder, or what came with the request, checked as far as no version has to be opened.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use server_core::{
    config::{self, ModelConfig},
    error::{Error, Result},
    repository as rules,
    version_routing::VersionRouting,
};

use super::Lifecycle;
use crate::{
    fingerprint::{self, Fingerprint, FolderFiles},
    loader,
    options::LoadParameters,
    repository::{self, ModelFolder},
    repository_agents::{self, Held, LoadAgents},
    version_to_load::VersionToLoad,
};

/// A configuration that stands in for the folder's own.
#[derive(Clone)]
pub(super) struct Override {
    pub(super) config: ModelConfig,
    /// What the folder's configuration was at the time.
    pub(super) instead_of: Option<String>,
}

/// A model folder as read for one load.
pub(super) struct Draft {
    pub(super) name: String,
    /// Its repository, where models of several may have one name; else empty.
    pub(super) namespace: String,
    pub(super) model_dir: PathBuf,
    pub(super) config: ModelConfig,
    pub(super) wanted: Vec<u64>,
    /// `None` where the files came with the load request.
    pub(super) folder: Option<FolderFiles>,
    /// What is kept for the model while it is loaded: files that came with the load request or were fetched, and agents.
    pub(super) files: Option<Arc<Held>>,
    /// The configuration is one that came with a load request, this or a former one.
    pub(super) is_config_given: bool,
    /// What becomes of the configuration kept for later loads once this one serves.
    pub(super) keeping: Keeping,
}

/// What a load does to the configuration that is kept for later loads.
pub(super) enum Keeping {
    /// Nothing.
    AsBefore,
    /// It brought one.
    Keep(Box<Override>),
    /// It asked for the folder's own.
    Drop,
}

impl Draft {
    pub(super) fn fingerprint(&self, version: u64) -> Fingerprint {
        match &self.folder {
            Some(folder) => folder.fingerprint(version, &self.config, self.is_config_given),
            None => fingerprint::of_given_files(&self.config),
        }
    }

    pub(super) fn version<'a>(&'a self, key: &'a str, version: u64) -> VersionToLoad<'a> {
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
pub(super) struct Unreadable {
    pub(super) answer: Error,
    pub(super) reason: String,
    /// It is in no repository.
    pub(super) is_absent: bool,
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Self {
        Self { reason: error.to_string(), answer: error, is_absent: false }
    }
}

impl Lifecycle {
    pub(super) fn read(&self, key: &str, parameters: LoadParameters) -> Result<Draft, Unreadable> {
        let (namespace, name) = self.repositories.namespaces().split(key);
        // What is wrong with a folder's configuration is said in the log and in the index.
        let poll_failed =
            |reason: String| Unreadable { answer: Error::internal(poll_failed_text(name)), reason, is_absent: false };
        // What is wrong with what a request brings is said nowhere but in its answer, and of parameters that are this server's own
        // Triton has no sentence.
        let explained = |reason: String| {
            let answer = Error::internal(format!("{}: {reason}", poll_failed_text(name)));
            Unreadable { answer, reason, is_absent: false }
        };
        // What a store says is for whoever asked, too.
        let not_fetched = |error: Error| Unreadable {
            answer: Error { code: error.code, message: format!("{}: {error}", poll_failed_text(name)).into() },
            reason: error.to_string(),
            is_absent: false,
        };
        if !parameters.files.is_empty() && parameters.config.is_none() {
            let text = "Load parameter 'config' must be specified for model file override";
            return Err(explained(text.to_owned()));
        }
        let files = match parameters.files.as_slice() {
            [] => None,
            files => Some(Arc::new(loader::write_files(files).map_err(|error| explained(error.to_string()))?)),
        };
        let mut source = match &files {
            Some(files) => ModelFolder::temporary(files),
            None => match self.repositories.find(key).map_err(not_fetched)? {
                Some(found) => {
                    let place = found.only(name).map_err(|error| explained(error.to_string()))?;
                    place.open().map_err(not_fetched)?
                }
                None => {
                    let answer = Error::internal(poll_failed_text(name));
                    return Err(Unreadable { is_absent: true, ..answer.into() });
                }
            },
        };
        let model_dir = source.path().to_owned();
        let (mut keeping, mut is_config_given) = (Keeping::AsBefore, true);
        let mut config = match parameters.config {
            Some(json) => {
                let config =
                    config::from_json(&json).map_err(|error| explained(format!("Invalid config override: {error}")))?;
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
        let routing = VersionRouting::of(&config);
        let refused = |text: String| if routing.is_err() { explained(text) } else { poll_failed(text) };
        self.loader.check(name, &newest, &config).map_err(|error| refused(error.to_string()))?;
        let wanted = rules::version_policy::select(&config, &versions);
        if wanted.is_empty() {
            return Err(Error::invalid_argument(format!(
                "load failed for model '{key}': at least one version must be available under the version policy of model '{name}'\n"
            ))
            .into());
        }
        // a mistake in these parameters was found above
        if let Ok(Some(routing)) = routing {
            let problems = routing.problems_with(name, &wanted, &layout.versions);
            if !problems.is_empty() {
                return Err(explained(config::problems_error(name, &problems).to_string()));
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
    fn folder_config(&self, name: &str, model_dir: &Path) -> Result<(ModelConfig, bool), String> {
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

    pub(super) fn own_config(&self, model_dir: &Path) -> Result<Option<String>> {
        repository::config_text(model_dir, self.config_name.as_deref())
    }
}

fn poll_failed_text(name: &str) -> String {
    format!("failed to load '{name}', failed to poll from model repository")
}
