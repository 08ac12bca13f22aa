//! Folders that are fetched into, each with one owner, and the sweep that deletes those that have none any more.
//!
//! ```text
//! partial/N/               owned by a fetch, or left by one that was given up
//! partial/N.left/          being deleted
//! ```

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The folders of one store.
#[derive(Debug)]
pub(crate) struct Partials {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many there were; each has a number of its own.
    count: u64,
    /// Those that somebody owns.
    owned: BTreeSet<u64>,
    /// The store is closed: the folder may be that of another one by now.
    is_closed: bool,
}

/// A folder to fetch into. It is gone when dropped, unless it was committed.
#[derive(Debug)]
pub struct Partial {
    pub(super) folder: PathBuf,
    number: u64,
    partials: Arc<Partials>,
    is_left: bool,
}

impl Partials {
    pub(super) fn new(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { folder, state: Mutex::default() })
    }

    /// No sweep begins to delete anything from now on.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
    }

    pub(super) fn own(self: &Arc<Self>) -> Partial {
        let mut state = self.lock();
        let number = state.count;
        state.count += 1;
        state.owned.insert(number);
        let folder = self.folder.join(number.to_string());
        Partial { folder, number, partials: Arc::clone(self), is_left: false }
    }

    /// Deletes what nobody owns. Blocks. What a thread still writes to is not deleted in full; the next sweep has the rest.
    pub(crate) fn sweep(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let found = entry.path();
            match self.take(&found).and_then(|taken| taken.map_or(Ok(()), |taken| remove(&taken))) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    tracing::debug!(folder = %found.display(), "still written to: it is deleted later");
                }
                Err(error) => tracing::warn!(%error, folder = %found.display(), "cannot delete what nobody fetches"),
            }
        }
    }

    /// Moves what lies at `found` to a name that no fetch ever has, unless somebody owns it.
    fn take(&self, found: &Path) -> io::Result<Option<PathBuf>> {
        let state = self.lock();
        let number = found.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
        match number {
            _ if state.is_closed => Ok(None),
            Some(number) if state.owned.contains(&number) => Ok(None),
            Some(_) => {
                let taken = found.with_extension("left");
                fs::rename(found, &taken).map(|()| Some(taken))
            }
            None => Ok(Some(found.to_owned())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partial {
    /// Where a source puts its files.
    pub fn fetched(&self) -> PathBuf {
        self.folder.join("fetched")
    }

    /// Where the model folder is put together.
    pub fn model(&self) -> PathBuf {
        self.folder.join("model")
    }

    /// A free path for a download.
    pub fn download(&self) -> PathBuf {
        self.folder.join("download")
    }

    /// Leaves the folder to the next sweep: threads may still write to it.
    pub(crate) fn leave(mut self) {
        self.is_left = true;
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_left
            && let Err(error) = remove(&self.folder)
        {
            tracing::warn!(%error, folder = %self.folder.display(), "cannot clear what was fetched: it is tried again");
        }
        self.partials.lock().owned.remove(&self.number);
    }
}

/// Deletes a folder, if there is one.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root.join("partial")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn the_sweep_deletes_what_nobody_owns_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let (owned, left) = (store.partial().unwrap(), store.partial().unwrap());
        let late = left.fetched().join("a/b");
        left.leave();
        fs::create_dir_all(root.path().join("partial/7.left/rest")).unwrap();
        store.partials().sweep();
        assert_eq!(names(root.path()), ["0"]);
        // a thread that has not seen yet that nobody wants its files
        fs::create_dir_all(late).unwrap();
        store.partials().sweep();
        assert_eq!(names(root.path()), ["0"]);
        assert!(owned.fetched().is_dir() && owned.model().is_dir());
        drop(owned);
        assert!(names(root.path()).is_empty(), "who ends in order clears at once");
    }

    #[test]
    fn a_sweep_never_touches_the_folders_of_the_next_process() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let partials = store.partials();
        drop(store);
        let next = Store::open(root.path()).unwrap();
        let partial = next.partial().unwrap();
        partials.sweep();
        assert!(partial.fetched().is_dir());
    }
}
