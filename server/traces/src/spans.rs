//! The spans of a trace: one around the request, in it one for each model, in that one for its execution.
//!
//! Source: spans of Triton 2.51, recorded: `InferRequest` around the name of the model around `compute`, points as events.

use std::collections::HashMap;

use otlp::{
    Span, SpanKind,
    message::{KeyValue, SpanEvent},
};
use server_core::trace::{Activity, Epoch, Event, Finished};

/// How many spans there are at most.
pub(crate) fn count(trace: &Finished) -> usize {
    1 + 2 * trace.events.iter().filter(|event| matches!(event, Event::Model { .. })).count()
}

/// The spans, inner ones before those around them.
pub(crate) fn spans(trace: &Finished, clock: &Epoch) -> Vec<Span> {
    let state = trace.remote.as_ref().and_then(|remote| remote.state.as_deref()).unwrap_or_default();
    let span = |id: &[u8], parent: Option<&[u8]>, name: &str| Span {
        trace_id: trace.trace_id.0.to_vec(),
        span_id: id.to_vec(),
        trace_state: state.to_owned(),
        parent_span_id: parent.unwrap_or_default().to_vec(),
        name: name.to_owned(),
        kind: SpanKind::Server.into(),
        ..Span::default()
    };
    let mut models: Vec<Span> = Vec::new();
    let mut computes: Vec<Span> = Vec::new();
    let mut parts: HashMap<u64, Part> = HashMap::new();
    let remote = trace.remote.as_ref().map(|remote| remote.span.0.as_slice());
    let mut request = span(&trace.span.0, remote, "InferRequest");
    for event in &trace.events {
        match event {
            Event::Model { id, parent_id, span: own, parent_span, model, version, request_id } => {
                let mut made = span(&own.0, Some(&parent_span.0), model);
                made.attributes = vec![
                    KeyValue::new("triton.model_name", &**model),
                    KeyValue::new("triton.model_version", *version),
                    KeyValue::new("triton.trace_id", *id),
                    KeyValue::new("triton.trace_parent_id", *parent_id),
                ];
                if !request_id.is_empty() {
                    made.attributes.push(KeyValue::new("triton.request_id", request_id.as_str()));
                }
                // of a part that is described twice, the first description counts
                parts.entry(*id).or_insert(Part { model: models.len(), compute: None });
                models.push(made);
            }
            Event::Time { id, activity, at } => {
                let place = match (place_of(activity), parts.get_mut(id)) {
                    (Place::Request, _) | (_, None) => &mut request,
                    (Place::Model, Some(part)) => &mut models[part.model],
                    (Place::Compute, Some(part)) => {
                        let place = *part.compute.get_or_insert_with(|| {
                            let model = &models[part.model].span_id;
                            computes.push(span(&compute_id(model), Some(model), "compute"));
                            computes.len() - 1
                        });
                        &mut computes[place]
                    }
                };
                add(place, activity.name(), clock.nanos(*at));
            }
            Event::Tensor { .. } => {}
        }
    }
    // a span that has no point of its own, for its request was refused, is as long as what is known of it
    for model in &mut models {
        if model.events.is_empty() {
            (model.start_time_unix_nano, model.end_time_unix_nano) =
                (request.start_time_unix_nano, request.end_time_unix_nano);
        }
    }
    computes.into_iter().chain(models.into_iter().rev()).chain([request]).collect()
}

/// Places of the spans of a part.
struct Part {
    model: usize,
    compute: Option<usize>,
}

enum Place {
    Request,
    Model,
    Compute,
}

fn place_of(activity: &Activity) -> Place {
    match activity {
        Activity::RequestStart | Activity::QueueStart | Activity::RequestEnd => Place::Model,
        Activity::ComputeStart | Activity::ComputeInputEnd | Activity::ComputeOutputStart | Activity::ComputeEnd => {
            Place::Compute
        }
        Activity::Custom(_) => Place::Compute,
        _ => Place::Request,
    }
}

/// The identity of the span of an execution: made of that of the span of its model, which nobody else has.
fn compute_id(model: &[u8]) -> Vec<u8> {
    model.iter().map(|byte| !byte).collect()
}

fn add(span: &mut Span, name: &str, nanos: u64) {
    if span.events.is_empty() {
        (span.start_time_unix_nano, span.end_time_unix_nano) = (nanos, nanos);
    }
    span.start_time_unix_nano = span.start_time_unix_nano.min(nanos);
    span.end_time_unix_nano = span.end_time_unix_nano.max(nanos);
    span.events.push(SpanEvent { time_unix_nano: nanos, name: name.to_owned() });
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use parking_lot::Mutex;
    use server_core::trace::{Ids, Mode, TraceSink, Tracer, settings::Values};

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Finished>>);

    impl TraceSink for Kept {
        fn finished(&self, trace: Finished) {
            self.0.lock().push(trace);
        }

        fn retired(&self, _stream: u64) {}
    }

    #[test]
    fn each_part_has_its_points_whatever_the_order_in_which_parts_reach_them() {
        let sink = Arc::new(Kept::default());
        let values = Values { has_times: true, rate: 1, ..Values::default() };
        let tracer = Tracer::new(Mode::OpenTelemetry, values, Vec::new(), Arc::new(Ids::new([1; 32])), sink.clone());
        let now = Instant::now();
        let whole = tracer.sample("e", || None).unwrap();
        whole.request_reached(Activity::HttpRecvStart, now);
        whole.begin(&"e".into(), 1, "", now);
        let steps = [whole.child(), whole.child()];
        steps.iter().for_each(|step| step.begin(&"s".into(), 1, "", now));
        for step in steps.iter().rev() {
            step.reached(Activity::ComputeStart, now);
        }
        for step in &steps {
            step.reached(Activity::ComputeEnd, now);
            step.reached(Activity::RequestEnd, now);
        }
        drop((whole, steps));
        let trace = sink.0.lock().pop().unwrap();
        let spans = spans(&trace, &Epoch { at: now, reading: std::time::Duration::ZERO });
        let shown: Vec<String> = spans
            .iter()
            .map(|span| {
                let parent = spans.iter().position(|other| other.span_id == span.parent_span_id);
                let events: Vec<&str> = span.events.iter().map(|event| event.name.as_str()).collect();
                format!("{} in {parent:?}: {}", span.name, events.join(" "))
            })
            .collect();
        let expect = [
            "compute in Some(2): COMPUTE_START COMPUTE_END",
            "compute in Some(3): COMPUTE_START COMPUTE_END",
            "s in Some(4): REQUEST_START REQUEST_END",
            "s in Some(4): REQUEST_START REQUEST_END",
            "e in Some(5): REQUEST_START",
            "InferRequest in None: HTTP_RECV_START",
        ];
        assert_eq!(shown, expect);
    }
}
