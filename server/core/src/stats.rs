//! Counters of one model version, and the snapshot that statistics endpoints and the metrics page show.
//!
//! Source: Triton statistics extension; field meanings in the metrics document.

use std::time::{Duration, Instant, SystemTime};

use crate::{
    completion::{EndedRequest, Pending},
    footprint::Footprint,
    latency::{Exemplar, Latencies, LatencyReadings, RequestTimes},
    load::LoadSnapshot,
    record::{Marks, RequestRecord, ResponseMarks, ResponseOutcome},
    responder::Reply,
    trace::Trace,
};
pub use crate::{
    custom_counter::CustomCounter,
    record::{ComputeTimes, FailureReason},
};

/// How often, and how long in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Durations {
    /// Number of events.
    pub count: u64,
    /// Their time together, nanoseconds.
    pub ns: u64,
}

impl Durations {
    fn add(&mut self, times: u64, each: Duration) {
        self.count += times;
        self.ns += u64::try_from(each.as_nanos()).unwrap_or(u64::MAX).saturating_mul(times);
    }
}

/// Executions of one batch size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchSnapshot {
    /// Rows per execution.
    pub batch_size: u64,
    /// Time to make inputs ready.
    pub compute_input: Durations,
    /// Time in the runtime.
    pub compute_infer: Durations,
    /// Time to take outputs apart.
    pub compute_output: Durations,
}

/// Responses of one number, of all requests that end by themselves.
///
/// Source: Triton statistics extension, `response_stats`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponseSnapshot {
    /// Time in the runtime.
    pub compute_infer: Durations,
    /// Time to make the response.
    pub compute_output: Durations,
    /// Responses.
    pub success: Durations,
    /// Errors.
    pub fail: Durations,
    /// Computed, and nothing to send.
    pub empty_response: Durations,
    /// Not computed any more, for nobody waited: the time to clean up.
    pub cancel: Durations,
}

/// Response numbers that are counted one by one; later ones are counted under the last. Bounds the memory of a model
/// that answers without end.
pub const MAX_RESPONSE_NUMBERS: usize = 4096;

/// Why requests failed: the `reason` label of `nv_inference_request_failure`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FailureCounts {
    /// Queue full, timed out, or stopping.
    pub rejected: u64,
    /// The caller left.
    pub canceled: u64,
    /// The backend answered with an error.
    pub backend: u64,
    /// Anything else.
    pub other: u64,
}

/// Everything counted of one model version, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelSnapshot {
    /// Name on the wire.
    pub name: String,
    /// The repository it is of, where models of several may have one name.
    pub namespace: Option<String>,
    /// Version number.
    pub version: u64,
    /// GPU uuid label, for instances on GPUs.
    pub gpu_uuid: Option<String>,
    /// `metric_tags` of the configuration.
    pub metric_tags: Vec<(String, String)>,
    /// When the last request came, milliseconds since 1970; 0 before the first.
    pub last_inference_ms: u64,
    /// Rows inferred, cached ones not counted.
    pub inference_count: u64,
    /// Batches executed.
    pub execution_count: u64,
    /// Requests answered.
    pub success: Durations,
    /// Requests that were taken in and failed.
    pub fail: Durations,
    /// Time in the queue, of answered requests.
    pub queue: Durations,
    /// Time to make inputs ready, counted once per request of a batch.
    pub compute_input: Durations,
    /// Time in the runtime, counted once per request of a batch.
    pub compute_infer: Durations,
    /// Time to take outputs apart, counted once per request of a batch.
    pub compute_output: Durations,
    /// Answers from the response cache.
    pub cache_hit: Durations,
    /// Look-ups that found nothing, of requests that were answered then: with the time to keep the answer.
    pub cache_miss: Durations,
    /// Whether the configuration asks for the response cache, so that the metrics page has its series.
    pub has_response_cache: bool,
    /// Failures by reason, and with those rejected the requests that were not taken in.
    pub failures: FailureCounts,
    /// Requests waiting for an instance right now.
    pub pending: u64,
    /// How long requests wait and how much instances execute; ensembles, which have neither, say nothing. Only in snapshots for
    /// the metrics page.
    pub load: Option<LoadSnapshot>,
    /// How long the load took, nanoseconds.
    pub load_ns: u64,
    /// One entry per batch size seen, ascending.
    pub batches: Vec<BatchSnapshot>,
    /// One entry per response number, from 0, of decoupled models.
    pub responses: Vec<ResponseSnapshot>,
    /// What the model itself counts; only in snapshots for the metrics page.
    pub custom: Vec<CustomCounter>,
    /// What its distributions of latencies say, where some are kept; only in snapshots for the metrics page.
    pub latencies: Option<Box<LatencyReadings>>,
}

/// Everything counted of one model version while it serves, with the distributions that are kept beside.
#[derive(Debug, Clone, Default)]
pub struct ModelCounters {
    counts: ModelSnapshot,
    latencies: Option<Box<Latencies>>,
}

impl ModelCounters {
    /// Counters that carry the labels of a model's metrics.
    pub fn new(counts: ModelSnapshot, latencies: Option<Latencies>) -> Self {
        Self { counts, latencies: latencies.map(Box::new) }
    }

    /// What is counted so far, distributions left out.
    pub fn snapshot(&self) -> ModelSnapshot {
        self.counts.clone()
    }

    /// The same with what the distributions say, for the metrics page.
    pub fn metrics(&mut self, now: Instant) -> ModelSnapshot {
        let latencies = self.latencies.as_mut().map(|latencies| Box::new(latencies.read(now)));
        ModelSnapshot { latencies, ..self.counts.clone() }
    }

    /// Executions so far.
    pub fn executions(&self) -> u64 {
        self.counts.execution_count
    }

    /// What the count of a request touches, beside this itself.
    pub fn footprint(&self, footprint: &mut Footprint) {
        footprint.add(&*self.counts.batches);
    }

    /// Whether distributions are kept.
    pub fn has_latencies(&self) -> bool {
        self.latencies.is_some()
    }

    /// The load took so long.
    pub fn loaded(&mut self, took: Duration) {
        self.counts.load_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    }

    /// Counts one execution: `replies` are the ends of `pending`, in the same order. `now_ms` counts from 1970.
    pub fn record_execution(&mut self, pending: &[Pending], replies: &[Reply], marks: &Marks, now_ms: u64) {
        let mut rows = 0;
        for (pending, reply) in pending.iter().zip(replies) {
            rows += u64::from(pending.batch_size());
            if pending.completion.is_empty_row() {
                continue;
            }
            let record = pending.completion.record();
            self.record_first_response(record.received_at, marks.end);
            match reply {
                Ok(_) => {
                    let trace = pending.completion.trace().map(|trace| &**trace);
                    self.record_success(EndedRequest { record, trace }, marks, now_ms);
                }
                Err(error) => {
                    self.record_failure(FailureReason::of_backend(error), record.received_at, marks.end);
                }
            }
        }
        // one that fails is an execution as well, as in Triton
        self.record_batch(rows, marks, now_ms);
    }

    /// Counts one execution of so many rows, however its requests end. `now_ms` counts from 1970.
    ///
    /// Source: Triton, where executions say when the last inference was.
    pub fn record_batch(&mut self, rows: u64, marks: &Marks, now_ms: u64) {
        self.counts.last_inference_ms = now_ms;
        self.record_batch_times(rows, ComputeTimes::of(marks));
    }

    fn record_batch_times(&mut self, rows: u64, times: ComputeTimes) {
        self.counts.execution_count += 1;
        let batch = self.counts.batch(rows);
        batch.compute_input.add(1, times.input);
        batch.compute_infer.add(1, times.infer);
        batch.compute_output.add(1, times.output);
    }

    /// Counts one request to an ensemble that ended well: `started` is when its first step might start, `times` those of all
    /// its steps together. `now_ms` counts from 1970.
    ///
    /// Source: Triton, where an ensemble's compute times are the sums of its composing models'.
    pub fn record_ensemble(
        &mut self,
        request: EndedRequest<'_>,
        started: Instant,
        times: ComputeTimes,
        now: Instant,
        now_ms: u64,
    ) {
        let EndedRequest { record, trace } = request;
        self.counts.last_inference_ms = now_ms;
        self.counts.inference_count += u64::from(record.batch_size);
        self.counts.success.add(1, now.saturating_duration_since(record.received_at));
        self.counts.queue.add(1, started.saturating_duration_since(record.queued_at));
        self.counts.compute_input.add(1, times.input);
        self.counts.compute_infer.add(1, times.infer);
        self.counts.compute_output.add(1, times.output);
        self.record_batch_times(u64::from(record.batch_size), times);
        if let Some(latencies) = &mut self.latencies {
            let request = now.saturating_duration_since(record.received_at);
            let queue = started.saturating_duration_since(record.queued_at);
            latencies.ended(&RequestTimes { request, queue, compute: Some(times) }, now, exemplar(trace, now_ms));
        }
    }

    /// Counts one request that the response cache answered: it came at `received_at` and was looked for from `looked_up_at`
    /// on. No row was inferred for it, so it does not say when the last inference was.
    ///
    /// Source: Triton, where such a request is a success that waited from its queue's door to the look-up.
    pub fn record_cache_hit(&mut self, received_at: Instant, looked_up_at: Instant, now: Instant) {
        self.counts.success.add(1, now.saturating_duration_since(received_at));
        self.counts.queue.add(1, Duration::ZERO);
        self.counts.cache_hit.add(1, now.saturating_duration_since(looked_up_at));
        if let Some(latencies) = &mut self.latencies {
            let (request, took) =
                (now.saturating_duration_since(received_at), now.saturating_duration_since(looked_up_at));
            latencies.ended(&RequestTimes { request, queue: Duration::ZERO, compute: None }, now, None);
            latencies.cache_hit(took, now);
            latencies.responded_first(request);
        }
    }

    /// Counts one request that the response cache did not answer, and that was answered well: to look for it and to keep its
    /// answer took so long, which its own time, counted before, does not contain.
    pub fn record_cache_miss(&mut self, took: Duration, now: Instant) {
        self.counts.cache_miss.add(1, took);
        if let Some(latencies) = &mut self.latencies {
            latencies.cache_miss(took, now);
        }
        self.counts.success.ns += u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    }

    /// Counts one request that ended by itself. `now_ms` counts from 1970.
    pub fn record_end(&mut self, request: EndedRequest<'_>, marks: &Marks, now_ms: u64) {
        self.counts.last_inference_ms = now_ms;
        self.record_success(request, marks, now_ms);
    }

    /// Counts a turn of an iterative model's request that is not its last: as one more inference, whose time is told when the
    /// request ends. `now_ms` counts from 1970.
    ///
    /// Source: Triton, where each iteration is an inference.
    pub fn record_turn(&mut self, record: &RequestRecord, marks: &Marks, now_ms: u64) {
        self.counts.last_inference_ms = now_ms;
        self.counts.success.add(1, Duration::ZERO);
        self.record_inference(record, marks);
    }

    /// Counts response number `index` of a request.
    pub fn record_response(&mut self, index: u32, outcome: ResponseOutcome, marks: &ResponseMarks) {
        let index = usize::try_from(index).unwrap_or(usize::MAX).min(MAX_RESPONSE_NUMBERS - 1);
        if self.counts.responses.len() <= index {
            self.counts.responses.resize(index + 1, ResponseSnapshot::default());
        }
        let response = &mut self.counts.responses[index];
        let total = marks.end.saturating_duration_since(marks.start);
        let infer = marks.output_start.saturating_duration_since(marks.start);
        let output = marks.end.saturating_duration_since(marks.output_start);
        match outcome {
            ResponseOutcome::Success => {
                response.compute_infer.add(1, infer);
                response.compute_output.add(1, output);
                response.success.add(1, total);
            }
            ResponseOutcome::Fail => {
                response.compute_infer.add(1, infer);
                if !output.is_zero() {
                    response.compute_output.add(1, output); // else it failed before there was an output
                }
                response.fail.add(1, total);
            }
            ResponseOutcome::Empty => {
                response.compute_infer.add(1, total);
                response.empty_response.add(1, total);
            }
            ResponseOutcome::Cancelled => response.cancel.add(1, total),
        }
    }

    /// The first response of a request was there, an error or not, where histograms of that are kept.
    ///
    /// Source: Triton, which counts each first response that a request gets once it was taken in.
    pub fn record_first_response(&mut self, received_at: Instant, at: Instant) {
        if let Some(latencies) = &mut self.latencies {
            latencies.responded_first(at.saturating_duration_since(received_at));
        }
    }

    /// Every request adds the whole batch's compute times, as Triton counts them.
    fn record_success(&mut self, request: EndedRequest<'_>, marks: &Marks, now_ms: u64) {
        let EndedRequest { record, trace } = request;
        self.counts.success.add(1, marks.end.saturating_duration_since(record.received_at));
        self.record_inference(record, marks);
        if let Some(latencies) = &mut self.latencies {
            let times = RequestTimes {
                request: marks.end.saturating_duration_since(record.received_at),
                queue: marks.start.saturating_duration_since(record.queued_at),
                compute: Some(ComputeTimes::of(marks)),
            };
            latencies.ended(&times, marks.end, exemplar(trace, now_ms));
        }
    }

    fn record_inference(&mut self, record: &RequestRecord, marks: &Marks) {
        self.counts.inference_count += u64::from(record.batch_size);
        self.counts.queue.add(1, marks.start.saturating_duration_since(record.queued_at));
        self.counts.compute_input.add(1, marks.input_end.saturating_duration_since(marks.start));
        self.counts.compute_infer.add(1, marks.output_start.saturating_duration_since(marks.input_end));
        self.counts.compute_output.add(1, marks.end.saturating_duration_since(marks.output_start));
    }

    /// Counts one request that was not taken in: as rejected, and not as one that failed, for it was never served. Triton's
    /// statistics do so too.
    pub fn record_refusal(&mut self) {
        self.counts.failures.rejected += 1;
    }

    /// Counts one request that was taken in and ended with an error.
    pub fn record_failure(&mut self, reason: FailureReason, received_at: Instant, now: Instant) {
        self.counts.fail.add(1, now.saturating_duration_since(received_at));
        *match reason {
            FailureReason::Rejected => &mut self.counts.failures.rejected,
            FailureReason::Canceled => &mut self.counts.failures.canceled,
            FailureReason::Backend => &mut self.counts.failures.backend,
            FailureReason::Other => &mut self.counts.failures.other,
        } += 1;
    }
}

/// Where more is told of a request whose trace goes to a collector.
fn exemplar(trace: Option<&Trace>, now_ms: u64) -> Option<Exemplar> {
    let trace_id = trace.filter(|trace| trace.has_spans())?.trace_id();
    Some(Exemplar { trace_id, value: 0.0, at: SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms) })
}

impl ModelSnapshot {
    /// Adds the counts of a version that this one has replaced, for series that go on from one to the other. Labels, load
    /// time and what is told per batch size and per response stay this one's.
    pub fn add_counts(&mut self, replaced: &Self) {
        self.inference_count += replaced.inference_count;
        self.execution_count += replaced.execution_count;
        self.pending += replaced.pending;
        self.failures.rejected += replaced.failures.rejected;
        self.failures.canceled += replaced.failures.canceled;
        self.failures.backend += replaced.failures.backend;
        self.failures.other += replaced.failures.other;
        match (&mut self.latencies, &replaced.latencies) {
            (Some(own), Some(replaced)) => own.add(replaced),
            (own @ None, Some(replaced)) => *own = Some(replaced.clone()),
            (_, None) => {}
        }
        if let Some(replaced) = &replaced.load {
            self.load.get_or_insert_default().add(replaced);
        }
        for (own, replaced) in [
            (&mut self.success, replaced.success),
            (&mut self.fail, replaced.fail),
            (&mut self.queue, replaced.queue),
            (&mut self.compute_input, replaced.compute_input),
            (&mut self.compute_infer, replaced.compute_infer),
            (&mut self.compute_output, replaced.compute_output),
            (&mut self.cache_hit, replaced.cache_hit),
            (&mut self.cache_miss, replaced.cache_miss),
        ] {
            own.count += replaced.count;
            own.ns += replaced.ns;
        }
    }

    /// The same model with counters of the metrics page at nothing; gauges stay.
    ///
    /// Source: Triton with `--metrics-config counter_latencies=false`, which stops all counters of models.
    pub fn without_counts(&self) -> Self {
        Self {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            version: self.version,
            gpu_uuid: self.gpu_uuid.clone(),
            metric_tags: self.metric_tags.clone(),
            has_response_cache: self.has_response_cache,
            pending: self.pending,
            load: self.load,
            load_ns: self.load_ns,
            custom: self.custom.clone(),
            ..Self::default()
        }
    }

    fn batch(&mut self, batch_size: u64) -> &mut BatchSnapshot {
        let index = match self.batches.binary_search_by_key(&batch_size, |batch| batch.batch_size) {
            Ok(index) => index,
            Err(index) => {
                self.batches.insert(index, BatchSnapshot { batch_size, ..BatchSnapshot::default() });
                index
            }
        };
        &mut self.batches[index]
    }
}
