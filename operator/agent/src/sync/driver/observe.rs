//! What the plan is made of: manifest, disk and server, and what follows for what is remembered of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use operator_core::manifest::ManifestSource;

use super::{Driver, retry_policy};
use crate::{
    adopt::Following,
    fault::{Fault, Reason},
    plan::{Inputs, Served, Trials, Wanted},
    source,
    store::Staged,
    sync::{
        foreign,
        memory::{Failed, Memory},
    },
};

impl Driver {
    /// Makes memory follow the manifest: each model is about its present entry, in the present state of its source.
    pub(super) fn follow(&mut self, following: &Following) {
        self.settings.places.follow(&following.manifest.sources);
        let places = &self.settings.places;
        for model in &following.manifest.models {
            let memory = self.models.entry(model.name.clone()).or_insert_with(|| Memory {
                is_checked: !matches!(model.source, ManifestSource::Pvc { .. }),
                ..Memory::default()
            });
            let entry = following.entries.get(&model.name).map(|entry| entry.hash.clone()).unwrap_or_default();
            memory.set_key(source::with_mounted_revision(model, places, entry));
            if memory.fetches.is_some() {
                memory.set_credentials(source::credentials(model, places).as_deref());
            }
        }
        self.models.retain(|name, memory| {
            let is_wanted = following.manifest.model(name).is_some();
            if !is_wanted {
                memory.cancel();
            }
            is_wanted || memory.loading.is_some()
        });
    }

    /// Notes of models that serve what they should which entry that is, if it was fetched for another one: the same content may come
    /// of several entries. What was kept to go back to is dropped once nobody goes back.
    pub(super) fn note_confirmed(&self, following: &Following, observed: &Inputs) {
        for (name, model) in &observed.wanted {
            let (Some(memory), Some(entry)) = (self.models.get(name), following.entries.get(name)) else { continue };
            let is_serving = model.served == Served::Yes
                && model.staged.is_some()
                && model.active == model.staged
                && model.linked == model.staged
                && !model.is_overridden;
            let record = self.store.record_of(name);
            let is_confirmed = record.confirmed.as_ref().is_some_and(|confirmed| confirmed.key == memory.key);
            let is_other = is_serving && !is_confirmed;
            let is_superfluous = record.former.is_some() && !entry.is_in_rollout;
            if !is_other && !is_superfluous {
                continue;
            }
            let noted = self.store.record(name, |record| {
                if let Some(staged) = record.staged_for(&memory.key).cloned().filter(|_| is_other) {
                    record.confirm(staged, entry.is_in_rollout);
                }
                if !entry.is_in_rollout {
                    record.former = None;
                }
            });
            if let Err(fault) = noted {
                tracing::warn!(model = name, error = %fault, "what serves is not noted");
            }
        }
    }

    /// Closes attempts of the server's start that it has answered: by serving the model, by saying why not, or by being ready.
    pub(super) fn follow_start(&self) {
        let Some(index) = &self.index else { return };
        let starting = self.attempts.starting();
        if starting.is_empty() {
            return;
        }
        let (mut loaded, mut refused) = (Vec::new(), Vec::new());
        for name in self.store.names() {
            let Some(content) = self.store.linked(&name).filter(|content| starting.contains(content)) else { continue };
            if index.is_changing(&name) && !self.is_ready {
                continue;
            }
            if !index.ready_versions(&name).is_empty() {
                loaded.push(content);
            } else if index.reason(&name).is_some() || self.is_ready {
                refused.push(content);
            }
        }
        self.attempts.started(&loaded, &refused);
    }

    /// Notes contents that are not loaded any more, because the ends of server processes are held against them.
    pub(super) fn give_up(&mut self, now: Instant) {
        let ledger = self.store.ledger();
        let names: Vec<String> = self.models.keys().cloned().collect();
        for name in names {
            let Some(record) = ledger.get(&name) else { continue };
            for content in record.contents() {
                let memory = &self.models[&name];
                let is_known = memory.loads.get(content).is_some_and(|failed| failed.tries.is_final);
                if is_known || !self.attempts.is_given_up(content) {
                    continue;
                }
                let count = self.attempts.crashes(content);
                let last = self
                    .attempts
                    .last_crash(content)
                    .map_or_else(String::new, |crash| format!(", the last one {crash}"));
                let message = format!(
                    "{count} server processes ended with this content{last}, so it is not loaded again: find the cause in the \
                     server's log, then change the model, or raise spec.resources.limits.memory of its server"
                );
                tracing::error!(model = name, content = content.short(), "given up: the server ends with it");
                let failed = Failed::for_good(Fault::new(Reason::ServerCrashed, message), count, now);
                if let Some(memory) = self.models.get_mut(&name) {
                    memory.loads.insert(content.clone(), failed);
                }
            }
        }
    }

    pub(super) fn observe(&mut self, following: &Following, now: Instant) -> Inputs {
        self.give_up(now);
        let ledger = self.store.ledger();
        let in_repository = self.store.names();
        let wanted = following.manifest.models.iter().map(|model| {
            let memory = &self.models[&model.name];
            let record = ledger.get(&model.name).cloned().unwrap_or_default();
            let suspects = record.contents().filter(|content| self.attempts.is_suspect(content)).cloned().collect();
            let staged = record.staged_for(&memory.key).filter(|_| memory.is_checked).map(|s| s.content.clone());
            let withheld = following.entries.get(&model.name).and_then(|entry| entry.withheld.as_deref());
            let confirmed = record.confirmed.as_ref();
            let wanted = Wanted {
                suspects,
                retry_policy: retry_policy(model),
                number: staged.as_ref().map_or(0, |content| self.attempts.number(content)),
                staged,
                is_in_trial: following.entries.get(&model.name).is_some_and(|entry| entry.is_in_trial),
                active_ends_servers: record.active.as_ref().is_some_and(|it| self.attempts.has_unexplained_ends(it)),
                is_withheld: withheld.is_some() && confirmed.map(Staged::entry) == withheld,
                active: record.active,
                linked: self.store.linked(&model.name),
                served: self.served(&model.name),
                is_overridden: self.index.as_ref().is_some_and(|index| index.overridden(&model.name).is_some()),
                fetches: memory.fetches.as_ref().map(|failed| failed.tries),
                loads: memory.loads.iter().map(|(content, failed)| (content.clone(), failed.tries)).collect(),
                is_fetching: memory.fetching.is_some(),
                is_loading: memory.loading.is_some() || self.unloading.contains(&model.name),
            };
            (model.name.clone(), wanted)
        });
        let wanted: BTreeMap<_, _> = wanted.collect();
        let ours: BTreeSet<String> = ledger.into_keys().chain(in_repository).collect();
        // what is leaving may do so between the look at the server and that at the disk
        let is_ours = |name: &str| ours.contains(name) || self.unloading.contains(name);
        let seen = self.index.as_ref().map(|index| foreign::seen(index, |name| wanted.contains_key(name), is_ours));
        self.note_foreign(seen.unwrap_or_default());
        let foreign = self.foreign.keys().cloned();
        let unwanted = ours.into_iter().chain(foreign).filter(|name| !wanted.contains_key(name));
        let unwanted = unwanted
            .map(|name| {
                let is_busy = self.unloading.contains(&name) || self.models.contains_key(&name);
                (name, is_busy)
            })
            .collect();
        let contents = self.store.unreferenced();
        self.unreferenced.retain(|content, _| contents.contains(content));
        for content in contents {
            self.unreferenced.entry(content).or_insert(now);
        }
        Inputs {
            wanted,
            unwanted,
            server_is_live: self.index.is_some(),
            unreferenced: self.unreferenced.clone(),
            grace: self.settings.grace,
            trials: self.trials(),
        }
    }

    /// Notes what the server has loaded for somebody else, and counts what it had not loaded before.
    pub(super) fn note_foreign(&mut self, seen: BTreeMap<String, String>) {
        for (model, what) in &seen {
            if self.foreign.get(model) != Some(what) {
                tracing::warn!(model, "{what}: it is undone");
                self.foreign_loads.count = self.foreign_loads.count.saturating_add(1);
                self.foreign_loads.last.clone_from(what);
            }
        }
        self.foreign = seen;
    }

    /// What the server has of contents in rollout that have not settled.
    fn trials(&self) -> Trials {
        let starting = self.attempts.starting();
        let is_starting = |name: &String| self.store.linked(name).is_some_and(|content| starting.contains(&content));
        let is_starting = !starting.is_empty() && self.store.names().iter().any(is_starting);
        Trials { open: self.attempts.open_trials(), is_starting }
    }

    pub(super) fn served(&self, name: &str) -> Served {
        match &self.index {
            Some(index) if index.is_changing(name) => Served::Changing,
            Some(index) if !index.ready_versions(name).is_empty() => Served::Yes,
            _ => Served::No,
        }
    }
}
