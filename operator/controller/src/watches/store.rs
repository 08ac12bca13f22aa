//! What one watch has found, and an index over it. Both change in one step, so that whoever finds an object in the one finds it
//! in the other; and nobody has to look through all objects of a cluster for those of one server.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use kube::{Resource, ResourceExt, runtime::watcher::Event};
use tokio::sync::watch;

use crate::queue::ServerKey;

/// What objects are found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Term {
    /// The server an object is of or names.
    Server(ServerKey),
    /// Uid of an owner.
    Owner(String),
    /// Namespace and name of a ConfigMap that files come from.
    ConfigMap(String, String),
    /// A server whose load the operator has to know.
    LoadWanted,
    /// Namespace of an object that cannot be read.
    Unreadable(String),
}

/// Namespace and name.
type Id = (String, String);

/// The objects of one watch, for readers.
pub(super) struct Store<K> {
    shared: Arc<RwLock<Contents<K>>>,
    is_filled: watch::Receiver<bool>,
}

/// The objects of one watch, for the watch.
pub(super) struct Writer<K, F> {
    shared: Arc<RwLock<Contents<K>>>,
    is_filled: watch::Sender<bool>,
    /// What a list under way has named so far.
    listed: Vec<K>,
    /// What an object is found by, given what it was found by before.
    terms: F,
}

/// An object that an event was about.
pub(super) struct Touched<K> {
    pub(super) object: Arc<K>,
    /// What it was found by before or is found by now.
    pub(super) terms: Vec<Term>,
}

struct Contents<K> {
    objects: HashMap<Id, (Arc<K>, Vec<Term>)>,
    index: HashMap<Term, BTreeSet<Id>>,
}

/// Both ends of an empty store; `terms` says what an object is found by, given what it was found by before.
pub(super) fn store<K, F: Fn(&K, &[Term]) -> Vec<Term>>(terms: F) -> (Store<K>, Writer<K, F>) {
    let shared = Arc::new(RwLock::new(Contents { objects: HashMap::new(), index: HashMap::new() }));
    let (sender, receiver) = watch::channel(false);
    let store = Store { shared: Arc::clone(&shared), is_filled: receiver };
    (store, Writer { shared, is_filled: sender, listed: vec![], terms })
}

impl<K> Store<K> {
    /// Waits until the first list has come to its end. `false`: its watch has ended before.
    pub(super) async fn filled(&self) -> bool {
        self.is_filled.clone().wait_for(|is_filled| *is_filled).await.is_ok()
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let id = (namespace.to_owned(), name.to_owned());
        self.read().objects.get(&id).map(|(object, _)| Arc::clone(object))
    }

    /// What is found by `term`, sorted by name.
    pub(super) fn find(&self, term: &Term) -> Vec<Arc<K>> {
        let contents = self.read();
        let ids = contents.index.get(term).into_iter().flatten();
        ids.filter_map(|id| contents.objects.get(id)).map(|(object, _)| Arc::clone(object)).collect()
    }

    /// Every server that objects are found by.
    pub(super) fn servers(&self) -> Vec<ServerKey> {
        let servers = |term: &Term| match term {
            Term::Server(key) => Some(key.clone()),
            _ => None,
        };
        self.read().index.keys().filter_map(servers).collect()
    }

    /// All of it, in no order.
    pub(super) fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().map(|(object, _)| Arc::clone(object)).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents<K>> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), is_filled: self.is_filled.clone() }
    }
}

impl<K> fmt::Debug for Store<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("objects", &self.read().objects.len()).finish_non_exhaustive()
    }
}

impl<K: Resource, F: Fn(&K, &[Term]) -> Vec<Term>> Writer<K, F> {
    /// Takes an event in, and returns the objects that it changes or may have changed.
    pub(super) fn take(&mut self, event: Event<K>) -> Vec<Touched<K>> {
        match event {
            Event::Apply(object) => vec![self.contents().put(object, &self.terms)],
            Event::Delete(object) => self.contents().remove(&id(&object)).into_iter().collect(),
            Event::Init => {
                self.listed.clear();
                vec![]
            }
            Event::InitApply(object) => {
                self.listed.push(object);
                vec![]
            }
            Event::InitDone => {
                let touched = self.take_list();
                self.is_filled.send_replace(true);
                touched
            }
        }
    }

    /// A list is complete: what it does not name is gone.
    fn take_list(&mut self) -> Vec<Touched<K>> {
        let listed = std::mem::take(&mut self.listed);
        let ids: HashSet<Id> = listed.iter().map(id).collect();
        let mut contents = self.contents();
        let gone: Vec<Id> = contents.objects.keys().filter(|id| !ids.contains(*id)).cloned().collect();
        let gone: Vec<_> = gone.iter().filter_map(|id| contents.remove(id)).collect();
        gone.into_iter().chain(listed.into_iter().map(|object| contents.put(object, &self.terms))).collect()
    }

    fn contents(&self) -> std::sync::RwLockWriteGuard<'_, Contents<K>> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Resource> Contents<K> {
    fn put(&mut self, object: K, terms: impl Fn(&K, &[Term]) -> Vec<Term>) -> Touched<K> {
        let id = id(&object);
        let mut touched = self.remove(&id).map(|touched| touched.terms).unwrap_or_default();
        let terms = terms(&object, &touched);
        for term in &terms {
            self.index.entry(term.clone()).or_default().insert(id.clone());
            if !touched.contains(term) {
                touched.push(term.clone());
            }
        }
        let object = Arc::new(object);
        self.objects.insert(id, (Arc::clone(&object), terms));
        Touched { object, terms: touched }
    }

    fn remove(&mut self, id: &Id) -> Option<Touched<K>> {
        let (object, terms) = self.objects.remove(id)?;
        for term in &terms {
            if let Some(ids) = self.index.get_mut(term) {
                ids.remove(id);
                if ids.is_empty() {
                    self.index.remove(term);
                }
            }
        }
        Some(Touched { object, terms })
    }
}

fn id<K: Resource>(object: &K) -> Id {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    /// An object that is found by the servers in its data.
    fn object(name: &str, servers: &[&str]) -> ConfigMap {
        let data: HashMap<_, _> = servers.iter().map(|server| (*server, "")).collect();
        serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "ml" }, "data": data })).unwrap()
    }

    fn term(server: &str) -> Term {
        Term::Server(ServerKey { namespace: "ml".into(), name: server.into() })
    }

    fn terms(object: &ConfigMap, _: &[Term]) -> Vec<Term> {
        object.data.iter().flatten().map(|(server, _)| term(server)).collect()
    }

    fn names(store: &Store<ConfigMap>, server: &str) -> Vec<String> {
        store.find(&term(server)).iter().map(|object| object.name_any()).collect()
    }

    #[test]
    fn an_object_is_found_by_what_it_is_of_now_and_its_change_touches_both_sides() {
        let (store, mut writer) = store(terms);
        for name in ["b", "a"] {
            writer.take(Event::Apply(object(name, &["x"])));
        }
        assert_eq!(names(&store, "x"), ["a", "b"]);
        let touched = writer.take(Event::Apply(object("a", &["y"])));
        assert_eq!(touched[0].terms, [term("x"), term("y")]);
        assert_eq!((names(&store, "x"), names(&store, "y")), (vec!["b".to_owned()], vec!["a".to_owned()]));
        let touched = writer.take(Event::Delete(object("a", &[])));
        assert_eq!(touched[0].terms, [term("y")], "what is remembered counts, not what the event says");
        assert_eq!((names(&store, "y").len(), store.servers().len(), store.all().len()), (0, 1, 1));
    }

    #[tokio::test]
    async fn a_list_replaces_everything_once_it_is_complete() {
        let (store, mut writer) = store(terms);
        writer.take(Event::Init);
        writer.take(Event::InitApply(object("a", &["x"])));
        assert!(store.get("ml", "a").is_none() && !*store.is_filled.borrow(), "the list is not complete");
        assert_eq!(writer.take(Event::InitDone).len(), 1);
        assert!(store.filled().await && store.get("ml", "a").is_some());
        // a list that broke off says nothing
        writer.take(Event::Init);
        writer.take(Event::InitApply(object("stray", &["x"])));
        writer.take(Event::Init);
        writer.take(Event::InitApply(object("b", &["x"])));
        let touched = writer.take(Event::InitDone);
        assert_eq!(touched.iter().map(|it| it.object.name_any()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(names(&store, "x"), ["b"]);
        drop(writer);
        assert!(store.filled().await, "it was filled before its watch ended");
    }

    #[tokio::test]
    async fn whoever_waits_for_a_watch_that_has_ended_is_told() {
        let (store, writer) = store(terms);
        drop(writer);
        assert!(!store.filled().await);
    }

    #[test]
    fn the_index_holds_nothing_that_is_gone() {
        let (store, mut writer) = store(terms);
        for round in 0..50 {
            writer.take(Event::Apply(object("a", &[&format!("s{round}")])));
        }
        assert_eq!(store.servers().len(), 1);
        writer.take(Event::Init);
        writer.take(Event::InitDone);
        assert_eq!((store.servers().len(), store.all().len()), (0, 0));
    }
}
