//! Poll mode: looks at the repositories again and again, and loads and unloads what has changed there. What to do after a
//! look is decided in [`server_core::repository::watch`]; here are the clock, the looks and the loads.
//!
//! Nothing waits for a load but its own model: looks go on meanwhile, and leave that model alone until its load has ended.

mod look;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use server_core::{
    error::Result,
    repository::watch::{Sight, Step, Watch},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::look::Memory;
use crate::{Engine, background::blocking, lifecycle::Lifecycle, load_session::LoadSession, options::LoadParameters};

/// Follows the repositories from the start of the server to its end.
pub(crate) struct Poller {
    memory: Memory,
    watches: BTreeMap<String, Watch>,
    /// Loads and unloads under way, those of one look together. They end with the server.
    changes: JoinSet<()>,
    /// What came of them. One for each model at most.
    ended: UnboundedReceiver<Ended>,
    ends: UnboundedSender<Ended>,
}

/// The load or unload of a model has ended.
struct Ended {
    name: String,
    is_good: bool,
}

/// What a look at the repositories asks for.
#[derive(Default)]
struct Changes {
    load: Vec<String>,
    unload: Vec<String>,
}

impl Poller {
    /// Looks for the first time. All that is there is about to be loaded by the start of the server, which tells
    /// [`Poller::ended`] what came of each.
    ///
    /// Errors: a repository cannot be read.
    pub(crate) async fn start(lifecycle: &Arc<Lifecycle>) -> Result<(Self, Vec<String>)> {
        let names = lifecycle.folders()?;
        let (ends, ended) = unbounded_channel();
        let (memory, watches) = (Memory::default(), BTreeMap::new());
        let mut poller = Self { memory, watches, changes: JoinSet::new(), ended, ends };
        let sights = poller.look(lifecycle, None).await;
        poller.watches = names.iter().map(|name| (name.clone(), Watch::loading(sight_of(&sights, name)))).collect();
        Ok((poller, names))
    }

    /// The load or unload of a model has ended.
    pub(crate) fn ended(&mut self, name: &str, is_good: bool) {
        if let Some(watch) = self.watches.get_mut(name) {
            watch.ended(is_good, Instant::now().into_std());
        }
    }

    /// Looks every `interval`, and soon again at what is changing. Never returns.
    pub(crate) async fn follow(mut self, engine: &Arc<Engine>, interval: Duration) {
        let mut next_look = Instant::now() + interval;
        let mut again: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            let wake_at = again.values().copied().chain([next_look]).min().unwrap_or(next_look);
            tokio::select! {
                () = sleep_until(wake_at) => {}
                Some(Ended { name, is_good }) = self.ended.recv() => {
                    self.ended(&name, is_good);
                    continue;
                }
                Some(_) = self.changes.join_next() => continue,
            }
            let now = Instant::now();
            let only = if now >= next_look {
                next_look = now + interval;
                again.clear();
                None
            } else {
                let due: Vec<_> = again.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
                again.retain(|_, at| *at > now);
                Some(due)
            };
            let sights = self.look(&engine.lifecycle, only).await;
            let mut changes = Changes::default();
            for (name, sight) in sights {
                let watch = self.watches.entry(name.clone()).or_default();
                match watch.look(sight, now.into_std()) {
                    Step::Nothing if watch.is_over() => {
                        self.watches.remove(&name);
                        self.memory.forget(&name);
                    }
                    Step::Nothing => {}
                    Step::LookAgain(at) => drop(again.insert(name, Instant::from_std(at))),
                    Step::Load => changes.load.push(name),
                    Step::Unload => {
                        if sight == Sight::Ambiguous {
                            tracing::error!("failed to poll model '{name}': not unique across all model repositories");
                        }
                        changes.unload.push(name);
                    }
                }
            }
            if !(changes.load.is_empty() && changes.unload.is_empty()) {
                self.changes.spawn(changes.make(engine.clone(), self.ends.clone()));
            }
        }
    }

    /// Looks at all models, or at some of those that were seen before.
    async fn look(&mut self, lifecycle: &Arc<Lifecycle>, only: Option<Vec<String>>) -> BTreeMap<String, Sight> {
        let lifecycle = lifecycle.clone();
        let mut memory = std::mem::take(&mut self.memory);
        let look = move || {
            let sights = match only {
                Some(names) => memory.look_again(lifecycle.repositories(), &names),
                None => memory.look(lifecycle.repositories()),
            };
            (memory, sights)
        };
        match blocking(look).await {
            Ok((memory, sights)) => {
                self.memory = memory;
                sights
            }
            Err(_) => BTreeMap::new(), // the server exits
        }
    }
}

impl Changes {
    /// Unloads what none of the models to be loaded was made of, loads, and then unloads the rest: an ensemble may have been
    /// changed not to need it any more.
    async fn make(self, engine: Arc<Engine>, ends: UnboundedSender<Ended>) {
        let lifecycle = engine.lifecycle.clone();
        let is_for_later = |name: &String| lifecycle.dependents(name).iter().any(|it| self.load.contains(it));
        let (later, now): (Vec<_>, Vec<_>) = self.unload.into_iter().partition(is_for_later);
        unload(&engine, now, &ends).await;
        let session = LoadSession::new(lifecycle.clone(), None);
        let mut loads = JoinSet::new();
        for name in self.load {
            let (session, lifecycle, ends) = (session.clone(), lifecycle.clone(), ends.clone());
            loads.spawn(async move {
                let result = session.load(name.clone(), LoadParameters::default()).await;
                lifecycle.note_requested(&name);
                let is_good = result.is_ok(); // what is wrong is in log and index
                let _ = ends.send(Ended { name, is_good }); // nobody follows a server that exits
            });
        }
        while loads.join_next().await.is_some() {}
        unload(&engine, later, &ends).await;
    }
}

async fn unload(engine: &Arc<Engine>, names: Vec<String>, ends: &UnboundedSender<Ended>) {
    for name in names {
        engine.no_longer_required(&name);
        let result = engine.lifecycle.unload_all(None, &name, false).await;
        let _ = ends.send(Ended { name, is_good: result.is_ok() }); // as above
    }
}

fn sight_of(sights: &BTreeMap<String, Sight>, name: &str) -> Sight {
    sights.get(name).copied().unwrap_or(Sight::Unknown)
}

impl Engine {
    /// In poll mode, follows the repositories from what [`Engine::start`] has loaded; never returns. In other modes, and
    /// without an interval, nothing is to be done.
    pub async fn follow_repositories(self: &Arc<Self>) {
        let poller = self.poller.lock().take();
        match (poller, self.options.poll_interval) {
            (Some(poller), Some(interval)) => poller.follow(self, interval).await,
            _ => std::future::pending().await,
        }
    }
}
