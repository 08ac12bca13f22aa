//! The driver of a scheduling policy: requests go in under one short lock, instance threads pull batches out under the
//! same lock. No task sits between; a thread is woken only if there is something for it to do. Where an instance is idle,
//! quick, and has nothing to wait for, the thread that brought the request runs it inline: then nobody is woken at all.
//!
//! It also counts requests from their admission to their release, so that no instance goes while one of its requests is
//! still held somewhere.

mod inline_run;
mod metered;
mod rate_limiter;
mod resources;
mod sync;
mod waking;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use server_core::{
    batch::Pending,
    batching::policy::{Decision, Policy, Pushed, Rejected, Rejection, Wake},
    error::Error,
    footprint::Footprint,
    load::LoadSnapshot,
    rate_limit::Shares,
    sequence::SlotRef,
};

pub use self::{
    inline_run::InlineRun,
    metered::Removed,
    rate_limiter::{Limited, RateLimiter},
};
use self::{
    metered::MeteredPolicy,
    sync::{AtomicBool, AtomicU64, Condvar, Mutex, between_sequentially_consistent},
};

/// Why a request did not enter the queue.
pub enum Refusal {
    /// What it would wait in holds as many as it may.
    Full,
    /// The policy's own reason.
    Invalid(Error),
    /// The model is being unloaded or the server stops.
    Closed,
}

/// What became of a request that entered the queue.
pub enum Submitted {
    /// It waits for an instance, until then at most.
    Queued {
        /// `None`: for as long as it takes.
        deadline: Option<Instant>,
    },
    /// It is alone and an idle instance is the caller's, who runs it and then calls [`Scheduler::return_instance`], and runs what that
    /// gives.
    Inline(InlineRun),
}

/// What an instance got.
pub enum Next {
    /// A batch, formed at that moment.
    Run {
        /// The moment.
        now: Instant,
    },
    /// Nothing to run, but requests to answer that ended in the queue.
    Answer,
    /// Nothing will come any more.
    Closed,
}

/// One instance as the scheduler sees it. Its number is its place; a number is never given twice.
struct Slot {
    waker: Arc<Condvar>,
    /// A caller runs it.
    is_inline: bool,
    /// Its thread waits without a limit, or for a moment of its own.
    is_waiting: bool,
    /// Its own word: others than its thread may run it.
    runs_on_any_thread: bool,
    /// Its instance is there.
    is_serving: bool,
    /// It runs what it was given.
    is_executing: bool,
    /// It takes nothing more: its group became smaller.
    is_retiring: bool,
    /// It shares resources with others.
    limited: Option<Limited>,
}

struct State {
    policy: MeteredPolicy,
    slots: Vec<Slot>,
    /// Instances that wait without a limit, last one first, unless they take turns: its caches are the warmest.
    idle: Vec<usize>,
    /// How instances take turns, if they do.
    shares: Option<Shares>,
    /// The one instance that waits for a moment which concerns all.
    timed: Option<usize>,
    /// The instance that was woken and has not looked yet: it passes on what it leaves.
    waking: Option<usize>,
    is_closed: bool,
    /// Each of those that wait was expected to run at once when it came.
    waits_quick: bool,
    /// Requests let in so far.
    admitted: u64,
    next_ticket: u64,
    /// How late timed waits end, lately: they are begun that much shorter.
    lateness: Duration,
}

impl State {
    fn begin_execution(&mut self, instance: usize, now: Instant) {
        self.slots[instance].is_executing = true;
        self.policy.execution_began(now);
    }

    fn end_execution(&mut self, instance: usize, now: Instant) {
        self.slots[instance].is_executing = false;
        self.policy.execution_ended(now);
    }
}

/// The queue of one model version, shared by those who submit and the instances that pull.
pub struct Scheduler {
    state: Mutex<State>,
    /// Ends the spin of the instance that waits for a moment.
    is_poked: AtomicBool,
    /// Since the queue was last looked through, a caller left whose request may still wait.
    has_cancelled: AtomicBool,
    /// Requests that are gone, of those let in.
    released: AtomicU64,
    /// `State::is_closed`, for those who release.
    is_closed: AtomicBool,
    order: Option<OrderLimit>,
}

/// Responses that leave in the order of their requests are held until it is their turn: with too many held, no batch is
/// formed, and what waits is bounded by the queue's own limit.
pub struct OrderLimit {
    /// Finished requests whose responses wait for their turn.
    pub held: Arc<AtomicUsize>,
    /// Most of them.
    pub limit: usize,
}

impl Scheduler {
    /// A queue without instances, emptied by that policy. `order` is there where the model promises an order.
    pub fn new(policy: Box<dyn Policy<Pending>>, order: Option<OrderLimit>) -> Self {
        let state = State {
            policy: MeteredPolicy::new(policy),
            slots: Vec::new(),
            idle: Vec::new(),
            shares: None,
            timed: None,
            waking: None,
            is_closed: false,
            waits_quick: false,
            admitted: 0,
            next_ticket: 0,
            lateness: Duration::ZERO,
        };
        Self {
            state: Mutex::new(state),
            is_poked: AtomicBool::new(false),
            has_cancelled: AtomicBool::new(false),
            released: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            order,
        }
    }

    /// Makes a place for one more instance and returns its number.
    pub fn add_instance(&self) -> usize {
        let mut state = self.state.lock();
        let waker = Arc::new(Condvar::new());
        let number = state.slots.len();
        state.slots.push(Slot {
            waker,
            is_inline: false,
            is_waiting: false,
            runs_on_any_thread: false,
            is_serving: false,
            is_executing: false,
            is_retiring: false,
            limited: None,
        });
        number
    }

    /// The instance of that number is there; callers may run it if `on_any_thread`.
    pub fn serves(&self, instance: usize, on_any_thread: bool) {
        let mut state = self.state.lock();
        let slot = &mut state.slots[instance];
        slot.is_serving = true;
        slot.runs_on_any_thread = on_any_thread && slot.limited.is_none(); // no caller waits for resources
        let wake = state.policy.add_instance(instance, Instant::now());
        self.wake(state, wake);
    }

    /// Lets an instance finish what it runs and take nothing more. Others go on with what waits.
    pub fn retire(&self, instance: usize) {
        let mut state = self.state.lock();
        state.slots[instance].is_retiring = true;
        state.idle.retain(|&other| other != instance);
        if state.timed == Some(instance) {
            self.is_poked.store(true, Ordering::Release);
        }
        let waker = state.slots[instance].waker.clone();
        let wake = state.policy.retire_instance(instance);
        self.wake(state, wake);
        waker.notify_all();
    }

    /// Whether an instance that retires still holds sequences.
    pub fn is_needed(&self, instance: usize) -> bool {
        self.state.lock().policy.is_needed(instance)
    }

    /// Queues a request and wakes an instance if one has something to do now. With `may_run_inline`, an idle instance
    /// may be given to the caller instead. Those who left give their places up before anybody is refused; they are
    /// `removed`.
    pub fn submit(
        &self,
        pending: Pending,
        priority: u64,
        timeout: Option<Duration>,
        may_run_inline: bool,
        removed: &mut Removed,
    ) -> Result<Submitted, Box<(Pending, Refusal)>> {
        let mut warning = None;
        let submitted = self.enter(pending, priority, timeout, may_run_inline, removed, &mut warning);
        if let Some(warning) = warning {
            tracing::warn!("{warning}"); // not under the lock
        }
        submitted
    }

    fn enter(
        &self,
        pending: Pending,
        priority: u64,
        timeout: Option<Duration>,
        may_run_inline: bool,
        removed: &mut Removed,
        warning: &mut Option<String>,
    ) -> Result<Submitted, Box<(Pending, Refusal)>> {
        let now = pending.queued_at();
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(Box::new((pending, Refusal::Closed)));
        }
        let pushed = match state.policy.push(pending, priority, timeout, now) {
            Err(Rejected { item, reason: Rejection::Full }) if self.has_cancelled.swap(false, Ordering::AcqRel) => {
                let swept = state.policy.sweep(now, usize::MAX, removed);
                let pushed = state.policy.push(item, priority, timeout, now);
                pushed.map(|pushed| Pushed { wake: pushed.wake.and(swept), ..pushed })
            }
            pushed => pushed,
        };
        let Pushed { wake, deadline, warning: noticed } = pushed.map_err(|rejected| {
            let refusal = match rejected.reason {
                Rejection::Full => Refusal::Full,
                Rejection::Invalid(error) => Refusal::Invalid(error),
            };
            Box::new((rejected.item, refusal))
        })?;
        *warning = noticed;
        state.admitted += 1;
        state.waits_quick = may_run_inline && (state.waits_quick || state.policy.len() == 1);
        if may_run_inline && let Some(run) = self.take_for_inline_run(&mut state, wake, now, removed) {
            return Ok(Submitted::Inline(run));
        }
        self.wake(state, wake);
        Ok(Submitted::Queued { deadline })
    }

    /// Lets in a request that does not enter the queue. Returns whether anybody is let in any more.
    #[must_use]
    pub fn admit(&self) -> bool {
        let mut state = self.state.lock();
        if !state.is_closed {
            state.admitted += 1;
        }
        !state.is_closed
    }

    /// Queues a request that was let in before. Errors: the policy takes none back; it comes back.
    pub fn put_back(&self, pending: Pending, now: Instant) -> Result<(), Box<Pending>> {
        let mut state = self.state.lock();
        let wake = state.policy.put_back(pending, now).map_err(Box::new)?;
        state.waits_quick = false; // nobody has looked at it again
        self.wake(state, wake);
        Ok(())
    }

    /// What ran in these sequence slots has ended.
    pub fn slots_released(&self, slots: &[SlotRef]) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let wake = slots.iter().fold(Wake::Nobody, |wake, &slot| wake.and(state.policy.released(slot, now)));
        self.wake(state, wake);
    }

    /// Blocks the instance's thread until there is something for it. `batch` and `removed` come empty.
    pub fn next(&self, instance: usize, batch: &mut Vec<Pending>, removed: &mut Removed) -> Next {
        let mut state = self.state.lock();
        if state.slots[instance].is_executing {
            state.end_execution(instance, Instant::now());
        }
        Self::end_turn(&mut state, instance);
        let mut may_ask = true;
        loop {
            if state.waking == Some(instance) {
                state.waking = None;
            }
            if state.slots[instance].is_inline {
                Self::wait(instance, &mut state); // what runs inline would be lost without its instance
                continue;
            }
            if state.slots[instance].is_retiring && !state.policy.is_needed(instance) {
                // It may have been woken for something: that is another's now, and so are its resources.
                Self::leave_line(&mut state, instance);
                let wake = if state.policy.is_empty() { Wake::Nobody } else { Wake::Any };
                self.wake(state, wake);
                return Next::Closed;
            }
            if !self.has_resources(&mut state, instance, may_ask) {
                continue;
            }
            let now = Instant::now();
            let decision = self.decide(&mut state, instance, now, batch, removed);
            if let Decision::Run(wake) = decision {
                Self::begin_turn(&mut state, instance);
                state.count_turn(instance);
                state.begin_execution(instance, now);
                // Whoever waits for a moment looks by itself then.
                let wake = if wake == Wake::Any && state.timed.is_some() { Wake::Nobody } else { wake };
                self.wake(state, wake);
                return Next::Run { now };
            }
            let has_unlocked = Self::skip_turn(&mut state, instance);
            if let Decision::AskAgain(wake) = decision {
                self.wake(state, wake);
                if !removed.is_empty() {
                    return Next::Answer;
                }
                state = self.state.lock();
                continue;
            }
            if !removed.is_empty() {
                return Next::Answer;
            }
            // What came meanwhile was not seen: it looks once more, holding nothing.
            may_ask = !has_unlocked;
            if has_unlocked {
                continue;
            }
            match decision {
                Decision::WaitHereUntil(moment) => {
                    state.slots[instance].is_waiting = true;
                    let waker = state.slots[instance].waker.clone();
                    waker.wait_until(&mut state, moment);
                    state.slots[instance].is_waiting = false;
                }
                Decision::WaitUntil(moment) if state.timed.is_none() => {
                    state.timed = Some(instance);
                    self.wait_until(moment, instance, &mut state);
                    state.timed = None;
                }
                // A request that is held somewhere may come back.
                Decision::Idle if state.is_closed && self.in_flight_of(&state) == 0 => return Next::Closed,
                _ => {
                    state.idle.push(instance);
                    Self::wait(instance, &mut state);
                    state.idle.retain(|&other| other != instance);
                }
            }
        }
    }

    /// Takes a further batch for an instance that runs one, if it can be formed at once and no other instance would run it
    /// sooner.
    pub fn take_more(&self, instance: usize, removed: &mut Removed) -> Option<(Vec<Pending>, Instant)> {
        let mut state = self.state.lock();
        // Every instance is busy, and what waits is more than they take when they come back.
        let is_others = !state.idle.is_empty() || state.timed.is_some() || state.waking.is_some();
        let slot = &state.slots[instance];
        if is_others || slot.is_retiring || slot.limited.is_some() || state.policy.len() < state.slots.len() {
            return None;
        }
        let (now, mut batch) = (Instant::now(), Vec::new());
        match self.decide(&mut state, instance, now, &mut batch, removed) {
            Decision::Run(wake) => {
                state.count_turn(instance);
                self.wake(state, wake);
                Some((batch, now))
            }
            Decision::AskAgain(wake) => {
                self.wake(state, wake);
                None
            }
            Decision::Idle | Decision::WaitUntil(_) | Decision::WaitHereUntil(_) => None,
        }
    }

    /// Takes out what has waited too long. Instances do so too, but only when they look.
    pub fn expire(&self, removed: &mut Removed) {
        let mut state = self.state.lock();
        let wake = state.policy.sweep(Instant::now(), 0, removed);
        self.wake(state, wake);
    }

    /// A caller left whose request may still wait. Returns whether nobody is about to look for such requests: then the
    /// caller of this sees to it that [`Scheduler::sweep_cancelled`] is called soon.
    #[must_use]
    pub fn note_cancelled(&self) -> bool {
        !self.has_cancelled.swap(true, Ordering::AcqRel)
    }

    /// Takes out the requests whose callers left, wherever they wait: their tensors are memory.
    pub fn sweep_cancelled(&self, removed: &mut Removed) {
        if self.has_cancelled.swap(false, Ordering::AcqRel) {
            let mut state = self.state.lock();
            let wake = state.policy.sweep(Instant::now(), usize::MAX, removed);
            self.wake(state, wake);
        }
    }

    /// What waits is run at once, and so is what still comes: no more company is expected.
    pub fn stop_waiting(&self) {
        let mut state = self.state.lock();
        state.policy.stop_waiting();
        if !state.policy.is_empty() {
            self.wake_all(state);
        }
    }

    /// Lets in nobody more. What waits is still run, at once.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        self.is_closed.store(true, Ordering::SeqCst);
        state.policy.close(Instant::now());
        self.wake_all(state);
    }

    /// So many requests are gone: nobody holds anything of them.
    pub fn released(&self, count: usize) {
        self.released.fetch_add(count as u64, Ordering::SeqCst);
        between_sequentially_consistent();
        if self.is_closed.load(Ordering::SeqCst) {
            let state = self.state.lock();
            if self.in_flight_of(&state) == 0 {
                self.wake_all(state);
            }
        }
    }

    /// Responses that were held have gone to their callers: batches may be formed again.
    pub fn order_advanced(&self) {
        let state = self.state.lock();
        let wake = if state.policy.is_empty() { Wake::Nobody } else { Wake::Any };
        self.wake(state, wake);
    }

    /// Requests that wait.
    pub fn pending(&self) -> usize {
        self.state.lock().policy.len()
    }

    /// What a request touches that runs at once.
    pub fn footprint(&self, footprint: &mut Footprint) {
        footprint.add(self);
        let state = self.state.lock();
        state.policy.footprint(footprint);
        if let Some(slot) = state.slots.first() {
            footprint.add(slot);
            footprint.add(&*slot.waker);
        }
        footprint.add(&*state.idle);
    }

    /// How long requests wait, and how much the instances execute.
    pub fn load(&self) -> LoadSnapshot {
        let mut state = self.state.lock();
        let instances = state.slots.iter().filter(|slot| slot.is_serving && !slot.is_retiring).count();
        state.policy.load(Instant::now(), instances)
    }

    /// Requests that were let in and are not gone.
    pub fn in_flight(&self) -> u64 {
        self.in_flight_of(&self.state.lock())
    }

    /// Whether the last request is gone and none will come.
    pub fn has_ended(&self) -> bool {
        let state = self.state.lock();
        state.is_closed && self.in_flight_of(&state) == 0
    }

    /// Requests let in so far.
    pub fn admitted(&self) -> u64 {
        self.state.lock().admitted
    }

    fn in_flight_of(&self, state: &State) -> u64 {
        between_sequentially_consistent();
        state.admitted.saturating_sub(self.released.load(Ordering::SeqCst))
    }

    /// Asks the policy, unless too many responses are held. Where order is promised, what runs gets its place in it.
    fn decide(
        &self,
        state: &mut State,
        instance: usize,
        now: Instant,
        batch: &mut Vec<Pending>,
        removed: &mut Removed,
    ) -> Decision {
        let Some(order) = &self.order else { return state.policy.decide(instance, now, batch, removed) };
        if order.held.load(Ordering::SeqCst) >= order.limit {
            return Decision::Idle;
        }
        let decision = state.policy.decide(instance, now, batch, removed);
        for pending in batch.iter_mut().filter(|pending| !pending.completion.has_ticket()) {
            pending.completion.set_ticket(state.next_ticket);
            state.next_ticket += 1;
        }
        decision
    }
}
