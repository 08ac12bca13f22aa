//! Events on the user's resources. They are written beside all else, a limited number in a time (`pending.rs`): no reconcile waits for one.
//! The same words about the same object within some minutes are one event that counts; other words are another event. One that cannot
//! be written is logged and forgotten: it is no reason to fail.

mod pending;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event as Written, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use operator_core::{events::Event, labels};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::{sync::watch, time::Instant};

use self::pending::{Next, Pending, Waiting};
use crate::metrics::Metrics;

/// How long an event goes on counting.
const SERIES: Duration = Duration::from_secs(6 * 60);
/// How often those that count no more are looked for: thousands may be written within a minute.
const LOOK_FOR_OLD: Duration = Duration::from_secs(60);
/// Longest note the API server takes.
const NOTE_MAX: usize = 1024;

/// How long the operator's end waits for events.
const LAST_ONES: Duration = Duration::from_secs(2);
/// How often it is said that events were dropped.
const SAY_DROPPED: Duration = Duration::from_secs(60);

/// Where events are put.
#[derive(Debug)]
pub(crate) struct Events {
    pending: Arc<Mutex<Pending>>,
    /// How many are not written yet.
    unwritten: watch::Sender<usize>,
}

/// What writes them.
struct Writer {
    client: Client,
    instance: String,
    metrics: Arc<Metrics>,
    recent: Recents,
}

/// What was written a short while ago, by what it says.
struct Recents {
    events: HashMap<Key, Recent>,
    looked: Instant,
}

/// Digest of the object's uid, the reason and the note.
type Key = [u8; 32];

struct Recent {
    name: String,
    count: i32,
    last: Instant,
}

impl Events {
    /// Events of the operator called `instance`. They are written for as long as the runtime lives.
    pub(crate) fn start(client: &Client, instance: String, metrics: &Arc<Metrics>) -> Self {
        let pending = Arc::new(Mutex::new(Pending::new(Instant::now())));
        let unwritten = watch::channel(0).0;
        let recent = Recents::new(Instant::now());
        let writer = Writer { client: client.clone(), instance, metrics: Arc::clone(metrics), recent };
        tokio::spawn(writer.write_all(Arc::clone(&pending), unwritten.clone()));
        Self { pending, unwritten }
    }

    /// Has `events` about `object` written; `action` is what was being done.
    pub(crate) fn record(&self, object: &ObjectReference, action: &'static str, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let mut pending = lock(&self.pending);
        let now = Timestamp::now();
        for (event, number) in events.iter().zip(0..) {
            // events of one object are named by their time
            let time = now.checked_add(SignedDuration::from_nanos(number)).unwrap_or(now);
            pending.push(Waiting { object: object.clone(), action, event: event.clone(), time });
        }
        self.unwritten.send_replace(pending.len());
    }

    /// Waits a moment for what is not written yet.
    pub(crate) async fn flush(&self) {
        let mut unwritten = self.unwritten.subscribe();
        let _ = tokio::time::timeout(LAST_ONES, unwritten.wait_for(|count| *count == 0)).await;
    }
}

impl Writer {
    async fn write_all(mut self, pending: Arc<Mutex<Pending>>, unwritten: watch::Sender<usize>) {
        let mut changed = unwritten.subscribe();
        let mut said = None;
        loop {
            let (next, dropped) = {
                let mut pending = lock(&pending);
                changed.mark_unchanged();
                (pending.next(Instant::now(), Timestamp::now()), pending.take_dropped())
            };
            if dropped > 0 {
                self.metrics.dropped_events(dropped);
                let now = Instant::now();
                if said.is_none_or(|said| now.saturating_duration_since(said) >= SAY_DROPPED) {
                    said = Some(now);
                    tracing::warn!("more happens than is written as events: the oldest are dropped, warnings last");
                }
            }
            match next {
                Next::Write(waiting) => {
                    self.write(&waiting).await;
                    unwritten.send_replace(lock(&pending).len());
                }
                Next::WaitUntil(time) => tokio::time::sleep_until(time).await,
                Next::Idle => {
                    if changed.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn write(&mut self, waiting: &Waiting) {
        let (object, reason) = (waiting.object.name.as_deref().unwrap_or_default(), &waiting.event.reason);
        match self.send(waiting).await {
            Ok(()) => {}
            // most often a namespace being deleted: there will be nobody to read it
            Err(kube::Error::Api(status)) if status.code == 403 => {
                tracing::debug!(error = status.message, object, reason, "an event was refused");
            }
            Err(error) => tracing::warn!(%error, object, reason, "an event was not written"),
        }
    }

    async fn send(&mut self, waiting: &Waiting) -> Result<(), kube::Error> {
        let Waiting { object, action, event, time } = waiting;
        let api: Api<Written> = Api::namespaced(self.client.clone(), object.namespace.as_deref().unwrap_or("default"));
        let key = key(object.uid.as_deref().unwrap_or_default(), event);
        if let Some((name, count)) = self.recent.again(&key, Instant::now()) {
            let series = json!({ "series": EventSeries { count, last_observed_time: MicroTime(*time) } });
            api.patch(&name, &PatchParams::default(), &Patch::Merge(series)).await?;
            self.metrics.wrote("Event", "patch");
            return Ok(());
        }
        let name = format!("{}.{:x}", object.name.as_deref().unwrap_or(labels::MANAGER), time.as_nanosecond());
        let written = Written {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: object.namespace.clone(),
                ..ObjectMeta::default()
            },
            action: Some((*action).to_owned()),
            event_time: Some(MicroTime(*time)),
            note: Some(cut(&event.note)),
            reason: Some(event.reason.clone()),
            regarding: Some(object.clone()),
            reporting_controller: Some(labels::MANAGER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if event.is_warning { "Warning" } else { "Normal" }.to_owned()),
            ..Written::default()
        };
        api.create(&PostParams::default(), &written).await?;
        self.metrics.wrote("Event", "create");
        self.recent.events.insert(key, Recent { name, count: 1, last: Instant::now() });
        Ok(())
    }
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recents {
    fn new(now: Instant) -> Self {
        Self { events: HashMap::new(), looked: now }
    }

    /// The event that said the same a short while ago, and how often it was said by now.
    fn again(&mut self, key: &Key, now: Instant) -> Option<(String, i32)> {
        let counts = |event: &Recent| now.saturating_duration_since(event.last) < SERIES;
        if now.saturating_duration_since(self.looked) >= LOOK_FOR_OLD {
            self.looked = now;
            self.events.retain(|_, event| counts(event));
        }
        let event = self.events.get_mut(key).filter(|event| counts(event))?;
        event.count = event.count.saturating_add(1);
        event.last = now;
        Some((event.name.clone(), event.count))
    }
}

fn key(uid: &str, event: &Event) -> Key {
    let mut digest = Sha256::new();
    for text in [uid, &event.reason, &event.note] {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    digest.finalize().into()
}

fn cut(note: &str) -> String {
    note[..note.floor_char_boundary(NOTE_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use kube::client::Body;

    use super::*;

    fn event(reason: &str, note: &str) -> Event {
        Event { is_warning: false, reason: reason.into(), note: note.into() }
    }

    /// What an API server was asked, by method and reason; each event called `Refused` is refused.
    type Asked = Arc<Mutex<Vec<String>>>;

    fn api_server(asked: &Asked) -> Client {
        let asked = Arc::clone(asked);
        let service = tower::service_fn(move |request: hyper::Request<Body>| {
            let asked = Arc::clone(&asked);
            async move {
                let method = request.method().to_string();
                let body = request.into_body().collect_bytes().await.expect("a body in memory");
                let sent: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                let reason = sent["reason"].as_str().unwrap_or("-").to_owned();
                let count = sent.pointer("/series/count").map(ToString::to_string).unwrap_or_default();
                asked.lock().unwrap().push(format!("{method} {reason}{count}"));
                let (code, answer) = match reason.as_str() {
                    "Refused" => (
                        403,
                        json!({ "kind": "Status", "code": 403, "message": "no", "reason": "Forbidden", "status": "Failure" }),
                    ),
                    _ => (200, json!({ "metadata": {}, "eventTime": null })),
                };
                let response =
                    hyper::Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(response.expect("a status that there is"))
            }
        });
        Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_written_beside_all_else_whatever_became_of_those_before() {
        let (asked, metrics) = (Asked::default(), Arc::new(Metrics::new()));
        let events = Events::start(&api_server(&asked), "me".into(), &metrics);
        let object =
            ObjectReference { name: Some("vision".into()), uid: Some("1".into()), ..ObjectReference::default() };
        events.record(&object, "Observe", &[]);
        events.record(&object, "Observe", &["Loaded", "Refused", "Ready", "Loaded"].map(|reason| event(reason, "n")));
        assert!(asked.lock().unwrap().is_empty(), "who records does not wait");
        events.flush().await;
        assert_eq!(*asked.lock().unwrap(), ["POST Loaded", "POST Refused", "POST Ready", "PATCH -2"]);
        events.flush().await; // nothing is left: it returns at once
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted_where_it_is_dropped_and_the_end_does_not_wait_for_it() {
        let (asked, metrics) = (Asked::default(), Arc::new(Metrics::new()));
        let events = Events::start(&api_server(&asked), "me".into(), &metrics);
        for number in 0..pending::ROOM + 500 {
            let object = ObjectReference { uid: Some(number.to_string()), ..ObjectReference::default() };
            events.record(&object, "Observe", &[event("Loaded", "n")]);
        }
        events.flush().await;
        let written = asked.lock().unwrap().len();
        let burst = pending::BURST as usize;
        assert!((burst..burst + 30).contains(&written), "{written}");
        let page = metrics.page(&crate::metrics::Inventory::default());
        assert!(page.contains("triton_operator_events_dropped_total 500"), "{page}");
    }

    #[test]
    fn the_same_words_about_the_same_object_are_one_event_for_a_while() {
        let begun = Instant::now();
        let mut recents = Recents::new(begun);
        let said = key("1", &event("Loaded", "m"));
        recents.events.insert(said, Recent { name: "e".into(), count: 1, last: begun });
        for other in [key("2", &event("Loaded", "m")), key("1", &event("Loadedm", "")), key("1", &event("Loaded", "n"))]
        {
            assert_eq!(recents.again(&other, begun), None);
        }
        assert_eq!(recents.again(&said, begun + SERIES / 2), Some(("e".into(), 2)));
        assert_eq!(recents.again(&said, begun + SERIES), Some(("e".into(), 3)));
        assert_eq!(recents.again(&said, begun + SERIES * 2), None);
        assert!(recents.events.is_empty(), "what does not count takes no room");
    }
}
