//! Contents under their hash: how one comes into the store, who keeps it there, and how it leaves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{Partial, Record, Staged, Store, lock, shared::Turn};
use crate::{
    fault::Fault,
    files::{blocking, remove_if_there, sync, write_synced},
    source::Progress,
    verify::{self, ContentHash, Files},
};

/// How often another replica is looked for that fetches the same.
const WAIT: Duration = Duration::from_millis(500);

/// How often contents that replicas share are looked through for those that none of them uses.
const LOOK_AT_SHARED: Duration = Duration::from_secs(30);

/// A content that is not deleted for as long as this lives, whether anybody has noted it or not.
#[derive(Debug)]
pub struct Pinned {
    content: ContentHash,
    pins: Arc<Mutex<BTreeMap<ContentHash, usize>>>,
}

impl Store {
    /// Makes the model folder of `partial` part of the store, under the hash of its files. Durable when it returns.
    pub fn commit(&self, partial: &Partial, files: &Files) -> Result<Pinned, Fault> {
        let fail = |error: io::Error| Fault::store("cannot keep the model", &error);
        let content = ContentHash::from(verify::hash_of_folder(files));
        let pinned = self.pin(&content);
        let place = self.content(&content);
        let listing = self.listing(&content);
        if place.is_dir() && listing.is_file() {
            return Ok(pinned); // only complete folders are ever renamed to such a name
        }
        let whole = partial.folder.join("listing");
        write_synced(&whole, verify::listing(files).as_bytes()).map_err(fail)?;
        fs::rename(whole, &listing).map_err(fail)?;
        if place.is_dir() {
            return Ok(pinned); // of an agent that wrote no listings
        }
        sync_folders(&partial.model()).map_err(fail)?;
        match fs::rename(partial.model(), &place) {
            Err(_) if place.is_dir() => {} // another replica was faster
            renamed => renamed.map_err(fail)?,
        }
        sync(&self.contents.join("store")).map_err(fail)?;
        Ok(pinned)
    }

    /// What another replica has fetched for an entry in this state of its source, pinned.
    pub fn staged_by_another(&self, key: &str, revision: Option<&str>) -> Option<(Staged, Pinned)> {
        let staged = self.shared.as_ref()?.staged(key).filter(|staged| staged.revision.as_deref() == revision)?;
        let pinned = self.pin(&staged.content);
        self.content(&staged.content).is_dir().then_some((staged, pinned))
    }

    /// Tells the other replicas what an entry came to be.
    pub fn tell_others(&self, staged: &Staged) {
        if let Some(shared) = &self.shared
            && let Err(error) = shared.note(staged)
        {
            tracing::warn!(%error, "other replicas do not learn of this content: they fetch it themselves");
        }
    }

    /// Waits until no other replica is fetching an entry, or has fetched it. `None` where nobody else could be, or has.
    pub async fn turn(self: &Arc<Self>, key: &str, progress: &Progress) -> Result<Option<Turn>, Fault> {
        let key = key.to_owned();
        while let Some(shared) = &self.shared {
            progress.check()?;
            if shared.staged(&key).is_some_and(|staged| self.content(&staged.content).is_dir()) {
                break;
            }
            let (store, key) = (Arc::clone(self), key.clone());
            let lease = blocking(move || match &store.shared {
                Some(shared) => shared.take_turn(&key).map_err(|error| Fault::store("cannot share the fetch", &error)),
                None => Ok(None),
            });
            if let Some(lease) = lease.await? {
                return Ok(Some(Turn::new(lease)));
            }
            tokio::time::sleep(WAIT).await;
        }
        Ok(None)
    }

    /// Keeps a content from being deleted.
    pub fn pin(&self, content: &ContentHash) -> Pinned {
        if let Some(shared) = &self.shared
            && let Err(error) = shared.touch(content)
        {
            tracing::warn!(%error, content = content.short(), "other replicas do not learn that it is used");
        }
        *lock(&self.pins).entry(content.clone()).or_default() += 1;
        Pinned { content: content.clone(), pins: Arc::clone(&self.pins) }
    }

    /// Where a content lies.
    pub fn content(&self, content: &ContentHash) -> PathBuf {
        self.contents.join("store").join(content.as_str())
    }

    /// The files of a content with their hashes; `None` if that is not known.
    pub fn files(&self, content: &ContentHash) -> Option<Files> {
        let files = verify::files_of_listing(&fs::read_to_string(self.listing(content)).ok()?)?;
        (ContentHash::from(verify::hash_of_folder(&files)) == *content).then_some(files)
    }

    pub(super) fn listing(&self, content: &ContentHash) -> PathBuf {
        self.contents.join("listings").join(content.as_str())
    }

    /// Deletes at once what nobody speaks of: there is no room for what somebody wants.
    pub fn spare(&self) {
        for content in self.deletable(true) {
            match self.remove_unless_used(&content, true) {
                Ok(_) => tracing::info!(content = content.short(), "deleted to make room"),
                Err(fault) => tracing::warn!(%content, error = %fault, "not deleted"),
            }
        }
    }

    /// Contents that neither the repository nor the ledger speaks of, nor anybody at work.
    ///
    /// Of contents that are shared, no other replica does either; they are looked for now and then only.
    pub fn unreferenced(&self) -> BTreeSet<ContentHash> {
        if self.shared.is_none() {
            return self.deletable(false);
        }
        let mut looked = lock(&self.looked);
        match &*looked {
            Some((at, contents)) if at.elapsed() < LOOK_AT_SHARED => contents.clone(),
            _ => looked.insert((Instant::now(), self.deletable(false))).1.clone(),
        }
    }

    fn deletable(&self, is_short: bool) -> BTreeSet<ContentHash> {
        let mut contents = self.of_nobody_here();
        let Some(shared) = &self.shared else { return contents };
        let is_fresh = |content: &ContentHash| shared.is_fresh(content, is_short);
        match shared.used_by_others() {
            Ok(used) => contents.retain(|content| !used.contains(content) && !is_fresh(content).unwrap_or(true)),
            Err(error) => {
                tracing::warn!(%error, "nothing is deleted: it cannot be told what other replicas use");
                contents.clear();
            }
        }
        contents
    }

    /// Contents that this agent has no use for.
    fn of_nobody_here(&self) -> BTreeSet<ContentHash> {
        let entries = fs::read_dir(self.contents.join("store")).into_iter().flatten().flatten();
        let mut contents: BTreeSet<_> =
            entries.filter_map(|entry| ContentHash::from_name(entry.file_name().to_str()?)).collect();
        for content in self.lock().values().flat_map(Record::contents) {
            contents.remove(content);
        }
        for name in self.names() {
            if let Some(linked) = self.linked(&name) {
                contents.remove(&linked);
            }
        }
        let pins = lock(&self.pins);
        contents.retain(|content| !pins.contains_key(content));
        contents
    }

    /// Takes a content out of the store, unless somebody speaks of it again; it is gone from disk once the result is dropped.
    pub fn remove(&self, content: &ContentHash) -> Result<Option<Partial>, Fault> {
        self.remove_unless_used(content, false)
    }

    fn remove_unless_used(&self, content: &ContentHash, is_short: bool) -> Result<Option<Partial>, Fault> {
        if let Some((_, contents)) = &mut *lock(&self.looked) {
            contents.remove(content);
        }
        if !self.deletable(is_short).contains(content) {
            return Ok(None);
        }
        let fail = |error: io::Error| Fault::store(format_args!("cannot delete {content}"), &error);
        // by one rename: half a folder must never bear a content's name
        let partial = self.partial()?;
        let removed = partial.folder.join("removed");
        fs::rename(self.content(content), &removed).map_err(fail)?;
        if let Some(shared) = &self.shared
            && shared.is_fresh(content, is_short).unwrap_or(true)
        {
            // somebody began to use it meanwhile
            return match fs::rename(&removed, self.content(content)) {
                Err(_) if self.content(content).is_dir() => Ok(None),
                back => back.map(|()| None).map_err(fail),
            };
        }
        remove_if_there(&self.listing(content)).map_err(fail)?;
        Ok(Some(partial))
    }
}

impl Pinned {
    /// Which one it is.
    pub fn content(&self) -> &ContentHash {
        &self.content
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pins = lock(&self.pins);
        if let Some(count) = pins.get_mut(&self.content) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.content);
            }
        }
    }
}

fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync(folder)
}
