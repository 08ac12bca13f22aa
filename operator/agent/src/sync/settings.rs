//! How an agent works.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    disk::DiskLimits,
    load::Address,
    source::{Limits, Places},
    traces::Traces,
};

/// How an agent works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The agent's folder; see [`crate::store`].
    pub root: PathBuf,
    /// The folder with contents that several agents share, if `root` is one of theirs in it.
    pub shared: Option<PathBuf>,
    /// The file for open attempts to load; see [`crate::attempts`]. It should live as long as what the server has to live on.
    pub attempts: PathBuf,
    /// Where the server takes calls.
    pub server: Address,
    /// Where mounted sources lie.
    pub places: Places,
    /// What a fetch may cost.
    pub limits: Limits,
    /// How much of the disk models may take.
    pub disk: DiskLimits,
    /// Models fetched at the same time from one place, such as a machine or a claim.
    pub fetches_at_once: usize,
    /// Models loaded at the same time.
    pub loads_at_once: usize,
    /// How long a content is kept that nobody speaks of any more: a server may still be finishing with it.
    pub grace: Duration,
    /// How often server and sources are looked at while nothing happens.
    pub look_again: Duration,
    /// How long what serves is left alone before it is unloaded for its successor, if nothing says how that is to be done.
    pub word_within: Duration,
    /// The contents in rollout that may be served; see [`crate::adopt`]. None: all of them.
    pub adopts: Option<watch::Receiver<BTreeSet<String>>>,
    /// Makes spans of fetches and loads; whoever runs the agent closes it.
    pub traces: Arc<Traces>,
}

impl Settings {
    /// The usual settings.
    pub fn new(root: impl Into<PathBuf>, server: impl Into<Address>) -> Self {
        let root = root.into();
        Self {
            attempts: root.join("attempts.json"),
            root,
            shared: None,
            server: server.into(),
            places: Places::default(),
            limits: Limits::default(),
            disk: DiskLimits::default(),
            fetches_at_once: 8,
            loads_at_once: 4,
            grace: Duration::from_secs(30),
            look_again: Duration::from_secs(5),
            word_within: Duration::from_secs(5),
            adopts: None,
            traces: Arc::default(),
        }
    }
}
