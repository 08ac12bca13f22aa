//! Keeps one instance's worker running: one that has died is replaced, at once the first time, then after longer and longer
//! pauses for as long as it goes on dying. What is decided is in [`Backoff`]; the rest waits and starts.

use std::{
    mem,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use server_core::{
    backend::{Health, Placement},
    error::{Error, Result},
};

use super::{
    memory_limit::used_by_all,
    probe::Probes,
    process::Process,
    reload::Sources,
    start::{Abort, Starter},
    worker::Worker,
};

/// How long a batch waits for a worker that is being replaced, counted from when the one before was lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often an instance that has no worker looks whether another of its model still serves.
const LOOK: Duration = Duration::from_millis(100);

// === decisions ===

/// When the next worker is started.
#[derive(Debug, Default)]
struct Backoff {
    losses: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);
    /// A worker that has served for so long has proven that it can.
    const PROVEN: Duration = Duration::from_secs(10);

    /// A worker is lost that had served for so long, or was not ready at all: the pause before the next start.
    fn lost(&mut self, served: Duration) -> Duration {
        if served >= Self::PROVEN {
            self.losses = 0;
        }
        let doublings = self.losses.checked_sub(1);
        self.losses = self.losses.saturating_add(1);
        doublings.map_or(Duration::ZERO, |doublings| {
            Self::FIRST.saturating_mul(2u32.saturating_pow(doublings)).min(Self::LONGEST)
        })
    }
}

// === the instances of a model together ===

/// What the instances of one model share.
#[derive(Default)]
pub(super) struct Workers {
    /// Instances that have a worker.
    serving: AtomicUsize,
    /// Workers that took the place of another, since the model was loaded.
    restarts: AtomicU64,
    /// Through which they are asked whether they are ready.
    pub(super) probes: Probes,
    /// The processes of workers that serve.
    processes: Mutex<Vec<Weak<Process>>>,
}

impl Workers {
    /// Workers that took the place of another.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Bytes that the workers hold, with the processes they have started. None where there is no worker.
    pub(super) fn memory(&self) -> Option<u64> {
        let mut processes = self.processes.lock();
        processes.retain(|process| process.strong_count() > 0);
        let running: Vec<_> = processes.iter().filter_map(Weak::upgrade).collect();
        drop(processes);
        (!running.is_empty()).then(|| running.iter().map(|process| used_by_all(process.pid())).sum())
    }
}

// === one instance ===

/// The worker of one instance, as the instance's thread takes it for each batch. Dropping it ends the worker.
pub(super) struct Supervisor(Arc<Watch>);

pub(super) struct Watch {
    starter: Arc<Starter>,
    placement: Placement,
    health: Health,
    state: Mutex<State>,
    changed: Condvar,
    /// Ends the start of the next worker.
    abort: Abort,
    /// The files of the model, if workers are replaced when those change.
    sources: Option<Sources>,
}

struct State {
    worker: Place,
    backoff: Backoff,
    /// When the last worker was ready.
    ready_at: Instant,
}

#[allow(clippy::large_enum_variant, reason = "there is one for each instance, and it nearly always has a worker")]
enum Place {
    /// It waits for a batch.
    Here(Worker),
    /// The instance's thread has it.
    Taken,
    /// It is lost and is being replaced.
    Lost { since: Instant, reason: Error },
    /// The instance goes.
    Ended,
}

impl Supervisor {
    /// Starts the worker of an instance.
    ///
    /// Errors: the model cannot be imported, or `initialize` fails.
    pub(super) fn start(starter: Arc<Starter>, placement: &Placement, health: &Health) -> Result<Self> {
        let sources = starter.sources();
        let worker = starter.ready_worker(placement, health, &Abort::default())?;
        let state = State { worker: Place::Taken, backoff: Backoff::default(), ready_at: Instant::now() };
        let watch = Arc::new(Watch {
            starter,
            placement: placement.clone(),
            health: health.clone(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            abort: Abort::default(),
            sources,
        });
        watch.serve(worker);
        Ok(Self(watch))
    }

    /// The worker's place, for whoever finishes a batch of the instance on another thread.
    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.0
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let before = mem::replace(&mut self.0.state.lock().worker, Place::Ended);
        self.0.changed.notify_all();
        match before {
            Place::Here(worker) => {
                self.0.starter.workers.serving.fetch_sub(1, Ordering::SeqCst);
                worker.end();
            }
            Place::Taken => {
                self.0.starter.workers.serving.fetch_sub(1, Ordering::SeqCst);
            }
            Place::Lost { .. } => self.0.abort.abort(),
            Place::Ended => {}
        }
    }
}

impl Watch {
    /// Takes the worker. Waits for a while if it is being replaced.
    ///
    /// Errors: why there is none.
    pub(super) fn take(self: &Arc<Self>) -> Result<Worker> {
        let mut state = self.state.lock();
        loop {
            match mem::replace(&mut state.worker, Place::Taken) {
                Place::Here(worker) => {
                    drop(state);
                    return Ok(self.up_to_date(worker));
                }
                Place::Lost { since, reason } => {
                    let is_too_late = since.elapsed() >= PATIENCE;
                    let error = is_too_late.then(|| reason.clone());
                    state.worker = Place::Lost { since, reason };
                    if let Some(error) = error {
                        return Err(error);
                    }
                    self.changed.wait_until(&mut state, since + PATIENCE);
                }
                Place::Taken | Place::Ended => return Err(Error::internal("the worker has ended")),
            }
        }
    }

    /// Takes the worker, if it is there.
    pub(super) fn try_take(&self) -> Option<Worker> {
        let mut state = self.state.lock();
        match mem::replace(&mut state.worker, Place::Taken) {
            Place::Here(worker) => Some(worker),
            other => {
                state.worker = other;
                None
            }
        }
    }

    /// Whether [`Watch::take`] may give another worker than before, because the model has changed.
    pub(super) fn reloads(&self) -> bool {
        self.sources.is_some()
    }

    /// Gives it back, ready for the next batch; or it is lost for that reason, and another is started.
    pub(super) fn put_back(self: &Arc<Self>, worker: Worker, lost: Option<Error>) {
        let Some(reason) = lost else {
            self.state.lock().worker = Place::Here(worker);
            if self.has_gone() {
                self.replace_if_gone(); // nobody was told while it was away
            }
            return;
        };
        self.mark_lost(&mut self.state.lock(), reason.clone());
        drop(worker); // the process is killed, if it still runs
        self.replace(reason);
    }

    /// Blocks while there is no worker and another instance has one: it takes what waits.
    pub(super) fn leave_to_others(&self) {
        let mut state = self.state.lock();
        while matches!(state.worker, Place::Lost { .. }) && self.starter.workers.serving.load(Ordering::SeqCst) > 0 {
            self.changed.wait_for(&mut state, LOOK);
        }
    }

    /// A worker is ready. It is ended if the instance has gone meanwhile.
    fn serve(self: &Arc<Self>, worker: Worker) {
        self.listen_to(&worker);
        self.starter.workers.processes.lock().push(Arc::downgrade(worker.process()));
        let mut state = self.state.lock();
        if matches!(state.worker, Place::Ended) {
            drop(state);
            return worker.end();
        }
        state.worker = Place::Here(worker);
        state.ready_at = Instant::now();
        self.starter.workers.serving.fetch_add(1, Ordering::SeqCst);
        self.health.set_reason(None);
        self.health.set(true);
        drop(state);
        self.changed.notify_all();
        if self.has_gone() {
            self.look_after(); // nobody was told
        }
    }

    fn listen_to(self: &Arc<Self>, worker: &Worker) {
        let (watch, shared) = (Arc::downgrade(self), Arc::downgrade(&worker.shared));
        worker.shared.on_gone(Box::new(move || {
            if let (Some(watch), Some(_)) = (Weak::upgrade(&watch), Weak::upgrade(&shared)) {
                watch.look_after();
            }
        }));
    }

    /// That worker, or a new one if the files of the model have changed. A worker that cannot be made of them is no reason to
    /// end the one there is.
    fn up_to_date(self: &Arc<Self>, worker: Worker) -> Worker {
        if !self.has_new_sources() {
            return worker;
        }
        let name = self.name();
        match self.starter.ready_worker(&self.placement, &self.health, &Abort::default()) {
            Ok(new) => {
                tracing::info!(
                    model = self.starter.source.name,
                    "the files of '{name}' have changed: it runs the new ones"
                );
                self.health.set_reason(None);
                self.listen_to(&new);
                worker.end_after_its_requests();
                new
            }
            Err(error) => {
                let problem = format!("the files of '{name}' have changed, and it goes on with the old ones: {error}");
                tracing::error!(model = self.starter.source.name, "{problem}");
                self.health.set_reason(Some(problem));
                worker
            }
        }
    }

    /// Whether the files of the model have changed since a worker was made of them.
    fn has_new_sources(&self) -> bool {
        self.sources.as_ref().is_some_and(|sources| sources.have_changed(Instant::now()))
    }

    /// The worker of the instance has closed its channels. Called by the thread that attends to it, which cannot wait for
    /// its own end: so another looks.
    fn look_after(self: &Arc<Self>) {
        let watch = self.clone();
        let look = move || watch.replace_if_gone();
        if let Err(error) = thread::Builder::new().name(format!("{} watch", self.name())).spawn(look) {
            tracing::error!(%error, "no thread to replace the worker of '{}'; its next batch does", self.name());
        }
    }

    fn has_gone(&self) -> bool {
        matches!(&self.state.lock().worker, Place::Here(worker) if worker.shared.is_gone())
    }

    /// Replaces the worker if it waits for a batch that it will never run. If it is taken, who has it sees it by itself.
    fn replace_if_gone(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let mut worker = match mem::replace(&mut state.worker, Place::Taken) {
            Place::Here(worker) if worker.shared.is_gone() => worker,
            other => return state.worker = other,
        };
        self.mark_lost(&mut state, Error::internal("the worker is gone"));
        drop(state);
        let reason = worker.lost();
        worker.shared.requests.lost(&reason); // those that were still to be answered
        drop(worker);
        self.replace(reason);
    }

    fn mark_lost(&self, state: &mut State, reason: Error) {
        state.worker = Place::Lost { since: Instant::now(), reason };
        self.starter.workers.serving.fetch_sub(1, Ordering::SeqCst);
        self.health.set(false);
    }

    /// Has another worker started for one that was marked as lost; this is why it was.
    fn replace(self: &Arc<Self>, why: Error) {
        let mut state = self.state.lock();
        let served = state.ready_at.elapsed();
        let pause = state.backoff.lost(served);
        let Place::Lost { reason, .. } = &mut state.worker else { return }; // the instance has gone
        *reason = why.clone();
        self.say(&why, pause);
        drop(state);
        let watch = self.clone();
        let restart = move || watch.restart(pause);
        if let Err(error) = thread::Builder::new().name(format!("{} restart", self.name())).spawn(restart) {
            tracing::error!(%error, "no thread to start another worker of '{}'", self.name());
        }
    }

    /// Starts workers until one is ready or the instance goes.
    fn restart(self: &Arc<Self>, mut pause: Duration) {
        loop {
            if !self.pause(pause) {
                return;
            }
            match self.starter.ready_worker(&self.placement, &self.health, &self.abort) {
                Ok(worker) => {
                    self.starter.workers.restarts.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(model = self.starter.source.name, "the worker of '{}' was restarted", self.name());
                    return self.serve(worker);
                }
                Err(error) => {
                    let mut state = self.state.lock();
                    pause = state.backoff.lost(Duration::ZERO);
                    let Place::Lost { reason, .. } = &mut state.worker else { return }; // the instance has gone
                    *reason = error.clone();
                    drop(state);
                    self.say(&error, pause);
                }
            }
        }
    }

    /// Waits for so long. Returns whether the instance is still there.
    fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut state = self.state.lock();
        while !matches!(state.worker, Place::Ended) {
            let look = if self.sources.is_some() { until.min(Instant::now() + LOOK) } else { until };
            if self.changed.wait_until(&mut state, look).timed_out() && (look == until || self.has_new_sources()) {
                return true;
            }
        }
        false
    }

    /// What is wrong, in the log and in the index.
    fn say(&self, reason: &Error, pause: Duration) {
        let next = match pause.as_millis() {
            0 => "another is started now".to_owned(),
            pause => format!("another is started in {pause} ms"),
        };
        tracing::error!(model = self.starter.source.name, "{reason}; {next}");
        self.health.set_reason(Some(format!("{reason}; {next}")));
    }

    fn name(&self) -> &str {
        &self.placement.instance_name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_loss_is_made_good_at_once_and_the_next_ones_later_and_later() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..11).map(|_| backoff.lost(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000]);
        assert_eq!(backoff.lost(Backoff::PROVEN), Duration::ZERO, "one that has served long was good");
        assert_eq!(backoff.lost(Duration::from_secs(1)), Backoff::FIRST);
    }
}
