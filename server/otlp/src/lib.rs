//! Spans, and their way to an OpenTelemetry collector: OTLP over HTTP in protobuf.
//!
//! Whoever makes spans never waits: [`Exporter::offer`] puts them into a bounded queue, and a task sends them in batches. What
//! finds no room, or no collector, is dropped and counted. The messages are few and stable, so they are written down here; the
//! crates of OpenTelemetry would bring a second world of metrics, logs and settings.
//!
//! Source: OpenTelemetry protocol 1.x, `opentelemetry/proto/trace/v1/trace.proto`; batch span processor of its specification.

#![forbid(unsafe_code)]

mod exporter;
pub mod message;
mod settings;

pub use self::{
    exporter::{Counts, Exporter},
    message::{Span, SpanKind, Value},
    settings::{DEFAULT_URL, Settings, headers_of_environment, resource_of_environment},
};
