//! Events on the user's resources. The same words about the same object within some minutes are one event that counts; other
//! words are another event. One that cannot be written is logged and forgotten: it is no reason to fail.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event as Written, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use operator_core::{events::Event, labels};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// How long an event goes on counting.
const SERIES: Duration = Duration::from_secs(6 * 60);
/// How often those that count no more are looked for: thousands may be written within a minute.
const LOOK_FOR_OLD: Duration = Duration::from_secs(60);
/// Longest note the API server takes.
const NOTE_MAX: usize = 1024;

/// Where events are written.
pub(crate) struct Events {
    client: Client,
    instance: String,
    recent: Mutex<Recents>,
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
    /// Events of the operator called `instance`.
    pub(crate) fn new(client: &Client, instance: String) -> Self {
        Self { client: client.clone(), instance, recent: Mutex::new(Recents::new(Instant::now())) }
    }

    /// Writes `events` about `object`; `action` is what was being done.
    pub(crate) async fn write_all(&self, object: &ObjectReference, action: &str, events: &[Event], metrics: &Metrics) {
        for event in events {
            let name = object.name.as_deref().unwrap_or_default();
            match self.write(object, action, event, metrics).await {
                Ok(()) => {}
                // most often a namespace being deleted: there will be nobody to read it
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    tracing::debug!(
                        error = status.message,
                        object = name,
                        reason = event.reason,
                        "an event was refused"
                    );
                }
                Err(error) => tracing::warn!(%error, object = name, reason = event.reason, "an event was not written"),
            }
        }
    }

    async fn write(
        &self,
        object: &ObjectReference,
        action: &str,
        event: &Event,
        metrics: &Metrics,
    ) -> Result<(), kube::Error> {
        let api: Api<Written> = Api::namespaced(self.client.clone(), object.namespace.as_deref().unwrap_or("default"));
        let key = key(object.uid.as_deref().unwrap_or_default(), event);
        let now = Timestamp::now();
        let again = self.recent().again(&key, Instant::now());
        if let Some((name, count)) = again {
            let series = json!({ "series": EventSeries { count, last_observed_time: MicroTime(now) } });
            api.patch(&name, &PatchParams::default(), &Patch::Merge(series)).await?;
            metrics.wrote("Event", "patch");
            return Ok(());
        }
        let name = format!("{}.{:x}", object.name.as_deref().unwrap_or(labels::MANAGER), now.as_nanosecond());
        let written = Written {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: object.namespace.clone(),
                ..ObjectMeta::default()
            },
            action: Some(action.to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(cut(&event.note)),
            reason: Some(event.reason.clone()),
            regarding: Some(object.clone()),
            reporting_controller: Some(labels::MANAGER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if event.is_warning { "Warning" } else { "Normal" }.to_owned()),
            ..Written::default()
        };
        api.create(&PostParams::default(), &written).await?;
        metrics.wrote("Event", "create");
        let recent = Recent { name, count: 1, last: Instant::now() };
        self.recent().events.insert(key, recent);
        Ok(())
    }

    fn recent(&self) -> MutexGuard<'_, Recents> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    use super::*;

    fn event(reason: &str, note: &str) -> Event {
        Event { is_warning: false, reason: reason.into(), note: note.into() }
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
