//! What the operator knows of the cluster without asking: one watch per kind and namespace, each kept in a store, and each
//! event turned into the servers it may matter to. Nothing is decided before every store has been filled once: a store that
//! is still empty would read as "no models".

mod kept;
mod keys;
mod notes;
mod store;
mod stream;
mod trim;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crds::{TritonModel, TritonServer};
use futures_util::future::join_all;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Client, ResourceExt,
    api::DynamicObject,
    core::{Expression, PartialObjectMeta, SelectorExt},
};
use operator_core::{kind::Kind, labels, metrics_api::Values, optional::Availability};
use tokio::task::AbortHandle;

pub(crate) use self::store::Guarded;
use self::{
    store::{Facts, Note, Store, Term},
    stream::{Starter, Ways, api, everything, may_watch, ours, watch_objects},
};
use crate::{
    metrics::{Inventory, Metrics, ServerCounts},
    queue::{Queue, ServerKey},
    written::Written,
};

/// Label of a pod that names its server.
const INSTANCE: &str = "app.kubernetes.io/instance";
/// How often it is asked whether the optional kinds have come or gone.
const LOOK_FOR_KINDS: Duration = Duration::from_secs(15);
/// How long the first list of an optional kind may take.
const FILL_OPTIONAL: Duration = Duration::from_secs(10);

/// Every watch.
pub(crate) struct Watches {
    client: Client,
    queue: Queue,
    metrics: Arc<Metrics>,
    scopes: Vec<Scope>,
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
    optional: Mutex<BTreeMap<Kind, Optional>>,
}

/// An optional kind that the cluster knows.
#[derive(Debug)]
enum Optional {
    Watched(Store<DynamicObject>, AbortHandle),
    /// The operator has no right to watch it.
    Denied,
}

impl Watches {
    /// Begins to watch; `namespaces` none: all of them.
    pub(crate) fn start(
        client: &Client,
        namespaces: &[String],
        queue: &Queue,
        metrics: &Arc<Metrics>,
        written: &Arc<Written>,
    ) -> Arc<Self> {
        let scopes = if namespaces.is_empty() { vec![None] } else { namespaces.iter().cloned().map(Some).collect() };
        let scope = |namespace| Scope::start(client, namespace, &Starter { queue, metrics }, written);
        let scopes = scopes.into_iter().map(scope).collect();
        Arc::new(Self { client: client.clone(), queue: queue.clone(), metrics: Arc::clone(metrics), scopes })
    }

    /// Waits until every store has been filled once.
    pub(crate) async fn filled(&self) {
        for scope in &self.scopes {
            // a writer is dropped only when the operator ends
            scope.servers.filled().await;
            scope.models.filled().await;
            scope.pods.filled().await;
            scope.config_maps.filled().await;
            for store in scope.objects.values() {
                store.filled().await;
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

    /// Asks which optional kinds the cluster knows: one question for each of their APIs.
    pub(crate) async fn look_for_optional_kinds(&self) {
        let mut apis: BTreeMap<String, Vec<Kind>> = BTreeMap::new();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_optional()) {
            apis.entry(kind.api_resource().api_version).or_default().push(kind);
        }
        join_all(apis.iter().map(|(api, kinds)| self.look_for_kinds_of(api, kinds))).await;
    }

    async fn look_for_kinds_of(&self, api: &str, kinds: &[Kind]) {
        let known = match self.client.list_api_group_resources(api).await {
            Ok(list) => list.resources,
            Err(kube::Error::Api(status)) if status.code == 404 => vec![],
            Err(error) => {
                tracing::debug!(%error, api, "cannot ask whether the cluster knows it");
                return;
            }
        };
        let is_known = |kind: Kind| known.iter().any(|resource| resource.name == kind.api_resource().plural);
        join_all(kinds.iter().map(|kind| self.set_known(*kind, is_known(*kind)))).await;
    }

    /// What the cluster has of the optional kinds in a namespace.
    pub(crate) fn optional_kinds(&self, namespace: &str) -> BTreeMap<Kind, Availability> {
        let Some(scope) = self.scope(namespace) else { return BTreeMap::new() };
        let availability = |optional: &Optional| match optional {
            Optional::Watched(..) => Availability::Known,
            Optional::Denied => Availability::Denied,
        };
        scope.optional().iter().map(|(kind, optional)| (*kind, availability(optional))).collect()
    }

    /// The cluster turned out to (not) know an optional kind.
    pub(crate) async fn set_known(&self, kind: Kind, is_known: bool) {
        if !kind.is_optional() {
            return;
        }
        let changed = join_all(self.scopes.iter().map(|scope| async {
            match is_known {
                true => self.watch_optional(scope, kind).await,
                false => scope.set_optional(kind, None),
            }
        }));
        if changed.await.contains(&true) {
            tracing::info!(kind = ?kind, is_known, "an optional kind has come or gone");
            self.keys().into_iter().for_each(|key| self.queue.push(key));
        }
    }

    /// Begins to watch an optional kind that is not watched yet, if that is allowed. Whether anything has changed.
    async fn watch_optional(&self, scope: &Scope, kind: Kind) -> bool {
        if matches!(scope.optional().get(&kind), Some(Optional::Watched(..))) {
            return false;
        }
        let namespace = scope.namespace.as_deref();
        match may_watch(&self.client, namespace, kind).await {
            Ok(true) => {}
            Ok(false) => return scope.set_optional(kind, Some(Optional::Denied)),
            Err(error) => {
                tracing::debug!(%error, kind = ?kind, "cannot ask for its objects");
                return false;
            }
        }
        let (store, task) = watch_objects(&self.client, namespace, kind, &self.queue, &self.metrics);
        match tokio::time::timeout(FILL_OPTIONAL, store.filled()).await {
            Ok(true) => scope.set_optional(kind, Some(Optional::Watched(store, task))),
            _ => {
                task.abort(); // gone again, or slow: asked anew in a while
                false
            }
        }
    }

    /// A server, if it exists.
    pub(crate) fn server(&self, key: &ServerKey) -> Option<Arc<Guarded<TritonServer>>> {
        self.scope(&key.namespace)?.servers.get(&key.namespace, &key.name).map(Arc::new)
    }

    /// The models that name a server, those that can be read.
    pub(crate) fn models(&self, key: &ServerKey) -> Vec<TritonModel> {
        let Some(scope) = self.scope(&key.namespace) else { return vec![] };
        scope.models.find(&Term::Server(key.clone())).into_iter().filter_map(|model| model.0.ok()).collect()
    }

    /// The models of a namespace that cannot be read: their metadata, and why.
    pub(crate) fn unreadable_models(&self, namespace: &str) -> Vec<(ObjectMeta, String)> {
        let Some(scope) = self.scope(namespace) else { return vec![] };
        let models = scope.models.find(&Term::Unreadable(namespace.to_owned()));
        let unreadable = models.into_iter().filter_map(|model| model.0.err());
        unreadable.map(|invalid| (invalid.metadata, invalid.error)).collect()
    }

    /// The pods of a server, sorted by name.
    pub(crate) fn pods(&self, key: &ServerKey) -> Vec<Arc<Pod>> {
        let Some(scope) = self.scope(&key.namespace) else { return vec![] };
        scope.pods.find(&Term::Server(key.clone())).into_iter().map(Arc::new).collect()
    }

    /// The pods of the namespace that a question for metrics means, each with its server.
    pub(crate) fn pods_asked_about(&self, asked: &Values) -> Vec<(ServerKey, String)> {
        let Some(scope) = self.scope(&asked.namespace) else { return vec![] };
        let instance = asked.labels.clone().into_iter().find_map(|expression| match expression {
            Expression::Equal(name, value) if name == INSTANCE => Some(value),
            _ => None,
        });
        let pods: Vec<Pod> = match (&asked.pod, instance) {
            (Some(name), _) => scope.pods.get(&asked.namespace, name).into_iter().collect(),
            (None, Some(name)) => {
                scope.pods.find(&Term::Server(ServerKey { namespace: asked.namespace.clone(), name }))
            }
            (None, None) => scope.pods.all(),
        };
        let pods = pods.iter().filter(|pod| pod.namespace().as_ref() == Some(&asked.namespace));
        let pods = pods.filter(|pod| asked.labels.matches(pod.labels()));
        pods.filter_map(|pod| Some((keys::owning_server(&pod.metadata)?, pod.name_any()))).collect()
    }

    /// The present version of a ConfigMap, if it exists.
    pub(crate) fn config_map_version(&self, namespace: &str, name: &str) -> Option<String> {
        version(&self.scope(namespace)?.config_maps.get(namespace, name)?.metadata)
    }

    /// An object made for a server, as it was last seen.
    pub(crate) fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<DynamicObject> {
        self.store(kind, namespace)?.get(namespace, name)
    }

    /// Names of the objects of a kind that were made for the server with that uid.
    pub(crate) fn names_of(&self, kind: Kind, namespace: &str, uid: &str) -> Vec<String> {
        let Some(store) = self.store(kind, namespace) else { return vec![] };
        let ids = store.ids(&Term::Owner(uid.to_owned())).into_iter();
        ids.filter_map(|(of, name)| (of == namespace).then_some(name)).collect()
    }

    /// Every object of a kind that the operator has made.
    pub(crate) fn all(&self, kind: Kind) -> Vec<DynamicObject> {
        self.scopes.iter().filter_map(|scope| scope.store(kind)).flat_map(|store| store.all()).collect()
    }

    /// Every server there is or that a model names.
    pub(crate) fn keys(&self) -> BTreeSet<ServerKey> {
        let keys = self.scopes.iter().flat_map(|scope| [scope.servers.servers(), scope.models.servers()]);
        keys.flatten().collect()
    }

    /// The servers whose load the operator has to know.
    pub(crate) fn load_wanted(&self) -> Vec<ServerKey> {
        let ids = self.scopes.iter().flat_map(|scope| scope.servers.ids(&Term::LoadWanted));
        ids.map(|(namespace, name)| ServerKey { namespace, name }).collect()
    }

    /// What there is, for the operator's own page.
    pub(crate) fn inventory(&self) -> Inventory {
        let mut counts = vec![("TritonServer", 0, 0), ("TritonModel", 0, 0)];
        let mut servers = vec![];
        for scope in &self.scopes {
            let of_servers = scope.servers.notes();
            let of_models = scope.models.notes();
            for (count, notes) in counts.iter_mut().zip([&of_servers, &of_models]) {
                count.1 += notes.len();
                count.2 += notes.iter().filter(|(_, note)| note.is_ready).count();
            }
            let deployments = scope.objects.get(&Kind::Deployment);
            servers.extend(of_servers.into_iter().filter_map(|((namespace, name), note)| {
                let [ready, desired, loaded, failed] = note.numbers?;
                let wanted = deployments.and_then(|store| store.note(&namespace, &name)?.numbers).map_or(0, |it| it[0]);
                Some(ServerCounts {
                    namespace,
                    name,
                    replicas: [("wanted", wanted), ("ready", ready)],
                    models: [("desired", desired), ("loaded", loaded), ("failed", failed)],
                })
            }));
        }
        Inventory { resources: counts, servers }
    }

    fn store(&self, kind: Kind, namespace: &str) -> Option<Store<DynamicObject>> {
        self.scope(namespace)?.store(kind)
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
    fn start(client: &Client, namespace: Option<String>, start: &Starter<'_>, written: &Arc<Written>) -> Self {
        let within = namespace.as_deref();
        let labels = format!("{},app.kubernetes.io/name={}", ours(), labels::NAME);
        let required = Kind::ALL.into_iter().filter(|kind| !kind.is_optional());
        let echoes = || Some(Arc::clone(written));
        let facts = Facts { terms: keys::of_model, note: notes::of_model };
        let ways = Ways { trim: trim::resource, facts, of_users: echoes(), ..Ways::found_by(keys::of_model) };
        let models = start.watch(api(client, within), everything(), &(), ways).0;
        let config_maps = Ways {
            trim: trim::config_map,
            facts: Facts { terms: |_, _| vec![], note: |_| Note::default() },
            users: {
                let models = models.clone();
                Box::new(move |id| keys::config_map_users(&models, id))
            },
            of_users: None,
        };
        let facts = Facts { terms: keys::of_server, note: notes::of_server };
        let servers = Ways { trim: trim::resource, facts, of_users: echoes(), ..Ways::found_by(keys::of_server) };
        let pods = Ways { trim: trim::pod, ..Ways::found_by(keys::of_pod) };
        Self {
            servers: start.watch(api(client, within), everything(), &(), servers).0,
            models,
            config_maps: start.watch(api(client, within), everything(), &(), config_maps).0,
            pods: start.watch(api(client, within), everything().labels(&labels), &(), pods).0,
            objects: required
                .map(|kind| (kind, watch_objects(client, within, kind, start.queue, start.metrics).0))
                .collect(),
            optional: Mutex::default(),
            namespace,
        }
    }

    fn store(&self, kind: Kind) -> Option<Store<DynamicObject>> {
        match kind.is_optional() {
            true => match self.optional().get(&kind) {
                Some(Optional::Watched(store, _)) => Some(store.clone()),
                Some(Optional::Denied) | None => None,
            },
            false => self.objects.get(&kind).cloned(),
        }
    }

    fn optional(&self) -> MutexGuard<'_, BTreeMap<Kind, Optional>> {
        self.optional.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the cluster has of a kind, and ends the watch there was. Whether that is anything new.
    fn set_optional(&self, kind: Kind, now: Option<Optional>) -> bool {
        let mut optional = self.optional();
        let is_same =
            matches!((&now, optional.get(&kind)), (None, None) | (Some(Optional::Denied), Some(Optional::Denied)));
        let before = match now {
            Some(now) => optional.insert(kind, now),
            None => optional.remove(&kind),
        };
        if let Some(Optional::Watched(_, task)) = before {
            task.abort();
        }
        !is_same
    }
}

#[cfg(test)]
mod tests;
