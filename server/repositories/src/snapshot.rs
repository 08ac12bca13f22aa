//! The files of one model at one moment, in a folder on this machine that nobody changes afterwards but to add to it. Where a
//! file is the same as in the folder before, it is the very same file: so what changed is told by what a file looks like, and
//! nothing is fetched twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, FileTimes},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Instant,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::{
    client::Client,
    error::{AtPath, LocalError, RepositoryError},
    fetch,
    latest::Latest,
    listing::{Listing, RemoteFile, is_version},
    mirror::Mirror,
    repository::RemoteModel,
};

/// The files of one model at one moment, as far as they were fetched.
#[derive(Debug, Clone)]
pub struct Snapshot {
    model: RemoteModel,
    listing: Arc<Listing>,
    folder: Arc<TempDir>,
}

/// What to do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Fetch,
    KeepIfThere,
    Drop,
}

/// How a folder comes about.
#[derive(Debug, PartialEq, Eq)]
struct Plan<'a> {
    /// Whether the latest folder becomes it, with what is fetched.
    adds_to_latest: bool,
    link: Vec<&'a PathBuf>,
    fetch: Vec<&'a PathBuf>,
}

/// Compares what is there with what is wanted. Files that are there and are not wanted, or are other ones, ask for another
/// folder: somebody may be reading them.
fn plan<'a>(latest: Option<&Latest>, listing: &'a Listing, want: impl Fn(&Path) -> Want) -> Plan<'a> {
    let has = |path: &Path, file: &RemoteFile| {
        latest.is_some_and(|it| it.files.get(path).is_some_and(|there| there.is_same(&file.identity)))
    };
    let adds_to_latest = latest.is_some_and(|latest| {
        let stays =
            |path: &PathBuf| listing.files.get(path).is_some_and(|file| has(path, file)) && want(path) != Want::Drop;
        latest.files.keys().all(stays) && latest.folders.is_subset(&listing.folders)
    });
    let mut plan = Plan { adds_to_latest, link: Vec::new(), fetch: Vec::new() };
    for (path, file) in &listing.files {
        match (has(path, file), want(path)) {
            (true, Want::Fetch | Want::KeepIfThere) if !adds_to_latest => plan.link.push(path),
            (false, Want::Fetch) => plan.fetch.push(path),
            _ => {}
        }
    }
    plan
}

// === impl Snapshot ===

impl RemoteModel {
    /// Fetches the files that belong to no version, as they are in the store now, or were when the model was found just before.
    ///
    /// Blocks while it writes: call it from a thread that may. Errors: it cannot be read, or there is no room.
    pub async fn open(&self) -> Result<Snapshot, RepositoryError> {
        let listing = self.listing().await?;
        Snapshot::open(self.clone(), listing).await
    }
}

impl Snapshot {
    pub(crate) async fn open(model: RemoteModel, listing: Arc<Listing>) -> Result<Self, RepositoryError> {
        let want = |path: &Path| if version_of(path).is_some() { Want::KeepIfThere } else { Want::Fetch };
        let folder = bring(&model, &listing, want).await?;
        Ok(Self { model, listing, folder })
    }

    /// Where the files lie. It goes when this snapshot, its clones and its holders are gone, and no later one has it.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the folder as long as it lives.
    pub fn holder(&self) -> Arc<TempDir> {
        self.folder.clone()
    }

    /// Names of the files and folders directly in a version, fetched or not.
    pub fn version_files(&self, version: u64) -> Vec<String> {
        let inside = |path: &PathBuf| {
            let mut parts = path.iter().filter_map(|part| part.to_str());
            (parts.next()?.parse() == Ok(version)).then(|| parts.next().map(str::to_owned))?
        };
        let names: BTreeSet<String> = self.listing.files.keys().filter_map(inside).collect();
        names.into_iter().collect()
    }

    /// Fetches these versions, and no longer has those that are not among them. The path may be another one afterwards.
    ///
    /// Blocks while it writes. Errors: a file cannot be had, or there is no room; what has come is kept for the next attempt.
    pub async fn fetch_versions(&mut self, versions: &[u64]) -> Result<(), RepositoryError> {
        let want = |path: &Path| match version_of(path) {
            Some(version) if !versions.contains(&version) => Want::Drop,
            _ => Want::Fetch,
        };
        self.folder = bring(&self.model, &self.listing, want).await?;
        Ok(())
    }
}

/// The version that a file belongs to.
fn version_of(path: &Path) -> Option<u64> {
    let mut parts = path.iter();
    let top = parts.next()?.to_str().filter(|top| is_version(top))?;
    parts.next()?;
    Some(top.parse().unwrap_or(0)) // no version is 0, and none has more digits
}

/// Makes or adds to the folder of a model, which becomes its latest.
async fn bring(
    model: &RemoteModel,
    listing: &Listing,
    want: impl Fn(&Path) -> Want,
) -> Result<Arc<TempDir>, RepositoryError> {
    let repository = &model.repository;
    let mirror = repository.mirror()?;
    let local = |error| repository.local(error);
    let state = repository.latest(&model.name);
    let mut latest = state.lock().await;
    let plan = plan(latest.as_ref(), listing, want);
    let (folder, mut files) = match &*latest {
        Some(latest) if plan.adds_to_latest => (latest.folder.clone(), latest.files.clone()),
        before => {
            let folder = mirror.new_folder().map_err(local)?;
            let mut files = BTreeMap::new();
            for path in &plan.link {
                let from = before.as_ref().expect("there is a folder to link from").folder.path().join(path);
                link(&from, &folder.path().join(path)).map_err(local)?;
                files.insert((*path).clone(), listing.files[*path].identity.clone());
            }
            (Arc::new(folder), files)
        }
    };
    for name in &listing.folders {
        let path = folder.path().join(name);
        fs::create_dir_all(&path).at(&path).map_err(local)?;
    }
    let before = match &*latest {
        Some(latest) if plan.adds_to_latest => latest.before.clone(),
        Some(latest) => Arc::downgrade(&latest.folder),
        None => Weak::new(),
    };
    let mut result = Ok(());
    if !plan.fetch.is_empty() {
        let before = before.upgrade();
        let before = before.as_deref().map(TempDir::path);
        let into = Into { model, mirror: &mirror, folder: folder.path(), before, placed: Mutex::default() };
        result = repository.unless_closed(into.fetch(listing, &plan.fetch)).await;
        let placed = into.placed.into_inner().into_iter();
        files.extend(placed.map(|path| (path.clone(), listing.files[&path].identity.clone())));
    }
    // also after a failure: what is there need not be fetched again
    *latest = Some(Latest { folder: folder.clone(), files, folders: listing.folders.clone(), before });
    result?;
    mirror.remove_parts(&model.name); // nothing is half there
    Ok(folder)
}

/// The very same file under another name; a copy where the file system has no links.
fn link(from: &Path, to: &Path) -> Result<(), LocalError> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).at(parent)?;
    }
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).at(to)?;
        let modified = fs::metadata(from).and_then(|metadata| metadata.modified()).at(from)?;
        set_time(to, modified)?;
    }
    Ok(())
}

fn set_time(path: &Path, time: std::time::SystemTime) -> Result<(), LocalError> {
    let file = File::options().write(true).open(path).at(path)?;
    file.set_times(FileTimes::new().set_modified(time)).at(path)
}

/// Where fetched files go.
struct Into<'a> {
    model: &'a RemoteModel,
    mirror: &'a Mirror,
    folder: &'a Path,
    /// The folder before, if this is another one.
    before: Option<&'a Path>,
    /// What lies in its place.
    placed: Mutex<Vec<PathBuf>>,
}

impl Into<'_> {
    async fn fetch(&self, listing: &Listing, paths: &[&PathBuf]) -> Result<(), RepositoryError> {
        let repository = &self.model.repository;
        let began = Instant::now();
        let files: Vec<_> = paths.iter().map(|path| (*path, &listing.files[*path])).collect();
        let bytes: u64 = files.iter().map(|(_, file)| file.size).sum();
        let parts: BTreeSet<_> = files.iter().map(|(_, file)| self.part(file)).collect();
        self.mirror.remove_parts_but(&self.model.name, &parts); // of objects that are other ones now
        self.check_room(&files)?;
        let client = repository.client().await?;
        let fetches = files.iter().map(|(path, file)| self.fetch_one(&client, path, file));
        stream::iter(fetches).buffer_unordered(repository.limits.parallel).try_collect::<()>().await?;
        let elapsed_ms = began.elapsed().as_millis() as u64;
        tracing::info!(files = files.len(), bytes, elapsed_ms, "fetched files of '{}'", self.model);
        Ok(())
    }

    fn check_room(&self, files: &[(&PathBuf, &RemoteFile)]) -> Result<(), RepositoryError> {
        let there = |file: &RemoteFile| fs::metadata(self.part(file)).map_or(0, |metadata| metadata.len());
        let needed: u64 = files.iter().map(|(_, file)| file.size.saturating_sub(there(file))).sum();
        let Ok(space) = rustix::fs::statvfs(self.mirror.folder()) else { return Ok(()) }; // writing will tell
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if needed <= free {
            return Ok(());
        }
        Err(RepositoryError::NoSpace {
            url: self.model.to_string(),
            needed,
            free,
            folder: self.mirror.folder().parent().unwrap_or(self.mirror.folder()).display().to_string(),
            variable: self.model.repository.location().mount_variable(),
        })
    }

    fn part(&self, file: &RemoteFile) -> PathBuf {
        let identity = format!("{} {:?}", file.key, file.identity);
        self.mirror.part(&self.model.name, &identity)
    }

    async fn fetch_one(&self, client: &Client, path: &Path, file: &RemoteFile) -> Result<(), RepositoryError> {
        let repository = &self.model.repository;
        let _permit = repository.downloads.acquire().await.map_err(|_| RepositoryError::Closed)?;
        let part = self.part(file);
        let is_open = |_| !repository.is_closed();
        fetch::fetch(&*client.store, file, &part, &repository.limits, &is_open).await.map_err(|error| {
            let url = format!("{}/{}", self.model, path.display());
            repository.not_fetched(client, url, file.size, error)
        })?;
        self.put_in_place(path, file, &part).map_err(|error| repository.local(error))?;
        self.placed.lock().push(path.to_owned());
        Ok(())
    }

    /// A file that was uploaded again with the same content stays the same file.
    fn put_in_place(&self, path: &Path, file: &RemoteFile, part: &Path) -> Result<(), LocalError> {
        let to = self.folder.join(path);
        let before = self.before.map(|before| before.join(path));
        if let Some(before) = before.filter(|before| fetch::is_same_content(before, part)) {
            return link(&before, &to);
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).at(parent)?;
        }
        set_time(part, file.identity.time())?;
        fs::rename(part, &to).at(to)
    }
}

#[cfg(test)]
mod tests;
