//! One loaded model version: what it takes, its queue, its instances, its counters. Dropped when the last request that
//! holds it is done.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use server_core::{
    backend::{Device, Marks, Model, Observer, Pending, Placement, deliver},
    batching::{policy::Settings, queue::Removal},
    config::{self, ModelConfig},
    error::{Error, Result},
    interface::Interface,
    request::InferRequest,
    responder::{Replies, Reply, reply_slot},
    stats::{FailureReason, ModelSnapshot},
};

use crate::{
    instance::{Health, InlinePolicy, InstanceSlot, Worker},
    response_order::ResponseOrder,
    scheduler::{Refusal, Removed, Scheduler, Submitted},
};

/// A model version that serves.
pub(crate) struct LoadedModel {
    pub(crate) interface: Arc<Interface>,
    pub(crate) config: Arc<ModelConfig>,
    scheduler: Arc<Scheduler>,
    stats: Arc<Stats>,
    health: Arc<Health>,
    inline_policy: Arc<InlinePolicy>,
    slots: Vec<Arc<InstanceSlot>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    has_queue_policy: bool,
    /// Files given with the load request, kept as long as any version of them.
    _files: Option<Arc<tempfile::TempDir>>,
}

/// What a version is made of.
pub(crate) struct Parts {
    pub(crate) interface: Interface,
    pub(crate) config: Arc<ModelConfig>,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) placements: Vec<Placement>,
    pub(crate) gpu_uuid: Option<String>,
    pub(crate) files: Option<Arc<tempfile::TempDir>>,
}

impl LoadedModel {
    /// Starts the instances, each on its own thread, all at once, and waits until every one is there.
    ///
    /// Errors: the first instance's that could not be made; the others are taken down again.
    pub(crate) fn start(parts: Parts, began: Instant) -> Result<Self> {
        let settings = Settings::of(&parts.config);
        let scheduler = Arc::new(Scheduler::new(&settings, parts.placements.len()));
        let stats = Arc::new(Stats::new(&parts));
        let order = settings.preserve_ordering.then(ResponseOrder::default).map(Arc::new);
        let health = Arc::new(Health::default());
        let inline_policy = Arc::new(InlinePolicy::new(parts.interface.has_fixed_shapes()));
        let mut slots = Vec::with_capacity(parts.placements.len());
        let mut threads = Vec::with_capacity(parts.placements.len());
        let mut arrivals = Vec::with_capacity(parts.placements.len());
        let mut failure = None;
        for (number, placement) in parts.placements.into_iter().enumerate() {
            let slot = Arc::new(InstanceSlot::new(stats.clone(), order.clone(), health.clone(), inline_policy.clone()));
            slots.push(slot.clone());
            let worker = Worker { number, scheduler: scheduler.clone(), slot };
            match worker.spawn(parts.model.clone(), placement) {
                Ok((thread, arrival)) => {
                    threads.push(thread);
                    arrivals.push(arrival);
                }
                Err(error) => failure = Some(error),
            }
        }
        for arrival in arrivals {
            // The sender lives on the thread: a hang-up means it panicked while making the instance.
            let result =
                arrival.recv().unwrap_or_else(|_| Err(Error::internal("the instance's thread ended at start")));
            failure = failure.or(result.err());
        }
        let loaded = Self {
            interface: Arc::new(parts.interface),
            has_queue_policy: parts.config.scheduling_choice.is_some(),
            config: parts.config,
            scheduler,
            stats,
            health,
            inline_policy,
            slots,
            threads: Mutex::new(threads),
            _files: parts.files,
        };
        match failure {
            None => {
                loaded.stats.counters.lock().load_ns = nanoseconds(began.elapsed());
                Ok(loaded)
            }
            Some(error) => {
                loaded.drain();
                Err(error)
            }
        }
    }

    /// Queues a checked request. Returns the way back, and when it has waited too long.
    ///
    /// Errors: it comes back when the queue is full or closed.
    pub(crate) fn submit(
        &self,
        request: InferRequest,
        batch_size: u32,
    ) -> Result<(Replies, Option<Instant>), Box<Refused>> {
        let (responder, replies) = reply_slot();
        // Without dynamic batching there is no queue policy: priority and timeout say nothing there.
        let (priority, timeout) = if self.has_queue_policy { (request.priority, request.timeout) } else { (0, None) };
        let pending = Pending { request, batch_size, queued_at: Instant::now(), responder };
        let mut removed = Removed::new();
        let is_quick = self.inline_policy.is_quick(batch_size);
        let submitted = self.scheduler.submit(pending, priority, timeout, is_quick, &mut removed);
        self.end_removed(removed);
        match submitted {
            Ok(Submitted::Queued { deadline }) => Ok((replies, deadline)),
            Ok(Submitted::Inline(run)) => {
                self.slots[run.instance].run(run.batch, run.now, run.ticket);
                self.scheduler.return_instance(run.instance);
                Ok((replies, None))
            }
            Err(refused) => {
                let (pending, refusal) = *refused;
                pending.responder.finish_empty(); // its other end goes with this call
                Err(Box::new(Refused { request: pending.request, refusal }))
            }
        }
    }

    /// Counts a refused request, and says why it was.
    pub(crate) fn reject(&self, refused: &Refused) -> Error {
        self.stats.failed(FailureReason::Rejected, &refused.request);
        let text = match refused.refusal {
            Refusal::Full => "Exceeds maximum queue size",
            Refusal::Closed => "Server is stopping, scheduler for model has stopped accepting new inference requests",
        };
        Error::unavailable(text).with_request_id(&refused.request.id)
    }

    /// Answers the requests that have waited too long, however busy the instances are.
    pub(crate) fn expire(&self) {
        let mut removed = Removed::new();
        self.scheduler.expire(&mut removed);
        self.end_removed(removed);
    }

    /// A caller left without its answer: its place in the queue, if it still has one, may be given away.
    pub(crate) fn note_cancelled(&self) {
        self.scheduler.note_cancelled();
    }

    fn end_removed(&self, removed: Removed) {
        for (pending, removal) in removed {
            self.stats.end_removed(pending, removal);
        }
    }

    /// Whether every instance can still serve.
    pub(crate) fn is_healthy(&self) -> bool {
        self.health.is_good()
    }

    /// Its counters now.
    pub(crate) fn snapshot(&self) -> ModelSnapshot {
        let pending = self.scheduler.pending() as u64;
        ModelSnapshot { pending, ..self.stats.counters.lock().clone() }
    }

    /// Lets in nobody more.
    pub(crate) fn close(&self) {
        self.scheduler.close();
    }

    /// Lets in nobody more, and blocks until the last request has ended and the instances are gone.
    pub(crate) fn drain(&self) {
        self.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(model = %self.interface.model_name, "an instance's thread ended by panic");
            }
        }
    }
}

/// A request that did not enter the queue.
pub(crate) struct Refused {
    pub(crate) request: InferRequest,
    pub(crate) refusal: Refusal,
}

/// The counters of one version: one lock per batch, none per request.
pub(crate) struct Stats {
    counters: Mutex<ModelSnapshot>,
}

impl Stats {
    fn new(parts: &Parts) -> Self {
        let tags = parts.config.metric_tags.iter().map(|(key, value)| (key.clone(), value.clone()));
        let counters = ModelSnapshot {
            name: parts.interface.model_name.to_string(),
            version: parts.interface.version,
            gpu_uuid: parts.gpu_uuid.clone(),
            metric_tags: tags.collect(),
            ..ModelSnapshot::default()
        };
        Self { counters: Mutex::new(counters) }
    }

    /// Counts and answers a request that ended in the queue.
    pub(crate) fn end_removed(&self, pending: Pending, removal: Removal) {
        let (reason, error) = match removal {
            Removal::Expired => (
                FailureReason::Rejected,
                Error::unavailable("Request timeout expired").with_request_id(&pending.request.id),
            ),
            Removal::Abandoned => (FailureReason::Canceled, Error::cancelled("")),
        };
        self.failed(reason, &pending.request);
        pending.responder.finish(Err(error));
    }

    fn failed(&self, reason: FailureReason, request: &InferRequest) {
        self.counters.lock().record_failure(reason, request.received_at, Instant::now());
    }
}

impl Observer for Stats {
    fn executed(&self, pending: &[Pending], replies: &[Reply], marks: &Marks) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.counters.lock().record_execution(pending, replies, marks, now_ms);
    }

    fn deliver(&self, pending: Vec<Pending>, replies: Vec<Reply>) {
        deliver(pending, replies);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One placement per instance of the normalised configuration's groups, in the order of the configuration.
pub(crate) fn placements(model: &ModelConfig) -> Vec<Placement> {
    let mut placements = Vec::new();
    for group in &model.instance_group {
        let devices = match config::InstanceKind::try_from(group.kind) {
            Ok(config::InstanceKind::Gpu) => {
                group.gpus.iter().map(|&gpu| Device::Gpu(u32::try_from(gpu).unwrap_or(0))).collect()
            }
            Ok(config::InstanceKind::Model) => vec![Device::Model],
            _ => vec![Device::Cpu],
        };
        let mut number = 0;
        for device in devices {
            for _ in 0..group.count.max(1) {
                placements.push(Placement { instance_name: format!("{}_{number}", group.name), device });
                number += 1;
            }
        }
    }
    placements
}
