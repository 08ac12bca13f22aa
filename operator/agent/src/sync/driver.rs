//! The loop of the agent. Per round: look at manifest, disk and server; ask the plan; begin its steps; publish the state;
//! wait until something happens or it is time to look again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use operator_core::manifest::{Manifest, ManifestModel, ManifestSource};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{Id, JoinError, JoinSet},
};

use super::{
    Command, Settings,
    jobs::{self, Ended, NotLoaded},
    memory::{Failed, Memory, lacks_a_model},
    report,
};
use crate::{
    attempts::{Attempts, CRASHES_MAX},
    disk::Disk,
    fault::{Fault, Reason},
    load::{Index, Server},
    plan::{Inputs, Plan, RetryPolicy, Served, Step, Wanted, plan},
    source::{self, Progress},
    state::State,
    store::Store,
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
    fetches: Arc<Semaphore>,
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
        store: Arc<Store>,
        attempts: Arc<Attempts>,
        manifests: watch::Receiver<Arc<Manifest>>,
        state: Arc<watch::Sender<State>>,
    ) -> Self {
        Self {
            server: Server::new(settings.server),
            fetches: Arc::new(Semaphore::new(settings.fetches_at_once.max(1))),
            loads: Arc::new(Semaphore::new(settings.loads_at_once.max(1))),
            settings,
            disk,
            store,
            attempts,
            manifests,
            state,
            models: BTreeMap::new(),
            unloading: BTreeSet::new(),
            unreferenced: BTreeMap::new(),
            index: None,
            is_ready: false,
            jobs: JoinSet::new(),
            names: HashMap::new(),
            loads_done: 0,
        }
    }

    /// Works until nobody sends manifests any more.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let manifest = Arc::clone(&self.manifests.borrow_and_update());
            self.follow(&manifest);
            self.ask_server().await;
            self.follow_start();
            let now = Instant::now();
            let observed = self.observe(&manifest, now);
            let plan = plan(&observed, now);
            let mut is_done_at_once = false;
            for step in &plan.steps {
                is_done_at_once |= self.begin(step, &manifest);
            }
            if is_done_at_once {
                continue; // so that a content is in its place before its state is published
            }
            // what was planned for, not what a fetch has noted since
            self.publish(&manifest, &observed, &plan, now);
            let pause = self.pause(&plan, now);
            tokio::select! {
                changed = self.manifests.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Some(ended) = self.jobs.join_next_with_id() => self.end(ended, &manifest),
                Some(Command::ServerStarting) = commands.recv() => self.reset_attempts(),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Makes memory follow the manifest: each model is about its present entry, in the present state of its source.
    fn follow(&mut self, manifest: &Manifest) {
        self.settings.places.follow(&manifest.sources);
        for model in &manifest.models {
            let memory = self.models.entry(model.name.clone()).or_insert_with(|| Memory {
                is_checked: !matches!(model.source, ManifestSource::Pvc { .. }),
                ..Memory::default()
            });
            memory.set_key(source::key(model, &self.settings.places));
            if memory.fetches.is_some() {
                memory.set_credentials(source::credentials(model, &self.settings.places).as_deref());
            }
        }
        self.models.retain(|name, memory| {
            let stays = manifest.model(name).is_some() || memory.loading.is_some();
            if !stays && let Some(progress) = memory.fetching.take() {
                progress.cancel();
            }
            stays
        });
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
            let contents = record.staged.iter().map(|staged| &staged.content).chain(&record.active);
            for content in contents {
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

    fn observe(&mut self, manifest: &Manifest, now: Instant) -> Inputs {
        self.give_up(now);
        let ledger = self.store.ledger();
        let in_repository = self.store.names();
        let wanted = manifest.models.iter().map(|model| {
            let memory = &self.models[&model.name];
            let record = ledger.get(&model.name).cloned().unwrap_or_default();
            let contents = record.staged.iter().map(|staged| &staged.content).chain(&record.active);
            let suspects = contents.filter(|content| self.is_suspect(content)).cloned().collect();
            let wanted = Wanted {
                suspects,
                retry_policy: retry_policy(model),
                staged: record.staged.filter(|s| s.key == memory.key && memory.is_checked).map(|s| s.content),
                active: record.active,
                linked: self.store.linked(&model.name),
                served: self.served(&model.name),
                fetches: memory.fetches.as_ref().map(|failed| failed.tries),
                loads: memory.loads.iter().map(|(content, failed)| (content.clone(), failed.tries)).collect(),
                is_fetching: memory.fetching.is_some(),
                is_loading: memory.loading.is_some() || self.unloading.contains(&model.name),
            };
            (model.name.clone(), wanted)
        });
        let wanted: BTreeMap<_, _> = wanted.collect();
        let leaving = ledger.into_keys().chain(in_repository).filter(|name| !wanted.contains_key(name));
        let unwanted = leaving
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
    fn begin(&mut self, step: &Step, manifest: &Manifest) -> bool {
        match step {
            Step::Fetch(name) => self.begin_fetch(manifest.model(name)),
            Step::Load(name, content) => self.begin_load(manifest.model(name), content),
            Step::Unload(name) => {
                tracing::info!(model = name, "unloading");
                self.unloading.insert(name.clone());
                let job = jobs::unload(Arc::clone(&self.store), self.server.clone(), name.clone());
                let id = self.jobs.spawn(job).id();
                self.names.insert(id, Job::Unload { model: name.clone() });
            }
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

    fn begin_fetch(&mut self, model: Option<&ManifestModel>) {
        let Some(model) = model.cloned() else { return };
        let Some(memory) = self.models.get_mut(&model.name) else { return };
        let (state, name) = (Arc::clone(&self.state), model.name.clone());
        let key = memory.key.clone();
        let (limits, space) = (self.settings.limits, self.disk.reservation());
        let progress = Progress::on_disk(limits, space, move |stage| report::progress(&state, &name, stage));
        memory.fetching = Some(Arc::clone(&progress));
        memory.credentials = source::credentials(&model, &self.settings.places);
        let name = model.name.clone();
        let (permits, job) = (
            Arc::clone(&self.fetches),
            jobs::fetch(Arc::clone(&self.store), model, key, self.settings.places.clone(), Arc::clone(&progress)),
        );
        let id = self.jobs.spawn(async move {
            let _permit = permits.acquire_owned().await; // never closed
            job.await
        });
        self.names.insert(id.id(), Job::Fetch { model: name, progress });
    }

    fn begin_load(&mut self, model: Option<&ManifestModel>, content: &ContentHash) {
        let Some(model) = model else { return };
        let Some(memory) = self.models.get_mut(&model.name) else { return };
        memory.loading = Some(content.clone());
        memory.loads_before = self.loads_done;
        tracing::info!(model = model.name, content = content.short(), "loading");
        let active = self.store.ledger().remove(&model.name).and_then(|record| record.active);
        let (store, server, limit) = (Arc::clone(&self.store), self.server.clone(), model.load.timeout.get());
        let attempts = Arc::clone(&self.attempts);
        let job = jobs::load(store, server, attempts, model.name.clone(), content.clone(), active, limit);
        let permits = Arc::clone(&self.loads);
        // one that may have ended a server is loaded by itself, so that it is known which one did
        let places = if self.is_suspect(content) { self.settings.loads_at_once.max(1) } else { 1 };
        let places = u32::try_from(places).unwrap_or(1);
        let id = self.jobs.spawn(async move {
            let _permits = permits.acquire_many_owned(places).await; // never closed
            job.await
        });
        self.names.insert(id.id(), Job::Load { model: model.name.clone(), content: content.clone() });
    }

    fn end(&mut self, ended: Result<(Id, Ended), JoinError>, manifest: &Manifest) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(job) = self.names.remove(&id) else { return };
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
                memory.loading = None;
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
                    memory.loading = None;
                }
                self.load_failed(&model, &content, broke_off(&error));
            }
            (Job::Fetch { .. } | Job::Load { .. }, Ok(_)) => unreachable!("each job ends as what it began as"),
        }
    }

    fn fetched(&mut self, model: &str, progress: &Arc<Progress>, fault: Option<Fault>) {
        let Some(memory) = self.models.get_mut(model) else { return };
        if !memory.fetching.as_ref().is_some_and(|current| Arc::ptr_eq(current, progress)) {
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

    fn publish(&self, manifest: &Manifest, observed: &Inputs, plan: &Plan, now: Instant) {
        let (index, models) = (self.index.as_ref(), &self.models);
        self.state.send_if_modified(|state| {
            let next = State {
                manifest_hash: manifest.hash.clone(),
                server_is_live: index.is_some(),
                server_is_ready: self.is_ready,
                is_settled: plan.is_settled,
                server_crashes: state.server_crashes, // whoever runs the agent counts them
                adopts: state.adopts.clone(),
                models: report::describe_all(observed, models, state, index, now),
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
        // disk work runs on threads that only this ends
        for progress in self.models.values().filter_map(|memory| memory.fetching.as_ref()) {
            progress.cancel();
        }
    }
}

fn retry_policy(model: &ManifestModel) -> RetryPolicy {
    RetryPolicy { retries: model.load.retries, backoff: model.load.backoff.get() }
}
