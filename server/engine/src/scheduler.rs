//! The driver of the batching policy: requests go in under one short lock, instance threads pull batches out under the
//! same lock. No task sits between; a thread is woken only if there is something for it to do.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use server_core::{
    backend::Pending,
    batching::{
        policy::{Batcher, Decision, Settings},
        queue::{Full, Removal},
    },
};

/// Why a request did not enter the queue.
pub(crate) enum Refusal {
    /// Its level holds as many as it may.
    Full,
    /// The model is being unloaded or the server stops.
    Closed,
}

/// What an instance got.
pub(crate) enum Next {
    /// A batch, formed at that moment; its place in the order of batches.
    Run { now: Instant, ticket: u64 },
    /// Nothing to run, but requests to answer that ended in the queue.
    Answer,
    /// Nothing will come any more.
    Closed,
}

struct State {
    batcher: Batcher<Pending>,
    /// Instances that wait without a limit, last one first: its caches are the warmest.
    idle: Vec<usize>,
    /// The one instance that waits for a moment.
    timed: Option<usize>,
    /// An idle instance was called and has not looked yet: it passes on what it leaves.
    is_called: bool,
    is_closed: bool,
    next_ticket: u64,
}

/// The queue of one model version, shared by those who submit and the instances that pull.
pub(crate) struct Scheduler {
    state: Mutex<State>,
    doors: Vec<Condvar>,
}

impl Scheduler {
    /// A queue for `instances` threads, numbered from 0.
    pub(crate) fn new(settings: &Settings, instances: usize) -> Self {
        let state = State {
            batcher: Batcher::new(settings),
            idle: Vec::with_capacity(instances),
            timed: None,
            is_called: false,
            is_closed: false,
            next_ticket: 0,
        };
        Self { state: Mutex::new(state), doors: (0..instances).map(|_| Condvar::new()).collect() }
    }

    /// Queues a request and calls an instance if one has something to do now.
    pub(crate) fn submit(
        &self,
        pending: Pending,
        priority: u64,
        timeout: Option<Duration>,
    ) -> Result<(), (Pending, Refusal)> {
        let now = pending.queued_at;
        let mut state = self.state.lock();
        if state.is_closed {
            return Err((pending, Refusal::Closed));
        }
        let must_look =
            state.batcher.push(pending, priority, timeout, now).map_err(|Full(pending)| (pending, Refusal::Full))?;
        let called = if !must_look {
            None
        } else if state.timed.is_some() {
            state.timed
        } else {
            call_idle(&mut state)
        };
        drop(state);
        if let Some(instance) = called {
            self.doors[instance].notify_one();
        }
        Ok(())
    }

    /// Blocks the instance's thread until there is something for it. `batch` and `removed` come empty.
    pub(crate) fn next(
        &self,
        instance: usize,
        batch: &mut Vec<Pending>,
        removed: &mut Vec<(Pending, Removal)>,
    ) -> Next {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            let decision = state.batcher.decide(now, batch, removed);
            if matches!(decision, Decision::Run) {
                let ticket = state.next_ticket;
                state.next_ticket += 1;
                let called = match state.timed {
                    None if !state.batcher.queue().is_empty() => call_idle(&mut state),
                    _ => None,
                };
                drop(state);
                if let Some(instance) = called {
                    self.doors[instance].notify_one();
                }
                return Next::Run { now, ticket };
            }
            if !removed.is_empty() {
                return Next::Answer;
            }
            match decision {
                Decision::WaitUntil(moment) if state.timed.is_none() => {
                    state.timed = Some(instance);
                    self.doors[instance].wait_until(&mut state, moment);
                    state.timed = None;
                }
                Decision::Idle if state.is_closed => return Next::Closed,
                _ => {
                    state.idle.push(instance);
                    self.doors[instance].wait(&mut state);
                    state.is_called = false;
                    state.idle.retain(|&other| other != instance);
                }
            }
        }
    }

    /// Lets in nobody more. What waits is still run.
    pub(crate) fn close(&self) {
        self.state.lock().is_closed = true;
        for door in &self.doors {
            door.notify_all();
        }
    }

    /// Requests that wait.
    pub(crate) fn pending(&self) -> usize {
        self.state.lock().batcher.queue().len()
    }
}

fn call_idle(state: &mut State) -> Option<usize> {
    if state.is_called {
        return None;
    }
    let called = state.idle.pop();
    state.is_called = called.is_some();
    called
}
