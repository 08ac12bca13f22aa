//! Begins the steps of a plan, and takes in how they ended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crds::parts::load::LoadOrder;
use operator_core::{
    adopt_words::DrainOrder,
    manifest::{Manifest, ManifestModel},
};
use tokio::task::{Id, JoinError, JoinHandle};

use super::{Driver, Job};
use crate::{
    adopt::Following,
    fault::{Fault, Reason},
    plan::{Served, Step},
    source::{self, Limits, Progress},
    store::Staged,
    sync::{
        jobs::{self, Ended, Load, NotLoaded},
        memory::{Failed, Memory, WaitingLoad, lacks_a_model},
        report,
    },
    verify::ContentHash,
};

impl Driver {
    /// Begins a step. `true` if it is done already, so that the plan should be asked again.
    pub(super) fn begin(&mut self, step: &Step, following: &Following) -> bool {
        match step {
            Step::Fetch(name) => self.begin_fetch(following.manifest.model(name)),
            Step::Load(name, content) => self.begin_load(following, name, content),
            Step::Unload(name) => {
                let job = jobs::unload(
                    Arc::clone(&self.store),
                    Arc::clone(&self.attempts),
                    self.server.clone(),
                    name.clone(),
                );
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

    /// Begins to delete what fetches have left that were given up, unless that is under way.
    pub(super) fn sweep(&mut self) {
        if self.sweep.as_ref().is_none_or(JoinHandle::is_finished) {
            let partials = self.store.partials();
            self.sweep = Some(tokio::task::spawn_blocking(move || partials.sweep()));
        }
    }

    pub(super) fn begin_unload(&mut self, name: &str, job: impl Future<Output = Ended> + Send + 'static) {
        tracing::info!(model = name, "unloading");
        self.unloading.insert(name.to_owned());
        let id = self.jobs.spawn(job).id();
        self.names.insert(id, Job::Unload { model: name.to_owned() });
    }

    pub(super) fn begin_fetch(&mut self, model: Option<&ManifestModel>) {
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
        let span = self.settings.traces.step("fetch", &model);
        let job = jobs::fetch(Arc::clone(&self.store), model, key, places, Arc::clone(&progress));
        let task = self.jobs.spawn(async move {
            let _slot = slot.taken().await;
            jobs::traced(span, job).await
        });
        self.names.insert(task.id(), Job::Fetch { model: name, progress: Arc::clone(&progress) });
        memory.fetching = Some((progress, task));
    }

    pub(super) fn begin_load(&mut self, following: &Following, name: &str, content: &ContentHash) {
        let (Some(model), Some(entry)) = (following.manifest.model(name), following.entries.get(name)) else { return };
        let record = self.store.record_of(name);
        // one that may have ended a server is loaded by itself, so that it is known which one did
        let slots = if self.attempts.is_suspect(content) { self.settings.loads_at_once.max(1) } else { 1 };
        let unloads_first = model.load.order == LoadOrder::UnloadFirst;
        let drain = match self.facts.adopts.as_ref().filter(|_| unloads_first && self.served(name) != Served::No) {
            Some(adopts) => DrainOrder::of(adopts, &model.adopt_word()),
            None => DrainOrder::None,
        };
        let Some(memory) = self.models.get_mut(name) else { return };
        match drain {
            DrainOrder::Hold => return, // another pod is out of the Service
            DrainOrder::Unsaid if memory.awaits_word(self.settings.word_within, Instant::now()) => return,
            DrainOrder::Unsaid | DrainOrder::None | DrainOrder::After(_) => {}
        }
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
            former: record.active.clone().filter(|_| !is_withheld),
            limit: model.load.timeout.get(),
            unloads_first,
            ends_override: self.index.as_ref().is_some_and(|index| index.overridden(name).is_some()),
            keeps_former: entry.is_in_rollout,
            is_proven: entry.is_proven,
            settle_time: (entry.is_in_trial
                && record.staged_for(&memory.key).is_some_and(|staged| staged.content == *content))
            .then(|| model.load.settle_time()),
        };
        let (permits, slots) = (Arc::clone(&self.loads), u32::try_from(slots).unwrap_or(1));
        let is_over = Arc::new(AtomicBool::new(false));
        let has_begun = Arc::clone(&is_over);
        let (drains, name_of_drained) = (Arc::clone(&self.drains), name.to_owned());
        let span = self.settings.traces.step("load", model);
        let task = self.jobs.spawn(async move {
            if let DrainOrder::After(least) = drain {
                drains.begin(&name_of_drained, least).await;
            }
            let _permits = permits.acquire_many_owned(slots).await; // never closed
            if has_begun.swap(true, Ordering::SeqCst) {
                return Ended::Load(Err(NotLoaded::NotNow)); // nobody wants it any more
            }
            jobs::traced(span, load.run()).await
        });
        self.names.insert(task.id(), Job::Load { model: name.to_owned(), content: content.clone() });
        memory.loading = Some(content.clone());
        memory.loads_before = self.loads_done;
        memory.waiting = Some(WaitingLoad { is_over, task });
    }

    pub(super) fn end(&mut self, ended: Result<(Id, Ended), JoinError>, manifest: &Manifest) {
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
                    Err(NotLoaded::Failed(fault)) if is_wanted => self.load_failed(&model, &content, fault),
                    // whose fault an end of the server is, the attempts say
                    Err(NotLoaded::ServerEnded(error)) => {
                        tracing::warn!(
                            model,
                            content = content.short(),
                            error,
                            "the server ended while it loaded this"
                        );
                    }
                    Err(NotLoaded::Failed(_) | NotLoaded::NotNow) => {}
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

    pub(super) fn fetched(&mut self, model: &str, progress: &Arc<Progress>, fault: Option<Fault>) {
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

    pub(super) fn load_failed(&mut self, model: &str, content: &ContentHash, fault: Fault) {
        tracing::warn!(model, content = content.short(), reason = %fault.reason, error = %fault.message, "not loaded");
        if let Some(memory) = self.models.get_mut(model) {
            let failed = Failed::again(memory.loads.get(content), fault, Instant::now());
            memory.loads.insert(content.clone(), failed);
        }
    }
}
