//! Counters of one model version, and the snapshot that statistics endpoints and the metrics page show.
//!
//! Source: Triton statistics extension; field meanings in the metrics document.

/// How often, and how long in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Durations {
    /// Number of events.
    pub count: u64,
    /// Their time together, nanoseconds.
    pub ns: u64,
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelSnapshot {
    /// Name on the wire.
    pub name: String,
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
    /// Requests that failed.
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
    /// Look-ups that found nothing.
    pub cache_miss: Durations,
    /// Failures by reason.
    pub failures: FailureCounts,
    /// Requests waiting for an instance right now.
    pub pending: u64,
    /// How long the load took, nanoseconds.
    pub load_ns: u64,
    /// One entry per batch size seen, ascending.
    pub batches: Vec<BatchSnapshot>,
}
