//! Asks one pod for its metrics page again and again, over one connection, and keeps what its load follows from. Ends with its task.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    Request, StatusCode, Uri,
    header::{HOST, HeaderValue},
};
use operator_core::load::{INTERVAL, Page, Window};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    metrics::Metrics,
    observer::{
        LONGEST_PAGE,
        connection::{Connection, End, Failure, Limits, Received},
    },
};

/// How long a look may take, from connecting to the last byte.
const PATIENCE: Duration = Duration::from_secs(3);
/// Within this time a page has to begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(1);

/// What may be done at the same time.
#[derive(Debug)]
pub(super) struct Permits {
    pub(super) connects: Semaphore,
    pub(super) long_pages: Semaphore,
}

/// One pod that is asked, and with which means.
pub(super) struct Scraper {
    pub(super) end: End,
    /// What times are counted from.
    pub(super) origin: Instant,
    pub(super) seen: Arc<Mutex<Seen>>,
    /// When a pod of the server was last at work, in milliseconds.
    pub(super) busy_at: Arc<AtomicU64>,
    pub(super) permits: Arc<Permits>,
    /// For long pages of this server.
    pub(super) long_pages: Arc<Semaphore>,
    pub(super) metrics: Arc<Metrics>,
}

/// What was seen of a pod.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) window: Window,
    /// Why the last question was not answered.
    pub(super) failure: Option<String>,
}

/// Why a page was not read: a word for the metrics, a sentence for people.
type Unread = (&'static str, String);

impl Scraper {
    /// Asks for as long as it is polled. `first_pause`: between the first two questions, so that not all pods are asked at once.
    pub(super) async fn run(self, first_pause: Duration) {
        let mut connection = None;
        let mut next = Instant::now() + first_pause;
        loop {
            let page = match tokio::time::timeout(PATIENCE, self.look(&mut connection)).await {
                Ok(page) => page,
                Err(_) => Err(("slow", format!("{} did not send its metrics within 3 s", self.end.address))),
            };
            self.note(page, &mut connection);
            tokio::time::sleep_until(next).await;
            next = (next + INTERVAL).max(Instant::now());
        }
    }

    fn note(&self, page: Result<Page, Unread>, connection: &mut Option<Connection>) {
        let at = self.origin.elapsed();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match page {
            Ok(page) => {
                self.metrics.scraped("read");
                if seen.window.push(at, page) {
                    self.busy_at.fetch_max(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
                }
                seen.failure = None;
            }
            Err((outcome, why)) => {
                *connection = None; // an answer that was not read to its end is still in it
                self.metrics.scraped(outcome);
                if seen.failure.is_none() {
                    tracing::debug!(address = %self.end.address, why, "the load of a pod is not known");
                }
                seen.failure = Some(why);
            }
        }
    }

    /// Asks once; over the connection there is, or over a new one if that has ended meanwhile.
    async fn look(&self, kept: &mut Option<Connection>) -> Result<Page, Unread> {
        let old = match kept.take() {
            Some(mut connection) => match self.ask(&mut connection).await {
                Err(Failure::Silent) => None, // it was closed while nothing was asked
                answer => Some((answer, connection)),
            },
            None => None,
        };
        let (answer, connection) = match old {
            Some(answered) => answered,
            None => {
                let mut connection = self.open().await.map_err(|failure| self.unread(&failure))?;
                (self.ask(&mut connection).await, connection)
            }
        };
        let received = answer.map_err(|failure| self.unread(&failure))?;
        *kept = Some(connection);
        if received.status != StatusCode::OK {
            let why = format!("{} answers GET /metrics with status {}", self.end.address, received.status.as_u16());
            return Err(("refused", why));
        }
        Page::read(&received.body).map_err(|error| ("unreadable", format!("{}: {error}", self.end.address)))
    }

    async fn open(&self) -> Result<Connection, Failure> {
        let _permit = self.permits.connects.acquire().await; // never closed
        Connection::open(self.end).await
    }

    async fn ask(&self, connection: &mut Connection) -> Result<Received, Failure> {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = Uri::from_static("/metrics");
        if let Ok(host) = HeaderValue::try_from(self.end.address.to_string()) {
            request.headers_mut().insert(HOST, host);
        }
        let limits = Limits { begins_within: BEGINS_WITHIN, longest: LONGEST_PAGE };
        connection.ask(request, limits, [&self.long_pages, &self.permits.long_pages]).await
    }

    fn unread(&self, failure: &Failure) -> Unread {
        let address = self.end.address;
        match failure {
            Failure::Unreachable => {
                ("unreachable", format!("nothing comes from {address}; does a NetworkPolicy keep the operator out?"))
            }
            Failure::TooLong => {
                ("too_large", format!("the metrics page of {address} has more than {LONGEST_PAGE} bytes"))
            }
            Failure::Silent => ("silent", format!("{address} does not answer GET /metrics")),
        }
    }
}

/// A share of the interval between two questions that is always the same for one pod: from a half to the whole of it.
pub(super) fn share_of_interval(uid: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    let thousandths = u32::try_from(hasher.finish() % 500).unwrap_or_default() + 500;
    INTERVAL * thousandths / 1000
}
