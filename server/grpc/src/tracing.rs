//! What the front end records of requests that are traced. A request that is not pays for one look.

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue};
use server_core::trace::{Activity, Remote, Trace};
use server_engine::{Engine, ModelHandle};

/// The moment from which the next message is waited for, where anything is traced.
pub(crate) fn waits(engine: &Engine) -> Option<Instant> {
    engine.tracer().is_on().then(Instant::now)
}

/// The trace of a request whose message has been read, if it is to be traced.
pub(crate) fn begin(
    engine: &Engine,
    model: &ModelHandle,
    metadata: &HeaderMap,
    waited_since: Option<Instant>,
    received_at: Instant,
) -> Option<Arc<Trace>> {
    let remote = || {
        let states = metadata.get_all("tracestate").iter().map(HeaderValue::as_bytes);
        Remote::parse(metadata.get("traceparent")?.as_bytes(), states)
    };
    let trace = engine.tracer().sample(&model.interface().model_name, remote)?;
    trace.request_reached(Activity::GrpcWaitReadStart, waited_since.unwrap_or(received_at));
    trace.request_reached(Activity::GrpcWaitReadEnd, received_at);
    Some(trace)
}

/// The model has answered for the first time.
pub(crate) fn answered(trace: Option<&Arc<Trace>>) {
    if let Some(trace) = trace {
        trace.request_reached(Activity::InferResponseComplete, Instant::now());
    }
}

/// A message that is being made, of a request that is traced: it is sent when this is dropped.
pub(crate) struct Sending(Option<Arc<Trace>>);

/// A message is being made.
pub(crate) fn sends(trace: Option<&Arc<Trace>>) -> Sending {
    if let Some(trace) = trace {
        trace.request_reached(Activity::GrpcSendStart, Instant::now());
    }
    Sending(trace.cloned())
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(trace) = &self.0 {
            trace.request_reached(Activity::GrpcSendEnd, Instant::now());
        }
    }
}
