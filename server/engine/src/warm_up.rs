//! Warming up: an instance runs the samples of its model's configuration on its own thread before it serves. They enter no
//! queue, and are counted as requests are: so does Triton.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use server_core::{
    backend::Instance,
    batch::{Batch, Pending},
    completion::{Completion, EndedRequest, Marks, RequestEvents, RequestRecord, ResponseMarks, ResponseOutcome},
    config::{ModelConfig, SchedulingChoice},
    error::{Error, Result},
    interface::Interface,
    responder::{Replies, Reply},
    sequence::settings as sequences,
    stats::FailureReason,
    warm_up::{self, Sample},
};
use server_scheduler::Scheduler;

use crate::{
    executing::unless_it_panics,
    model_files,
    scheduling::initial_state,
    stats::{ModelStats, now_ms},
};

/// How long responses may come after the execution of a sample is over.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the samples of a model version are made from. They are read when instances are made, and not kept.
pub(crate) struct WarmUp {
    config: Arc<ModelConfig>,
    interface: Arc<Interface>,
    model_dir: PathBuf,
}

impl WarmUp {
    /// `None` if the configuration asks for none.
    pub(crate) fn of(config: &Arc<ModelConfig>, interface: &Arc<Interface>, model_dir: &Path) -> Option<Self> {
        if config.model_warmup.is_empty() {
            return None;
        }
        Some(Self { config: config.clone(), interface: interface.clone(), model_dir: model_dir.to_owned() })
    }

    /// The samples, from the files of the model.
    ///
    /// Errors: a sample does not fit the model, or its file cannot be read.
    pub(crate) fn samples(&self) -> Result<Samples> {
        let Self { config, interface, model_dir } = self;
        for sample in config.model_warmup.iter().filter(|sample| sample.batch_size > 0) {
            tracing::debug!("Generating warmup sample data for '{}'", sample.name);
        }
        let extra = sequences::extra_inputs(config, |name| initial_state(model_dir, name))?;
        let read = |name: &str| model_files::read(&model_dir.join("warmup").join(name));
        let samples = warm_up::samples(config, interface, &extra, Instant::now(), read)?;
        for sample in samples.iter().filter(|sample| !sample.unknown.is_empty()) {
            let known: Vec<&str> = interface.inputs.iter().map(|input| &*input.name).collect();
            tracing::warn!(
                "model '{}': warmup sample '{}' gives inputs that the configuration does not know: {}. Its inputs are: {}",
                interface.model_name,
                sample.name,
                sample.unknown.join(", "),
                known.join(", ")
            );
        }
        let is_iterative = matches!(
            &config.scheduling_choice,
            Some(SchedulingChoice::SequenceBatching(batching)) if batching.iterative_sequence
        );
        Ok(Samples { samples, max_batch_size: interface.max_batch_size, is_iterative })
    }
}

/// Samples that are ready to run.
pub(crate) struct Samples {
    samples: Vec<Sample>,
    max_batch_size: u32,
    /// Requests may ask for another turn.
    is_iterative: bool,
}

/// Samples that one instance is to run, and who counts their requests.
pub(crate) struct WarmUpRun {
    pub(crate) instance_name: String,
    /// Shared by the instances that are made together, and let go of when the last one is warm.
    pub(crate) samples: Arc<Samples>,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) stats: Arc<ModelStats>,
}

impl WarmUpRun {
    /// Runs every sample as often as it says, one execution after the other.
    ///
    /// Errors: `InvalidArgument` with everything that the requests of the first execution that fails are answered.
    pub(crate) fn run(self, instance: &mut dyn Instance) -> Result<()> {
        for sample in &self.samples.samples {
            for iteration in 1..=sample.count {
                tracing::debug!(
                    "model '{}' instance {} is running warmup sample '{}' for iteration {iteration}",
                    sample.request.model_name,
                    self.instance_name,
                    sample.name
                );
                let errors = self.once(instance, sample)?;
                if !errors.is_empty() {
                    let errors: String = errors.iter().map(|error| format!("{error}; ")).collect();
                    let text = format!("failed to run warmup sample '{}': {errors}", sample.name);
                    return Err(Error::invalid_argument(text));
                }
            }
        }
        Ok(())
    }

    /// One execution; returns what went wrong with its requests.
    fn once(&self, instance: &mut dyn Instance, sample: &Sample) -> Result<Vec<Error>> {
        // A model without a batch dimension takes one request at a time.
        let max_batch_size = self.samples.max_batch_size;
        if sample.batch_size > max_batch_size.max(1) {
            return Ok(vec![Error::invalid_argument(format!(
                "batch size {} for '{}', max allowed is {max_batch_size}",
                sample.batch_size, self.instance_name
            ))]);
        }
        let events = Arc::new(Events {
            stats: self.stats.clone(),
            is_iterative: self.samples.is_iterative,
            thread: thread::current(),
            again: Mutex::default(),
        });
        let now = Instant::now();
        let (mut batch, mut replies) = (Vec::new(), Vec::new());
        for _ in 0..sample.batch_size {
            if !self.scheduler.admit() {
                return Err(Error::unavailable("the model was closed while its instances were warmed up"));
            }
            let mut request = sample.request.clone();
            request.received_at = now;
            let record = RequestRecord { received_at: now, queued_at: now, batch_size: 1 };
            let events: Arc<dyn RequestEvents> = events.clone();
            let (completion, answers) = Completion::new(record, events, usize::MAX);
            batch.push(Pending { request, completion });
            replies.push(answers);
        }
        execute(instance, batch);
        Ok(self.answers(instance, &events, replies))
    }

    /// Reads all responses, and has the model run requests again that it wants another turn for.
    fn answers(&self, instance: &mut dyn Instance, events: &Events, replies: Vec<Replies>) -> Vec<Error> {
        let deadline = Instant::now() + PATIENCE;
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut errors = Vec::new();
        for mut replies in replies {
            loop {
                let again = std::mem::take(&mut *events.again.lock());
                let has_more = !again.is_empty();
                if has_more {
                    execute(instance, again);
                }
                match replies.poll_next(&mut context) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(error))) => errors.push(error),
                    Poll::Ready(None) => break,
                    Poll::Pending => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            errors.push(unfinished());
                            return errors;
                        }
                        if !has_more {
                            thread::park_timeout(left); // whoever answers or comes back ends it
                        }
                    }
                }
            }
        }
        errors
    }
}

fn unfinished() -> Error {
    let seconds = PATIENCE.as_secs();
    Error::unavailable(format!("the model had not finished a request {seconds} seconds after it was executed"))
}

/// A panic is answered as an internal error of each request.
fn execute(instance: &mut dyn Instance, batch: Vec<Pending>) {
    let batch = Batch::new(batch, Instant::now());
    let _ = unless_it_panics(|| instance.execute(batch));
}

/// The counters of the model. Requests that want another turn come back here: no queue is open to them yet.
struct Events {
    stats: Arc<ModelStats>,
    is_iterative: bool,
    thread: Thread,
    again: Mutex<Vec<Pending>>,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl RequestEvents for Events {
    fn batch_ended(&self, requests: &[Pending], replies: &[Reply], marks: &Marks) {
        self.stats.batch_ended(requests, replies, marks);
    }

    fn executed(&self, rows: u64, marks: &Marks) {
        self.stats.executed(rows, marks);
    }

    fn responded(&self, record: &RequestRecord, index: u32, outcome: ResponseOutcome, marks: &ResponseMarks) {
        self.stats.responded(record, index, outcome, marks);
    }

    fn ended(
        &self,
        request: EndedRequest<'_>,
        outcome: Result<(), FailureReason>,
        marks: Option<&Marks>,
        now: Instant,
    ) {
        self.stats.ended(request, outcome, marks, now);
    }

    fn released(&self, count: usize) {
        self.stats.released(count);
    }

    fn rescheduled(&self, mut request: Pending, marks: Option<&Marks>) {
        if !self.is_iterative {
            return self.stats.rescheduled(request, marks); // an error
        }
        if let Some(marks) = marks {
            self.stats.count(|counters| counters.record_turn(request.completion.record(), marks, now_ms()));
        }
        request.completion.requeue(Instant::now());
        self.again.lock().push(request);
        self.thread.unpark();
    }

    fn now(&self) -> Instant {
        self.stats.now()
    }
}
