//! Events on the user's resources. The same words about the same object within some minutes are one event that counts; other
//! words are another event. One that cannot be written is logged and forgotten: it is no reason to fail.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
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
use tokio::time::Instant;

use crate::metrics::Metrics;

/// How long an event goes on counting.
const SERIES: Duration = Duration::from_secs(6 * 60);
/// Longest note the API server takes.
const NOTE_MAX: usize = 1024;

/// Where events are written.
pub(crate) struct Events {
    client: Client,
    instance: String,
    recent: Mutex<HashMap<Key, Recent>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    reason: String,
    note: String,
}

struct Recent {
    name: String,
    count: i32,
    last: Instant,
}

impl Events {
    /// Events of the operator called `instance`.
    pub(crate) fn new(client: &Client, instance: String) -> Self {
        Self { client: client.clone(), instance, recent: Mutex::default() }
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
        let key =
            Key { uid: object.uid.clone().unwrap_or_default(), reason: event.reason.clone(), note: event.note.clone() };
        let now = Timestamp::now();
        if let Some((name, count)) = self.again(&key) {
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
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).insert(key, recent);
        Ok(())
    }

    /// The event that said the same a short while ago, and how often it was said by now.
    fn again(&self, key: &Key) -> Option<(String, i32)> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, event| event.last.elapsed() < SERIES);
        let event = recent.get_mut(key)?;
        event.count = event.count.saturating_add(1);
        event.last = Instant::now();
        Some((event.name.clone(), event.count))
    }
}

fn cut(note: &str) -> String {
    note[..note.floor_char_boundary(NOTE_MAX)].to_owned()
}
