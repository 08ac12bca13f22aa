//! How often a server process ended while it loaded a content. An attempt is noted on disk before it is made and taken back
//! when the server answers, so that no crash, of the server or of the agent, erases it: a content that takes the server down
//! is tried [`CRASHES_MAX`] times and never again. Models that were being loaded beside it are told apart by loading each
//! one that has an open attempt by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{fault::Fault, store::Store, verify::ContentHash};

/// Server processes a content may take down before it is not loaded any more.
pub const CRASHES_MAX: u32 = 2;

/// Open attempts by content, kept in a file.
#[derive(Debug)]
pub struct Attempts {
    path: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    counts: BTreeMap<ContentHash, u32>,
    /// Contents that the present server process loads by itself when it starts, and has not said anything of yet.
    starting: BTreeSet<ContentHash>,
    /// Contents that the present server process was asked to load, and has not answered yet.
    asked: BTreeSet<ContentHash>,
}

/// An attempt under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It was noted for this load.
    Noted,
    /// The server's start had noted one already.
    OfTheStart,
}

impl Attempts {
    /// Those in the file at `path`; none if there is no such file, or none that can be read.
    pub fn open(path: PathBuf) -> Self {
        let counts = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "attempts to load cannot be read: they are counted anew");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self { path, open: Mutex::new(Open { counts, ..Open::default() }) }
    }

    /// Open attempts of a content: server processes that ended while they loaded it, and the one under way.
    pub fn count(&self, content: &ContentHash) -> u32 {
        self.lock().counts.get(content).copied().unwrap_or(0)
    }

    /// Server processes that ended while they loaded a content.
    pub fn crashes(&self, content: &ContentHash) -> u32 {
        let open = self.lock();
        let is_under_way = open.starting.contains(content) || open.asked.contains(content);
        open.counts.get(content).map_or(0, |count| count.saturating_sub(is_under_way.into()))
    }

    /// Whether the server's start has an attempt under way.
    pub fn is_starting(&self, content: &ContentHash) -> bool {
        self.lock().starting.contains(content)
    }

    /// Contents of which the server's start has an attempt under way.
    pub fn starting(&self) -> BTreeSet<ContentHash> {
        self.lock().starting.clone()
    }

    /// A load is about to be asked for. Durable when it returns.
    pub fn begin(&self, content: &ContentHash) -> Result<Attempt, Fault> {
        let mut open = self.lock();
        if open.starting.contains(content) {
            return Ok(Attempt::OfTheStart);
        }
        *open.counts.entry(content.clone()).or_default() += 1;
        self.write(&open)?;
        open.asked.insert(content.clone());
        Ok(Attempt::Noted)
    }

    /// The server ended before it answered: the attempt stays open.
    pub fn unanswered(&self, content: &ContentHash) {
        self.lock().asked.remove(content);
    }

    /// The server has loaded them.
    pub fn succeeded<'a>(&self, contents: impl IntoIterator<Item = &'a ContentHash>) {
        self.change(|open| {
            for content in contents {
                open.counts.remove(content);
                open.starting.remove(content);
                open.asked.remove(content);
            }
        });
    }

    /// The server has answered, be it that it did not load the content: it did not end.
    pub fn answered(&self, content: &ContentHash, attempt: Attempt) {
        self.change(|open| {
            open.asked.remove(content);
            if open.starting.remove(content) || attempt == Attempt::Noted {
                take_one(&mut open.counts, content);
            }
        });
    }

    /// The server ended on purpose: what it was loading is no reason for that.
    pub fn server_left(&self) {
        self.change(|open| {
            for content in std::mem::take(&mut open.starting) {
                take_one(&mut open.counts, &content);
            }
        });
    }

    /// The content is not there any more.
    pub fn forget(&self, content: &ContentHash) {
        self.succeeded([content]);
    }

    /// A server process is about to start and will load what it finds in the repository. Contents with an open attempt are
    /// taken out of it, or what served before is put in their place: each is loaded by itself once the server is up. Of
    /// all others an attempt is noted.
    pub fn server_starting(&self, store: &Store) -> Result<(), Fault> {
        let ledger = store.ledger();
        let mut open = self.lock();
        open.starting.clear();
        for name in store.names() {
            let Some(linked) = store.linked(&name) else { continue };
            let is_suspect = |content: &ContentHash| open.counts.contains_key(content);
            if !is_suspect(&linked) {
                open.starting.insert(linked);
                continue;
            }
            tracing::warn!(model = name, content = linked.short(), "the server ended while it loaded this model");
            let mut served = ledger
                .get(&name)
                .into_iter()
                .flat_map(|record| record.active.iter().chain(record.former.as_ref().map(|former| &former.content)));
            match served.find(|content| !is_suspect(content)).cloned() {
                Some(former) => {
                    store.point(&name, &former)?;
                    open.starting.insert(former);
                }
                None => store.unpoint(&name)?,
            }
        }
        let starting = open.starting.clone();
        for content in starting {
            *open.counts.entry(content).or_default() += 1;
        }
        self.write(&open)
    }

    fn change(&self, change: impl FnOnce(&mut Open)) {
        let mut open = self.lock();
        let before = open.counts.clone();
        change(&mut open);
        if open.counts == before {
            return;
        }
        if let Err(fault) = self.write(&open) {
            // one attempt too many is counted: the content is loaded by itself the next time
            tracing::warn!(error = %fault, "attempts to load are not noted");
        }
    }

    fn write(&self, open: &Open) -> Result<(), Fault> {
        let write = || -> io::Result<()> {
            let temporary = self.path.with_extension("json.new");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(&open.counts)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        };
        write().map_err(|error| Fault::store("cannot note an attempt to load", &error))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_one(counts: &mut BTreeMap<ContentHash, u32>, content: &ContentHash) {
    match counts.get_mut(content) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(counts.remove(content)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fault::Reason,
        verify::{self, Files},
    };

    struct Harness {
        root: tempfile::TempDir,
        store: Store,
    }

    impl Harness {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let store = Store::open(root.path()).unwrap();
            Self { root, store }
        }

        fn open(&self) -> Attempts {
            Attempts::open(self.root.path().join("attempts.json"))
        }

        /// A content of its own in the repository.
        fn link(&self, name: &str, text: &str) -> ContentHash {
            let partial = self.store.partial().unwrap();
            let path = partial.model().join("1/model.py");
            let hash = verify::write_file(&path, &mut text.as_bytes(), false, Reason::StoreFailed, |_| Ok(())).unwrap();
            let content =
                self.store.commit(&partial, &Files::from([("1/model.py".into(), hash)])).unwrap().content().clone();
            self.store.point(name, &content).unwrap();
            content
        }
    }

    #[test]
    fn open_attempts_outlive_the_process() {
        let harness = Harness::new();
        let (a, b) = (harness.link("a", "a"), harness.link("b", "b"));
        let attempts = harness.open();
        assert_eq!(attempts.begin(&a).unwrap(), Attempt::Noted);
        let attempt = attempts.begin(&b).unwrap();
        attempts.answered(&b, attempt);
        let attempts = harness.open();
        assert_eq!([attempts.count(&a), attempts.count(&b)], [1, 0]);
        assert_eq!(attempts.crashes(&a), 1);
        attempts.begin(&a).unwrap();
        assert_eq!(attempts.crashes(&a), 1, "that one is under way");
        assert_eq!(harness.open().count(&a), CRASHES_MAX);
        attempts.unanswered(&a);
        assert_eq!(attempts.crashes(&a), CRASHES_MAX);
        attempts.succeeded([&a]);
        assert_eq!(harness.open().count(&a), 0);
    }

    #[test]
    fn what_a_server_was_loading_when_it_ended_is_out_of_the_way_of_the_next() {
        let harness = Harness::new();
        let (a, b) = (harness.link("a", "a"), harness.link("b", "b"));
        let attempts = harness.open();
        attempts.server_starting(&harness.store).unwrap();
        attempts.succeeded([&a]);
        assert_eq!(attempts.starting(), BTreeSet::from([b.clone()]));
        // it ends, and the agent with it
        let attempts = harness.open();
        attempts.server_starting(&harness.store).unwrap();
        assert_eq!((harness.store.linked("a"), harness.store.linked("b")), (Some(a), None));
        assert_eq!(attempts.count(&b), 1);
    }

    #[test]
    fn what_served_before_takes_the_place_of_what_ended_the_server() {
        let harness = Harness::new();
        let former = harness.link("a", "former");
        harness.store.record("a", |record| record.active = Some(former.clone())).unwrap();
        let new = harness.link("a", "new");
        let attempts = harness.open();
        attempts.begin(&new).unwrap();
        attempts.server_starting(&harness.store).unwrap();
        assert_eq!(harness.store.linked("a"), Some(former.clone()));
        assert!(attempts.is_starting(&former));
    }

    #[test]
    fn a_server_that_ends_on_purpose_blames_nobody() {
        let harness = Harness::new();
        let a = harness.link("a", "a");
        let attempts = harness.open();
        attempts.server_starting(&harness.store).unwrap();
        assert_eq!(attempts.count(&a), 1);
        attempts.server_left();
        assert_eq!(attempts.count(&a), 0);
        attempts.server_starting(&harness.store).unwrap();
        assert_eq!(harness.store.linked("a"), Some(a));
    }

    #[test]
    fn a_load_during_the_start_is_no_attempt_of_its_own() {
        let harness = Harness::new();
        let a = harness.link("a", "a");
        let attempts = harness.open();
        attempts.server_starting(&harness.store).unwrap();
        let attempt = attempts.begin(&a).unwrap();
        assert_eq!((attempt, attempts.count(&a)), (Attempt::OfTheStart, 1));
        attempts.answered(&a, attempt);
        assert_eq!(attempts.count(&a), 0);
        // the same, with the server ending in between: that stays
        attempts.server_starting(&harness.store).unwrap();
        let attempt = attempts.begin(&a).unwrap();
        attempts.server_starting(&harness.store).unwrap();
        attempts.answered(&a, attempt);
        assert_eq!((attempts.count(&a), harness.store.linked("a")), (1, None));
    }
}
