//! The loop of the agent. Per round: look at manifest, disk and server; ask the plan; begin its steps; publish the state;
//! wait until something happens or it is time to look again. Beside it, what fetches have left is deleted.

mod observe;
mod steps;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use operator_core::manifest::{Manifest, ManifestModel};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{Id, JoinHandle, JoinSet},
};

use super::{
    drain::Drains,
    fetch_slots::FetchSlots,
    jobs::Ended,
    memory::Memory,
    report::{self, Known},
    settings::Settings,
};
use crate::{
    adopt::{Following, LastServed, PodFacts, follow},
    attempts::Attempts,
    disk::Disk,
    load::{CallError, Index, Server},
    plan::{Inputs, Plan, RetryPolicy, Served, plan},
    source::Progress,
    state::{ForeignLoads, State},
    store::{Record, Store},
    verify::ContentHash,
};

/// How often the server is asked while it starts or changes something.
const SOON: Duration = Duration::from_millis(100);

/// Shortest pause before the plan is asked again by time alone.
const SHORTEST: Duration = Duration::from_millis(10);

/// How long nobody has to listen at the server's address before its process counts as ended. One that ends on purpose is told of
/// at once.
const ABSENCE: Duration = Duration::from_secs(3);

/// Commands to an agent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    ServerStarting,
}

/// The loop and all it holds.
pub(super) struct Driver {
    settings: Settings,
    disk: Arc<Disk>,
    store: Arc<Store>,
    attempts: Arc<Attempts>,
    server: Server,
    manifests: watch::Receiver<Arc<Manifest>>,
    /// What is followed of the manifest, and what that was decided by.
    following: watch::Sender<Arc<Following>>,
    facts: PodFacts,
    state: Arc<watch::Sender<State>>,
    models: BTreeMap<String, Memory>,
    unloading: BTreeSet<String>,
    unreferenced: BTreeMap<ContentHash, Instant>,
    index: Option<Index>,
    /// The server process that was seen last, and since when nobody listens at its address, if that is so.
    live_in: Option<u64>,
    absent_since: Option<Instant>,
    is_ready: bool,
    jobs: JoinSet<Ended>,
    names: HashMap<Id, Job>,
    /// Loads that succeeded.
    loads_done: u64,
    /// What the server has loaded for others, by model, and how often it was seen.
    foreign: BTreeMap<String, String>,
    foreign_loads: ForeignLoads,
    fetches: FetchSlots,
    /// What deletes the files of fetches that were given up.
    sweep: Option<JoinHandle<()>>,
    loads: Arc<Semaphore>,
    drains: Arc<Drains>,
}

/// What a task works on, to know it even if the task dies.
enum Job {
    Fetch { model: String, progress: Arc<Progress> },
    Load { model: String, content: ContentHash },
    Unload { model: String },
}

impl Driver {
    pub(super) fn new(
        settings: Settings,
        disk: Arc<Disk>,
        (store, attempts): (Arc<Store>, Arc<Attempts>),
        manifests: watch::Receiver<Arc<Manifest>>,
        state: Arc<watch::Sender<State>>,
    ) -> Self {
        let published = Arc::clone(&manifests.borrow());
        settings.traces.follow(&published);
        let nothing_adopted = PodFacts { adopts: Some(BTreeSet::new()), ..PodFacts::default() };
        let following = watch::Sender::new(Arc::new(follow(&published, &nothing_adopted)));
        let server = Server::new(settings.server.clone());
        let mut driver = Self {
            drains: Arc::new(Drains::new(server.clone())),
            server,
            fetches: FetchSlots::new(settings.fetches_at_once),
            loads: Arc::new(Semaphore::new(settings.loads_at_once.max(1))),
            settings,
            disk,
            store,
            attempts,
            manifests,
            following,
            facts: nothing_adopted,
            foreign: BTreeMap::new(),
            foreign_loads: ForeignLoads::default(),
            state,
            models: BTreeMap::new(),
            unloading: BTreeSet::new(),
            unreferenced: BTreeMap::new(),
            index: None,
            live_in: None,
            absent_since: None,
            is_ready: false,
            sweep: None,
            jobs: JoinSet::new(),
            names: HashMap::new(),
            loads_done: 0,
        };
        driver.decide_entries();
        driver
    }

    /// What is followed, now and from now on.
    pub(super) fn following(&self) -> watch::Receiver<Arc<Following>> {
        self.following.subscribe()
    }

    /// Works until nobody sends manifests any more.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            self.ask_server().await;
            let following = self.decide_entries();
            let manifest = Arc::clone(&following.manifest);
            self.follow(&following);
            self.follow_start();
            self.sweep();
            let now = Instant::now();
            let settles = if self.index.is_some() { self.attempts.settle(now) } else { None };
            let observed = self.observe(&following, now);
            self.note_confirmed(&following, &observed);
            let plan = plan(&observed, now);
            let mut is_done_at_once = false;
            for step in &plan.steps {
                is_done_at_once |= self.begin(step, &following);
            }
            if is_done_at_once {
                continue; // so that a content is in its place before its state is published
            }
            // what was planned for, not what a fetch has noted since
            self.publish(&following, &observed, &plan, now);
            // an ensemble leaves with its parts and comes back after them
            if !self.is_any_changing() && self.models.values().all(|memory| memory.loading.is_none()) {
                self.drains.release();
            }
            let pause = self.pause(&plan, settles, now);
            tokio::select! {
                changed = self.manifests.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = changed(&mut self.settings.adopts) => {}
                Some(ended) = self.jobs.join_next_with_id() => self.end(ended, &manifest),
                Some(Command::ServerStarting) = commands.recv() => self.reset_attempts(),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Which entries of the manifest are followed, decided anew if anything has changed that it is decided by.
    fn decide_entries(&mut self) -> Arc<Following> {
        let published = Arc::clone(&self.manifests.borrow_and_update());
        let in_rollout = published.models.iter().filter(|model| model.rollout.is_some());
        let (mut last_served, mut failed_formers) = (BTreeMap::new(), BTreeSet::new());
        for model in in_rollout {
            let record = self.store.record_of(&model.name);
            last_served.insert(model.name.clone(), last_served_of(&record));
            let former = model.rollout.as_ref().and_then(|rollout| rollout.former.as_deref());
            failed_formers.extend(former.and_then(|former| {
                let hash = former.content_hash();
                let following = self.following.borrow();
                let is_followed = following.entries.get(&model.name).is_some_and(|entry| entry.hash == hash);
                let has_failed =
                    is_followed && self.models.get(&model.name).is_some_and(|memory| memory.has_failed(&record));
                (has_failed || self.facts.failed_formers.contains(&hash)).then_some(hash)
            }));
        }
        let adopts = self.settings.adopts.as_mut().map(|adopts| adopts.borrow_and_update().clone());
        let facts = PodFacts { adopts, last_served, failed_formers };
        let is_as_before = self.facts == facts && Arc::ptr_eq(&self.following.borrow().published, &published);
        if !Arc::ptr_eq(&self.following.borrow().published, &published) {
            self.settings.traces.follow(&published);
        }
        if !is_as_before {
            self.following.send_replace(Arc::new(follow(&published, &facts)));
            self.facts = facts;
        }
        Arc::clone(&self.following.borrow())
    }

    async fn ask_server(&mut self) {
        let (was_live, process) = (self.index.is_some(), self.attempts.process());
        let answer = self.server.index().await;
        let is_absent = matches!(answer, Err(CallError::Absent(_)));
        self.index = answer.ok();
        self.is_ready = self.index.is_some() && self.server.is_ready().await;
        if was_live && self.index.is_none() {
            self.reset_attempts(); // whoever answers next is another process
        }
        // who starts it says so, but not before the next start, which may be minutes away
        if self.index.is_some() {
            self.live_in = Some(process);
        }
        self.absent_since =
            self.absent_since.or(Some(Instant::now())).filter(|_| is_absent && self.live_in == Some(process));
        if self.absent_since.is_some_and(|since| since.elapsed() >= ABSENCE) {
            self.attempts.server_gone(process, &self.store);
        }
    }

    /// What did not load in one server process gets new chances in the next.
    fn reset_attempts(&mut self) {
        for memory in self.models.values_mut() {
            memory.loads.retain(|_, failed| failed.tries.is_final);
        }
    }

    fn publish(&self, following: &Following, observed: &Inputs, plan: &Plan, now: Instant) {
        let index = self.index.as_ref();
        let known = Known { following, memories: &self.models, attempts: &self.attempts, index };
        self.state.send_if_modified(|state| {
            let next = State {
                manifest_hash: following.published.hash.clone(),
                server_is_live: index.is_some(),
                server_is_ready: self.is_ready,
                is_settled: plan.is_settled,
                server_crashes: state.server_crashes, // whoever runs the agent counts them
                last_crash: state.last_crash.clone(),
                adopts: self.facts.adopts.clone(),
                foreign_loads: self.foreign_loads.clone(),
                models: report::describe_all(observed, &known, state, now),
            };
            let is_new = *state != next;
            *state = next;
            is_new
        });
    }

    /// Whether a version of a model is being loaded or unloaded.
    fn is_any_changing(&self) -> bool {
        self.models.keys().any(|name| self.served(name) == Served::Changing)
    }

    /// How long to wait if nothing happens. `settles`: when a content may have settled.
    fn pause(&self, plan: &Plan, settles: Option<Instant>, now: Instant) -> Duration {
        let look = if self.index.is_none() || self.is_any_changing() { SOON } else { self.settings.look_again };
        let words_due = self.models.values().filter_map(|memory| memory.word_due).filter(|due| *due > now);
        let wake = plan.wake.into_iter().chain(settles).chain(words_due).min();
        wake.map_or(look, |wake| wake.saturating_duration_since(now).max(SHORTEST).min(look))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.models.values_mut().for_each(Memory::cancel);
    }
}

/// Waits until the contents that may be adopted are others; for ever if nobody says which.
async fn changed(adopts: &mut Option<watch::Receiver<BTreeSet<String>>>) {
    if let Some(adopts) = adopts
        && adopts.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// What was served last, as the ledger has it.
fn last_served_of(record: &Record) -> LastServed {
    match (&record.confirmed, &record.active) {
        (Some(confirmed), _) => LastServed::Entry(confirmed.entry().to_owned()),
        (None, Some(_)) => LastServed::Unknown,
        (None, None) => LastServed::Nothing,
    }
}

fn retry_policy(model: &ManifestModel) -> RetryPolicy {
    RetryPolicy { retries: model.load.retries, backoff: model.load.backoff.get() }
}
