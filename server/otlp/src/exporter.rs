//! The queue of spans and the task that sends them. A collector that is down, slow or gone costs whoever makes spans nothing:
//! an export has a limit, what it carried is dropped when it fails, and that is told once until it works again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use prost::{Message, bytes::Bytes};
use reqwest::{
    Client, Response, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Settings,
    message::{
        ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, PartialSuccess, Resource, ResourceSpans,
        Scope, ScopeSpans, Span,
    },
};

/// Longest answer of a collector that is read. Units: bytes.
const MAX_ANSWER: u64 = 64 << 10;
/// How long one export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of spans.
#[derive(Debug, Default)]
pub struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    /// Spans that a collector has taken.
    pub fn exported(&self) -> u64 {
        self.exported.load(Relaxed)
    }

    /// Spans that found no room in the queue, or no collector.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// Sends spans that are made of `T`s, away from where those come from.
pub struct Exporter<T> {
    sender: mpsc::UnboundedSender<(T, usize)>,
    queued: Arc<AtomicUsize>,
    unsent: Arc<AtomicU64>,
    max_queue_size: usize,
    counts: Arc<Counts>,
    stop: Arc<Notify>,
    task: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// The address of a collector; HTTP where no scheme is given, as programs around curl have it.
fn address(text: &str) -> Option<Url> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    Url::parse(&whole).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

impl<T: Send + 'static> Exporter<T> {
    /// Starts the task. `spans` makes the spans of one item.
    ///
    /// Errors: the address is none, a header is none, or no HTTP client can be made.
    pub fn start(
        settings: Settings,
        runtime: &Handle,
        spans: impl Fn(T) -> Vec<Span> + Send + 'static,
    ) -> Result<Self, String> {
        let url = address(&settings.url).ok_or_else(|| {
            format!("'{}' is no address of a collector: expected a URL such as {}", settings.url, crate::DEFAULT_URL)
        })?;
        let headers = headers(&settings.headers)?;
        let builder = || {
            let builder = Client::builder().timeout(EXPORT_TIMEOUT).redirect(redirect::Policy::none());
            builder.default_headers(headers.clone())
        };
        // a machine without certificates can still reach what needs none
        let client = builder().build().or_else(|_| builder().tls_certs_only(Vec::new()).build());
        let client = client.map_err(|error| format!("no HTTP client can be made: {error}"))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let (queued, unsent): (Arc<AtomicUsize>, Arc<AtomicU64>) = Default::default();
        let (counts, stop) = (Arc::new(Counts::default()), Arc::new(Notify::new()));
        let max_queue_size = settings.max_queue_size;
        let task = Task {
            receiver,
            queued: queued.clone(),
            unsent: unsent.clone(),
            spans,
            target: Target { client, url, settings, counts: counts.clone(), is_failing: false },
        };
        let task = runtime.spawn(task.run(stop.clone()));
        Ok(Self { sender, queued, unsent, max_queue_size, counts, stop, task: std::sync::Mutex::new(Some(task)) })
    }

    /// Queues an item of so many spans, or drops it. Never waits.
    pub fn offer(&self, item: T, spans: usize) {
        let has_room = |queued: usize| (queued + spans <= self.max_queue_size).then(|| queued + spans);
        let is_taken =
            self.queued.fetch_update(Relaxed, Relaxed, has_room).is_ok() && self.sender.send((item, spans)).is_ok();
        if !is_taken {
            self.counts.dropped.fetch_add(spans as u64, Relaxed);
        }
    }

    /// What became of spans so far.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Sends what waits, for as long as that at most. What is left then is dropped, and counted.
    pub async fn close(&self, limit: Duration) {
        self.stop.notify_one();
        let task = self.task.lock().ok().and_then(|mut task| task.take());
        if let Some(mut task) = task
            && timeout(limit, &mut task).await.is_err()
        {
            task.abort();
            let _ = task.await;
            let lost = self.queued.swap(0, Relaxed) as u64 + self.unsent.swap(0, Relaxed);
            self.counts.dropped.fetch_add(lost, Relaxed);
            if lost > 0 {
                tracing::warn!("{lost} spans are dropped: the trace collector did not take them in time");
            }
        }
    }
}

struct Task<T, F> {
    receiver: mpsc::UnboundedReceiver<(T, usize)>,
    queued: Arc<AtomicUsize>,
    /// Spans that left the queue, and are neither exported nor dropped.
    unsent: Arc<AtomicU64>,
    spans: F,
    target: Target,
}

impl<T: Send + 'static, F: Fn(T) -> Vec<Span> + Send + 'static> Task<T, F> {
    async fn run(mut self, stop: Arc<Notify>) {
        let (delay, most) = (self.target.settings.schedule_delay, self.target.settings.max_export_batch_size.max(1));
        let mut batch = Vec::new();
        let mut is_stopping = false;
        while !is_stopping {
            let deadline = Instant::now() + delay;
            while batch.len() < most && !is_stopping {
                tokio::select! {
                    received = timeout_at(deadline, self.receiver.recv()) => match received {
                        Ok(Some(item)) => self.add(item, &mut batch),
                        Ok(None) => is_stopping = true,
                        Err(_) => break,
                    },
                    () = stop.notified() => is_stopping = true,
                }
            }
            while is_stopping && let Ok(item) = self.receiver.try_recv() {
                self.add(item, &mut batch);
            }
            while !batch.is_empty() {
                let rest = batch.split_off(batch.len().min(most));
                let spans = std::mem::replace(&mut batch, rest);
                let count = spans.len() as u64;
                self.target.export(spans).await;
                self.unsent.fetch_sub(count, Relaxed);
                if !is_stopping && batch.len() < most {
                    break;
                }
            }
        }
    }

    fn add(&self, (item, count): (T, usize), batch: &mut Vec<Span>) {
        let before = batch.len();
        batch.extend((self.spans)(item));
        self.unsent.fetch_add((batch.len() - before) as u64, Relaxed);
        self.queued.fetch_sub(count, Relaxed);
    }
}

/// The collector.
struct Target {
    client: Client,
    url: Url,
    settings: Settings,
    counts: Arc<Counts>,
    is_failing: bool,
}

impl Target {
    async fn export(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        let body = self.request(spans).encode_to_vec();
        let sent =
            self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/x-protobuf").body(body).send().await;
        let (rejected, failure) = match sent {
            Ok(response) if response.status().is_success() => match rejected(response).await {
                PartialSuccess { rejected_spans: ..=0, .. } => (0, None),
                PartialSuccess { rejected_spans, error_message } => {
                    let rejected = rejected_spans.unsigned_abs().min(count);
                    (rejected, Some(format!("it rejected {rejected} of {count}: {error_message}")))
                }
            },
            Ok(response) => (count, Some(format!("it answered with {}", response.status()))),
            Err(error) => (count, Some(chain(&error))),
        };
        self.counts.exported.fetch_add(count - rejected, Relaxed);
        self.counts.dropped.fetch_add(rejected, Relaxed);
        let url = self.settings.url.as_str();
        match failure {
            None => {
                if std::mem::replace(&mut self.is_failing, false) {
                    tracing::info!("the trace collector at '{url}' takes spans again");
                }
            }
            Some(reason) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(
                        "cannot export spans to the trace collector at '{url}': {reason}. Spans are dropped until it takes them"
                    );
                }
            }
        }
    }

    fn request(&self, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let Settings { resource, scope, .. } = &self.settings;
        let attributes = resource.iter().map(|(key, value)| KeyValue::new(key, value.as_str())).collect();
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource { attributes }),
                scope_spans: vec![ScopeSpans { scope: Some(Scope { name: (*scope).to_owned() }), spans }],
            }],
        }
    }
}

/// Errors: a name or a value that no header can have. The value is not shown, for it may be a secret.
fn headers(pairs: &[(String, String)]) -> Result<HeaderMap, String> {
    let pairs = pairs.iter().map(|(name, text)| {
        let pair = name.parse::<HeaderName>().ok().zip(text.parse::<HeaderValue>().ok());
        let (header, mut value) = pair.ok_or_else(|| format!("'{name}' and its value are no header of HTTP"))?;
        value.set_sensitive(true);
        Ok((header, value))
    });
    pairs.collect()
}

/// What the collector did not take of what it took. An answer that is none says nothing of it.
async fn rejected(response: Response) -> PartialSuccess {
    let is_short = response.content_length().is_some_and(|length| length <= MAX_ANSWER);
    let body = if is_short { response.bytes().await.unwrap_or_default() } else { Bytes::new() };
    ExportTraceServiceResponse::decode(body).ok().and_then(|answer| answer.partial_success).unwrap_or_default()
}

/// An error with what led to it.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn span(name: &str) -> Span {
        Span { name: name.to_owned(), ..Span::default() }
    }

    fn settings(port: u16) -> Settings {
        Settings {
            url: format!("http://127.0.0.1:{port}/v1/traces"),
            resource: vec![("service.name".into(), "test".into())],
            max_queue_size: 4,
            max_export_batch_size: 2,
            ..Settings::new("scope")
        }
    }

    fn start(settings: Settings) -> Exporter<Span> {
        Exporter::start(settings, &Handle::current(), |span| vec![span]).unwrap()
    }

    /// Takes requests until `most` have come, and returns their bodies.
    async fn collect(
        listener: TcpListener,
        most: usize,
        answer: ExportTraceServiceResponse,
    ) -> Vec<ExportTraceServiceRequest> {
        let mut bodies = Vec::new();
        while bodies.len() < most {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            let head = loop {
                if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                    break at + 4;
                }
                assert!(socket.read_buf(&mut bytes).await.unwrap() > 0);
            };
            let text = String::from_utf8(bytes[..head].to_vec()).unwrap().to_ascii_lowercase();
            assert!(text.starts_with("post /v1/traces") && text.contains("application/x-protobuf"), "{text}");
            let length = text.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
            let length: usize = length.parse().unwrap();
            while bytes.len() < head + length {
                assert!(socket.read_buf(&mut bytes).await.unwrap() > 0);
            }
            bodies.push(ExportTraceServiceRequest::decode(&bytes[head..]).unwrap());
            let answer = answer.encode_to_vec();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
            socket.write_all(&[head.as_bytes(), &answer].concat()).await.unwrap();
        }
        bodies
    }

    #[tokio::test]
    async fn spans_are_sent_in_batches_and_the_rest_at_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let exporter = start(settings(listener.local_addr().unwrap().port()));
        let collected = tokio::spawn(collect(listener, 2, ExportTraceServiceResponse::default()));
        for name in ["a", "b", "c"] {
            exporter.offer(span(name), 1);
        }
        exporter.close(Duration::from_secs(20)).await;
        let names: Vec<Vec<String>> = collected
            .await
            .unwrap()
            .into_iter()
            .map(|request| {
                let spans = &request.resource_spans[0].scope_spans[0].spans;
                spans.iter().map(|span| span.name.clone()).collect()
            })
            .collect();
        assert_eq!(names, [vec!["a", "b"], vec!["c"]]);
        assert_eq!((exporter.counts().exported(), exporter.counts().dropped()), (3, 0));
    }

    #[tokio::test]
    async fn what_a_collector_rejects_is_dropped_and_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let exporter = start(settings(listener.local_addr().unwrap().port()));
        let rejects = PartialSuccess { rejected_spans: 1, error_message: "too old".into() };
        let collected =
            tokio::spawn(collect(listener, 1, ExportTraceServiceResponse { partial_success: Some(rejects) }));
        ["a", "b"].iter().for_each(|name| exporter.offer(span(name), 1));
        exporter.close(Duration::from_secs(20)).await;
        assert_eq!(collected.await.unwrap().len(), 1);
        assert_eq!((exporter.counts().exported(), exporter.counts().dropped()), (1, 1));
    }

    #[tokio::test]
    async fn what_finds_no_room_or_no_collector_is_dropped_and_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener); // nobody is there
        let exporter = start(settings(port));
        // the task does not run before this one waits
        for _ in 0..7 {
            exporter.offer(span("a"), 1);
        }
        assert_eq!(exporter.counts().dropped(), 3, "four have room");
        exporter.close(Duration::from_secs(20)).await;
        assert_eq!((exporter.counts().exported(), exporter.counts().dropped()), (0, 7));
    }

    #[tokio::test]
    async fn what_a_collector_does_not_take_before_the_end_is_dropped_and_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let exporter = start(settings(listener.local_addr().unwrap().port()));
        for _ in 0..4 {
            exporter.offer(span("a"), 1);
        }
        let silent = listener.accept(); // and never an answer
        let (socket, ()) = tokio::join!(silent, exporter.close(Duration::from_millis(200)));
        assert_eq!((exporter.counts().exported(), exporter.counts().dropped()), (0, 4));
        drop(socket);
    }

    #[tokio::test]
    async fn a_header_that_is_none_is_refused_without_its_value() {
        for (name, value) in [("a b", "secret"), ("a", "sec\nret")] {
            let headers = vec![(name.to_owned(), value.to_owned())];
            let settings = Settings { headers, ..settings(1) };
            let error = Exporter::<Span>::start(settings, &Handle::current(), |span| vec![span]).err().unwrap();
            assert_eq!(error, format!("'{name}' and its value are no header of HTTP"));
        }
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused() {
        assert_eq!(address("localhost:4318/v1/traces").unwrap().as_str(), "http://localhost:4318/v1/traces");
        for url in ["", ":::junk", "grpc://h:1", "http://"] {
            let settings = Settings { url: url.to_owned(), ..Settings::new("scope") };
            let error = Exporter::<Span>::start(settings, &Handle::current(), |span| vec![span]).err().unwrap();
            assert!(error.starts_with(&format!("'{url}' is no address of a collector")), "{error}");
        }
    }
}
