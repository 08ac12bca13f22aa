//! The loop of the agent. Per round: look at manifest, disk and server; ask the plan; begin its steps; publish the state;
//! wait until something happens or it is time to look again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crds::parts::load::LoadOrder;
use operator_core::manifest::{Manifest, ManifestModel, ManifestSource};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{Id, JoinError, JoinSet},
};

use super::{
    Command, Settings,
    fetch_slots::FetchSlots,
    foreign,
    jobs::{self, Ended, Load, NotLoaded},
    memory::{Failed, Memory, WaitingLoad, lacks_a_model},
    report::{self, Known},
};
use crate::{
    adopt::{Following, LastServed, PodFacts, follow},
    attempts::{Attempts, CRASHES_MAX},
    disk::Disk,
    fault::{Fault, Reason},
    load::{Index, Server},
    plan::{Inputs, Plan, RetryPolicy, Served, Step, Wanted, plan},
    source::{self, Limits, Progress},
    state::{ForeignLoads, State},
    store::{Record, Staged, Store},
    verify::ContentHash,
};

/// How often the server is asked while it starts or changes something.
const SOON: Duration = Duration::from_millis(100);

/// Shortest pause before the plan is asked again by time alone.
const SHORTEST: Duration = Duration::from_millis(10);

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
    is_ready: bool,
    jobs: JoinSet<Ended>,
    names: HashMap<Id, Job>,
    /// Loads that succeeded.
    loads_done: u64,
    /// What the server has loaded for others, by model, and how often it was seen.
    foreign: BTreeMap<String, String>,
    foreign_loads: ForeignLoads,
    fetches: FetchSlots,
    loads: Arc<Semaphore>,
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
        let nothing_adopted = PodFacts { adopts: Some(BTreeSet::new()), ..PodFacts::default() };
        let following = watch::Sender::new(Arc::new(follow(&published, &nothing_adopted)));
        let mut driver = Self {
            server: Server::new(settings.server.clone()),
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
            is_ready: false,
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
            let now = Instant::now();
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
            let pause = self.pause(&plan, now);
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
        if !is_as_before {
            self.following.send_replace(Arc::new(follow(&published, &facts)));
            self.facts = facts;
        }
        Arc::clone(&self.following.borrow())
    }

    /// Makes memory follow the manifest: each model is about its present entry, in the present state of its source.
    fn follow(&mut self, following: &Following) {
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
    fn note_confirmed(&self, following: &Following, observed: &Inputs) {
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

    async fn ask_server(&mut self) {
        let was_live = self.index.is_some();
        self.index = self.server.index().await.ok();
        self.is_ready = self.index.is_some() && self.server.is_ready().await;
        if was_live && self.index.is_none() {
            self.reset_attempts(); // whoever answers next is another process
        }
    }

    /// Closes attempts of the server's start that it has answered: by serving the model, by saying why not, or by being ready.
    fn follow_start(&self) {
        let Some(index) = &self.index else { return };
        let starting = self.attempts.starting();
        if starting.is_empty() {
            return;
        }
        let is_answered = |name: &String| {
            let says = !index.ready_versions(name).is_empty() || index.reason(name).is_some();
            self.is_ready || (says && !index.is_changing(name))
        };
        let names = self.store.names();
        let answered = names.iter().filter(|name| is_answered(name)).filter_map(|name| self.store.linked(name));
        let answered: Vec<ContentHash> = answered.filter(|content| starting.contains(content)).collect();
        self.attempts.succeeded(&answered);
    }

    /// Whether the content has ended as many server processes as it may.
    fn is_given_up(&self, content: &ContentHash, memory: &Memory) -> bool {
        let is_under_way = memory.loading.as_ref() == Some(content) || self.attempts.is_starting(content);
        !is_under_way && self.attempts.count(content) >= CRASHES_MAX
    }

    /// Notes contents that are not loaded any more, because server processes ended while they loaded them.
    fn give_up(&mut self, now: Instant) {
        let ledger = self.store.ledger();
        let names: Vec<String> = self.models.keys().cloned().collect();
        for name in names {
            let Some(record) = ledger.get(&name) else { continue };
            for content in record.contents() {
                let memory = &self.models[&name];
                let is_known = memory.loads.get(content).is_some_and(|failed| failed.tries.is_final);
                if is_known || !self.is_given_up(content, memory) {
                    continue;
                }
                let count = self.attempts.count(content);
                let message = format!(
                    "{count} server processes ended while they loaded this content, so it is not loaded again: find the cause \
                     in the server's log, then change the model, or raise spec.resources.limits.memory of its server"
                );
                tracing::error!(model = name, content = content.short(), "given up: the server ends when it loads it");
                let failed = Failed::for_good(Fault::new(Reason::ServerCrashed, message), count, now);
                if let Some(memory) = self.models.get_mut(&name) {
                    memory.loads.insert(content.clone(), failed);
                }
            }
        }
    }

    /// What did not load in one server process gets new chances in the next.
    fn reset_attempts(&mut self) {
        for memory in self.models.values_mut() {
            memory.loads.retain(|_, failed| failed.tries.is_final);
        }
    }

    fn observe(&mut self, following: &Following, now: Instant) -> Inputs {
        self.give_up(now);
        let ledger = self.store.ledger();
        let in_repository = self.store.names();
        let wanted = following.manifest.models.iter().map(|model| {
            let memory = &self.models[&model.name];
            let record = ledger.get(&model.name).cloned().unwrap_or_default();
            let suspects = record.contents().filter(|content| self.is_suspect(content)).cloned().collect();
            let withheld = following.entries.get(&model.name).and_then(|entry| entry.withheld.as_deref());
            let confirmed = record.confirmed.as_ref();
            let wanted = Wanted {
                suspects,
                retry_policy: retry_policy(model),
                staged: record.staged_for(&memory.key).filter(|_| memory.is_checked).map(|s| s.content.clone()),
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
        }
    }

    /// Notes what the server has loaded for somebody else, and counts what it had not loaded before.
    fn note_foreign(&mut self, seen: BTreeMap<String, String>) {
        for (model, what) in &seen {
            if self.foreign.get(model) != Some(what) {
                tracing::warn!(model, "{what}: it is undone");
                self.foreign_loads.count = self.foreign_loads.count.saturating_add(1);
                self.foreign_loads.last.clone_from(what);
            }
        }
        self.foreign = seen;
    }

    /// Whether a server process ended while it loaded the content.
    fn is_suspect(&self, content: &ContentHash) -> bool {
        self.attempts.count(content) > 0 && !self.attempts.is_starting(content)
    }

    fn served(&self, name: &str) -> Served {
        match &self.index {
            Some(index) if index.is_changing(name) => Served::Changing,
            Some(index) if !index.ready_versions(name).is_empty() => Served::Yes,
            _ => Served::No,
        }
    }

    /// Begins a step. `true` if it is done already, so that the plan should be asked again.
    fn begin(&mut self, step: &Step, following: &Following) -> bool {
        match step {
            Step::Fetch(name) => self.begin_fetch(following.manifest.model(name)),
            Step::Load(name, content) => self.begin_load(following, name, content),
            Step::Unload(name) => {
                let job = jobs::unload(Arc::clone(&self.store), self.server.clone(), name.clone());
                self.begin_unload(name, job);
            }
            Step::Evict(name) => self.begin_unload(name, jobs::evict(self.server.clone(), name.clone())),
            Step::Link(name, content) => {
                return match self.store.point(name, content) {
                    Ok(()) => true,
                    Err(fault) => {
                        self.load_failed(name, content, fault);
                        false
                    }
                };
            }
            Step::Delete(content) => match self.store.remove(content) {
                Ok(removed) => {
                    self.attempts.forget(content);
                    self.models.values_mut().for_each(Memory::room_was_made);
                    drop(tokio::task::spawn_blocking(move || drop(removed)));
                }
                Err(fault) => tracing::warn!(%content, error = %fault, "not deleted"),
            },
        }
        false
    }

    fn begin_unload(&mut self, name: &str, job: impl Future<Output = Ended> + Send + 'static) {
        tracing::info!(model = name, "unloading");
        self.unloading.insert(name.to_owned());
        let id = self.jobs.spawn(job).id();
        self.names.insert(id, Job::Unload { model: name.to_owned() });
    }

    fn begin_fetch(&mut self, model: Option<&ManifestModel>) {
        let Some(model) = model.cloned() else { return };
        let Some(memory) = self.models.get_mut(&model.name) else { return };
        let (state, name) = (Arc::clone(&self.state), model.name.clone());
        let usual = self.settings.limits;
        let limits = Limits { fetch: model.load.fetch_timeout.map_or(usual.fetch, |limit| limit.get()), ..usual };
        let space = self.disk.reservation();
        let progress = Progress::on_disk(limits, space, move |stage| report::progress(&state, &name, stage));
        memory.credentials = source::credentials(&model, &self.settings.places);
        let name = model.name.clone();
        let slot = self.fetches.of(&model.source);
        let (key, places) = (memory.key.clone(), self.settings.places.clone());
        let job = jobs::fetch(Arc::clone(&self.store), model, key, places, Arc::clone(&progress));
        let task = self.jobs.spawn(async move {
            let _slot = slot.taken().await;
            job.await
        });
        self.names.insert(task.id(), Job::Fetch { model: name, progress: Arc::clone(&progress) });
        memory.fetching = Some((progress, task));
    }

    fn begin_load(&mut self, following: &Following, name: &str, content: &ContentHash) {
        let (Some(model), Some(entry)) = (following.manifest.model(name), following.entries.get(name)) else { return };
        let record = self.store.record_of(name);
        // one that may have ended a server is loaded by itself, so that it is known which one did
        let slots = if self.is_suspect(content) { self.settings.loads_at_once.max(1) } else { 1 };
        let Some(memory) = self.models.get_mut(name) else { return };
        tracing::info!(model = name, content = content.short(), "loading");
        let is_withheld =
            entry.withheld.is_some() && record.confirmed.as_ref().map(Staged::entry) == entry.withheld.as_deref();
        let load = Load {
            store: Arc::clone(&self.store),
            server: self.server.clone(),
            attempts: Arc::clone(&self.attempts),
            name: name.to_owned(),
            content: content.clone(),
            key: record.staged_for(&memory.key).filter(|staged| staged.content == *content).map(|_| memory.key.clone()),
            former: record.active.filter(|_| !is_withheld),
            limit: model.load.timeout.get(),
            unloads_first: model.load.order == LoadOrder::UnloadFirst,
            ends_override: self.index.as_ref().is_some_and(|index| index.overridden(name).is_some()),
            keeps_former: entry.is_in_rollout,
            is_proven: entry.is_proven,
        };
        let (permits, slots) = (Arc::clone(&self.loads), u32::try_from(slots).unwrap_or(1));
        let is_over = Arc::new(AtomicBool::new(false));
        let has_begun = Arc::clone(&is_over);
        let task = self.jobs.spawn(async move {
            let _permits = permits.acquire_many_owned(slots).await; // never closed
            if has_begun.swap(true, Ordering::SeqCst) {
                return Ended::Load(Err(NotLoaded::NotNow)); // nobody wants it any more
            }
            load.run().await
        });
        self.names.insert(task.id(), Job::Load { model: name.to_owned(), content: content.clone() });
        memory.loading = Some(content.clone());
        memory.loads_before = self.loads_done;
        memory.waiting = Some(WaitingLoad { is_over, task });
    }

    fn end(&mut self, ended: Result<(Id, Ended), JoinError>, manifest: &Manifest) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(job) = self.names.remove(&id) else { return };
        if matches!(&ended, Err(error) if error.is_cancelled()) {
            return; // whoever cancelled it has noted that
        }
        let broke_off = |error: &JoinError| Fault::new(Reason::StoreFailed, format!("the work broke off: {error}"));
        match (job, ended) {
            (Job::Unload { model }, _) => {
                self.unloading.remove(&model);
                tracing::info!(model, "unloaded");
            }
            (Job::Fetch { model, progress }, Ok((_, Ended::Fetch(result)))) => {
                self.fetched(&model, &progress, result.err());
            }
            (Job::Fetch { model, progress }, Err(error)) => self.fetched(&model, &progress, Some(broke_off(&error))),
            (Job::Load { model, content }, Ok((_, Ended::Load(result)))) => {
                let is_wanted = manifest.model(&model).is_some();
                let Some(memory) = self.models.get_mut(&model) else { return };
                (memory.loading, memory.waiting) = (None, None);
                match result {
                    Ok(took) => {
                        memory.load_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
                        memory.loads.remove(&content);
                        tracing::info!(model, content = content.short(), elapsed_ms = memory.load_ms, "loaded");
                        self.loads_done += 1;
                        self.models.values_mut().for_each(Memory::another_serves);
                    }
                    // the model it lacked may have come while the server looked for it: asked again at once
                    Err(NotLoaded::Failed(fault))
                        if lacks_a_model(&fault) && memory.loads_before != self.loads_done => {}
                    Err(NotLoaded::Failed(fault) | NotLoaded::ServerEnded(fault)) if is_wanted => {
                        self.load_failed(&model, &content, fault)
                    }
                    Err(NotLoaded::Failed(_) | NotLoaded::ServerEnded(_) | NotLoaded::NotNow) => {}
                }
            }
            (Job::Load { model, content }, Err(error)) => {
                if let Some(memory) = self.models.get_mut(&model) {
                    (memory.loading, memory.waiting) = (None, None);
                }
                self.load_failed(&model, &content, broke_off(&error));
            }
            (Job::Fetch { .. } | Job::Load { .. }, Ok(_)) => unreachable!("each job ends as what it began as"),
        }
    }

    fn fetched(&mut self, model: &str, progress: &Arc<Progress>, fault: Option<Fault>) {
        let Some(memory) = self.models.get_mut(model) else { return };
        if !memory.fetching.as_ref().is_some_and(|(current, _)| Arc::ptr_eq(current, progress)) {
            return; // it was ended, and another one may be under way
        }
        memory.fetching = None;
        match fault {
            None => {
                memory.fetches = None;
                memory.is_checked = true;
            }
            Some(fault) => {
                tracing::warn!(model, reason = %fault.reason, error = %fault.message, "not fetched");
                memory.fetches = Some(Failed::again(memory.fetches.as_ref(), fault, Instant::now()));
            }
        }
    }

    fn load_failed(&mut self, model: &str, content: &ContentHash, fault: Fault) {
        tracing::warn!(model, content = content.short(), reason = %fault.reason, error = %fault.message, "not loaded");
        if let Some(memory) = self.models.get_mut(model) {
            let failed = Failed::again(memory.loads.get(content), fault, Instant::now());
            memory.loads.insert(content.clone(), failed);
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
                adopts: self.facts.adopts.clone(),
                foreign_loads: self.foreign_loads.clone(),
                models: report::describe_all(observed, &known, state, now),
            };
            let is_new = *state != next;
            *state = next;
            is_new
        });
    }

    /// How long to wait if nothing happens.
    fn pause(&self, plan: &Plan, now: Instant) -> Duration {
        let is_changing = self.models.keys().any(|name| self.served(name) == Served::Changing);
        let look = if self.index.is_none() || is_changing { SOON } else { self.settings.look_again };
        plan.wake.map_or(look, |wake| wake.saturating_duration_since(now).max(SHORTEST).min(look))
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
