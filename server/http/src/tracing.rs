//! What the front end records of requests that are traced. A request that is not pays for one look.

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue};
use server_core::trace::{Activity, Remote, Trace};
use server_engine::ModelHandle;

use crate::server::Server;

/// The trace of a request whose body has been read, if it is to be traced.
pub(crate) fn begin(
    server: &Server,
    model: &ModelHandle,
    headers: &HeaderMap,
    received_at: Instant,
) -> Option<Arc<Trace>> {
    let remote = || {
        let states = headers.get_all("tracestate").iter().map(HeaderValue::as_bytes);
        Remote::parse(headers.get("traceparent")?.as_bytes(), states)
    };
    let trace = server.engine.tracer().sample(&model.interface().model_name, remote)?;
    trace.request_reached(Activity::HttpRecvStart, received_at);
    trace.request_reached(Activity::HttpRecvEnd, Instant::now());
    Some(trace)
}

/// A response that is being made, of a request that is traced: it is sent when this is dropped.
pub(crate) struct Sending(Option<Arc<Trace>>);

/// The model has answered, once or once more, or has said that nothing more comes.
pub(crate) fn answered(trace: Option<&Arc<Trace>>) {
    if let Some(trace) = trace {
        trace.request_reached(Activity::InferResponseComplete, Instant::now());
    }
}

/// A response is being made.
pub(crate) fn sends(trace: Option<Arc<Trace>>) -> Sending {
    if let Some(trace) = &trace {
        trace.request_reached(Activity::HttpSendStart, Instant::now());
    }
    Sending(trace)
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(trace) = &self.0 {
            trace.request_reached(Activity::HttpSendEnd, Instant::now());
        }
    }
}
