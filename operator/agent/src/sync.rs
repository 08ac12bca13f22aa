//! The loop that brings disk and server to what the manifest wants: look, ask [`plan`], begin the steps, wait for anything
//! to happen. It decides nothing itself. Fetches and loads run beside each other, at most one of each per model.

mod driver;
mod jobs;
mod memory;
mod report;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use operator_core::manifest::Manifest;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    attempts::Attempts,
    disk::{Disk, DiskLimits},
    fault::Fault,
    source::{Limits, Places},
    state::State,
    store::Store,
};

/// How an agent works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The agent's folder; see [`crate::store`].
    pub root: PathBuf,
    /// The file for open attempts to load; see [`crate::attempts`]. It should live as long as what the server has to live on.
    pub attempts: PathBuf,
    /// The server's HTTP port.
    pub server: SocketAddr,
    /// Where mounted sources lie.
    pub places: Places,
    /// What a fetch may cost.
    pub limits: Limits,
    /// How much of the disk models may take.
    pub disk: DiskLimits,
    /// Models fetched at the same time.
    pub fetches_at_once: usize,
    /// Models loaded at the same time.
    pub loads_at_once: usize,
    /// How long a content is kept that nobody speaks of any more: a server may still be finishing with it.
    pub grace: Duration,
    /// How often server and sources are looked at while nothing happens.
    pub look_again: Duration,
}

/// A running agent. Dropping it ends its work; what the server serves is left as it is.
#[derive(Debug)]
pub struct Agent {
    store: Arc<Store>,
    attempts: Arc<Attempts>,
    state: watch::Receiver<State>,
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

/// Commands to an agent.
#[derive(Debug, Clone, Copy)]
enum Command {
    ServerStarting,
}

impl Settings {
    /// The usual settings.
    pub fn new(root: impl Into<PathBuf>, server: SocketAddr) -> Self {
        let root = root.into();
        Self {
            attempts: root.join("attempts.json"),
            root,
            server,
            places: Places::default(),
            limits: Limits::default(),
            disk: DiskLimits::default(),
            fetches_at_once: 8,
            loads_at_once: 4,
            grace: Duration::from_secs(30),
            look_again: Duration::from_secs(5),
        }
    }
}

impl Agent {
    /// Opens the store and begins.
    ///
    /// Errors: the store is in use, or the disk would not take it.
    pub fn start(settings: Settings, manifests: watch::Receiver<Arc<Manifest>>) -> Result<Self, Fault> {
        let store = Arc::new(Store::open(&settings.root)?);
        let spared = Arc::downgrade(&store);
        let disk = Disk::new(settings.root.clone(), settings.disk, move || {
            if let Some(store) = spared.upgrade() {
                store.spare();
            }
        });
        let attempts = Arc::new(Attempts::open(settings.attempts.clone()));
        let (state, watched) = watch::channel(State::default());
        let (commands, inbox) = mpsc::unbounded_channel();
        let driver =
            driver::Driver::new(settings, disk, Arc::clone(&store), Arc::clone(&attempts), manifests, Arc::new(state));
        let task = tokio::spawn(driver.run(inbox));
        Ok(Self { store, attempts, state: watched, commands, task })
    }

    /// Where everything stands, now and from now on.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The repository to give to the server.
    pub fn repository(&self) -> PathBuf {
        self.store.repository()
    }

    /// Models the server was once confirmed to serve.
    pub fn confirmed(&self) -> BTreeSet<String> {
        self.store.ledger().into_iter().filter_map(|(name, record)| record.active.map(|_| name)).collect()
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

    /// A server process is about to be started, for the first time or after another one ended: what that one was loading
    /// when it ended is taken out of its way, and what failed to load in it gets new attempts.
    pub fn server_starting(&self) {
        if let Err(fault) = self.attempts.server_starting(&self.store) {
            tracing::error!(error = %fault, "a model that ended the server may be loaded again");
        }
        let _ = self.commands.send(Command::ServerStarting); // an agent that has ended has nothing to do
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
