//! What the operator knows of the cluster without asking: one watch per kind and namespace, each kept in a store, and each
//! event turned into the servers it may matter to. Nothing is decided before every store has been filled once: a store that
//! is still empty would read as "no models".

mod keys;
mod stream;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crds::{TritonModel, TritonServer};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Client, Resource, ResourceExt,
    api::DynamicObject,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::reflector::{ObjectRef, Store},
};
use operator_core::{build::Kind, labels};
use tokio::task::AbortHandle;

use self::{
    keys::{Change, config_map_users, moved, own_key, owning_server, server_of},
    stream::{Starter, api, everything, ours, watch_objects},
};
use crate::{
    metrics::Metrics,
    queue::{Queue, ServerKey},
};

/// How often it is asked whether the optional kinds have come or gone.
const LOOK_FOR_KINDS: Duration = Duration::from_secs(60);
/// How long the first list of an optional kind may take.
const FILL_OPTIONAL: Duration = Duration::from_secs(10);

/// A resource of ours, or why it cannot be read: one malformed object must not end the watch of the others.
pub(crate) type Guarded<K> = DeserializeGuard<K>;

/// Every watch.
pub(crate) struct Watches {
    client: Client,
    queue: Queue,
    metrics: Arc<Metrics>,
    scopes: Vec<Scope>,
    /// The server each model named last, so that both servers of a model that moves are reconciled.
    servers_of_models: Arc<Mutex<HashMap<String, ServerKey>>>,
}

/// The watches of one namespace, or of all.
#[derive(Debug)]
struct Scope {
    namespace: Option<String>,
    servers: Store<Guarded<TritonServer>>,
    models: Store<Guarded<TritonModel>>,
    pods: Store<Pod>,
    /// Every ConfigMap there is: models may come from any. Only that it is there, and in which version.
    config_maps: Store<PartialObjectMeta<ConfigMap>>,
    objects: HashMap<Kind, Store<DynamicObject>>,
    optional: Mutex<HashMap<Kind, (Store<DynamicObject>, AbortHandle)>>,
}

impl Watches {
    /// Begins to watch; `namespaces` none: all of them.
    pub(crate) fn start(client: &Client, namespaces: &[String], queue: &Queue, metrics: &Arc<Metrics>) -> Arc<Self> {
        let servers_of_models = Arc::default();
        let scopes = if namespaces.is_empty() { vec![None] } else { namespaces.iter().cloned().map(Some).collect() };
        let scopes = scopes
            .into_iter()
            .map(|namespace| Scope::start(client, namespace, queue, metrics, &servers_of_models))
            .collect();
        Arc::new(Self {
            client: client.clone(),
            queue: queue.clone(),
            metrics: Arc::clone(metrics),
            scopes,
            servers_of_models,
        })
    }

    /// Waits until every store has been filled once.
    pub(crate) async fn filled(&self) {
        for scope in &self.scopes {
            // a writer is dropped only when the operator ends
            let _ = scope.servers.wait_until_ready().await;
            let _ = scope.models.wait_until_ready().await;
            let _ = scope.pods.wait_until_ready().await;
            let _ = scope.config_maps.wait_until_ready().await;
            for store in scope.objects.values() {
                let _ = store.wait_until_ready().await;
            }
        }
    }

    /// Asks again and again whether the optional kinds have come or gone, and watches those that are there.
    pub(crate) async fn follow_optional_kinds(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_FOR_KINDS).await;
            self.look_for_optional_kinds().await;
        }
    }

    /// Asks which optional kinds the cluster knows.
    pub(crate) async fn look_for_optional_kinds(&self) {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_optional()) {
            let resource = kind.api_resource();
            let gvk = kube::core::GroupVersionKind::gvk(&resource.group, &resource.version, &resource.kind);
            let is_known = match kube::discovery::pinned_kind(&self.client, &gvk).await {
                Ok(_) => true,
                Err(kube::Error::Api(status)) if status.code == 404 => false, // unknown groups answer without a reason
                Err(kube::Error::Discovery(_)) => false,
                Err(error) => {
                    tracing::debug!(%error, kind = resource.kind, "cannot ask whether the cluster knows it");
                    continue;
                }
            };
            self.set_known(kind, is_known).await;
        }
    }

    /// Whether the cluster knows a kind.
    pub(crate) fn knows(&self, kind: Kind) -> bool {
        !kind.is_optional() || self.scopes.iter().any(|scope| scope.optional().contains_key(&kind))
    }

    /// The cluster turned out to (not) know an optional kind.
    pub(crate) async fn set_known(&self, kind: Kind, is_known: bool) {
        if !kind.is_optional() || self.knows(kind) == is_known {
            return;
        }
        tracing::info!(kind = ?kind, is_known, "an optional kind has come or gone");
        for scope in &self.scopes {
            if is_known {
                let namespace = scope.namespace.as_deref();
                let (store, task) = watch_objects(&self.client, namespace, kind, &self.queue, &self.metrics);
                match tokio::time::timeout(FILL_OPTIONAL, store.wait_until_ready()).await {
                    Ok(Ok(())) => drop(scope.optional().insert(kind, (store, task))),
                    _ => task.abort(), // forbidden, or gone again: asked anew in a while
                }
            } else if let Some((_, task)) = scope.optional().remove(&kind) {
                task.abort();
            }
        }
        self.keys().into_iter().for_each(|key| self.queue.push(key));
    }

    /// A server, if it exists.
    pub(crate) fn server(&self, key: &ServerKey) -> Option<Arc<Guarded<TritonServer>>> {
        self.scope(&key.namespace)?.servers.get(&ObjectRef::new(&key.name).within(&key.namespace))
    }

    /// The models that name a server, those that can be read.
    pub(crate) fn models(&self, key: &ServerKey) -> Vec<TritonModel> {
        let Some(scope) = self.scope(&key.namespace) else { return vec![] };
        let names_it = |model: &TritonModel| server_of(model).is_some_and(|server| server == *key);
        let models = scope.models.state();
        models.iter().filter_map(|model| model.0.as_ref().ok()).filter(|model| names_it(model)).cloned().collect()
    }

    /// The models of a namespace that cannot be read: their metadata, and why.
    pub(crate) fn unreadable_models(&self, namespace: &str) -> Vec<(ObjectMeta, String)> {
        let Some(scope) = self.scope(namespace) else { return vec![] };
        let models = scope.models.state();
        let unreadable = models.iter().filter_map(|model| model.0.as_ref().err());
        let here = unreadable.filter(|invalid| invalid.metadata.namespace.as_deref() == Some(namespace));
        here.map(|invalid| (invalid.metadata.clone(), invalid.error.clone())).collect()
    }

    /// The pods of a server, sorted by name.
    pub(crate) fn pods(&self, key: &ServerKey) -> Vec<Arc<Pod>> {
        let Some(scope) = self.scope(&key.namespace) else { return vec![] };
        let mut pods = scope.pods.state_filter(|pod| owning_server(&pod.metadata).as_ref() == Some(key));
        pods.sort_by_key(|pod| pod.metadata.name.clone());
        pods
    }

    /// The present version of a ConfigMap, if it exists.
    pub(crate) fn config_map_version(&self, namespace: &str, name: &str) -> Option<String> {
        version(&self.scope(namespace)?.config_maps.get(&ObjectRef::new(name).within(namespace))?.metadata)
    }

    /// An object made for a server, as it was last seen.
    pub(crate) fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<Arc<DynamicObject>> {
        let store = self.store(kind, namespace)?;
        store.get(&ObjectRef::new_with(name, kind.api_resource()).within(namespace))
    }

    /// Objects of a kind that were made for the server with that uid.
    pub(crate) fn objects_of(&self, kind: Kind, namespace: &str, uid: &str) -> Vec<Arc<DynamicObject>> {
        let Some(store) = self.store(kind, namespace) else { return vec![] };
        store.state_filter(|object| {
            object.namespace().as_deref() == Some(namespace)
                && object.owner_references().iter().any(|owner| owner.uid == uid)
        })
    }

    /// Every server there is or that a model names.
    pub(crate) fn keys(&self) -> BTreeSet<ServerKey> {
        let servers = self.scopes.iter().flat_map(|scope| scope.servers.state());
        let mut keys: BTreeSet<ServerKey> = servers.filter_map(|server| own_key(server.meta())).collect();
        keys.extend(self.servers_of_models.lock().unwrap_or_else(PoisonError::into_inner).values().cloned());
        keys
    }

    /// How many servers and models there are, and how many of them are ready.
    pub(crate) fn resource_counts(&self) -> [(&'static str, usize, usize); 2] {
        let is_ready = |conditions: &[crds::parts::Condition]| {
            crds::parts::condition::find(conditions, "Ready")
                .is_some_and(|ready| ready.status == crds::parts::ConditionStatus::True)
        };
        let mut counts = [("TritonServer", 0, 0), ("TritonModel", 0, 0)];
        for scope in &self.scopes {
            for server in scope.servers.state() {
                let status = server.0.as_ref().ok().and_then(|server| server.status.as_ref());
                counts[0].1 += 1;
                counts[0].2 += usize::from(status.is_some_and(|status| is_ready(&status.conditions)));
            }
            for model in scope.models.state() {
                let status = model.0.as_ref().ok().and_then(|model| model.status.as_ref());
                counts[1].1 += 1;
                counts[1].2 += usize::from(status.is_some_and(|status| is_ready(&status.conditions)));
            }
        }
        counts
    }

    fn store(&self, kind: Kind, namespace: &str) -> Option<Store<DynamicObject>> {
        let scope = self.scope(namespace)?;
        match kind.is_optional() {
            true => scope.optional().get(&kind).map(|(store, _)| store.clone()),
            false => scope.objects.get(&kind).cloned(),
        }
    }

    fn scope(&self, namespace: &str) -> Option<&Scope> {
        self.scopes.iter().find(|scope| scope.namespace.as_deref().is_none_or(|own| own == namespace))
    }
}

/// What tells one state of an object from all others, even of those that bore its name before.
pub(crate) fn version(meta: &ObjectMeta) -> Option<String> {
    Some(format!("{}/{}", meta.uid.as_ref()?, meta.resource_version.as_ref()?))
}

impl Scope {
    fn start(
        client: &Client,
        namespace: Option<String>,
        queue: &Queue,
        metrics: &Arc<Metrics>,
        servers_of_models: &Arc<Mutex<HashMap<String, ServerKey>>>,
    ) -> Self {
        let within = namespace.as_deref();
        let models = {
            let servers_of_models = Arc::clone(servers_of_models);
            move |event: &Change, model: &Guarded<TritonModel>| moved(&servers_of_models, event, model)
        };
        let servers = |_: &Change, server: &Guarded<TritonServer>| own_key(server.meta()).into_iter().collect();
        let pods = |_: &Change, pod: &Pod| owning_server(&pod.metadata).into_iter().collect();
        let labels = format!("{},app.kubernetes.io/name={}", ours(), labels::NAME);
        let required = Kind::ALL.into_iter().filter(|kind| !kind.is_optional());
        let start = Starter { queue, metrics };
        let models = start.watch(api(client, within), everything(), (), models).0;
        let users = {
            let models = models.clone();
            move |_: &Change, config_map: &PartialObjectMeta<ConfigMap>| {
                config_map_users(&models.state(), &config_map.metadata)
            }
        };
        let trim = |config_map: &mut PartialObjectMeta<ConfigMap>| {
            config_map.annotations_mut().clear(); // kubectl may have put a copy of the whole there
            config_map.labels_mut().clear();
        };
        Self {
            servers: start.watch(api(client, within), everything(), (), servers).0,
            models,
            config_maps: start.watch_trimmed(api(client, within), everything(), (), trim, users).0,
            pods: start.watch(api(client, within), everything().labels(&labels), (), pods).0,
            objects: required.map(|kind| (kind, watch_objects(client, within, kind, queue, metrics).0)).collect(),
            optional: Mutex::default(),
            namespace,
        }
    }

    fn optional(&self) -> MutexGuard<'_, HashMap<Kind, (Store<DynamicObject>, AbortHandle)>> {
        self.optional.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
