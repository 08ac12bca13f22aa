//! What is recorded of a request that is traced: when it reached which point, and its tensors.
//!
//! A request carries an `Option<Arc<Trace>>`; where it is `None`, nothing is recorded and nothing is paid. A [`Trace`] is one
//! model's part of it: an ensemble's steps and the requests of models to models are children. All parts of a request write to
//! one record, which goes to the [`TraceSink`] when the last of them is dropped. Times are arguments: nothing here reads a
//! clock.
//!
//! Source: Triton trace extension; the names of [`Activity`] are those of its trace files.

pub mod context;
mod event;
mod ids;
pub mod settings;
mod stream;
mod tracer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

pub use self::{
    context::{Remote, SpanId, TraceId},
    event::{Activity, Event, TensorActivity},
    ids::Ids,
    settings::Text,
    stream::{Finished, Mode, Stream, TraceSink},
    tracer::Tracer,
};
use crate::{
    record::Marks,
    response::Outputs,
    tensor::{Name, Tensor},
};

/// Events of one request that are kept; later ones are not. A stream of responses may have no end.
pub const MAX_EVENTS: usize = 16_384;
/// Of those, what front ends leave for models: the many responses of a stream do not hide how it ended.
const KEPT_FOR_MODELS: usize = 1024;
/// Bytes of tensors of one request that are kept; tensors beyond are not.
pub const MAX_TENSOR_BYTES: usize = 16 << 20;

/// One part of a traced request: what one model does for it. Shared by whoever works on it.
#[derive(Debug)]
pub struct Trace {
    id: u64,
    parent_id: u64,
    span: SpanId,
    parent_span: SpanId,
    record: Arc<Record>,
}

/// What all parts of a request share.
struct Record {
    /// Number of the first part.
    id: u64,
    trace_id: TraceId,
    span: SpanId,
    remote: Option<Remote>,
    has_times: bool,
    has_tensors: bool,
    kept: Mutex<Kept>,
    ids: Arc<Ids>,
    stream: Arc<Stream>,
    sink: Arc<dyn TraceSink>,
}

#[derive(Default)]
struct Kept {
    events: Vec<Event>,
    tensor_bytes: usize,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record").field("id", &self.id).field("trace_id", &self.trace_id).finish_non_exhaustive()
    }
}

impl Record {
    /// Keeps it while there are fewer than `limit`.
    fn push(&self, event: Event, limit: usize) {
        let mut kept = self.kept.lock();
        if kept.events.len() < limit {
            kept.events.push(event);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Kept { events, tensor_bytes } = std::mem::take(self.kept.get_mut());
        self.sink.finished(Finished {
            id: self.id,
            trace_id: self.trace_id,
            span: self.span,
            remote: self.remote.take(),
            events,
            tensor_bytes,
            stream: self.stream.clone(),
        });
    }
}

impl Trace {
    /// The same request, in another model: a step of an ensemble, or what a model asks another for.
    #[must_use]
    pub fn child(&self) -> Arc<Self> {
        let ids = &self.record.ids;
        Arc::new(Self {
            id: ids.next_number(),
            parent_id: self.id,
            span: ids.span(),
            parent_span: self.span,
            record: self.record.clone(),
        })
    }

    /// Number of this part, from 1, unique in the process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Number of the part that this is a child of; 0 for none.
    pub fn parent_id(&self) -> u64 {
        self.parent_id
    }

    /// The trace that the whole request belongs to.
    pub fn trace_id(&self) -> TraceId {
        self.record.trace_id
    }

    /// Whether it becomes spans of a collector, which others may know by its [`Trace::trace_id`].
    pub fn has_spans(&self) -> bool {
        self.record.stream.mode() == Mode::OpenTelemetry
    }

    /// This part as the parent of spans of others: a JSON object of the W3C headers `traceparent` and, if the caller sent one,
    /// `tracestate`. `None` where no spans are made of it.
    pub fn context(&self) -> Option<String> {
        let parent = self.has_spans().then(|| context::traceparent(self.record.trace_id, self.span))?;
        let state = self.record.remote.as_ref().and_then(|remote| remote.state.as_deref());
        Some(match state {
            // a parent has nothing that JSON would have to escape
            None => format!(r#"{{"traceparent":"{parent}"}}"#),
            Some(state) => format!(r#"{{"traceparent":"{parent}","tracestate":{}}}"#, serde_json::Value::from(state)),
        })
    }

    /// A model runs this part from `now` on.
    pub fn begin(&self, model: &Name, version: u64, request_id: &str, now: Instant) {
        let event = Event::Model {
            id: self.id,
            parent_id: self.parent_id,
            span: self.span,
            parent_span: self.parent_span,
            model: model.clone(),
            version,
            request_id: request_id.to_owned(),
        };
        self.record.push(event, MAX_EVENTS);
        self.reached(Activity::RequestStart, now);
    }

    /// A point was reached.
    pub fn reached(&self, activity: Activity, at: Instant) {
        if self.record.has_times {
            self.record.push(Event::Time { id: self.id, activity, at }, MAX_EVENTS);
        }
    }

    /// A point of the whole request was reached, whichever part it is told to: what a front end says.
    pub fn request_reached(&self, activity: Activity, at: Instant) {
        if self.record.has_times {
            let limit = MAX_EVENTS - KEPT_FOR_MODELS;
            self.record.push(Event::Time { id: self.record.id, activity, at }, limit);
        }
    }

    /// It was executed.
    pub fn executed(&self, marks: &Marks) {
        self.reached(Activity::ComputeStart, marks.start);
        self.reached(Activity::ComputeInputEnd, marks.input_end);
        self.reached(Activity::ComputeOutputStart, marks.output_start);
        self.reached(Activity::ComputeEnd, marks.end);
    }

    /// Keeps copies of inputs, if the level asks for tensors.
    pub fn inputs(&self, tensors: &[Tensor]) {
        self.tensors(TensorActivity::QueueInput, tensors);
    }

    /// Keeps copies of outputs, if the level asks for tensors.
    pub fn outputs(&self, outputs: &Outputs) {
        self.tensors(TensorActivity::BackendOutput, &outputs.tensors);
    }

    fn tensors(&self, activity: TensorActivity, tensors: &[Tensor]) {
        if !self.record.has_tensors {
            return;
        }
        for tensor in tensors {
            let Some(data) = tensor.data.as_host() else { continue };
            let mut kept = self.record.kept.lock();
            if kept.events.len() >= MAX_EVENTS || kept.tensor_bytes + data.len() > MAX_TENSOR_BYTES {
                continue;
            }
            kept.tensor_bytes += data.len();
            kept.events.push(Event::Tensor {
                id: self.id,
                activity,
                name: tensor.name.clone(),
                data_type: tensor.data_type,
                shape: tensor.shape.clone(),
                data: Bytes::copy_from_slice(data), // the request's own memory may be gone when it is written
            });
        }
    }
}

/// Moments as numbers: nanoseconds of a clock that showed `reading` at `at`.
#[derive(Debug, Clone, Copy)]
pub struct Epoch {
    /// A moment.
    pub at: Instant,
    /// What the clock showed then.
    pub reading: Duration,
}

impl Epoch {
    /// What the clock shows at that moment, in nanoseconds.
    pub fn nanos(&self, moment: Instant) -> u64 {
        let reading = match moment.checked_duration_since(self.at) {
            Some(later) => self.reading.saturating_add(later),
            None => self.reading.saturating_sub(self.at.duration_since(moment)),
        };
        u64::try_from(reading.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
