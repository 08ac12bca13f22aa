//! What the engine says of itself: the index of models, their statistics and memory, and the metrics page.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use server_core::{
    backend::MemoryUse,
    error::{Error, Result},
    interface::ModelId,
    metrics::Page,
    request::VersionChoice,
    stats::ModelSnapshot,
    tensor::Name,
};

use crate::{
    Engine,
    cache::ResponseCache,
    fingerprint::Override,
    registry::{Entry, IndexEntry, VersionState},
    repository::Found,
};

/// How long a metrics page waits for changes that models have sent, at most: much longer than it takes to make them.
const SETTLE_LIMIT: Duration = Duration::from_millis(20);

/// How often it is looked whether they are made.
const SETTLE_PAUSE: Duration = Duration::from_micros(50);

impl Engine {
    /// Counters of all ready versions, of one model's, or of one version. Errors: it is unknown.
    pub fn statistics(&self, model: Option<ModelId<'_>>) -> Result<Vec<ModelSnapshot>> {
        self.not_exiting("Server not ready")?;
        let Some(model) = model else { return Ok(self.snapshots()) };
        let name = model.name;
        let unknown = || Error::invalid_argument(format!("requested model '{name}' is not available"));
        let key = self.registry.key_of(name).map_err(|_| unknown())?;
        let entry = self.registry.entry(&key).ok_or_else(unknown)?;
        let ready = entry.versions.iter().filter_map(|(number, version)| Some((*number, version.model.as_ref()?)));
        let snapshots: Vec<_> = match model.version {
            VersionChoice::Latest => ready.map(|(_, model)| model.snapshot()).collect(),
            VersionChoice::Exact(wanted) => {
                ready.filter(|(number, _)| *number == wanted).map(|(_, model)| model.snapshot()).collect()
            }
        };
        match (snapshots.is_empty(), model.version) {
            (false, _) => Ok(snapshots),
            (true, VersionChoice::Exact(_)) if entry.latest_ready().is_some() => {
                Err(Error::invalid_argument(format!("requested model version is not available for model '{name}'")))
            }
            (true, _) => Err(unknown()), // none of its versions serves
        }
    }

    /// The same as [`Engine::index`], after a look at the repositories on object stores.
    ///
    /// Errors: one of them cannot be read; that takes about ten seconds at most.
    pub async fn current_index(&self, ready_only: bool) -> Result<Vec<IndexEntry>> {
        self.not_exiting("Server not ready")?;
        self.lifecycle.look_at_remote().await;
        self.index(ready_only)
    }

    /// Every model of every repository with its versions' states; only ready ones on request. Repositories on object stores
    /// are as they were seen last.
    ///
    /// Errors: a repository cannot be read.
    pub fn index(&self, ready_only: bool) -> Result<Vec<IndexEntry>> {
        self.not_exiting("Server not ready")?;
        let known = self.registry.entries();
        let found = self.lifecycle.repositories().list()?;
        let mut names: std::collections::BTreeSet<&str> = known.keys().map(|name| &**name).collect();
        names.extend(found.keys().map(String::as_str));
        let mut index = Vec::new();
        for name in names {
            let (entry, found) = (known.get(name), found.get(name));
            if found.is_none() && entry.is_none_or(|entry| entry.is_unloaded()) {
                continue; // it was loaded once, and lies nowhere
            }
            let is_ambiguous = matches!(found, Some(Found::Ambiguous(_)));
            let (_, name) = self.lifecycle.repositories().namespaces().split(name);
            let lines =
                entry.map_or_else(|| Entry::default().index(name, is_ambiguous), |it| it.index(name, is_ambiguous));
            index.extend(lines.into_iter().filter(|line| !ready_only || line.state == Some(VersionState::Ready)));
        }
        Ok(index)
    }

    /// The models, by their names, that do not serve what their folder says: what of them came with a load request instead.
    pub fn overrides(&self) -> BTreeMap<String, Override> {
        let given = |(key, entry): (Name, Arc<Entry>)| {
            let (_, name) = self.lifecycle.repositories().namespaces().split(&key);
            Some((name.to_owned(), entry.given()?))
        };
        self.registry.entries().into_iter().filter_map(given).collect()
    }

    /// Memory that versions of models hold, as far as their backends know; by name and version.
    pub fn memory(&self) -> BTreeMap<(String, u64), Vec<MemoryUse>> {
        let mut memory = BTreeMap::new();
        for (key, entry) in self.registry.entries() {
            let (_, name) = self.lifecycle.repositories().namespaces().split(&key);
            for (version, of_version) in &entry.versions {
                let used = of_version.model.as_ref().map(|model| model.runner().memory()).unwrap_or_default();
                if !used.is_empty() {
                    memory.insert((name.to_owned(), *version), used);
                }
            }
        }
        memory
    }

    /// The metrics page.
    pub fn metrics(&self) -> Page {
        let interval = self.options.machine_metrics_interval;
        let machine = self.options.machine_metrics.then(|| self.machine.snapshot(Instant::now(), interval));
        let entries = self.registry.entries();
        let versions = entries.values().flat_map(|entry| entry.versions.values());
        let models: Vec<_> = versions.filter_map(|version| Some(version.model.as_ref()?.metrics())).collect();
        let routers = entries.values().filter_map(|entry| entry.router.as_ref());
        let shadows: Vec<_> = routers.flat_map(|router| router.shadow_snapshots()).collect();
        let mut page = Page::default();
        page.add_models(&models, self.options.latency.counters);
        page.add_pinned_memory(self.options.pinned_memory_pool_size);
        self.options.gpus.iter().for_each(|gpus| page.add_gpus(&gpus.read()));
        machine.iter().for_each(|machine| page.add_machine(machine));
        page.add_shadow_copies(&shadows);
        self.options.access_log.iter().for_each(|log| page.add_access_log(log.dropped()));
        if let Some(cache) = self.options.response_cache.as_ref().and_then(ResponseCache::snapshot) {
            page.add_local_cache(&cache);
        }
        page.add_counters(&self.options.tracer.metrics());
        page.add_latencies(models);
        self.settle_custom_metrics();
        self.custom_metrics.add_to(&mut page);
        page
    }

    /// Waits a moment for changes that models have sent: a page has those of every request that is answered.
    fn settle_custom_metrics(&self) {
        let until = Instant::now() + SETTLE_LIMIT;
        while !self.custom_metrics.are_settled() && Instant::now() < until {
            thread::sleep(SETTLE_PAUSE);
        }
    }

    fn snapshots(&self) -> Vec<ModelSnapshot> {
        let entries = self.registry.entries();
        let versions = entries.values().flat_map(|entry| entry.versions.values());
        versions.filter_map(|version| version.model.as_ref()).map(|model| model.snapshot()).collect()
    }
}
