//! The requests that are traced under one setting, and where their traces go.

use std::sync::{
    Arc,
    atomic::{AtomicI32, AtomicU32, Ordering::Relaxed},
};

use super::{
    context::{Remote, SpanId, TraceId},
    event::Event,
    settings::Values,
};
use crate::custom_counter::CustomCounter;

/// What is made of traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Files in Triton's own form.
    Triton,
    /// Spans, sent to a collector.
    OpenTelemetry,
}

/// Takes what was recorded. Called by the threads of requests: it must not wait for anything.
pub trait TraceSink: Send + Sync {
    /// A request has ended.
    fn finished(&self, trace: Finished);

    /// No more traces come of the setting of that number.
    fn retired(&self, stream: u64);

    /// What became of traces, for the metrics page; empty while there is nothing to say.
    fn metrics(&self) -> Vec<CustomCounter> {
        Vec::new()
    }
}

/// All that was recorded of one request.
#[derive(Debug)]
pub struct Finished {
    /// Number of its first part.
    pub id: u64,
    /// The trace it belongs to.
    pub trace_id: TraceId,
    /// The span of the whole request.
    pub span: SpanId,
    /// The span of the caller, if it sent one.
    pub remote: Option<Remote>,
    /// In the order in which they were recorded.
    pub events: Vec<Event>,
    /// Bytes of tensors in `events`.
    pub tensor_bytes: usize,
    /// The setting that it was sampled under.
    pub stream: Arc<Stream>,
}

/// The requests that are traced under one setting, until it is changed.
pub struct Stream {
    number: u64,
    mode: Mode,
    pub(super) values: Values,
    /// Requests seen.
    seen: AtomicU32,
    /// Traces left; negative for any number.
    left: AtomicI32,
    sink: Arc<dyn TraceSink>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("number", &self.number).field("values", &self.values).finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new(number: u64, mode: Mode, values: Values, sink: &Arc<dyn TraceSink>) -> Arc<Self> {
        let (seen, left) = (AtomicU32::new(0), AtomicI32::new(values.count));
        Arc::new(Self { number, mode, values, seen, left, sink: sink.clone() })
    }

    /// Its number in the process.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What is made of its traces.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// As they were set. [`Values::count`] is how many traces it has in all.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// As they are now.
    pub(super) fn current(&self) -> Values {
        Values { count: self.left.load(Relaxed).max(-1), ..self.values }
    }

    /// Whether the next request is traced. One whose caller traces it always is.
    pub(super) fn samples(&self, is_of_trace: bool) -> bool {
        let is_recorded = self.values.has_times || (self.values.has_tensors && self.mode == Mode::Triton);
        if !is_recorded {
            return false;
        }
        self.is_next_of_rate() || is_of_trace
    }

    /// Counts a request; whether the rate picks it and there is a trace left for it, which it takes.
    fn is_next_of_rate(&self) -> bool {
        if self.values.rate == 0 || self.left.load(Relaxed) == 0 {
            return false;
        }
        let seen = self.seen.fetch_add(1, Relaxed).wrapping_add(1);
        if !seen.is_multiple_of(self.values.rate) {
            return false;
        }
        let next = |left: i32| (left != 0).then(|| if left > 0 { left - 1 } else { left });
        self.left.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.sink.retired(self.number);
    }
}
