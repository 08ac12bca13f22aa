//! What is counted of a request: its moments, how long its execution took, and how it ended.

use std::time::{Duration, Instant};

use crate::error::{Code, Error};

/// Moments of one execution, for the statistics.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// The batch was handed to the backend.
    pub start: Instant,
    /// Inputs lay where the runtime wants them.
    pub input_end: Instant,
    /// The runtime had computed.
    pub output_start: Instant,
    /// Outputs were taken apart.
    pub end: Instant,
}

impl Marks {
    /// All of an execution that did not get past its start.
    pub fn at(start: Instant, end: Instant) -> Self {
        Self { start, input_end: end, output_start: end, end }
    }
}

/// Moments of one response of several, for the statistics.
///
/// Source: Triton statistics extension, `response_stats`.
#[derive(Debug, Clone, Copy)]
pub struct ResponseMarks {
    /// The runtime began to compute it.
    pub start: Instant,
    /// The runtime had computed it.
    pub output_start: Instant,
    /// It was made.
    pub end: Instant,
}

/// What is counted of a request, whoever holds its tensors by then.
#[derive(Debug, Clone, Copy)]
pub struct RequestRecord {
    /// When the front end had understood it.
    pub received_at: Instant,
    /// When it entered the queue.
    pub queued_at: Instant,
    /// Rows it contributes: the batch dimension, or 1 for models without one.
    pub batch_size: u32,
}

/// How one response, or what came in place of one, is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseOutcome {
    /// A response with or without tensors.
    Success,
    /// An error.
    Fail,
    /// Computed, and there was nothing to send.
    Empty,
    /// Not computed any more: its caller had left.
    Cancelled,
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    /// Queue full, timed out, or stopping.
    Rejected,
    /// The caller left.
    Canceled,
    /// The backend answered with an error.
    Backend,
    /// Anything else.
    Other,
}

impl FailureReason {
    /// Why a request failed that its backend answered with this error.
    pub fn of_backend(error: &Error) -> Self {
        if error.code == Code::Cancelled { Self::Canceled } else { Self::Backend }
    }
}

/// How long the execution of one request took, for whoever runs it as a part of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ComputeTimes {
    /// Time to make inputs ready.
    pub input: Duration,
    /// Time in the runtime.
    pub infer: Duration,
    /// Time to take outputs apart.
    pub output: Duration,
}

impl ComputeTimes {
    /// Those of one execution.
    pub fn of(marks: &Marks) -> Self {
        Self {
            input: marks.input_end.saturating_duration_since(marks.start),
            infer: marks.output_start.saturating_duration_since(marks.input_end),
            output: marks.end.saturating_duration_since(marks.output_start),
        }
    }

    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.input += other.input;
        self.infer += other.infer;
        self.output += other.output;
    }
}
