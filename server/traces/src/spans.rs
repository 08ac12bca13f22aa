//! The spans of a trace: one around the request, in it one for each model, in that one for its execution.
//!
//! Source: spans of Triton 2.51, recorded: `InferRequest` around the name of the model around `compute`, points as events.

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
    let span = |id: &[u8], parent: Option<&[u8]>, name: &str| Span {
        trace_id: trace.trace_id.0.to_vec(),
        span_id: id.to_vec(),
        parent_span_id: parent.unwrap_or_default().to_vec(),
        name: name.to_owned(),
        kind: SpanKind::Server.into(),
        ..Span::default()
    };
    let mut models: Vec<(u64, Span)> = Vec::new();
    let mut computes: Vec<(u64, Span)> = Vec::new();
    let remote = trace.remote_span.as_ref().map(|span| span.0.as_slice());
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
                models.push((*id, made));
            }
            Event::Time { id, activity, at } => {
                let model = models.iter_mut().find(|(number, _)| number == id).map(|(_, span)| span);
                let place = match (place_of(activity), model) {
                    (Place::Request, _) | (_, None) => &mut request,
                    (Place::Model, Some(model)) => model,
                    (Place::Compute, Some(model)) => compute(&mut computes, *id, model, span),
                };
                add(place, activity.name(), clock.nanos(*at));
            }
            Event::Tensor { .. } => {}
        }
    }
    // a span that has no point of its own, for its request was refused, is as long as what is known of it
    for (_, model) in &mut models {
        if model.events.is_empty() {
            (model.start_time_unix_nano, model.end_time_unix_nano) =
                (request.start_time_unix_nano, request.end_time_unix_nano);
        }
    }
    let inner = computes.into_iter().chain(models.into_iter().rev()).map(|(_, span)| span);
    inner.chain([request]).collect()
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

/// The span of the execution of a part. Its identity is made of that of its model, which nobody else has.
fn compute<'a>(
    computes: &'a mut Vec<(u64, Span)>,
    id: u64,
    model: &Span,
    span: impl Fn(&[u8], Option<&[u8]>, &str) -> Span,
) -> &'a mut Span {
    let place = computes.iter().position(|(number, _)| *number == id).unwrap_or_else(|| {
        let mut own = model.span_id.clone();
        own.iter_mut().for_each(|byte| *byte = !*byte);
        computes.push((id, span(&own, Some(&model.span_id), "compute")));
        computes.len() - 1
    });
    &mut computes[place].1
}

fn add(span: &mut Span, name: &str, nanos: u64) {
    if span.events.is_empty() {
        (span.start_time_unix_nano, span.end_time_unix_nano) = (nanos, nanos);
    }
    span.start_time_unix_nano = span.start_time_unix_nano.min(nanos);
    span.end_time_unix_nano = span.end_time_unix_nano.max(nanos);
    span.events.push(SpanEvent { time_unix_nano: nanos, name: name.to_owned() });
}
