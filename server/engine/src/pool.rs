//! The instances of one model version and the queue they share: requests enter, instances grow and retire while they
//! serve, and none goes before the last request it may hold.

use std::{
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use server_core::{
    backend::{MemoryUse, Model, Readiness, Rest},
    batch::{Batch, Pending},
    caller::{Caller, Reentry},
    completion::{Completion, RequestEvents, RequestRecord},
    error::{Error, Result},
    footprint::Footprint,
    health::Health,
    input_memory::InputMemory,
    request::InferRequest,
    responder::{DEFAULT_SLOT_BYTES, Replies},
    stats::{CustomCounter, ModelCounters, ModelSnapshot},
    trace::Activity,
};
use server_scheduler::{InlineRun, OrderLimit, RateLimiter, Refusal, Removed, Scheduler, Submitted};
use tokio::runtime::Handle;

use crate::{
    executing::unless_it_panics,
    inline_policy::{InlinePolicy, Size},
    instance::{InstanceSlot, Worker},
    instance_plan::InstancePlan,
    passive::PassiveInstance,
    readiness::ReadinessProbe,
    response_order::ResponseOrder,
    scheduling::{Scheduling, log_hold},
    series::{Replaced, Series},
    stats::{ModelStats, end_removed},
    warm_up::{WarmUp, WarmUpRun},
};

/// How long requests whose callers left may wait to be looked for, so that a look finds many of them.
const SWEEP_DELAY: Duration = Duration::from_millis(20);

/// What it takes until a thread that sleeps has woken up.
const WAKE_UP: Duration = Duration::from_micros(10);

/// Executions that one caller's thread runs before it goes on with its own request.
const MOST_IN_A_ROW: u32 = 8;

/// The instances of one model version, and their queue.
pub(crate) struct InstancePool {
    model: Arc<dyn Model>,
    scheduler: Arc<Scheduler>,
    stats: Arc<ModelStats>,
    inline_policy: Arc<InlinePolicy>,
    readiness_probe: ReadinessProbe,
    /// Shared by all models, if anything limits them.
    rate_limiter: Option<Arc<RateLimiter>>,
    /// By their number in the scheduler; those that retired stay, empty.
    slots: arc_swap::ArcSwap<Vec<Arc<InstanceSlot>>>,
    /// Those that serve.
    members: Mutex<Vec<Member>>,
    /// Those that are never given requests.
    passive: Mutex<Vec<PassiveInstance>>,
    /// Those that go when they have finished what they run, and the sequences they hold are over.
    leaving: Mutex<Vec<Member>>,
    /// Without dynamic batching there is no queue policy: priority and timeout say nothing there.
    has_queue_policy: bool,
    /// Requests are bound to sequence slots, which are given by the queue alone.
    has_sequences: bool,
    /// Each instance is held until so many requests of sequences wait: a switch for tests of schedulers.
    held_until: usize,
    /// What instances run before they serve.
    warm_up: Option<WarmUp>,
}

/// A serving instance and its thread.
struct Member {
    slot: Arc<InstanceSlot>,
    thread: JoinHandle<()>,
}

/// A request that did not enter the queue.
pub(crate) struct Refused {
    pub(crate) request: InferRequest,
    pub(crate) refusal: Refusal,
}

impl InstancePool {
    /// A pool without instances. `counters` carries the labels of the model's metrics.
    pub(crate) fn new(
        model: Arc<dyn Model>,
        scheduling: Scheduling,
        rate_limiter: Option<Arc<RateLimiter>>,
        warm_up: Option<WarmUp>,
        is_decoupled: bool,
        counters: ModelCounters,
    ) -> Self {
        let Scheduling { policy, preserved_order, has_queue_policy, has_sequences, is_iterative, held_until } =
            scheduling;
        let order = preserved_order.map(|limit| (ResponseOrder::default(), limit));
        let limit = order.as_ref().map(|(order, limit)| OrderLimit { held: order.held(), limit: *limit });
        let scheduler = Arc::new(Scheduler::new(policy, limit));
        let order = order.map(|(order, _)| order);
        let stats = Arc::new(ModelStats::new(counters, is_decoupled, is_iterative, order, scheduler.clone()));
        let inline_policy = Arc::new(InlinePolicy::new(model.longest_inline_run()));
        Self {
            model,
            scheduler,
            stats,
            inline_policy,
            readiness_probe: ReadinessProbe::default(),
            rate_limiter,
            slots: arc_swap::ArcSwap::default(),
            members: Mutex::default(),
            passive: Mutex::default(),
            leaving: Mutex::default(),
            has_queue_policy,
            has_sequences,
            held_until,
            warm_up,
        }
    }

    /// Memory that the model reads its inputs from without a copy.
    pub(crate) fn input_memory(&self) -> Option<Arc<dyn InputMemory>> {
        self.model.input_memory()
    }

    /// Makes the pool's instances those of `plans`: new ones start, each on its own thread, all at once; then those
    /// that are not among them finish what they run and go, when the sequences that they hold are over. Blocks until the new
    /// ones serve, and not until the others are gone: one of those may wait for this, for its model had it loaded anew.
    ///
    /// Errors: the first instance's that could not be made; the pool serves as it did before.
    pub(crate) fn resize(&self, plans: &[InstancePlan]) -> Result<()> {
        // Loads and resizes of one model follow each other, so what is seen here stays until the end; the lock is not
        // held while instances are made, for readiness asks them.
        let serving: Vec<_> = self.members.lock().iter().map(|member| member.slot.clone()).collect();
        let mut leaving: Vec<&InstanceSlot> = serving.iter().map(|slot| &**slot).collect();
        let mut missing = Vec::new();
        let passive = self.missing_passive(plans)?;
        for plan in plans.iter().filter(|plan| !plan.is_passive) {
            match leaving.iter().position(|slot| self.is_same(&slot.plan, plan)) {
                Some(position) => drop(leaving.remove(position)),
                None => missing.push(plan.clone()),
            }
        }
        let started = self.start_all(missing)?;
        let is_leaving = |member: &Member| leaving.iter().any(|slot| slot.number == member.slot.number);
        let mut members = self.members.lock();
        let (retired, mut kept): (Vec<_>, Vec<_>) = std::mem::take(&mut *members).into_iter().partition(is_leaving);
        kept.extend(started);
        *members = kept;
        drop(members);
        self.retire(retired);
        self.join_ended();
        self.replace_passive(plans, passive);
        Ok(())
    }

    /// Makes the passive instances that are not there yet. Errors: one of them cannot be made.
    fn missing_passive(&self, plans: &[InstancePlan]) -> Result<Vec<PassiveInstance>> {
        let there: Vec<_> = self.passive.lock().iter().map(|instance| instance.plan.clone()).collect();
        let missing = plans.iter().filter(|plan| plan.is_passive && !there.contains(plan));
        missing.map(|plan| PassiveInstance::start(self.model.clone(), plan.clone())).collect()
    }

    /// Lets passive instances go that are wanted no more, and keeps those that were made in their place.
    fn replace_passive(&self, plans: &[InstancePlan], made: Vec<PassiveInstance>) {
        let mut passive = self.passive.lock();
        passive.retain(|instance| plans.contains(&instance.plan));
        passive.extend(made);
    }

    /// What an instance needs is nobody's business where nothing limits it.
    fn is_same(&self, one: &InstancePlan, other: &InstancePlan) -> bool {
        one.placement == other.placement && (self.rate_limiter.is_none() || one.needs == other.needs)
    }

    /// Queues a checked request. Returns the way back, and when it has waited too long. One that a model asked for may be run
    /// in the middle of a call instead, before this returns.
    ///
    /// Errors: it comes back when the queue is full or closed, or the policy finds it invalid.
    pub(crate) fn submit(
        &self,
        request: InferRequest,
        batch_size: u32,
    ) -> Result<(Replies, Option<Instant>), Box<Refused>> {
        if let Some(reentry) = request.callers.as_deref().and_then(|callers| self.reentry(callers)) {
            return self.run_in_call(&*reentry, request, batch_size).map(|replies| (replies, None));
        }
        let (priority, timeout) = if self.has_queue_policy { (request.priority, request.timeout) } else { (0, None) };
        let record = RequestRecord { received_at: request.received_at, queued_at: Instant::now(), batch_size };
        let is_quick = self.inline_policy.is_quick(Size { rows: batch_size, bytes: request.input_bytes() });
        let events: Arc<dyn RequestEvents> = self.stats.clone();
        let (mut completion, replies) = Completion::new(record, events, DEFAULT_SLOT_BYTES);
        trace_queued(&request, &mut completion, record.queued_at);
        let mut removed = Removed::new();
        let pending = Pending { request, completion };
        let submitted = self.scheduler.submit(pending, priority, timeout, is_quick, &mut removed);
        end_all(removed);
        match submitted {
            Ok(Submitted::Queued { deadline }) => Ok((replies, deadline)),
            Ok(Submitted::Inline(run)) => {
                self.run_inline(run);
                Ok((replies, None))
            }
            Err(refused) => {
                let (Pending { request, completion }, refusal) = *refused;
                completion.withdraw();
                Err(Box::new(Refused { request, refusal }))
            }
        }
    }

    /// Runs what this thread was given, and some of what comes meanwhile: as long as that is quicker than the thread that would have to
    /// be woken for it.
    fn run_inline(&self, first: InlineRun) {
        let (mut next, mut count) = (Some(first), 0);
        while let Some(run) = next {
            let slot = self.slots.load()[run.instance].clone();
            let (took, rest) = slot.run_inline(run.batch, run.now);
            if let Some(rest) = rest {
                return self.finish_later(&slot, rest);
            }
            count += 1;
            let mut removed = Removed::new();
            next = self.scheduler.return_instance(run.instance, took < WAKE_UP && count < MOST_IN_A_ROW, &mut removed);
            end_all(removed);
        }
    }

    /// Whether what requests need is there: it has run some.
    pub(crate) fn has_run(&self) -> bool {
        self.stats.executions() > 1
    }

    /// What a request touches that is run inline.
    pub(crate) fn footprint(&self, footprint: &mut Footprint) {
        footprint.add(self);
        footprint.add(&*self.inline_policy);
        self.scheduler.footprint(footprint);
        self.stats.footprint(footprint);
        let slots = self.slots.load();
        footprint.add(&**slots);
        footprint.add(slots.as_slice());
        if let Some(slot) = slots.first() {
            slot.footprint(footprint);
        }
    }

    /// Finishes on a thread of its own what took too long for the thread that began it.
    fn finish_later(&self, slot: &InstanceSlot, rest: Rest) {
        let (scheduler, number) = (self.scheduler.clone(), slot.number);
        let finish = move || {
            let _ = unless_it_panics(rest);
            scheduler.return_instance(number, /* goes_on */ false, &mut Removed::new());
        };
        let name = format!("{} goes on", slot.plan.placement.instance_name);
        if let Err(error) = thread::Builder::new().name(name).spawn(finish) {
            tracing::error!(%error, "no thread to finish an execution: its requests fail");
            self.scheduler.return_instance(number, /* goes_on */ false, &mut Removed::new());
        }
    }

    /// Who runs a request of a model if every instance waits for the answer of a request of its own: an instance that waits
    /// for this one, or else any. The marks of those that wait were set before the look, see [`Health::begin_call`].
    ///
    /// [`Health::begin_call`]: server_core::health::Health::begin_call
    fn reentry(&self, callers: &Caller) -> Option<Arc<dyn Reentry>> {
        if self.has_sequences {
            return None;
        }
        let members = self.members.lock();
        if members.iter().any(|member| !member.slot.health.is_in_call()) {
            return None;
        }
        let is_of =
            |caller: &&Caller| members.iter().any(|member| member.slot.health.is_of_same_instance(caller.health()));
        let nearest = callers.chain().filter(is_of).find_map(|caller| caller.reentry().upgrade());
        nearest.or_else(|| members.iter().find_map(|member| member.slot.health.reentry()))
    }

    /// Whether there are instances, and all of them are blocked.
    pub(crate) fn waits_for(&self, is_blocked: &dyn Fn(&Health) -> bool) -> bool {
        let members = self.members.lock();
        !members.is_empty() && members.iter().all(|member| is_blocked(&member.slot.health))
    }

    /// Runs a request on an instance that waits for the answer of a request of its own: it is counted as any, and enters no
    /// queue.
    fn run_in_call(
        &self,
        reentry: &dyn Reentry,
        request: InferRequest,
        batch_size: u32,
    ) -> Result<Replies, Box<Refused>> {
        if !self.scheduler.admit() {
            return Err(Box::new(Refused { request, refusal: Refusal::Closed }));
        }
        let now = Instant::now();
        let record = RequestRecord { received_at: request.received_at, queued_at: now, batch_size };
        let events: Arc<dyn RequestEvents> = self.stats.clone();
        // The caller may come to read only after the last response, for its instance gives them all before it goes on.
        let (mut completion, replies) = Completion::new(record, events, usize::MAX);
        trace_queued(&request, &mut completion, now);
        reentry.execute(Batch::new(vec![Pending { request, completion }], now));
        Ok(replies)
    }

    /// Counts what no instance sees.
    pub(crate) fn count(&self, count: impl FnOnce(&mut ModelCounters)) {
        self.stats.count(count);
    }

    /// Counts a request that did not enter the queue.
    pub(crate) fn refused(&self) {
        self.stats.refused();
    }

    /// Answers the requests that have waited too long, however busy the instances are.
    pub(crate) fn expire(&self) {
        let mut removed = Removed::new();
        self.scheduler.expire(&mut removed);
        end_all(removed);
    }

    /// A caller left without its answer: its request leaves the queue soon, if it is still there. Many callers that leave
    /// together are looked for together, for each look passes over all that waits.
    pub(crate) fn note_cancelled(&self) {
        if !self.scheduler.note_cancelled() {
            return;
        }
        let scheduler = self.scheduler.clone();
        let sweep = move || {
            let mut removed = Removed::new();
            scheduler.sweep_cancelled(&mut removed);
            end_all(removed);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(SWEEP_DELAY).await;
                sweep();
            })),
            Err(_) => sweep(),
        }
    }

    /// Whether any instance can serve.
    pub(crate) fn is_healthy(&self) -> bool {
        self.members.lock().iter().any(|member| member.slot.health.is_healthy())
    }

    /// Whether the model can serve in its own word, if it has one.
    pub(crate) fn readiness(self: Arc<Self>) -> Option<Readiness> {
        let question = self.model.readiness()?;
        Some(Box::pin(async move { self.readiness_probe.ask(question).await }))
    }

    /// What instances say is wrong with them, each behind its name.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let members = self.members.lock();
        let said = members.iter().filter_map(|member| Some((member, member.slot.health.reason()?)));
        said.map(|(member, reason)| format!("{}: {reason}", member.slot.plan.placement.instance_name)).collect()
    }

    /// The counters now.
    pub(crate) fn snapshot(&self) -> ModelSnapshot {
        self.stats.snapshot()
    }

    /// What the model counts by itself.
    pub(crate) fn custom_counters(&self) -> Vec<CustomCounter> {
        self.model.counters()
    }

    /// Memory that the model holds, as far as it knows.
    pub(crate) fn memory(&self) -> Vec<MemoryUse> {
        self.model.memory()
    }

    /// The counters, for the metrics.
    pub(crate) fn series(&self) -> Arc<dyn Series> {
        self.stats.clone()
    }

    /// The pools that this one has replaced.
    pub(crate) fn replaced(&self) -> &Replaced {
        self.stats.replaced()
    }

    /// The load took so long.
    pub(crate) fn loaded(&self, took: Duration) {
        self.stats.loaded(took);
    }

    /// Requests that were let in and are not gone.
    pub(crate) fn in_flight(&self) -> u64 {
        self.scheduler.in_flight()
    }

    /// Requests let in so far.
    pub(crate) fn admitted(&self) -> u64 {
        self.scheduler.admitted()
    }

    /// No batch waits for more requests from here on.
    pub(crate) fn stop_waiting(&self) {
        self.scheduler.stop_waiting();
    }

    /// Lets in nobody more.
    pub(crate) fn close(&self) {
        self.scheduler.close();
    }

    /// Lets in nobody more, and blocks until the last request is gone and then the instances.
    pub(crate) fn drain(&self) {
        self.close();
        for members in [&self.members, &self.leaving] {
            let members = std::mem::take(&mut *members.lock());
            self.join(members);
        }
        self.passive.lock().clear();
    }

    /// Has instances take nothing more, and go once they need not stay for a sequence.
    fn retire(&self, members: Vec<Member>) {
        for member in &members {
            self.scheduler.retire(member.slot.number);
        }
        self.leaving.lock().extend(members);
    }

    /// Lets go of the threads of instances that have gone.
    fn join_ended(&self) {
        let ended = self.leaving.lock().extract_if(.., |member| member.thread.is_finished()).collect();
        self.join(ended);
    }

    /// Blocks until instances that were just made are gone, but for those that got a sequence to hold meanwhile.
    fn take_back(&self, members: Vec<Member>) {
        for member in &members {
            self.scheduler.retire(member.slot.number);
        }
        let is_needed = |member: &Member| self.scheduler.is_needed(member.slot.number);
        let (needed, free) = members.into_iter().partition(is_needed);
        self.leaving.lock().extend::<Vec<_>>(needed);
        self.join(free);
    }

    fn join(&self, members: Vec<Member>) {
        for member in members {
            if member.thread.join().is_err() {
                tracing::error!("the thread of instance '{}' ended by panic", member.slot.plan.placement.instance_name);
            }
            self.scheduler.unlimit(member.slot.number);
        }
    }

    /// Starts one instance per plan. With one that fails, the others are taken down again.
    fn start_all(&self, plans: Vec<InstancePlan>) -> Result<Vec<Member>> {
        let samples = self.warm_up.as_ref().filter(|_| !plans.is_empty()).map(WarmUp::samples).transpose()?;
        let samples = samples.map(Arc::new);
        let mut started: Vec<(Member, mpsc::Receiver<Result<()>>)> = Vec::with_capacity(plans.len());
        let mut failure = None;
        for plan in plans {
            let limited = self.rate_limiter.as_ref().map(|limiter| limiter.admit(plan.placement.device, &plan.needs));
            let limited = match limited.transpose() {
                Ok(limited) => limited.flatten(),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            };
            let priority = plan.needs.priority();
            let slot = self.add_slot(plan);
            if self.rate_limiter.is_some() {
                self.scheduler.take_turns(slot.number, priority);
            }
            if let Some(limited) = limited {
                limited.call(&self.scheduler, slot.number);
                self.scheduler.limit(slot.number, limited);
            }
            let warm_up = samples.clone().map(|samples| WarmUpRun {
                instance_name: slot.plan.placement.instance_name.clone(),
                samples,
                scheduler: self.scheduler.clone(),
                stats: self.stats.clone(),
            });
            let worker = Worker { scheduler: self.scheduler.clone(), slot: slot.clone() };
            match worker.spawn(self.model.clone(), warm_up) {
                Ok((thread, arrival)) => {
                    if self.held_until > 0 {
                        log_hold(&slot.plan.placement.instance_name, self.held_until);
                    }
                    started.push((Member { slot, thread }, arrival));
                }
                Err(error) => failure = Some(error),
            }
        }
        let mut members = Vec::with_capacity(started.len());
        for (member, arrival) in started {
            // The sender lives on the thread: a hang-up means it panicked while making the instance.
            let result =
                arrival.recv().unwrap_or_else(|_| Err(Error::internal("the instance's thread ended at start")));
            failure = failure.or(result.err());
            members.push(member);
        }
        match failure {
            None => Ok(members),
            Some(error) => {
                self.take_back(members);
                Err(error)
            }
        }
    }

    fn add_slot(&self, plan: InstancePlan) -> Arc<InstanceSlot> {
        let slot = Arc::new(InstanceSlot::new(self.scheduler.add_instance(), plan, self.inline_policy.clone()));
        // Only loads and resizes come here, one at a time for each model.
        let mut slots = Vec::clone(&self.slots.load());
        slots.push(slot.clone());
        self.slots.store(Arc::new(slots));
        slot
    }
}

/// Records that a traced request waits from now on.
fn trace_queued(request: &InferRequest, completion: &mut Completion, now: Instant) {
    if let Some(trace) = &request.trace {
        trace.reached(Activity::QueueStart, now);
        completion.set_trace(Some(trace.clone()));
    }
}

fn end_all(removed: Removed) {
    for (pending, removal) in removed {
        end_removed(pending, removal);
    }
}
