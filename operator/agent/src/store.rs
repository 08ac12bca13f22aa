//! What lies on disk: complete contents under their hash, Triton's repository as links to them, and a ledger of what was
//! confirmed to serve. Everything appears by one rename, so that a crash at any moment leaves either the old or the new.
//!
//! ```text
//! store/sha256-…/          a model folder, complete and never changed; its files may be those of another one (hard links)
//! listings/sha256-…        what its hash was made of, as sha256sum prints it
//! repository/NAME          -> ../store/sha256-…
//! partial/N/               being fetched; cleared at start
//! ledger.json              what was staged and what was confirmed, by model name
//! ```
//!
//! On a claim that replicas share, contents and listings are those of all, see [`shared`].

pub mod shared;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use self::shared::{Shared, Turn};
use crate::{
    fault::{Fault, Reason},
    source::{Progress, blocking},
    verify::{self, ContentHash, Files},
};

/// How often another replica is looked for that fetches the same.
const WAIT: Duration = Duration::from_millis(500);

/// How often contents that replicas share are looked through for those that none of them uses.
const LOOK_AT_SHARED: Duration = Duration::from_secs(30);

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
    partials: AtomicU64,
    /// Contents that somebody works with who has yet to note them, and how many do.
    pins: Arc<Mutex<BTreeMap<ContentHash, usize>>>,
    _lock: File,
}

/// A content that is not deleted for as long as this lives, whether anybody has noted it or not.
#[derive(Debug)]
pub struct Pinned {
    content: ContentHash,
    pins: Arc<Mutex<BTreeMap<ContentHash, usize>>>,
}

/// What the ledger knows of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was fetched last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Staged>,
    /// What the server was last seen to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ContentHash>,
    /// What `active` was fetched as; absent in ledgers of agents that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<Staged>,
    /// What was confirmed before that, kept while the model may have to go back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Staged>,
}

/// A fetched content and what it was fetched for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Which entry of the manifest, in which state of its source.
    pub key: String,
    /// What the source was then, where it may change without the manifest saying so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What came of it.
    pub content: ContentHash,
    /// What its files came from, as far as it is known: with other settings it need not be fetched again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// What the files of a content came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Which source, checksum, layout and format.
    pub key: String,
    /// Text of the `config.pbtxt` that the source had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// A folder to fetch into. It is gone when dropped, unless it was committed.
#[derive(Debug)]
pub struct Partial {
    folder: PathBuf,
}

impl Staged {
    /// Content hash of the entry that it was fetched for.
    pub fn entry(&self) -> &str {
        self.key.split(':').next().unwrap_or_default()
    }
}

impl Record {
    /// What was fetched for that entry, in that state of its source, if it is still here.
    pub fn staged_for(&self, key: &str) -> Option<&Staged> {
        self.all_staged().find(|staged| staged.key == key)
    }

    /// What was fetched for that entry, in whatever state of its source.
    pub fn staged_by(&self, entry: &str) -> Option<&Staged> {
        self.all_staged().find(|staged| staged.entry() == entry)
    }

    /// The server serves `staged`. What it served before is kept if `keeps_former`.
    pub fn confirm(&mut self, staged: Staged, keeps_former: bool) {
        let before = self.confirmed.take().filter(|before| before.key != staged.key);
        if keeps_former {
            self.former = before.or(self.former.take()).filter(|former| former.key != staged.key);
        }
        self.active = Some(staged.content.clone());
        self.confirmed = Some(staged);
    }

    /// Contents it speaks of.
    pub fn contents(&self) -> impl Iterator<Item = &ContentHash> {
        self.active.iter().chain(self.all_staged().map(|staged| &staged.content))
    }

    fn all_staged(&self) -> impl Iterator<Item = &Staged> {
        [&self.staged, &self.confirmed, &self.former].into_iter().flatten()
    }
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
            fs::remove_dir_all(entry.map_err(fail)?.path()).map_err(fail)?;
        }
        let ledger = match fs::read(root.join("ledger.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "the ledger cannot be read: models are fetched and loaded anew");
                BTreeMap::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(fail(error)),
        };
        let (partials, pins) = (AtomicU64::new(0), Arc::default());
        let (ledger, looked) = (Mutex::new(ledger), Mutex::default());
        let store = Self { root, contents, shared, looked, ledger, partials, pins, _lock: lock };
        store.drop_lost_contents();
        Ok(store)
    }

    /// Triton's repository.
    pub fn repository(&self) -> PathBuf {
        self.root.join("repository")
    }

    /// A fresh folder to fetch into.
    pub fn partial(&self) -> Result<Partial, Fault> {
        let folder = self.root.join("partial").join(self.partials.fetch_add(1, Ordering::Relaxed).to_string());
        for part in [folder.join("fetched"), folder.join("model")] {
            fs::create_dir_all(&part).map_err(|error| Fault::store("cannot make a folder to fetch into", &error))?;
        }
        Ok(Partial { folder })
    }

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

    fn listing(&self, content: &ContentHash) -> PathBuf {
        self.contents.join("listings").join(content.as_str())
    }

    /// What the repository's folder of that name is.
    pub fn linked(&self, name: &str) -> Option<ContentHash> {
        let target = fs::read_link(self.repository().join(name)).ok()?;
        ContentHash::from_name(target.file_name()?.to_str()?).filter(|content| self.content(content).is_dir())
    }

    /// Names in the repository.
    pub fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.repository()).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| !name.starts_with('.')).collect()
    }

    /// Makes the repository's folder of that name this content, in one step.
    ///
    /// Its files get a new time: a server that compares times must see a change even when it goes back to older files. Those that
    /// the folder has already, under the same path, have not changed and keep theirs.
    pub fn point(&self, name: &str, content: &ContentHash) -> Result<(), Fault> {
        if self.linked(name).as_ref() == Some(content) {
            return Ok(());
        }
        let fail = |error: io::Error| Fault::store(format_args!("cannot put '{name}' into the repository"), &error);
        let repository = self.repository();
        let link = repository.join(plain(name)?);
        let (place, now) = (self.content(content), SystemTime::now());
        // other replicas see the same files: they get a new time only where the server would take them for older ones
        let is_newer = || Ok::<_, io::Error>(newest(&place, Some(&link))? > newest(&link, None)?);
        if self.shared.is_none() || !is_newer().map_err(fail)? {
            freshen(&place, &link, now).map_err(fail)?;
        }
        let temporary = repository.join(format!(".{name}.new"));
        remove_if_there(&temporary).map_err(fail)?;
        let contents = if self.shared.is_some() { "../../store" } else { "../store" };
        symlink(Path::new(contents).join(content.as_str()), &temporary).map_err(fail)?;
        fs::rename(&temporary, &link).map_err(fail)?;
        sync(&repository).map_err(fail)
    }

    /// Takes a name out of the repository.
    pub fn unpoint(&self, name: &str) -> Result<(), Fault> {
        let fail = |error: io::Error| Fault::store(format_args!("cannot take '{name}' out of the repository"), &error);
        remove_if_there(&self.repository().join(plain(name)?)).map_err(fail)?;
        sync(&self.repository()).map_err(fail)
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "cannot clear what was fetched");
        }
    }
}

/// A model's name as the name of a folder.
fn plain(name: &str) -> Result<&str, Fault> {
    let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']) && name.len() <= 240;
    if is_plain {
        Ok(name)
    } else {
        Err(Fault::new(Reason::InvalidConfig, format!("'{}' cannot be the name of a folder", name.escape_debug())))
    }
}

/// Gives the files of `folder` a new time, but for those that `before` has under the same path.
fn freshen(folder: &Path, before: &Path, now: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, before) = (entry.path(), before.join(entry.file_name()));
        if path.is_dir() {
            freshen(&path, &before, now)?;
        } else if !is_same_file(&path, &before)? {
            File::open(path)?.set_modified(now)?;
        }
    }
    Ok(())
}

/// The newest time of the files in a folder, but for those that `before` has under the same path; `None` if there are none.
fn newest(folder: &Path, before: Option<&Path>) -> io::Result<Option<SystemTime>> {
    let mut newest = None;
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let (path, before) = (entry.path(), before.map(|before| before.join(entry.file_name())));
        let time = match &before {
            before if path.is_dir() => self::newest(&path, before.as_deref())?,
            Some(before) if is_same_file(&path, before)? => None,
            _ => Some(fs::metadata(&path)?.modified()?),
        };
        newest = newest.max(time);
    }
    Ok(newest)
}

/// Whether both are one file, by two names.
fn is_same_file(path: &Path, other: &Path) -> io::Result<bool> {
    let Ok(other) = fs::metadata(other) else { return Ok(false) };
    let file = fs::metadata(path)?;
    Ok((file.dev(), file.ino()) == (other.dev(), other.ino()))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
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

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a file, if there is one.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(store: &Store, text: &str) -> ContentHash {
        let partial = store.partial().unwrap();
        let path = partial.model().join("1/model.py");
        let hash = verify::write_file(&path, &mut text.as_bytes(), false, Reason::StoreFailed, |_| Ok(())).unwrap();
        store.commit(&partial, &Files::from([("1/model.py".into(), hash)])).unwrap().content().clone()
    }

    fn staged(content: &ContentHash) -> Staged {
        Staged { key: "k".into(), revision: None, content: content.clone(), origin: None }
    }

    #[test]
    fn what_a_content_is_made_of_is_known_as_long_as_it_is_there() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let content = stage(&store, "a");
        let files = store.files(&content).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["1/model.py"]);
        assert_eq!(ContentHash::from(verify::hash_of_folder(&files)), content);
        fs::write(store.listing(&content), "0  x\n").unwrap();
        assert_eq!(store.files(&content), None, "a listing of something else");
        store.remove(&content).unwrap();
        assert_eq!(fs::read_dir(root.path().join("listings")).unwrap().count(), 0);
    }

    #[test]
    fn files_that_stay_keep_their_time() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let a = stage(&store, "a");
        store.point("m", &a).unwrap();
        let time = |path: &str| fs::metadata(store.repository().join("m").join(path)).unwrap().modified().unwrap();
        let before = time("1/model.py");
        let partial = store.partial().unwrap();
        fs::create_dir(partial.model().join("1")).unwrap();
        fs::hard_link(store.content(&a).join("1/model.py"), partial.model().join("1/model.py")).unwrap();
        let mut files = store.files(&a).unwrap();
        let path = partial.model().join("2/model.py");
        let hash = verify::write_file(&path, &mut &b"b"[..], false, Reason::StoreFailed, |_| Ok(())).unwrap();
        files.insert("2/model.py".into(), hash);
        let both = store.commit(&partial, &files).unwrap().content().clone();
        File::open(store.content(&both).join("2/model.py")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        store.point("m", &both).unwrap();
        assert_eq!(time("1/model.py"), before);
        assert!(time("2/model.py") >= before, "what is new to the server looks new");
    }

    #[test]
    fn a_content_appears_whole_under_its_hash_and_once() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let content = stage(&store, "a");
        assert_eq!(stage(&store, "a"), content);
        assert_ne!(stage(&store, "b"), content);
        assert_eq!(fs::read_to_string(store.content(&content).join("1/model.py")).unwrap(), "a");
        assert_eq!(fs::read_dir(root.path().join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn the_repository_follows_its_links() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let (a, b) = (stage(&store, "a"), stage(&store, "b"));
        let file = store.repository().join("m/1/model.py");
        store.point("m", &a).unwrap();
        assert_eq!((store.linked("m"), fs::read_to_string(&file).unwrap()), (Some(a.clone()), "a".into()));
        store.point("m", &b).unwrap();
        assert_eq!((store.linked("m"), fs::read_to_string(&file).unwrap()), (Some(b), "b".into()));
        let seen = fs::metadata(&file).unwrap().modified().unwrap();
        store.point("m", &a).unwrap();
        assert!(fs::metadata(&file).unwrap().modified().unwrap() >= seen, "going back must look like a change");
        store.unpoint("m").unwrap();
        assert_eq!((store.linked("m"), store.names().len()), (None, 0));
        for name in ["../m", "", ".hidden", "a/b"] {
            assert!(store.point(name, &a).is_err(), "{name}");
        }
    }

    #[test]
    fn the_ledger_outlives_the_process_and_lost_contents_leave_it() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let (a, b) = (stage(&store, "a"), stage(&store, "b"));
        store.record("m", |record| record.active = Some(a.clone())).unwrap();
        store.record("n", |record| record.staged = Some(staged(&b))).unwrap();
        fs::create_dir_all(root.path().join("partial/7/fetched")).unwrap();
        assert!(Store::open(root.path()).unwrap_err().message.contains("in use"));
        drop(store);

        let store = Store::open(root.path()).unwrap();
        assert_eq!(store.ledger()["m"].active, Some(a));
        assert_eq!(fs::read_dir(root.path().join("partial")).unwrap().count(), 0);
        fs::remove_dir_all(store.content(&b)).unwrap();
        drop(store);
        let store = Store::open(root.path()).unwrap();
        assert_eq!(store.ledger().keys().collect::<Vec<_>>(), ["m"]);
        store.record("m", |record| *record = Record::default()).unwrap();
        assert!(store.ledger().is_empty());
    }

    #[test]
    fn only_what_nobody_speaks_of_is_deleted() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let (a, b, c, d) = (stage(&store, "a"), stage(&store, "b"), stage(&store, "c"), stage(&store, "d"));
        store.point("m", &a).unwrap();
        store.record("m", |record| record.active = Some(b.clone())).unwrap();
        store.record("n", |record| record.staged = Some(staged(&c))).unwrap();
        assert_eq!(store.unreferenced(), BTreeSet::from([d.clone()]));
        let pins = (store.pin(&d), store.pin(&d));
        drop(pins.0);
        assert!(store.unreferenced().is_empty(), "somebody works with it");
        store.spare();
        assert!(store.content(&d).is_dir());
        drop(pins.1);
        for content in [&a, &b, &c] {
            assert!(store.remove(content).unwrap().is_none());
        }
        store.spare();
        assert!(store.content(&a).is_dir() && store.content(&b).is_dir() && store.content(&c).is_dir());
        assert!(!store.content(&d).exists());
    }
}
