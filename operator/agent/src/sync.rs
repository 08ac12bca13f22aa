//! The loop that brings disk and server to what the manifest wants: look, ask [`plan`], begin the steps, wait for anything
//! to happen. It decides nothing itself. Fetches and loads run beside each other, at most one of each per model.

mod drain;
mod driver;
mod fetch_slots;
mod foreign;
mod jobs;
mod memory;
mod report;
mod settings;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use crds::parts::load::Readiness;
use operator_core::manifest::{Manifest, ManifestLoad, ManifestModel};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use self::driver::Command;
pub use self::settings::Settings;
use crate::{
    adopt::Following,
    attempts::{Attempts, Followed},
    disk::Disk,
    fault::Fault,
    startup::{Required, Standing},
    state::State,
    store::{Staged, Store},
    verify::ContentHash,
};

/// A running agent. Dropping it ends its work; what the server serves is left as it is.
#[derive(Debug)]
pub struct Agent {
    store: Arc<Store>,
    attempts: Arc<Attempts>,
    following: watch::Receiver<Arc<Following>>,
    state: watch::Receiver<State>,
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

impl Agent {
    /// Opens the store and begins.
    ///
    /// Errors: the store is in use, or the disk would not take it.
    pub fn start(settings: Settings, manifests: watch::Receiver<Arc<Manifest>>) -> Result<Self, Fault> {
        let store = match &settings.shared {
            Some(shared) => Store::open_shared(&settings.root, shared)?,
            None => Store::open(&settings.root)?,
        };
        let store = Arc::new(store);
        let spared = Arc::downgrade(&store);
        let disk = Disk::new(settings.root.clone(), settings.disk, move || {
            if let Some(store) = spared.upgrade() {
                store.spare();
            }
        });
        let attempts = Arc::new(Attempts::open(settings.attempts.clone()));
        let (state, watched) = watch::channel(State::default());
        let (commands, inbox) = mpsc::unbounded_channel();
        let (shared, state) = ((Arc::clone(&store), Arc::clone(&attempts)), Arc::new(state));
        let driver = driver::Driver::new(settings, disk, shared, manifests, state);
        let following = driver.following();
        let task = tokio::spawn(driver.run(inbox));
        Ok(Self { store, attempts, following, state: watched, commands, task })
    }

    /// Where everything stands, now and from now on.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// What of the manifest is followed, now and from now on.
    pub fn following(&self) -> watch::Receiver<Arc<Following>> {
        self.following.clone()
    }

    /// The repository to give to the server.
    pub fn repository(&self) -> PathBuf {
        self.store.repository()
    }

    /// Models the server was once confirmed to serve.
    pub fn confirmed(&self) -> BTreeSet<String> {
        self.store.ledger().into_iter().filter_map(|(name, record)| record.active.map(|_| name)).collect()
    }

    /// The models that the manifest requires, as far as the start of a server in this pod is decided by them.
    pub fn required(&self) -> Vec<Required> {
        let (following, state) = (Arc::clone(&self.following.borrow()), self.state.borrow());
        let required = |model: &ManifestModel| {
            let (name, entry) = (&model.name, following.entries.get(&model.name));
            let record = self.store.record_of(name);
            let linked = self.store.linked(name);
            let is_withheld = |content: &ContentHash| {
                let withheld = entry.and_then(|entry| entry.withheld.as_deref());
                let confirmed = record.confirmed.as_ref().filter(|confirmed| confirmed.content == *content);
                withheld.is_some() && confirmed.map(Staged::entry) == withheld
            };
            let staged = entry.and_then(|entry| record.staged_by(&entry.hash));
            let reported = state.models.get(name).filter(|said| said.entry.as_ref() == entry.map(|entry| &entry.hash));
            Required {
                name: name.clone(),
                standing: Standing::of(model.rollout.as_ref().map(|rollout| rollout.phase), entry),
                is_here: entry.is_some() && linked.is_some_and(|content| !is_withheld(&content)),
                has_failed: reported.is_some_and(|said| said.failure().is_some()),
                is_given_up: staged.is_some_and(|staged| self.attempts.is_given_up(&staged.content)),
                was_confirmed: record.active.is_some(),
            }
        };
        let models = following.published.models.iter();
        models.filter(|model| model.readiness == Readiness::Required).map(required).collect()
    }

    /// Takes out of the repository what `manifest` no longer has. Only while no server runs on it: one that runs is asked
    /// to unload first, which happens by itself.
    pub fn clear_removed(&self, manifest: &Manifest) -> Result<(), Fault> {
        let ledger = self.store.ledger();
        for name in self.store.names().into_iter().chain(ledger.into_keys()) {
            if manifest.model(&name).is_none() {
                self.store.unpoint(&name)?;
                self.store.record(&name, |record| *record = crate::store::Record::default())?;
            }
        }
        Ok(())
    }

    /// Waits until every model of the manifest with that hash is in the repository or has failed to get there. `false` if
    /// that took longer than `limit`.
    pub async fn fetched(&self, manifest_hash: &str, limit: Duration) -> bool {
        let mut state = self.state.clone();
        let all = state.wait_for(|state| {
            state.manifest_hash == manifest_hash
                && state.models.values().all(|model| model.wanted.is_some() || model.failure().is_some())
        });
        tokio::time::timeout(limit, all).await.is_ok()
    }

    /// A server process is about to be started, for the first time or after another one ended: what the end of that one is held
    /// against is taken out of its way, and what failed to load in it gets new attempts.
    pub fn server_starting(&self) {
        if let Err(fault) = self.attempts.server_starting(&self.store, &self.followed()) {
            tracing::error!(error = %fault, "a model that ended the server may be loaded again");
        }
        let _ = self.commands.send(Command::ServerStarting); // an agent that has ended has nothing to do
    }

    /// What is followed of contents in rollout.
    fn followed(&self) -> Followed {
        let following = Arc::clone(&self.following.borrow());
        let mut followed = Followed::default();
        for (name, entry) in &following.entries {
            let record = self.store.record_of(name);
            let staged_by = |hash: &str| record.staged_by(hash).map(|staged| staged.content.clone());
            let settle_time = following
                .published
                .model(name)
                .map_or(ManifestLoad::SETTLE_TIME, |published| published.load.settle_time());
            let withheld = entry.withheld.as_deref().and_then(staged_by);
            followed.unproven.extend(withheld.map(|content| (content, settle_time)));
            if let Some(content) = staged_by(&entry.hash).filter(|_| entry.is_in_trial) {
                followed.unproven.insert(content.clone(), settle_time);
                followed.next.insert(name.clone(), content);
            }
        }
        followed
    }

    /// The server process ended because it was asked to.
    pub fn server_left(&self) {
        self.attempts.server_left();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests;
