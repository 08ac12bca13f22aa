//! When a batch is ready to run. An instance that has nothing to do asks [`Policy::decide`]; time is an argument.
//!
//! Source: Triton model configuration, "Dynamic Batcher": preferred sizes leave at once, other sizes wait until the
//! oldest request has waited `max_queue_delay`, and what is late leaves as it is, up to the model's maximum. As in Triton a
//! batch that waits for nothing but an instance grows meanwhile, also past the largest preferred size where it cannot meet one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use server_proto::inference::{ModelConfig, model_config::SchedulingChoice};

use super::{
    item::Item,
    levels::Levels,
    queue::{Full, Queue, Removal},
    shapes::SharedShapes,
    strategy::BatchStrategy,
};
use crate::{error::Error, footprint::Footprint, sequence::SlotRef};

/// Which requests run together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchPolicy {
    /// One request at a time, as it came: models without dynamic batching.
    Single,
    /// Requests together, by rows.
    Dynamic {
        /// Sizes that leave at once, ascending; not empty.
        preferred: Vec<u32>,
        /// Most rows of a batch.
        max_batch_size: u32,
        /// Longest wait of the oldest request for a preferred size.
        max_queue_delay: Duration,
        /// What the requests of a batch must have in common.
        shapes: SharedShapes,
    },
}

/// Batching and queueing of one model, read from its normalised configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which requests run together.
    pub batching: BatchPolicy,
    /// Priority levels and their queue policies.
    pub levels: Levels,
    /// Whether responses leave in the order of the requests.
    pub preserve_ordering: bool,
}

impl Settings {
    /// Most requests that wait in the default level.
    pub fn max_queued(&self) -> usize {
        self.levels.policy(self.levels.level(0)).limit()
    }

    /// Reads a normalised configuration.
    pub fn of(config: &ModelConfig) -> Self {
        let Some(SchedulingChoice::DynamicBatching(dynamic)) = &config.scheduling_choice else {
            return Self { batching: BatchPolicy::Single, levels: Levels::default(), preserve_ordering: false };
        };
        let max_batch_size = u32::try_from(config.max_batch_size).unwrap_or(0).max(1);
        let mut preferred: Vec<u32> =
            dynamic.preferred_batch_size.iter().filter_map(|&size| u32::try_from(size).ok()).collect();
        if preferred.is_empty() {
            preferred.push(max_batch_size);
        }
        preferred.sort_unstable();
        preferred.dedup();
        Self {
            batching: BatchPolicy::Dynamic {
                preferred,
                max_batch_size,
                max_queue_delay: Duration::from_micros(dynamic.max_queue_delay_microseconds),
                shapes: SharedShapes::of(config),
            },
            levels: Levels::of(dynamic),
            preserve_ordering: dynamic.preserve_ordering,
        }
    }
}

/// Whom a change of the queue concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Nobody has anything to do now.
    Nobody,
    /// Any instance that waits, with or without a limit.
    Any,
    /// That instance and no other: it holds what the request needs.
    Instance(usize),
    /// Every instance that waits.
    All,
}

impl Wake {
    /// Whom both concern.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, wake) | (wake, Self::Nobody) => wake,
            (one, other) if one == other => one,
            _ => Self::All,
        }
    }
}

/// What an instance should do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Run the requests that were handed over. Others may have something to do as well.
    Run(Wake),
    /// Ask again then, or when woken. One instance that waits is enough.
    WaitUntil(Instant),
    /// The same, and this instance has to do it: nobody else can run what it waits for.
    WaitHereUntil(Instant),
    /// Wake these, and ask again.
    AskAgain(Wake),
    /// Nothing waits for this instance.
    Idle,
}

/// What came of adding a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Whom it concerns.
    pub wake: Wake,
    /// When it has waited too long, if it can.
    pub deadline: Option<Instant>,
    /// What the operator should know of it, for the log.
    pub warning: Option<String>,
}

/// Why a request was not taken.
#[derive(Debug)]
pub enum Rejection {
    /// What it would wait in holds as many as it may.
    Full,
    /// The policy's own reason.
    Invalid(Error),
}

/// A request that was not taken.
#[derive(Debug)]
pub struct Rejected<T> {
    /// It comes back.
    pub item: T,
    /// Why.
    pub reason: Rejection,
}

impl<T> From<Full<T>> for Rejected<T> {
    fn from(Full(item): Full<T>) -> Self {
        Self { item, reason: Rejection::Full }
    }
}

/// A queue and the rule that empties it: what waits for the instances of one model, and who runs what when. Instances are
/// numbered from 0; a number is never given twice, and one may be missing whose instance could not be made.
pub trait Policy<T>: Send {
    /// Requests that wait.
    fn len(&self) -> usize;

    /// Whether none wait.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the request came that has waited longest of those that wait. It may look at every level, sequence and instance.
    fn oldest(&self) -> Option<Instant>;

    /// Whether each execution is of one request.
    fn runs_one_by_one(&self) -> bool {
        false
    }

    /// Whether something waits that this instance may run.
    fn waits_for(&self, instance: usize) -> bool {
        let _ = instance;
        !self.is_empty()
    }

    /// The instance of that number asks from now on.
    fn add_instance(&mut self, instance: usize, now: Instant) -> Wake {
        let _ = (instance, now);
        Wake::Nobody
    }

    /// That instance gets no more work of others.
    fn retire_instance(&mut self, instance: usize) -> Wake {
        let _ = instance;
        Wake::Nobody
    }

    /// Whether that instance has to go on although it retires: it holds what nobody else has.
    fn is_needed(&self, instance: usize) -> bool {
        let _ = instance;
        false
    }

    /// Adds a request. Errors: it comes back, with the reason.
    fn push(&mut self, item: T, priority: u64, timeout: Option<Duration>, now: Instant) -> Result<Pushed, Rejected<T>>;

    /// Adds a request that was let in before, past every limit. Errors: the policy takes none back; it comes back.
    fn put_back(&mut self, item: T, now: Instant) -> Result<Wake, T>;

    /// A request that ran in that slot is gone.
    fn released(&mut self, slot: SlotRef, now: Instant) -> Wake {
        let _ = (slot, now);
        Wake::Nobody
    }

    /// Takes out what expired, wherever it waits, and what was abandoned among the first `depth`.
    fn sweep(&mut self, now: Instant, depth: usize, removed: &mut Vec<(T, Removal)>) -> Wake;

    /// From here on nothing waits for more requests.
    fn stop_waiting(&mut self);

    /// No request will come any more.
    fn close(&mut self, now: Instant) -> Wake {
        let _ = now;
        self.stop_waiting();
        Wake::All
    }

    /// Decides at `now` what `instance` does. `Run` moved the requests into `batch`; those that ended in the queue are
    /// in `removed` either way. After `WaitUntil`, [`Policy::push`] says when waiting has become pointless.
    fn decide(
        &mut self,
        instance: usize,
        now: Instant,
        batch: &mut Vec<T>,
        removed: &mut Vec<(T, Removal)>,
    ) -> Decision;

    /// What a request touches that is alone.
    fn footprint(&self, footprint: &mut Footprint) {
        footprint.add(self);
    }
}

/// What someone who waits is waiting for: less is not worth waking it.
#[derive(Debug, Clone, Copy)]
struct Watch {
    until: Instant,
    rows: u64,
}

/// The queue of one model and the rule that empties it.
pub struct Batcher<T> {
    queue: Queue<T>,
    policy: BatchPolicy,
    watch: Option<Watch>,
    /// Nothing runs until so many requests wait, once.
    held_until: usize,
    /// When that was over: what came before is looked at as one crowd.
    released_at: Option<Instant>,
    /// What the model says of its batches, if it says anything.
    strategy: Option<Arc<dyn BatchStrategy<T>>>,
}

impl<T: Item> Batcher<T> {
    /// An empty queue with these settings.
    pub fn new(settings: &Settings) -> Self {
        let (queue, policy) = (Queue::new(settings.levels.clone()), settings.batching.clone());
        Self { queue, policy, watch: None, held_until: 0, released_at: None, strategy: None }
    }

    /// Runs nothing until so many requests wait; after that it never holds again. Only where requests are batched.
    ///
    /// Source: `TRITONSERVER_DELAY_SCHEDULER` of Triton, with which tests decide what a batch is formed of.
    #[must_use]
    pub fn held_until(mut self, requests: usize) -> Self {
        if matches!(self.policy, BatchPolicy::Dynamic { .. }) {
            self.held_until = requests;
        }
        self
    }

    /// Forms batches as the model says. Only where requests are batched.
    #[must_use]
    pub fn with_strategy(mut self, strategy: Option<Arc<dyn BatchStrategy<T>>>) -> Self {
        self.strategy = strategy;
        self
    }

    /// The requests that wait.
    pub fn queue(&self) -> &Queue<T> {
        &self.queue
    }

    /// Adds a request past every limit: it was let in before, at `came_at`, and from `now` on it may run.
    pub fn admit(&mut self, item: T, came_at: Instant, now: Instant) -> Wake {
        let closes_batch = self.closes_batch(&item);
        self.queue.put_back(item, came_at, now);
        self.wake(closes_batch, None)
    }

    /// Whether a request of that shape cannot join those that wait, or may not: the model is asked again then. While somebody waits for more of them they are all
    /// of one shape, so the first speaks for all.
    fn closes_batch(&self, item: &T) -> bool {
        let BatchPolicy::Dynamic { shapes, .. } = &self.policy else { return false };
        self.watch.is_some()
            && (self.strategy.is_some() || self.queue.get(0).is_some_and(|(first, _)| !shapes.allow(item, first)))
    }

    /// Whether whoever waits has something to do after a request came.
    fn wake(&self, closes_batch: bool, deadline: Option<Instant>) -> Wake {
        if self.queue.len() < self.held_until {
            return Wake::Nobody;
        }
        let is_due = self.watch.is_none_or(|watch| {
            closes_batch || self.queue.rows() >= watch.rows || deadline.is_some_and(|deadline| deadline < watch.until)
        });
        if is_due { Wake::Any } else { Wake::Nobody }
    }
}

impl<T: Item + Send> Policy<T> for Batcher<T> {
    fn len(&self) -> usize {
        self.queue.len()
    }

    fn oldest(&self) -> Option<Instant> {
        self.queue.oldest()
    }

    fn runs_one_by_one(&self) -> bool {
        self.policy == BatchPolicy::Single
    }

    fn push(&mut self, item: T, priority: u64, timeout: Option<Duration>, now: Instant) -> Result<Pushed, Rejected<T>> {
        let closes_batch = self.closes_batch(&item);
        let deadline = self.queue.push(item, priority, timeout, now)?;
        Ok(Pushed { wake: self.wake(closes_batch, deadline), deadline, warning: None })
    }

    fn put_back(&mut self, item: T, _now: Instant) -> Result<Wake, T> {
        Err(item) // only sequences are iterative
    }

    fn sweep(&mut self, now: Instant, depth: usize, removed: &mut Vec<(T, Removal)>) -> Wake {
        self.queue.sweep(now, depth, removed);
        Wake::Nobody
    }

    fn stop_waiting(&mut self) {
        self.held_until = 0;
        if let BatchPolicy::Dynamic { max_queue_delay, .. } = &mut self.policy {
            *max_queue_delay = Duration::ZERO;
        }
    }

    fn decide(
        &mut self,
        _instance: usize, // any of them will do
        now: Instant,
        batch: &mut Vec<T>,
        removed: &mut Vec<(T, Removal)>,
    ) -> Decision {
        self.watch = None;
        if self.queue.len() < self.held_until {
            return Decision::Idle;
        }
        if self.held_until > 0 {
            (self.held_until, self.released_at) = (0, Some(now));
        }
        let (count, wait) = match &self.policy {
            BatchPolicy::Single => {
                self.queue.sweep(now, 1, removed);
                (usize::from(!self.queue.is_empty()), None)
            }
            BatchPolicy::Dynamic { preferred, max_batch_size, max_queue_delay, shapes } => {
                self.queue.sweep(now, *max_batch_size as usize, removed);
                let form = Form {
                    preferred,
                    max_batch_size: u64::from(*max_batch_size),
                    max_queue_delay: *max_queue_delay,
                    shapes,
                    strategy: self.strategy.as_deref(),
                    released_at: self.released_at,
                };
                form.at(&self.queue, now)
            }
        };
        if let Some(watch) = wait {
            let until = self.queue.next_deadline().map_or(watch.until, |deadline| deadline.min(watch.until));
            self.watch = Some(Watch { until, ..watch });
            return Decision::WaitUntil(until);
        }
        if count == 0 {
            return Decision::Idle;
        }
        self.queue.take(count, batch);
        Decision::Run(if self.queue.is_empty() { Wake::Nobody } else { Wake::Any })
    }

    fn footprint(&self, footprint: &mut Footprint) {
        footprint.add(self);
        self.queue.footprint(footprint);
    }
}

/// The batch-forming rule, apart from the queue it reads.
struct Form<'a, T> {
    preferred: &'a [u32],
    max_batch_size: u64,
    max_queue_delay: Duration,
    shapes: &'a SharedShapes,
    strategy: Option<&'a dyn BatchStrategy<T>>,
    released_at: Option<Instant>,
}

impl<T: Item> Form<'_, T> {
    /// How many requests run now; or, with 0, what to wait for.
    fn at(&self, queue: &Queue<T>, now: Instant) -> (usize, Option<Watch>) {
        let Some((first, mut oldest)) = queue.get(0) else { return (0, None) };
        let largest = u64::from(self.preferred.last().copied().unwrap_or(u32::MAX));
        let (mut rows, mut count, mut best, mut is_closed) = (0, 0, 0, false);
        let mut open = self.strategy.and_then(BatchStrategy::begin);
        while let Some((item, queued_at)) = queue.get(count) {
            let with_item = rows + u64::from(item.rows());
            // Past the largest preferred size without having met one: what is here is as good as it gets.
            let passes_largest = count > 0 && with_item > largest && best == 0;
            if count > 0 {
                if passes_largest {
                    best = count;
                }
                if with_item > self.max_batch_size || !self.shapes.allow(item, first) {
                    is_closed = true;
                    break;
                }
            }
            let is_included = open.as_mut().is_none_or(|batch| batch.includes(item));
            if count > 0 && !is_included {
                is_closed = true;
                break;
            }
            let grows = passes_largest && rows < largest && self.was_ready(oldest, queued_at);
            oldest = oldest.min(queued_at);
            rows = with_item;
            count += 1;
            if grows || self.preferred.iter().any(|&size| u64::from(size) == rows) {
                best = count;
            }
        }
        let age = now.saturating_duration_since(oldest);
        let is_late = !self.max_queue_delay.is_zero() && age >= self.max_queue_delay;
        if best != 0 && !is_late {
            return (best, None);
        }
        if is_closed || rows >= largest || is_late || self.max_queue_delay.is_zero() {
            return (count, None);
        }
        let next = self.preferred.iter().map(|&size| u64::from(size)).find(|&size| size > rows).unwrap_or(largest);
        (0, Some(Watch { until: oldest + self.max_queue_delay, rows: next }))
    }

    /// Whether a batch whose oldest request came at that moment waited for nothing but an instance when another came `then`.
    fn was_ready(&self, oldest: Instant, then: Instant) -> bool {
        self.max_queue_delay.is_zero() && then > oldest && self.released_at.is_none_or(|released_at| then > released_at)
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
