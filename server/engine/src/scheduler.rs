//! The driver of the batching policy: requests go in under one short lock, instance threads pull batches out under the
//! same lock. No task sits between; a thread is woken only if there is something for it to do. Where an instance is idle,
//! quick, and has nothing to wait for, it is inline to the thread that brought the request: then nobody is woken at all.

use std::{
    hint,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use server_core::{
    backend::Pending,
    batching::{
        policy::{Batcher, Decision, Pushed, Settings},
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

/// What became of a request that entered the queue.
pub(crate) enum Submitted {
    /// It waits for an instance, until then at most.
    Queued { deadline: Option<Instant> },
    /// It is alone and an idle instance is inline to its bringer, who runs it and then calls [`Scheduler::return_instance`].
    Inline(InlineRun),
}

/// An instance inline out, and what to run on it.
pub(crate) struct InlineRun {
    pub(crate) instance: usize,
    pub(crate) batch: Vec<Pending>,
    pub(crate) now: Instant,
    pub(crate) ticket: u64,
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
    /// Instances that are inline out.
    inline: Vec<usize>,
    /// The one instance that waits for a moment.
    timed: Option<usize>,
    /// An idle instance was called and has not looked yet: it passes on what it leaves.
    is_waking: bool,
    is_closed: bool,
    next_ticket: u64,
    /// How late timed waits end, lately: they are begun that much shorter.
    lateness: Duration,
}

/// A wait is shortened by no more than this: the rest of it is spent spinning.
const LONGEST_SPIN: Duration = Duration::from_micros(50);

/// The queue of one model version, shared by those who submit and the instances that pull.
pub(crate) struct Scheduler {
    state: Mutex<State>,
    wakers: Vec<Condvar>,
    /// Ends the spin of the instance that waits for a moment.
    is_poked: AtomicBool,
    /// Since the queue was last looked through, somebody left who may still have a place in it.
    has_cancelled: AtomicBool,
}

/// Requests that ended in the queue.
pub(crate) type Removed = Vec<(Pending, Removal)>;

impl Scheduler {
    /// A queue for `instances` threads, numbered from 0.
    pub(crate) fn new(settings: &Settings, instances: usize) -> Self {
        let state = State {
            batcher: Batcher::new(settings),
            idle: Vec::with_capacity(instances),
            inline: Vec::with_capacity(instances),
            timed: None,
            is_waking: false,
            is_closed: false,
            next_ticket: 0,
            lateness: Duration::ZERO,
        };
        let wakers = (0..instances).map(|_| Condvar::new()).collect();
        let (is_poked, has_cancelled) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { state: Mutex::new(state), wakers, is_poked, has_cancelled }
    }

    /// Queues a request and calls an instance if one has something to do now. With `may_run_inline`, an idle instance may be
    /// inline to the caller instead. Those who left give their places up before anybody is refused; they are `removed`.
    pub(crate) fn submit(
        &self,
        pending: Pending,
        priority: u64,
        timeout: Option<Duration>,
        may_run_inline: bool,
        removed: &mut Removed,
    ) -> Result<Submitted, Box<(Pending, Refusal)>> {
        let now = pending.queued_at;
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(Box::new((pending, Refusal::Closed)));
        }
        let pushed = match state.batcher.push(pending, priority, timeout, now) {
            Err(Full(pending)) if self.has_cancelled.swap(false, Ordering::AcqRel) => {
                state.batcher.sweep(now, usize::MAX, removed);
                state.batcher.push(pending, priority, timeout, now)
            }
            pushed => pushed,
        };
        let Pushed { must_look, deadline } = pushed.map_err(|Full(pending)| Box::new((pending, Refusal::Full)))?;
        let mut called = None;
        if must_look {
            if may_run_inline && let Some(run) = state.take_for_inline_run(now) {
                return Ok(Submitted::Inline(run));
            }
            called = state.timed;
            if called.is_some() {
                self.is_poked.store(true, Ordering::Release);
            } else {
                called = state.wake_idle();
            }
        }
        drop(state);
        self.open(called);
        Ok(Submitted::Queued { deadline })
    }

    /// Takes a inline instance back. If requests came meanwhile, or the end, its own thread goes on with them.
    pub(crate) fn return_instance(&self, instance: usize) {
        let mut state = self.state.lock();
        state.inline.retain(|&other| other != instance);
        let called = (state.is_closed || !state.batcher.queue().is_empty()).then_some(instance);
        if called.is_some() {
            state.is_waking = true;
        } else {
            state.idle.push(instance);
        }
        drop(state);
        self.open(called);
    }

    /// Blocks the instance's thread until there is something for it. `batch` and `removed` come empty.
    pub(crate) fn next(&self, instance: usize, batch: &mut Vec<Pending>, removed: &mut Removed) -> Next {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            let decision = state.batcher.decide(now, batch, removed);
            if matches!(decision, Decision::Run) {
                let ticket = state.ticket();
                let called = match state.timed {
                    None if !state.batcher.queue().is_empty() => state.wake_idle(),
                    _ => None,
                };
                drop(state);
                self.open(called);
                return Next::Run { now, ticket };
            }
            if !removed.is_empty() {
                return Next::Answer;
            }
            match decision {
                Decision::WaitUntil(moment) if state.timed.is_none() => {
                    state.timed = Some(instance);
                    self.wait_until(moment, instance, &mut state);
                    state.timed = None;
                }
                // The inline run comes first: with the instance gone, what it is about to run would be lost.
                Decision::Idle if state.is_closed && state.inline.contains(&instance) => {
                    self.wakers[instance].wait(&mut state);
                    state.is_waking = false;
                }
                Decision::Idle if state.is_closed => return Next::Closed,
                _ => {
                    state.idle.push(instance);
                    self.wakers[instance].wait(&mut state);
                    state.is_waking = false;
                    state.idle.retain(|&other| other != instance);
                }
            }
        }
    }

    /// Takes out what has waited too long. Instances do so too, but only when they look.
    pub(crate) fn expire(&self, removed: &mut Removed) {
        self.state.lock().batcher.sweep(Instant::now(), 0, removed);
    }

    /// Somebody who may still have a place in the queue has left.
    pub(crate) fn note_cancelled(&self) {
        self.has_cancelled.store(true, Ordering::Release);
    }

    /// Lets in nobody more. What waits is still run, at once.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.batcher.stop_waiting();
        drop(state);
        self.is_poked.store(true, Ordering::Release);
        for door in &self.wakers {
            door.notify_all();
        }
    }

    /// Requests that wait.
    pub(crate) fn pending(&self) -> usize {
        self.state.lock().batcher.queue().len()
    }

    fn open(&self, called: Option<usize>) {
        if let Some(instance) = called {
            self.wakers[instance].notify_one();
        }
    }

    /// Waits for the moment or a call. A thread that sleeps is back some time after it asked to be, so it asks for
    /// earlier and spins for what is left: the delay of a batch is what its configuration says.
    fn wait_until(&self, moment: Instant, instance: usize, state: &mut MutexGuard<'_, State>) {
        let asked = moment.checked_sub(state.lateness).unwrap_or(moment);
        self.is_poked.store(false, Ordering::Relaxed);
        if !self.wakers[instance].wait_until(state, asked).timed_out() {
            return;
        }
        let late = Instant::now().saturating_duration_since(asked);
        state.lateness = ((state.lateness * 7 + late) / 8).min(LONGEST_SPIN);
        MutexGuard::unlocked(state, || {
            while Instant::now() < moment && !self.is_poked.load(Ordering::Acquire) {
                hint::spin_loop();
            }
        });
    }
}

impl State {
    /// Lends an idle instance for the only request there is, if that runs at once.
    fn take_for_inline_run(&mut self, now: Instant) -> Option<InlineRun> {
        if self.is_waking || self.timed.is_some() || self.idle.is_empty() || self.batcher.queue().len() != 1 {
            return None;
        }
        let (mut batch, mut removed) = (Vec::with_capacity(1), Vec::new());
        match self.batcher.decide(now, &mut batch, &mut removed) {
            Decision::Run => {
                let instance = self.idle.pop()?;
                self.inline.push(instance);
                Some(InlineRun { instance, batch, now, ticket: self.ticket() })
            }
            // It came this moment: it can neither have expired nor been left, and if it must wait a thread does that.
            Decision::WaitUntil(_) | Decision::Idle => None,
        }
    }

    fn ticket(&mut self) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        ticket
    }

    fn wake_idle(&mut self) -> Option<usize> {
        if self.is_waking {
            return None;
        }
        let called = self.idle.pop();
        self.is_waking = called.is_some();
        called
    }
}
