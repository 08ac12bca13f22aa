//! One watch: into its store first, then to those it may matter to.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DynamicObject, ListParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use operator_core::{kind::Kind, labels};
use tokio::task::AbortHandle;

use super::{
    kept::Keep,
    keys, notes,
    store::{Facts, Id, Note, Store, Term, store},
};
use crate::{
    metrics::Metrics,
    queue::{Queue, ServerKey},
    written::Written,
};

/// Objects of one answer to a list.
const PAGE: u32 = 100;

/// What every watch needs.
pub(super) struct Starter<'a> {
    pub(super) queue: &'a Queue,
    pub(super) metrics: &'a Arc<Metrics>,
}

/// What is particular to the watch of one kind.
pub(super) struct Ways<K> {
    /// Takes away what is not worth keeping.
    pub(super) trim: fn(&mut K),
    /// What an object is found by: it matters to each server among that.
    pub(super) facts: Facts<K>,
    /// To which servers it matters besides.
    pub(super) users: Users,
    /// Its specs are written by users, who wait for what comes of a change, and its statuses by us: what we wrote is no news.
    pub(super) of_users: Option<Arc<Written>>,
}

/// Names the servers that use an object of that namespace and name.
pub(super) type Users = Box<dyn Fn(&Id) -> Vec<ServerKey> + Send>;

impl<K> Ways<K> {
    pub(super) fn found_by(terms: fn(&K, &[Term]) -> Vec<Term>) -> Self {
        Self {
            trim: |_| {},
            facts: Facts { terms, note: |_| Note::default() },
            users: Box::new(|_| vec![]),
            of_users: None,
        }
    }
}

impl Starter<'_> {
    /// Watches one kind: into its store first, then to those it may matter to.
    pub(super) fn watch<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        dynamic_type: &K::DynamicType,
        ways: Ways<K>,
    ) -> (Store<K>, AbortHandle)
    where
        K: Keep + Debug + Send + Sync + 'static,
        K::DynamicType: Eq + Hash + Clone + Send + Sync,
    {
        let kind = K::kind(dynamic_type).into_owned();
        let Ways { trim, facts, users, of_users } = ways;
        let (store, mut writer) = store(facts);
        let (queue, metrics) = (self.queue.clone(), Arc::clone(self.metrics));
        let task = tokio::spawn(async move {
            let events = watcher(api, config).default_backoff().modify(move |object| {
                object.managed_fields_mut().clear(); // half of what an object weighs, and never read
                trim(object);
            });
            let mut events = std::pin::pin!(events);
            let mut is_well = true;
            while let Some(event) = events.next().await {
                is_well = note_health(&kind, &event, is_well, &metrics);
                let Ok(event) = event else { continue };
                for touched in writer.take(event) {
                    let is_change = of_users.is_some() && touched.is_change;
                    let servers = touched.terms.into_iter().filter_map(|term| match term {
                        Term::Server(key) => Some(key),
                        _ => None,
                    });
                    let is_echo = |key: &ServerKey| {
                        let written = of_users.as_ref().zip(touched.version.as_ref());
                        written.is_some_and(|(written, (uid, version))| written.is_echo(key, uid, version))
                    };
                    servers.chain(users(&touched.id)).for_each(|key| match is_change {
                        true => queue.push_change(key),
                        false if is_echo(&key) => queue.count_push(),
                        false => queue.push(key),
                    });
                }
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
    let facts = Facts { terms: keys::of_object, note: notes::of_object };
    let ways = Ways { facts, ..Ways::found_by(keys::of_object) };
    let api = objects(client, namespace, kind);
    Starter { queue, metrics }.watch(api, everything().labels(&made(kind)), &kind.api_resource(), ways)
}

/// Whether the operator has the right to list a kind that the cluster knows.
pub(super) async fn may_watch(client: &Client, namespace: Option<&str>, kind: Kind) -> Result<bool, kube::Error> {
    match objects(client, namespace, kind).list_metadata(&ListParams::default().labels(&ours()).limit(1)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
        Err(error) => Err(error),
    }
}

fn objects(client: &Client, namespace: Option<&str>, kind: Kind) -> Api<DynamicObject> {
    let resource = kind.api_resource();
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Selects the objects of a kind that the operator has made. The cluster copies labels of a Service to the EndpointSlices it makes,
/// which are not ours.
fn made(kind: Kind) -> String {
    match kind {
        Kind::EndpointSlice => format!("{},{}={}", ours(), labels::SLICE_MANAGED_BY, labels::MANAGER),
        _ => ours(),
    }
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

/// All objects, read a page at a time: each page is held in full, several kinds are read at once, and what was needed for that stays with
/// the process.
pub(super) fn everything() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

/// Selects what the operator has made.
pub(super) fn ours() -> String {
    format!("app.kubernetes.io/managed-by={}", labels::MANAGER)
}
