//! Who is loaded: a table that requests read without a lock. The lifecycle replaces the entry of a model as a whole, and
//! the table only when a name comes or goes, so that a change costs the same whatever else is loaded.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use server_core::{
    error::{Error, Result},
    request::VersionChoice,
    tensor::Name,
};

use crate::{
    asks::Asks, fingerprint::Override, model::LoadedModel, namespaces::Namespaces, version_router::VersionRouter,
};

/// State of a model version in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionState {
    /// Nothing is known yet.
    Unknown,
    /// Being loaded.
    Loading,
    /// Serving.
    Ready,
    /// Finishing what it runs.
    Unloading,
    /// Failed to load, or was unloaded: see the reason.
    Unavailable,
}

impl VersionState {
    /// The word of the index: `READY`, `UNAVAILABLE`, ...
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Loading => "LOADING",
            Self::Ready => "READY",
            Self::Unloading => "UNLOADING",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

/// One line of the repository index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Folder name, which is the model's name.
    pub name: String,
    /// `None` for a model that was never loaded, or has no version to load.
    pub version: Option<u64>,
    /// `None` for a model that was never loaded.
    pub state: Option<VersionState>,
    /// Why it is not ready, or what is wrong with some of its instances; empty if nothing is wrong or known.
    pub reason: String,
}

/// Why a model is not served whose name is that of several folders.
const AMBIGUOUS: &str = "model appears in two or more repositories";

/// The reason of a version that was taken out of service on request.
pub(crate) const UNLOADED: &str = "unloaded";

/// One version as the table holds it.
#[derive(Clone)]
pub(crate) struct Version {
    pub(crate) state: VersionState,
    pub(crate) reason: String,
    /// It was loaded while another version served: its trouble is not the model's.
    pub(crate) is_beside: bool,
    /// Set while it serves, whatever is being loaded to replace it.
    pub(crate) model: Option<Arc<LoadedModel>>,
}

impl Version {
    /// One that does not serve, for that reason.
    pub(crate) fn unavailable(reason: String) -> Self {
        Self { state: VersionState::Unavailable, reason, is_beside: false, model: None }
    }

    /// State and reason for the index: one that serves is unavailable while none of its instances can, and what its instances
    /// say stands beside the state in any case.
    pub(crate) fn for_index(&self) -> (VersionState, String) {
        let Some(model) = self.model.as_ref().filter(|_| self.state == VersionState::Ready) else {
            return (self.state, self.reason.clone());
        };
        let mut reasons = model.runner().reasons();
        if !self.reason.is_empty() {
            reasons.insert(0, self.reason.clone());
        }
        if model.is_healthy() {
            return (self.state, reasons.join("; "));
        }
        if reasons.is_empty() {
            reasons.push("no instance of it can serve".into());
        }
        (VersionState::Unavailable, reasons.join("; "))
    }
}

/// One model as the table holds it.
#[derive(Clone, Default)]
pub(crate) struct Entry {
    pub(crate) versions: BTreeMap<u64, Version>,
    /// Why no version could even be tried: unreadable configuration, no version folder.
    pub(crate) failure: Option<String>,
    /// What an ensemble lacks to serve: a model that it is made of, in a form that fits.
    pub(crate) lacking: Option<String>,
    /// Who runs requests that name no version, where the configuration says more than "the latest".
    pub(crate) router: Option<Arc<VersionRouter>>,
}

impl Entry {
    /// What of the versions that serve came with a load request; the files, if any version has such.
    pub(crate) fn given(&self) -> Option<Override> {
        let models = self.versions.values().filter_map(|version| version.model.as_ref());
        let given = models.filter_map(|model| model.fingerprint.given());
        given.max_by_key(|given| *given == Override::Files)
    }

    pub(crate) fn latest_ready(&self) -> Option<&Arc<LoadedModel>> {
        self.versions.values().rev().find_map(|version| version.model.as_ref())
    }

    /// Its lines of the index: one for each version, or one for the model. `is_ambiguous`: its name is that of several
    /// folders, which is all there is to say if it does not serve.
    pub(crate) fn index(&self, name: &str, is_ambiguous: bool) -> Vec<IndexEntry> {
        let line = |version, state, reason| IndexEntry { name: name.to_owned(), version, state, reason };
        if is_ambiguous && self.latest_ready().is_none() {
            return vec![line(None, Some(VersionState::Unavailable), AMBIGUOUS.into())];
        }
        let of_version = |(&number, version): (&u64, &Version)| {
            let (state, reason) = version.for_index();
            line(Some(number), Some(state), reason)
        };
        let mut lines: Vec<IndexEntry> = self.versions.iter().map(of_version).collect();
        let failure = self.failure.clone().or_else(|| self.lacking.clone());
        match (failure, lines.last_mut()) {
            (failure, None) => {
                let state = failure.as_ref().map(|_| VersionState::Unavailable);
                lines.push(line(None, state, failure.unwrap_or_default()));
            }
            (Some(failure), Some(last)) => last.reason = failure,
            (None, Some(_)) => {}
        }
        lines
    }

    /// Whether a caller may mean it: it is loaded, was to be, or waits for its parts.
    fn is_in_use(&self) -> bool {
        let is_left = |version: &Version| version.state == VersionState::Unloading || version.reason == UNLOADED;
        self.lacking.is_some() || self.versions.values().any(|version| version.model.is_some() || !is_left(version))
    }

    /// Whether it was unloaded, and nothing has happened since.
    pub(crate) fn is_unloaded(&self) -> bool {
        let has_failed = self.failure.is_some() || self.lacking.is_some();
        !has_failed && self.versions.values().all(|version| version.model.is_none() && version.reason == UNLOADED)
    }

    /// Whether it can serve, or nobody expects it to. Neither a configuration nor a version that came while it served
    /// changes that, nor one that leaves.
    pub(crate) fn is_settled(&self) -> bool {
        ((self.failure.is_none() && self.lacking.is_none()) || self.latest_ready().is_some())
            && !self.versions.is_empty()
            && self.versions.values().all(|version| match &version.model {
                Some(model) => model.is_healthy(),
                None => version.is_beside || version.state == VersionState::Unloading || version.reason == UNLOADED,
            })
    }
}

/// A model in the table.
#[derive(Default)]
struct Place {
    /// The latest ready version of `entry`, which most requests ask for: found without reading the entry. It is stored just before
    /// the entry, so for a moment it may be of the next one.
    latest_ready: ArcSwapOption<LoadedModel>,
    entry: ArcSwap<Entry>,
}

impl Place {
    fn put(&self, entry: Entry) {
        self.latest_ready.store(entry.latest_ready().cloned());
        self.entry.store(Arc::new(entry));
    }
}

type Table = HashMap<Name, Arc<Place>>;

/// Keys of the models of each name, where several may have one.
type KeysOfName = HashMap<Name, BTreeSet<Name>>;

/// The table, by key.
#[derive(Default)]
pub(crate) struct Registry {
    table: ArcSwap<Table>,
    namespaces: Namespaces,
    keys: ArcSwap<KeysOfName>,
    writer: Mutex<()>,
    /// What models ask each other.
    asks: Arc<Asks>,
}

impl Registry {
    pub(crate) fn new(namespaces: Namespaces) -> Self {
        Self { namespaces, ..Self::default() }
    }

    /// What models ask each other at this moment.
    pub(crate) fn asks(&self) -> &Arc<Asks> {
        &self.asks
    }

    /// The loaded version that a request means.
    ///
    /// Errors: Triton's four sentences, TRITON "Model lookup"; with namespaces also that the name is that of several models.
    pub(crate) fn find(&self, name: &str, version: VersionChoice) -> Result<Arc<LoadedModel>> {
        if self.namespaces.are_used() {
            return self.find_key(&self.key_of(name)?, version);
        }
        self.find_key(name, version)
    }

    /// The key of the model that a caller means by a name.
    ///
    /// Errors: with namespaces, no model has that name, or several have: Triton's sentences.
    pub(crate) fn key_of(&self, name: &str) -> Result<Name> {
        if !self.namespaces.are_used() {
            return Ok(name.into());
        }
        let keys = self.keys.load();
        let keys = keys
            .get(name)
            .ok_or_else(|| Error::invalid_argument(format!("Request for unknown model: '{name}' is not found")))?;
        match (keys.first(), keys.len()) {
            (None, _) => Err(Error::not_found(format!("Identifier of model '{name}' is not found in global map"))),
            (Some(key), 1) => Ok(key.clone()),
            (Some(_), count) => Err(Error::invalid_argument(format!(
                "There are {count} identifiers of model '{name}' in global map, model namespace must be provided to resolve \
                 ambiguity."
            ))),
        }
    }

    /// Keys of all models of that name that are loaded, or were to be.
    pub(crate) fn keys_of(&self, name: &str) -> Vec<String> {
        if !self.namespaces.are_used() {
            return vec![name.to_owned()];
        }
        let keys = self.keys.load();
        keys.get(name).into_iter().flatten().map(|key| key.to_string()).collect()
    }

    /// The loaded version of the model of a key.
    ///
    /// Errors: Triton's four sentences, TRITON "Model lookup".
    pub(crate) fn find_key(&self, name: &str, version: VersionChoice) -> Result<Arc<LoadedModel>> {
        let table = self.table.load();
        let Some(place) = table.get(name) else {
            return Err(Error::not_found(format!("Request for unknown model: '{name}' is not found")));
        };
        match version {
            VersionChoice::Latest => place.latest_ready.load_full().ok_or_else(|| {
                Error::not_found(format!("Request for unknown model: '{name}' has no available versions"))
            }),
            VersionChoice::Exact(number) => match place.entry.load().versions.get(&number) {
                Some(Version { model: Some(model), .. }) => Ok(model.clone()),
                Some(_) => Err(Error::unavailable(format!(
                    "Request for unknown model: '{name}' version {number} is not at ready state"
                ))),
                None => {
                    Err(Error::not_found(format!("Request for unknown model: '{name}' version {number} is not found")))
                }
            },
        }
    }

    /// One model, if anything is known of it.
    pub(crate) fn entry(&self, name: &str) -> Option<Arc<Entry>> {
        self.table.load().get(name).map(|place| place.entry.load_full())
    }

    /// All models, by key.
    pub(crate) fn entries(&self) -> BTreeMap<Name, Arc<Entry>> {
        self.table.load().iter().map(|(name, place)| (name.clone(), place.entry.load_full())).collect()
    }

    /// Changes one model; readers of an entry see all of the change or none of it. A model of which nothing is known is not kept.
    pub(crate) fn update<R>(&self, name: &str, change: impl FnOnce(&mut Entry) -> R) -> R {
        let _writer = self.writer.lock();
        let table = self.table.load();
        let known = table.get(name);
        let mut entry = known.map_or_else(Entry::default, |place| Entry::clone(&place.entry.load()));
        let result = change(&mut entry);
        let ready = entry.versions.values().filter_map(|version| version.model.clone()).collect();
        entry.router = VersionRouter::follow(entry.router.take(), ready);
        if self.namespaces.are_used() {
            self.note_key(name, entry.is_in_use());
        }
        let is_known = !entry.versions.is_empty() || entry.failure.is_some() || entry.lacking.is_some();
        match known {
            Some(known) => {
                known.put(entry);
                if !is_known {
                    let mut table = Table::clone(&table);
                    table.remove(name);
                    self.table.store(Arc::new(table));
                }
            }
            None if is_known => {
                let mut table = Table::clone(&table);
                let place = Place::default();
                place.put(entry);
                table.insert(name.into(), Arc::new(place));
                self.table.store(Arc::new(table));
            }
            None => {}
        }
        result
    }

    /// Keeps what callers may mean by a name. The writer's lock is held.
    fn note_key(&self, key: &str, is_in_use: bool) {
        let (_, name) = self.namespaces.split(key);
        let keys = self.keys.load();
        if keys.get(name).is_some_and(|keys| keys.contains(key)) == is_in_use {
            return;
        }
        let mut keys = KeysOfName::clone(&keys);
        let of_name = keys.entry(name.into()).or_default();
        if is_in_use {
            of_name.insert(key.into());
        } else {
            of_name.remove(key);
        }
        self.keys.store(Arc::new(keys));
    }
}
