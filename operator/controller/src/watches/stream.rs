//! One watch: into its store first, then to those it may matter to.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::DynamicObject,
    runtime::{
        WatchStreamExt,
        reflector::{Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use operator_core::{build::Kind, labels};
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;

use super::keys::{Change, owning_server};
use crate::{
    metrics::Metrics,
    queue::{Queue, ServerKey},
};

/// What every watch needs.
pub(super) struct Starter<'a> {
    pub(super) queue: &'a Queue,
    pub(super) metrics: &'a Arc<Metrics>,
}

impl Starter<'_> {
    /// Watches one kind: into its store first, then to those it may matter to.
    pub(super) fn watch<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        dynamic_type: K::DynamicType,
        keys: impl Fn(&Change, &K) -> Vec<ServerKey> + Send + 'static,
    ) -> (Store<K>, AbortHandle)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Eq + Hash + Clone + Send + Sync,
    {
        self.watch_trimmed(api, config, dynamic_type, |_| {}, keys)
    }

    /// The same; `trim` takes away what is not worth keeping.
    pub(super) fn watch_trimmed<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        dynamic_type: K::DynamicType,
        trim: impl Fn(&mut K) + Send + 'static,
        keys: impl Fn(&Change, &K) -> Vec<ServerKey> + Send + 'static,
    ) -> (Store<K>, AbortHandle)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Eq + Hash + Clone + Send + Sync,
    {
        let kind = K::kind(&dynamic_type).into_owned();
        let writer = Writer::new(dynamic_type);
        let store = writer.as_reader();
        let (reader, queue, metrics) = (store.clone(), self.queue.clone(), Arc::clone(self.metrics));
        let task = tokio::spawn(async move {
            let events = watcher(api, config)
                .default_backoff()
                .modify(move |object| {
                    object.managed_fields_mut().clear(); // half of what an object weighs, and never read
                    trim(object);
                })
                .reflect(writer);
            let mut events = std::pin::pin!(events);
            // what was there before a list, for what the list does not have any more
            let mut before = vec![];
            let mut is_well = true;
            while let Some(event) = events.next().await {
                is_well = note_health(&kind, &event, is_well, &metrics);
                let keys_to_queue: Vec<ServerKey> = match &event {
                    Ok(Event::Apply(object)) => keys(&Change::Is, object),
                    Ok(Event::Delete(object)) => keys(&Change::IsGone, object),
                    Ok(Event::Init) => {
                        before = reader.state();
                        vec![]
                    }
                    Ok(Event::InitApply(_)) | Err(_) => vec![],
                    Ok(Event::InitDone) => {
                        let now = reader.state();
                        let is_there = |object: &Arc<K>| {
                            let uid = object.meta().uid.as_ref();
                            now.iter().any(|other| other.meta().uid.as_ref() == uid)
                        };
                        let gone = before.drain(..).filter(|object| !is_there(object));
                        let mut keys_to_queue: Vec<_> =
                            gone.flat_map(|object| keys(&Change::IsGone, &object)).collect();
                        keys_to_queue.extend(now.iter().flat_map(|object| keys(&Change::Is, object)));
                        keys_to_queue
                    }
                };
                keys_to_queue.into_iter().for_each(|key| queue.push(key));
            }
        });
        (store, task.abort_handle())
    }
}

/// Tells of a watch that fails once, not at each new attempt.
fn note_health<K>(kind: &str, event: &Result<Event<K>, watcher::Error>, was_well: bool, metrics: &Metrics) -> bool {
    match event {
        Err(error) => {
            metrics.watch_failed(kind);
            if was_well {
                tracing::warn!(kind, %error, "the watch broke off and begins again");
            }
            false
        }
        // a new list has begun: whether it comes is not known yet
        Ok(Event::Init) => was_well,
        Ok(_) => {
            if !was_well {
                tracing::info!(kind, "the watch goes on");
            }
            true
        }
    }
}

/// Watches the objects of a kind that the operator has made.
pub(super) fn watch_objects(
    client: &Client,
    namespace: Option<&str>,
    kind: Kind,
    queue: &Queue,
    metrics: &Arc<Metrics>,
) -> (Store<DynamicObject>, AbortHandle) {
    let resource = kind.api_resource();
    let api = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let keys = |_: &Change, object: &DynamicObject| owning_server(&object.metadata).into_iter().collect();
    Starter { queue, metrics }.watch(api, everything().labels(&ours()), resource, keys)
}

/// Objects of one namespace, or of all.
pub(super) fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

pub(super) fn everything() -> watcher::Config {
    watcher::Config::default()
}

/// Selects what the operator has made.
pub(super) fn ours() -> String {
    format!("app.kubernetes.io/managed-by={}", labels::MANAGER)
}
