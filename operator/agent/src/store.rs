//! What lies on disk: complete contents under their hash, Triton's repository as links to them, and a ledger of what was
//! confirmed to serve. Everything appears by one rename, so that a crash at any moment leaves either the old or the new.
//!
//! ```text
//! store/sha256-…/          a model folder, complete and never changed; its files may be those of another one (hard links)
//! listings/sha256-…        what its hash was made of, as sha256sum prints it
//! repository/NAME          -> ../store/sha256-…
//! partial/N/               being fetched; cleared when its fetch has ended, and at start
//! ledger.json              what was staged and what was confirmed, by model name
//! ```
//!
//! On a claim that replicas share, contents and listings are those of all, see [`shared`].

mod contents;
mod links;
mod partial;
mod record;
pub mod shared;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

pub(crate) use self::partial::Partials;
use self::shared::Shared;
pub use self::{
    contents::Pinned,
    partial::Partial,
    record::{Origin, Record, Staged},
};
use crate::{
    fault::{Fault, Reason},
    files::{sync, write_synced},
    verify::ContentHash,
};

/// The agent's folder. One process at a time has it open.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Where contents and listings lie: the same folder, or the one that replicas share.
    contents: PathBuf,
    shared: Option<Shared>,
    /// When those to delete were last looked for among contents that are shared, and which they were.
    looked: Mutex<Option<(Instant, BTreeSet<ContentHash>)>>,
    ledger: Mutex<BTreeMap<String, Record>>,
    partials: Arc<Partials>,
    /// Contents that somebody works with who has yet to note them, and how many do.
    pins: Arc<Mutex<BTreeMap<ContentHash, usize>>>,
    _lock: File,
}

impl Store {
    /// Opens or makes the folder.
    ///
    /// Errors: another process has it open; the disk would not take it.
    pub fn open(root: &Path) -> Result<Self, Fault> {
        Self::open_in(root, None)
    }

    /// The same for a replica whose contents lie in the folder `shared`, which its own folder `root` lies in.
    pub fn open_shared(root: &Path, shared: &Path) -> Result<Self, Fault> {
        Self::open_in(root, Some(shared))
    }

    fn open_in(root: &Path, shared: Option<&Path>) -> Result<Self, Fault> {
        let fail = |error: io::Error| Fault::store(format_args!("cannot use {}", root.display()), &error);
        fs::create_dir_all(root).map_err(fail)?;
        let root = fs::canonicalize(root).map_err(fail)?;
        let lock = File::create(root.join("lock")).map_err(fail)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Fault::new(Reason::StoreFailed, format!("{} is in use by another process", root.display())))?;
        for folder in ["repository", "partial"] {
            fs::create_dir_all(root.join(folder)).map_err(fail)?;
        }
        let shared = shared.map(fs::canonicalize).transpose().map_err(fail)?;
        let contents = shared.clone().unwrap_or_else(|| root.clone());
        for folder in ["store", "listings"] {
            fs::create_dir_all(contents.join(folder)).map_err(fail)?;
        }
        let shared = shared.map(|shared| Shared::open(&shared, &root)).transpose().map_err(fail)?;
        for entry in fs::read_dir(root.join("partial")).map_err(fail)? {
            partial::remove(&entry.map_err(fail)?.path()).map_err(fail)?;
        }
        let ledger = match fs::read(root.join("ledger.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "the ledger cannot be read: models are fetched and loaded anew");
                BTreeMap::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(fail(error)),
        };
        let (partials, pins) = (Partials::new(root.join("partial")), Arc::default());
        let (ledger, looked) = (Mutex::new(ledger), Mutex::default());
        let store = Self { root, contents, shared, looked, ledger, partials, pins, _lock: lock };
        store.drop_lost_contents();
        Ok(store)
    }

    /// Triton's repository.
    pub fn repository(&self) -> PathBuf {
        self.root.join("repository")
    }

    /// The ledger as it is now.
    pub fn ledger(&self) -> BTreeMap<String, Record> {
        self.lock().clone()
    }

    /// What the ledger knows of a model.
    pub fn record_of(&self, name: &str) -> Record {
        self.lock().get(name).cloned().unwrap_or_default()
    }

    /// Whether the repository or the ledger has something of a model.
    pub fn is_known(&self, name: &str) -> bool {
        self.lock().contains_key(name) || self.repository().join(name).symlink_metadata().is_ok()
    }

    /// Changes what is known of a model; a record that says nothing is dropped. Durable when it returns.
    pub fn record(&self, name: &str, change: impl FnOnce(&mut Record)) -> Result<(), Fault> {
        let mut ledger = self.lock();
        let mut record = ledger.get(name).cloned().unwrap_or_default();
        change(&mut record);
        if ledger.get(name) == Some(&record) {
            return Ok(());
        }
        if record == Record::default() {
            ledger.remove(name);
        } else {
            ledger.insert(name.to_owned(), record);
        }
        let fail = |error: io::Error| Fault::store("cannot write the ledger", &error);
        let text = serde_json::to_vec_pretty(&*ledger).expect("text keys and plain data");
        let temporary = self.root.join("ledger.json.new");
        write_synced(&temporary, &text).map_err(fail)?;
        fs::rename(&temporary, self.root.join("ledger.json")).map_err(fail)?;
        sync(&self.root).map_err(fail)
    }

    /// A fresh folder to fetch into.
    pub fn partial(&self) -> Result<Partial, Fault> {
        let partial = self.partials.own();
        for part in [partial.fetched(), partial.model()] {
            fs::create_dir_all(&part).map_err(|error| Fault::store("cannot make a folder to fetch into", &error))?;
        }
        Ok(partial)
    }

    /// The folders that are fetched into. They do not keep the store open.
    pub(crate) fn partials(&self) -> Arc<Partials> {
        Arc::clone(&self.partials)
    }

    /// Records and listings may outlive their content when somebody cleans up by hand, or the process ends between two steps.
    fn drop_lost_contents(&self) {
        for entry in fs::read_dir(self.contents.join("listings")).into_iter().flatten().flatten() {
            // another replica may be about to put its content there
            if self.shared.is_none() && !self.contents.join("store").join(entry.file_name()).is_dir() {
                let _ = fs::remove_file(entry.path()); // a listing of nothing does no harm
            }
        }
        let mut ledger = self.lock();
        for record in ledger.values_mut() {
            for staged in [&mut record.staged, &mut record.confirmed, &mut record.former] {
                *staged = staged.take().filter(|staged| self.content(&staged.content).is_dir());
            }
            record.active = record.active.take().filter(|active| self.content(active).is_dir());
        }
        ledger.retain(|_, record| *record != Record::default());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        lock(&self.ledger)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.partials.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
