//! Spans of what an agent does for its models: each fetch and each load, in the trace that the manifest names, for the collector
//! that it names. Without a trace in the manifest there are none.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use operator_core::manifest::{Manifest, ManifestModel, ManifestTrace};
use otlp::{
    Exporter, Settings, Span, SpanKind,
    message::{KeyValue, Status},
};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

/// How long spans of a collector that the manifest names no longer may take to be sent.
const LAST_EXPORT: Duration = Duration::from_secs(5);

/// Makes and sends spans, as far as the manifest asks for any.
#[derive(Default)]
pub struct Traces {
    target: Mutex<Option<Target>>,
}

/// The collector, and the trace that spans belong to from now on.
struct Target {
    trace: ManifestTrace,
    exporter: Arc<Exporter<Span>>,
}

impl std::fmt::Debug for Traces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Traces").finish_non_exhaustive()
    }
}

impl Traces {
    /// Spans that begin from now on go where the manifest says. A collector whose address cannot be read is logged and gets nothing.
    pub(crate) fn follow(&self, manifest: &Manifest) {
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |target: &Target, trace: &ManifestTrace| target.trace.collector == trace.collector;
        let next = match (target.take(), &manifest.trace) {
            (former, None) => (former, None),
            (Some(former), Some(trace)) if same(&former, trace) => {
                (None, Some(Target { trace: trace.clone(), ..former }))
            }
            (former, Some(trace)) => (former, start(trace)),
        };
        let (former, next) = next;
        *target = next;
        drop(target);
        if let Some(former) = former {
            tokio::spawn(async move { former.exporter.close(LAST_EXPORT).await });
        }
    }

    /// A step for a model that may begin later, if anybody wants to know.
    pub(crate) fn step(&self, name: &'static str, model: &ManifestModel) -> Option<Step> {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let Target { trace, exporter } = target.as_ref()?;
        let attributes = vec![
            KeyValue::new("triton.model_name", model.name.as_str()),
            KeyValue::new("k8s.resource.kind", "TritonModel"),
            KeyValue::new("k8s.resource.name", model.resource.as_str()),
            KeyValue::new("triton_operator.content_hash", model.content_hash()),
        ];
        Some(Step {
            exporter: exporter.clone(),
            trace_id: hex::decode(&trace.id).ok().filter(|id| id.len() == 16)?,
            name,
            began: None,
            attributes,
            error: Some("it was broken off".to_owned()),
        })
    }

    /// Sends what waits, for as long as that at most.
    pub async fn close(&self, limit: Duration) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(target) = target {
            target.exporter.close(limit).await;
        }
    }
}

fn start(trace: &ManifestTrace) -> Option<Target> {
    let mut settings = Settings::new("triton-agent");
    settings.url.clone_from(&trace.collector);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let variable = |name: &str| std::env::var(name).ok();
    settings.headers = otlp::headers_of_environment(variable);
    settings.resource = otlp::resource_of_environment("triton-agent", variable, &[("k8s.pod.name".to_owned(), host)]);
    match Exporter::start(settings, &Handle::current(), |span| vec![span]) {
        Ok(exporter) => Some(Target { trace: trace.clone(), exporter: Arc::new(exporter) }),
        Err(error) => {
            tracing::warn!(%error, "no traces are sent");
            None
        }
    }
}

/// A step. Once begun it becomes a span when it is dropped, one that was broken off if nobody said how it ended.
pub(crate) struct Step {
    exporter: Arc<Exporter<Span>>,
    trace_id: Vec<u8>,
    name: &'static str,
    began: Option<SystemTime>,
    attributes: Vec<KeyValue>,
    error: Option<String>,
}

impl Step {
    /// It begins now.
    pub(crate) fn begin(&mut self) {
        self.began = Some(SystemTime::now());
    }

    /// It ended, with that error if there was one.
    pub(crate) fn ended(mut self, error: Option<String>) {
        self.error = error;
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        let Some(began) = self.began else { return };
        let (began, ended) = (nanos(began), nanos(SystemTime::now()));
        // other models and other pods may begin the same at the same nanosecond
        let host = rustix::system::uname();
        let seed = format!("{} {began} {:?} {:?}", self.name, host.nodename(), self.attributes);
        let seed = Sha256::new().chain_update(&self.trace_id).chain_update(seed);
        self.exporter.offer(
            Span {
                trace_id: std::mem::take(&mut self.trace_id),
                span_id: seed.finalize()[..8].to_vec(),
                name: self.name.to_owned(),
                kind: SpanKind::Internal.into(),
                start_time_unix_nano: began,
                end_time_unix_nano: ended.max(began),
                attributes: std::mem::take(&mut self.attributes),
                status: self.error.take().map(Status::error),
                ..Span::default()
            },
            1,
        );
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
