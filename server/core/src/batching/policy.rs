//! When a batch is ready to run. An instance that has nothing to do asks [`Batcher::decide`]; time is an argument.
//!
//! Source: Triton model configuration, "Dynamic Batcher": preferred sizes leave at once, other sizes wait until the
//! oldest request has waited `max_queue_delay`, and what is late leaves as it is, up to the model's maximum.

use std::time::{Duration, Instant};

use server_proto::inference::{ModelConfig, model_config::SchedulingChoice};

use super::{
    levels::Levels,
    queue::{Full, Item, Queue, Removal},
};

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
        /// Whether requests may differ in shape, so that [`Item::may_share`] must be asked.
        shapes_vary: bool,
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
        let shapes_vary = config.input.iter().any(|input| input.dims.contains(&-1) || input.optional);
        Self {
            batching: BatchPolicy::Dynamic {
                preferred,
                max_batch_size,
                max_queue_delay: Duration::from_micros(dynamic.max_queue_delay_microseconds),
                shapes_vary,
            },
            levels: Levels::of(dynamic),
            preserve_ordering: dynamic.preserve_ordering,
        }
    }
}

/// What an instance should do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Run the requests that were handed over.
    Run,
    /// Look again then, or when told to.
    WaitUntil(Instant),
    /// Nothing waits.
    Idle,
}

/// What came of adding a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Someone should look now: a waiting instance has something to do, or none waits.
    pub must_look: bool,
    /// When it has waited too long, if it can.
    pub deadline: Option<Instant>,
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
}

impl<T: Item> Batcher<T> {
    /// An empty queue with these settings.
    pub fn new(settings: &Settings) -> Self {
        Self { queue: Queue::new(settings.levels.clone()), policy: settings.batching.clone(), watch: None }
    }

    /// The requests that wait.
    pub fn queue(&self) -> &Queue<T> {
        &self.queue
    }

    /// Adds a request.
    pub fn push(&mut self, item: T, priority: u64, timeout: Option<Duration>, now: Instant) -> Result<Pushed, Full<T>> {
        let deadline = self.queue.push(item, priority, timeout, now)?;
        let varies = matches!(self.policy, BatchPolicy::Dynamic { shapes_vary: true, .. });
        let must_look = self.watch.is_none_or(|watch| {
            varies || self.queue.rows() >= watch.rows || deadline.is_some_and(|deadline| deadline < watch.until)
        });
        Ok(Pushed { must_look, deadline })
    }

    /// Takes out what expired, wherever it waits, and what was abandoned among the first `depth`.
    pub fn sweep(&mut self, now: Instant, depth: usize, removed: &mut Vec<(T, Removal)>) {
        self.queue.sweep(now, depth, removed);
    }

    /// From here on no batch waits for more requests: none will come.
    pub fn stop_waiting(&mut self) {
        if let BatchPolicy::Dynamic { max_queue_delay, .. } = &mut self.policy {
            *max_queue_delay = Duration::ZERO;
        }
    }

    /// Decides at `now`. `Run` moved the batch into `batch`; requests that ended in the queue are in `removed` either
    /// way. After `WaitUntil`, [`Batcher::push`] says when waiting has become pointless.
    pub fn decide(&mut self, now: Instant, batch: &mut Vec<T>, removed: &mut Vec<(T, Removal)>) -> Decision {
        self.watch = None;
        let (count, wait) = match &self.policy {
            BatchPolicy::Single => {
                self.queue.sweep(now, 1, removed);
                (usize::from(!self.queue.is_empty()), None)
            }
            BatchPolicy::Dynamic { preferred, max_batch_size, max_queue_delay, shapes_vary } => {
                self.queue.sweep(now, *max_batch_size as usize, removed);
                let form = Form {
                    preferred,
                    max_batch_size: u64::from(*max_batch_size),
                    max_queue_delay: *max_queue_delay,
                    shapes_vary: *shapes_vary,
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
        Decision::Run
    }
}

/// The batch-forming rule, apart from the queue it reads.
struct Form<'a> {
    preferred: &'a [u32],
    max_batch_size: u64,
    max_queue_delay: Duration,
    shapes_vary: bool,
}

impl Form<'_> {
    /// How many requests run now; or, with 0, what to wait for.
    fn at<T: Item>(&self, queue: &Queue<T>, now: Instant) -> (usize, Option<Watch>) {
        let Some((first, mut oldest)) = queue.get(0) else { return (0, None) };
        let largest = u64::from(self.preferred.last().copied().unwrap_or(u32::MAX));
        let (mut rows, mut count, mut best, mut is_closed) = (0, 0, 0, false);
        while let Some((item, queued_at)) = queue.get(count) {
            let with_item = rows + u64::from(item.rows());
            if count > 0 {
                // Past the largest preferred size without having met one: what is here is as good as it gets.
                if with_item > largest && best == 0 {
                    best = count;
                }
                if with_item > self.max_batch_size || (self.shapes_vary && !item.may_share(first)) {
                    is_closed = true;
                    break;
                }
            }
            oldest = oldest.min(queued_at);
            rows = with_item;
            count += 1;
            if self.preferred.iter().any(|&size| u64::from(size) == rows) {
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
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
