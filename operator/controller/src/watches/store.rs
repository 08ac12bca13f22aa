//! What one watch has found, and an index over it. Both change in one step, so that whoever finds an object in the one finds it
//! in the other; and nobody has to look through all objects of a cluster for those of one server. Objects are kept as text
//! (`kept.rs`), those of a list that is under way too.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use kube::{ResourceExt, core::DeserializeGuard, runtime::watcher::Event};
use tokio::sync::watch;

use super::kept::{First, Keep, Kept};
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
pub(super) type Id = (String, String);

/// What is known of an object besides what it says.
pub(super) struct Facts<K> {
    /// What it is found by, given what it was found by before.
    pub(super) terms: fn(&K, &[Term]) -> Vec<Term>,
    /// What is counted of it.
    pub(super) note: fn(&K) -> Note,
}

/// What is counted of an object, so that a page of numbers needs not to read thousands of them anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) is_ready: bool,
    /// Which numbers these are, its kind says.
    pub(super) numbers: Option<[i32; 4]>,
}

impl<K> Clone for Facts<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Facts<K> {}

/// A resource of ours, or why it cannot be read: one malformed object must not end the watch of the others.
pub(crate) type Guarded<K> = DeserializeGuard<K>;

/// The objects of one watch, for readers.
pub(super) struct Store<K> {
    shared: Arc<RwLock<Contents<K>>>,
    first: Arc<First>,
    is_filled: watch::Receiver<bool>,
}

/// The objects of one watch, for the watch.
pub(super) struct Writer<K> {
    shared: Arc<RwLock<Contents<K>>>,
    first: Arc<First>,
    is_filled: watch::Sender<bool>,
    /// What a list under way has named so far.
    listed: Vec<(Id, Entry<K>)>,
    facts: Facts<K>,
}

/// An object that an event was about.
pub(super) struct Touched {
    pub(super) id: Id,
    /// What it was found by before or is found by now.
    pub(super) terms: Vec<Term>,
    /// Its spec is another one than before, or it came or went; a list does not tell.
    pub(super) is_change: bool,
    /// Uid and version of an object that an event of its own has brought.
    pub(super) version: Option<(String, String)>,
}

struct Entry<K> {
    kept: Kept<K>,
    terms: Vec<Term>,
    note: Note,
    generation: Option<i64>,
}

struct Contents<K> {
    objects: HashMap<Id, Entry<K>>,
    index: HashMap<Term, BTreeSet<Id>>,
}

/// Both ends of an empty store.
pub(super) fn store<K>(facts: Facts<K>) -> (Store<K>, Writer<K>) {
    let shared = Arc::new(RwLock::new(Contents { objects: HashMap::new(), index: HashMap::new() }));
    let (sender, receiver) = watch::channel(false);
    let first = Arc::<First>::default();
    let store = Store { shared: Arc::clone(&shared), first: Arc::clone(&first), is_filled: receiver };
    (store, Writer { shared, first, is_filled: sender, listed: vec![], facts })
}

impl<K: Keep> Store<K> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<K> {
        let id = (namespace.to_owned(), name.to_owned());
        self.first.object(&self.read().objects.get(&id)?.kept)
    }

    /// What is found by `term`, sorted by name.
    pub(super) fn find(&self, term: &Term) -> Vec<K> {
        let contents = self.read();
        let ids = contents.index.get(term).into_iter().flatten();
        ids.filter_map(|id| self.first.object(&contents.objects.get(id)?.kept)).collect()
    }

    /// All of it, in no order.
    pub(super) fn all(&self) -> Vec<K> {
        self.read().objects.values().filter_map(|entry| self.first.object(&entry.kept)).collect()
    }
}

impl<K> Store<K> {
    /// Waits until the first list has come to its end. `false`: its watch has ended before.
    pub(super) async fn filled(&self) -> bool {
        self.is_filled.clone().wait_for(|is_filled| *is_filled).await.is_ok()
    }

    /// Namespace and name of what is found by `term`, sorted.
    pub(super) fn ids(&self, term: &Term) -> Vec<Id> {
        self.read().index.get(term).into_iter().flatten().cloned().collect()
    }

    /// Every server that objects are found by.
    pub(super) fn servers(&self) -> Vec<ServerKey> {
        let servers = |term: &Term| match term {
            Term::Server(key) => Some(key.clone()),
            _ => None,
        };
        self.read().index.keys().filter_map(servers).collect()
    }

    /// What is counted of each object, by namespace and name, in no order.
    pub(super) fn notes(&self) -> Vec<(Id, Note)> {
        self.read().objects.iter().map(|(id, entry)| (id.clone(), entry.note)).collect()
    }

    /// What is counted of one object.
    pub(super) fn note(&self, namespace: &str, name: &str) -> Option<Note> {
        let id = (namespace.to_owned(), name.to_owned());
        self.read().objects.get(&id).map(|entry| entry.note)
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents<K>> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), first: Arc::clone(&self.first), is_filled: self.is_filled.clone() }
    }
}

impl<K> fmt::Debug for Store<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("objects", &self.read().objects.len()).finish_non_exhaustive()
    }
}

impl<K: Keep> Writer<K> {
    /// Takes an event in, and returns the objects that it changes or may have changed.
    pub(super) fn take(&mut self, event: Event<K>) -> Vec<Touched> {
        match event {
            Event::Apply(object) => {
                let version = object.uid().zip(object.resource_version());
                let (id, entry) = self.entry(object);
                vec![Touched { version, ..self.contents().put(id, entry) }]
            }
            Event::Delete(object) => self.contents().remove(&id(&object)).into_iter().collect(),
            Event::Init => {
                self.listed.clear();
                vec![]
            }
            Event::InitApply(object) => {
                let entry = self.entry(object);
                self.listed.push(entry);
                vec![]
            }
            Event::InitDone => {
                let touched = self.take_list();
                self.is_filled.send_replace(true);
                touched
            }
        }
    }

    /// An object as it is kept. No event of the watch comes between a list and its end, so what an object was found by before
    /// is known as soon as it is named.
    fn entry(&self, object: K) -> (Id, Entry<K>) {
        let id = id(&object);
        let contents = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        let before = contents.objects.get(&id).map(|entry| entry.terms.as_slice()).unwrap_or_default();
        let terms = (self.facts.terms)(&object, before);
        drop(contents);
        let note = (self.facts.note)(&object);
        let generation = object.meta().generation;
        (id, Entry { kept: self.first.keep(object), terms, note, generation })
    }

    /// A list is complete: what it does not name is gone.
    fn take_list(&mut self) -> Vec<Touched> {
        let listed = std::mem::take(&mut self.listed);
        let ids: HashSet<&Id> = listed.iter().map(|(id, _)| id).collect();
        let mut contents = self.contents();
        let gone: Vec<Id> = contents.objects.keys().filter(|id| !ids.contains(*id)).cloned().collect();
        let gone: Vec<_> = gone.iter().filter_map(|id| contents.remove(id)).collect();
        let listed = listed.into_iter().map(|(id, entry)| contents.put(id, entry));
        gone.into_iter().chain(listed).map(|touched| Touched { is_change: false, ..touched }).collect()
    }

    fn contents(&self) -> std::sync::RwLockWriteGuard<'_, Contents<K>> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Contents<K> {
    fn put(&mut self, id: Id, entry: Entry<K>) -> Touched {
        let is_change = self.objects.get(&id).is_none_or(|before| before.generation != entry.generation);
        let mut touched = self.remove(&id).map(|touched| touched.terms).unwrap_or_default();
        for term in &entry.terms {
            self.index.entry(term.clone()).or_default().insert(id.clone());
            if !touched.contains(term) {
                touched.push(term.clone());
            }
        }
        self.objects.insert(id.clone(), entry);
        Touched { id, terms: touched, is_change, version: None }
    }

    fn remove(&mut self, id: &Id) -> Option<Touched> {
        let (id, entry) = self.objects.remove_entry(id)?;
        for term in &entry.terms {
            if let Some(ids) = self.index.get_mut(term) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.index.remove(term);
                }
            }
        }
        Some(Touched { id, terms: entry.terms, is_change: true, version: None })
    }
}

fn id<K: Keep>(object: &K) -> Id {
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

    fn facts() -> Facts<ConfigMap> {
        Facts { terms, note: |object| Note { is_ready: object.name_any() == "a", numbers: None } }
    }

    /// How many there are, and how many are ready.
    fn counts(store: &Store<ConfigMap>) -> (usize, usize) {
        let notes = store.notes();
        (notes.len(), notes.iter().filter(|(_, note)| note.is_ready).count())
    }

    fn names(store: &Store<ConfigMap>, server: &str) -> Vec<String> {
        store.find(&term(server)).iter().map(|object| object.name_any()).collect()
    }

    #[test]
    fn an_object_is_found_by_what_it_is_of_now_and_its_change_touches_both_sides() {
        let (store, mut writer) = store(facts());
        for name in ["b", "a"] {
            writer.take(Event::Apply(object(name, &["x"])));
        }
        assert_eq!(names(&store, "x"), ["a", "b"]);
        let touched = writer.take(Event::Apply(object("a", &["y"])));
        assert_eq!(touched[0].terms, [term("x"), term("y")]);
        assert_eq!((names(&store, "x"), names(&store, "y")), (vec!["b".to_owned()], vec!["a".to_owned()]));
        let touched = writer.take(Event::Delete(object("a", &[])));
        assert_eq!(touched[0].terms, [term("y")], "what is remembered counts, not what the event says");
        assert_eq!((names(&store, "y").len(), store.servers().len(), counts(&store)), (0, 1, (1, 0)));
    }

    #[tokio::test]
    async fn a_list_replaces_everything_once_it_is_complete() {
        let (store, mut writer) = store(facts());
        writer.take(Event::Init);
        writer.take(Event::InitApply(object("a", &["x"])));
        assert!(store.get("ml", "a").is_none() && !*store.is_filled.borrow(), "the list is not complete");
        assert_eq!(writer.take(Event::InitDone).len(), 1);
        assert!(store.filled().await && store.get("ml", "a").is_some());
        assert_eq!((store.ids(&term("x")), counts(&store)), (vec![("ml".to_owned(), "a".to_owned())], (1, 1)));
        // a list that broke off says nothing
        writer.take(Event::Init);
        writer.take(Event::InitApply(object("stray", &["x"])));
        writer.take(Event::Init);
        writer.take(Event::InitApply(object("b", &["x"])));
        let touched = writer.take(Event::InitDone);
        assert_eq!(touched.iter().map(|it| it.id.1.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(names(&store, "x"), ["b"]);
        drop(writer);
        assert!(store.filled().await, "it was filled before its watch ended");
    }

    #[tokio::test]
    async fn whoever_waits_for_a_watch_that_has_ended_is_told() {
        let (store, writer) = store(facts());
        drop(writer);
        assert!(!store.filled().await);
    }

    #[test]
    fn the_index_holds_nothing_that_is_gone() {
        let (store, mut writer) = store(facts());
        for round in 0..50 {
            writer.take(Event::Apply(object("a", &[&format!("s{round}")])));
        }
        assert_eq!(store.servers().len(), 1);
        writer.take(Event::Init);
        writer.take(Event::InitDone);
        assert_eq!((store.servers().len(), counts(&store).0), (0, 0));
    }
}
