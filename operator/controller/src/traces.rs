//! The operator's own traces: a span for each reconcile, in it one for each of its steps, and one from the moment a resource was
//! applied until it was ready. All that is done for one generation of a server is one trace: its identity is made of the
//! server's, so that whoever knows the server knows the trace, and nothing has to be kept. The manifest names it to the agents,
//! whose fetches and loads are in it as well; a generation that changes nothing else of the manifest leaves the former one in it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use operator_core::manifest::ManifestTrace;
use otlp::{
    Exporter, Settings, Span, SpanKind,
    message::{KeyValue, Status},
};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

/// Makes and sends spans, if there is a collector. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Traces(Option<Arc<Collector>>);

/// Where spans go.
struct Collector {
    address: String,
    exporter: Exporter<Span>,
}

impl Traces {
    /// Spans go to that collector; without one there are none.
    ///
    /// Errors: its address is none.
    pub(crate) fn start(collector: Option<&str>) -> Result<Self, String> {
        let Some(collector) = collector.filter(|collector| !collector.is_empty()) else { return Ok(Self::default()) };
        let mut settings = Settings::new("triton-operator");
        settings.url = collector.to_owned();
        let variable = |name: &str| std::env::var(name).ok();
        settings.headers = otlp::headers_of_environment(variable);
        settings.resource = otlp::resource_of_environment("triton-operator", variable, &[]);
        let exporter = Exporter::start(settings, &Handle::current(), |span| vec![span])?;
        Ok(Self(Some(Arc::new(Collector { address: collector.to_owned(), exporter }))))
    }

    /// The trace of a server, for the agents in its pods.
    pub(crate) fn of(&self, server: &ObjectMeta) -> Option<ManifestTrace> {
        let collector = self.0.as_ref()?.address.clone();
        Some(ManifestTrace { collector, id: hex::encode(TraceOf::new(server).trace_id) })
    }

    /// A reconcile of a server begins.
    pub(crate) fn reconcile(&self, server: &ObjectMeta) -> Steps {
        Steps {
            collector: self.0.clone(),
            trace: TraceOf::new(server),
            began: SystemTime::now(),
            step: None,
            ended: Vec::new(),
            error: None,
        }
    }

    /// A resource of a server became ready that was applied at that time. `server` is whose trace it belongs to.
    pub(crate) fn became_ready(&self, server: &ObjectMeta, kind: &str, resource: &ObjectMeta, applied: &Time) {
        let Some(Collector { exporter, .. }) = self.0.as_deref() else { return };
        let trace = TraceOf::new(server);
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(applied.0.as_second().max(0).unsigned_abs());
        let mut span = trace.span(&format!("{kind} ready"), started, SystemTime::now());
        // several may have been applied at the same second
        let uid = resource.uid.as_deref().unwrap_or_default();
        span.span_id = Sha256::digest([&span.span_id[..], uid.as_bytes()].concat())[..8].to_vec();
        span.attributes.extend(attributes(kind, resource));
        exporter.offer(span, 1);
    }

    /// Sends what waits.
    pub(crate) async fn close(&self) {
        if let Some(Collector { exporter, .. }) = self.0.as_deref() {
            exporter.close(Duration::from_secs(5)).await;
        }
    }
}

/// The trace of one generation of a server.
struct TraceOf {
    trace_id: Vec<u8>,
    attributes: Vec<KeyValue>,
}

impl TraceOf {
    fn new(server: &ObjectMeta) -> Self {
        let uid = server.uid.as_deref().unwrap_or_default();
        let hash = Sha256::digest(format!("{uid}/{}", server.generation.unwrap_or(0)));
        Self { trace_id: hash[..16].to_vec(), attributes: attributes("TritonServer", server).collect() }
    }

    fn span(&self, name: &str, started: SystemTime, ended: SystemTime) -> Span {
        let (started, ended) = (nanos(started), nanos(ended));
        // what began at the same nanosecond, in the same trace, under the same name is the same span
        let hash = Sha256::digest([&self.trace_id[..], name.as_bytes(), &started.to_le_bytes()[..]].concat());
        Span {
            trace_id: self.trace_id.clone(),
            span_id: hash[..8].to_vec(),
            name: name.to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: started,
            end_time_unix_nano: ended.max(started),
            ..Span::default()
        }
    }
}

fn attributes(kind: &str, resource: &ObjectMeta) -> impl Iterator<Item = KeyValue> {
    let generation = u64::try_from(resource.generation.unwrap_or(0)).unwrap_or(0);
    [
        KeyValue::new("k8s.resource.kind", kind),
        KeyValue::new("k8s.namespace.name", resource.namespace.as_deref().unwrap_or_default()),
        KeyValue::new("k8s.resource.name", resource.name.as_deref().unwrap_or_default()),
        KeyValue::new("k8s.resource.generation", generation),
    ]
    .into_iter()
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The steps of a reconcile under way. It ends when this is dropped.
pub(crate) struct Steps {
    collector: Option<Arc<Collector>>,
    trace: TraceOf,
    began: SystemTime,
    step: Option<(&'static str, SystemTime)>,
    ended: Vec<Span>,
    error: Option<String>,
}

impl Steps {
    /// The step of that name begins, and the one before is over.
    pub(crate) fn step(&mut self, name: &'static str) {
        if self.collector.is_some() {
            self.end_step();
            self.step = Some((name, SystemTime::now()));
        }
    }

    /// It does not come to its end.
    pub(crate) fn failed(&mut self, error: &dyn std::error::Error) {
        if self.collector.is_some() {
            self.error = Some(error.to_string());
        }
    }

    fn end_step(&mut self) {
        if let Some((name, started)) = self.step.take() {
            self.ended.push(self.trace.span(name, started, SystemTime::now()));
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        let Some(collector) = self.collector.take() else { return };
        self.end_step();
        let mut root = self.trace.span("reconcile", self.began, SystemTime::now());
        root.attributes.clone_from(&self.trace.attributes);
        root.status = self.error.take().map(Status::error);
        let steps = self.ended.drain(..).map(|step| Span { parent_span_id: root.span_id.clone(), ..step });
        let steps: Vec<Span> = steps.collect();
        steps.into_iter().chain([root]).for_each(|span| collector.exporter.offer(span, 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(generation: i64) -> ObjectMeta {
        ObjectMeta {
            uid: Some("u".into()),
            generation: Some(generation),
            name: Some("vision".into()),
            namespace: Some("ml".into()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_generation_of_a_server_is_one_trace() {
        let of = |generation| TraceOf::new(&server(generation)).trace_id;
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_eq!(of(1).len(), 16);
    }

    #[test]
    fn spans_have_identities_of_their_own() {
        let (trace, now) = (TraceOf::new(&server(1)), SystemTime::now());
        let (one, other) = (trace.span("apply", now, now), trace.span("build", now, now));
        assert_eq!(one.span_id.len(), 8);
        assert_ne!(one.span_id, other.span_id);
        assert!(one.end_time_unix_nano >= one.start_time_unix_nano);
    }

    #[tokio::test]
    async fn agents_are_told_of_the_trace_and_of_the_collector() {
        let traces = Traces::start(Some("http://collector:4318/v1/traces")).unwrap();
        let told = traces.of(&server(1)).unwrap();
        assert_eq!(told.collector, "http://collector:4318/v1/traces");
        assert_eq!(hex::decode(told.id).unwrap(), TraceOf::new(&server(1)).trace_id);
        assert_eq!(Traces::default().of(&server(1)), None);
    }

    #[test]
    fn without_a_collector_nothing_is_made() {
        let mut steps = Traces::start(None).unwrap().reconcile(&server(1));
        steps.step("apply");
        assert!(steps.step.is_none() && steps.ended.is_empty());
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused() {
        let error = Traces::start(Some("grpc://nowhere")).err().unwrap();
        assert!(error.starts_with("'grpc://nowhere' is no address of a collector"), "{error}");
    }
}
