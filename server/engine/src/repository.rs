//! The model repositories: what is there, and whether it changed. Reads only; decisions are in `core::repository`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::future::join_all;
use server_core::{
    error::{Error, Result},
    interface::Label,
    repository::watch::Sight,
};
use server_repositories::{Location, RemoteModel, RemoteRepository, RepositoryError, Snapshot};
use tokio::runtime::Handle;

use crate::{
    folder_digest, model_files,
    namespaces::Namespaces,
    stamp::{self, is_of_the_entry},
};

/// The repositories of the command line, each once.
pub(crate) struct Repositories {
    repositories: Vec<Repository>,
    namespaces: Namespaces,
}

/// Where models lie, side by side.
pub(crate) enum Repository {
    /// A folder on this machine.
    Folder(PathBuf),
    /// A bucket of an object store, or a path in it.
    Remote(Arc<RemoteRepository>),
}

/// Where the files of a name lie.
pub(crate) enum Found {
    /// In one repository.
    At(Place),
    /// In several: none may be served.
    Ambiguous(Vec<Place>),
}

/// Where the files of one model lie, as found in one repository.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A folder on this machine.
    Folder(PathBuf),
    /// In a bucket of an object store.
    Remote(RemoteModel),
}

/// The files of one model, for one load.
pub(crate) struct ModelFolder {
    path: PathBuf,
    /// What the model's place is called.
    origin: String,
    /// Where the files were fetched.
    snapshot: Option<Snapshot>,
}

// === impl Repositories ===

impl Repositories {
    pub(crate) fn new(folders: &[PathBuf]) -> Self {
        let folders: BTreeSet<&PathBuf> = folders.iter().collect();
        let repositories = folders.into_iter().cloned().map(Repository::Folder).collect();
        Self { repositories, namespaces: Namespaces::default() }
    }

    /// With those on object stores. Nobody is asked for anything yet.
    pub(crate) fn with_remote(mut self, locations: &[Location]) -> Self {
        let locations: BTreeSet<&Location> = locations.iter().collect();
        let remote = locations.into_iter().cloned().map(RemoteRepository::of_this_process);
        self.repositories.extend(remote.map(|repository| Repository::Remote(Arc::new(repository))));
        self
    }

    /// Each of them is a namespace for its models.
    pub(crate) fn with_namespaces(mut self) -> Self {
        self.namespaces = Namespaces::of(self.repositories.iter().map(Repository::to_string));
        self
    }

    /// How models of one name are told from each other.
    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Asks object stores for the names of their models, in about ten seconds at most. What became of each is kept for
    /// [`Repositories::list`]. Folders are not looked at.
    pub(crate) async fn look_at_remote(&self) {
        join_all(self.remote().map(|repository| repository.look())).await;
    }

    fn remote(&self) -> impl Iterator<Item = &Arc<RemoteRepository>> {
        self.repositories.iter().filter_map(|repository| match repository {
            Repository::Folder(_) => None,
            Repository::Remote(remote) => Some(remote),
        })
    }

    /// Nobody wants the files of a model any more but who has them open.
    pub(crate) fn forget(&self, key: &str) {
        for (repository, name) in self.of_key(key) {
            if let Repository::Remote(remote) = repository {
                remote.forget(name);
            }
        }
    }

    /// Removes what was fetched: the server ends.
    pub(crate) fn close(&self) {
        self.remote().for_each(|repository| repository.close());
    }

    /// Whether a repository has a model of that key, as far as can be told without asking anybody.
    pub(crate) fn is_known(&self, key: &str) -> bool {
        self.of_key(key).any(|(repository, name)| repository.is_known(name))
    }

    /// The repositories in which the model of a key may lie, each with its name there.
    fn of_key<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (&'a Repository, &'a str)> {
        let (namespace, name) = self.namespaces.split(key);
        let may_have =
            move |repository: &&Repository| !self.namespaces.are_used() || repository.to_string() == namespace;
        self.repositories.iter().filter(may_have).map(move |repository| (repository, name))
    }

    /// Every model by key; those of object stores as [`Repositories::look_at_remote`] saw them last.
    ///
    /// Errors: a repository cannot be read.
    pub(crate) fn list(&self) -> Result<BTreeMap<String, Found>> {
        let mut models: BTreeMap<String, Vec<Place>> = BTreeMap::new();
        for repository in &self.repositories {
            for (name, place) in repository.list_as_seen()? {
                models.entry(self.key(repository, &name)).or_default().push(place);
            }
        }
        Ok(models.into_iter().filter_map(|(name, places)| Some((name, Found::of(places)?))).collect())
    }

    /// Each repository for itself: one that cannot be read says nothing of the others.
    pub(crate) fn each(&self) -> &[Repository] {
        &self.repositories
    }

    /// The key of a model in one of the repositories.
    pub(crate) fn key(&self, repository: &Repository, name: &str) -> String {
        if self.namespaces.are_used() { self.namespaces.key(&repository.to_string(), name) } else { name.to_owned() }
    }

    /// Keys of all models of a name, as far as repositories can be read. Blocks.
    pub(crate) fn keys_of(&self, name: &str) -> Vec<String> {
        let has = |repository: &&Repository| repository.find(name).is_ok_and(|place| place.is_some());
        self.repositories.iter().filter(has).map(|repository| self.key(repository, name)).collect()
    }

    /// The same without asking an object store.
    pub(crate) fn known_keys_of(&self, name: &str) -> Vec<String> {
        let known = self.repositories.iter().filter(|repository| repository.is_known(name));
        known.map(|repository| self.key(repository, name)).collect()
    }

    /// Where the model of a key lies; `None` if it is nowhere. Blocks. Errors: it was not found, and a repository cannot be
    /// read.
    pub(crate) fn find(&self, key: &str) -> Result<Option<Found>> {
        let (mut places, mut failure) = (Vec::new(), None);
        for (repository, name) in self.of_key(key) {
            match repository.find(name) {
                Ok(place) => places.extend(place),
                Err(error) => failure = Some(error),
            }
        }
        match (Found::of(places), failure) {
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }
}

// === impl Repository ===

impl Repository {
    /// Whether it has a model of that name, as far as can be told without asking anybody.
    fn is_known(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).is_dir(),
            Self::Remote(remote) => remote.names().is_ok_and(|names| names.contains(name)),
        }
    }

    /// Its models by name, asked for anew. Blocks. Errors: it cannot be read, or not be known of something in it whether it is
    /// a folder.
    pub(crate) fn list(&self) -> Result<Vec<(String, Place)>> {
        match self {
            Self::Folder(folder) => model_folders(folder),
            Self::Remote(remote) => {
                let models = wait(remote.look_at_files()).map_err(remote_error)?;
                Ok(models.into_iter().map(|model| (model.name().to_owned(), Place::Remote(model))).collect())
            }
        }
    }

    /// Its models by name, without asking an object store. Errors: it could not be read.
    fn list_as_seen(&self) -> Result<Vec<(String, Place)>> {
        match self {
            Self::Folder(folder) => model_folders(folder),
            Self::Remote(remote) => {
                let names = remote.names().map_err(remote_error)?;
                Ok(names.into_iter().map(|name| (name.clone(), Place::Remote(remote.model(&name)))).collect())
            }
        }
    }

    /// What tells a folder from another that lies in its place later: device and number. `None` if it has no such thing.
    /// Errors: it cannot be read.
    pub(crate) fn identity(&self) -> Result<Option<(u64, u64)>> {
        let Self::Folder(folder) = self else { return Ok(None) };
        let metadata = fs::metadata(folder).map_err(|error| no_repository(folder, &error))?;
        Ok(Some((metadata.dev(), metadata.ino())))
    }

    /// One of its models, if it has it. Blocks. Errors: it cannot be read.
    fn find(&self, name: &str) -> Result<Option<Place>> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                Ok(path.is_dir().then_some(Place::Folder(path)))
            }
            Self::Remote(remote) => Ok(wait(remote.find(name)).map_err(remote_error)?.map(Place::Remote)),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Remote(remote) => remote.location().fmt(f),
        }
    }
}

// === impl Found ===

impl Found {
    pub(crate) fn of(mut places: Vec<Place>) -> Option<Self> {
        match places.len() {
            0 => None,
            1 => places.pop().map(Self::At),
            _ => Some(Self::Ambiguous(places)),
        }
    }

    /// The place, if there is just one. Errors: names all of them otherwise.
    pub(crate) fn only(self, name: &str) -> Result<Place> {
        match self {
            Self::At(place) => Ok(place),
            Self::Ambiguous(places) => {
                let list: Vec<_> = places.iter().map(Place::to_string).collect();
                Err(Error::invalid_argument(format!(
                    "model '{name}' is in more than one repository: {}; remove or rename all but one",
                    list.join(", ")
                )))
            }
        }
    }
}

// === impl Place ===

impl Place {
    /// What a look at it shows, without its content. Blocks.
    pub(crate) fn look(&self) -> Sight {
        match self {
            Self::Folder(path) => folder_digest::sight(path),
            Self::Remote(model) => match wait(model.digest(stamp::is_ignored)) {
                Ok(Some(digest)) => Sight::There(digest),
                Ok(None) => Sight::Gone,
                Err(_) => Sight::Unknown,
            },
        }
    }

    /// Makes its files readable on this machine, except those of versions ([`ModelFolder::fetch_versions`]). Blocks.
    ///
    /// Errors: they cannot be fetched.
    pub(crate) fn open(&self) -> Result<ModelFolder> {
        let origin = self.to_string();
        Ok(match self {
            Self::Folder(path) => ModelFolder { path: path.clone(), origin, snapshot: None },
            Self::Remote(model) => {
                let snapshot = wait(model.open()).map_err(remote_error)?;
                ModelFolder { path: snapshot.path().to_owned(), origin, snapshot: Some(snapshot) }
            }
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Remote(model) => model.fmt(f),
        }
    }
}

// === impl ModelFolder ===

impl ModelFolder {
    /// A folder on this machine.
    pub(crate) fn local(path: PathBuf) -> Self {
        Self { origin: path.display().to_string(), path, snapshot: None }
    }

    /// A folder that was made for one load.
    pub(crate) fn temporary(folder: &tempfile::TempDir) -> Self {
        let path = folder.path().to_owned();
        Self { origin: path.display().to_string(), path, snapshot: None }
    }

    /// Makes these versions readable on this machine; others may not be any more. Their files, and all others, lie under
    /// another path then. Blocks. Errors: they cannot be fetched.
    pub(crate) fn fetch_versions(&mut self, versions: &[u64]) -> Result<()> {
        if let Some(snapshot) = &mut self.snapshot {
            wait(snapshot.fetch_versions(versions)).map_err(remote_error)?;
            snapshot.path().clone_into(&mut self.path);
        }
        Ok(())
    }

    /// What keeps the files on this machine, where they were fetched.
    pub(crate) fn holder(&self) -> Option<Arc<tempfile::TempDir>> {
        self.snapshot.as_ref().map(Snapshot::holder)
    }

    /// Where its files lie on this machine.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the model's place is called: the path or the URL that its author knows.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// Names of the folders in it, sorted: versions, and others beside them. Errors: it cannot be read.
    pub(crate) fn folder_names(&self) -> io::Result<Vec<String>> {
        Ok(names(&self.path)?.into_iter().filter(|name| self.path.join(name).is_dir()).collect())
    }

    /// Names of a version's files, also of those that were not fetched. A version without a folder has none: the backend
    /// says what it misses.
    pub(crate) fn version_files(&self, version: u64) -> Vec<String> {
        if let Some(snapshot) = &self.snapshot {
            return snapshot.version_files(version);
        }
        names(&self.path.join(version.to_string())).unwrap_or_default()
    }
}

/// Whether there is a folder, or a link to one. Errors: that cannot be known now, for its storage does not answer.
fn is_folder(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if is_of_the_entry(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Names in a folder, sorted; those that are not text are left out.
pub(crate) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// The text of `config.pbtxt`, or of `configs/NAME.pbtxt` where that is asked for and there; `None` without either.
pub(crate) fn config_text(model_dir: &Path, config_name: Option<&str>) -> Result<Option<String>> {
    let path = config_path(model_dir, config_name);
    match model_files::content(&path) {
        Ok(bytes) => Ok(Some(text(bytes))),
        // A link whose end is missing is no missing file: somebody meant to give a configuration.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => Ok(None),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

/// The file that a model's configuration is read from.
pub(crate) fn config_path(model_dir: &Path, config_name: Option<&str>) -> PathBuf {
    let custom = config_name.map(|name| model_dir.join("configs").join(format!("{name}.pbtxt")));
    custom.filter(|path| path.is_file()).unwrap_or_else(|| model_dir.join("config.pbtxt"))
}

/// Class names of a label file, one per line, in whatever encoding they are. Errors: it cannot be read.
pub(crate) fn labels(model_dir: &Path, file: &str) -> Result<Vec<Label>> {
    let bytes = model_files::read(&model_dir.join(file))?;
    let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|&byte| byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec());
    Ok(if bytes.is_empty() { Vec::new() } else { lines.collect() })
}

/// What is not UTF-8 is replaced: comments come in any encoding, and the wire has UTF-8 only.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// The folders in a repository. Errors: it cannot be read, or not be known of something in it whether it is a folder.
fn model_folders(repository: &Path) -> Result<Vec<(String, Place)>> {
    let mut models = Vec::new();
    for name in names(repository).map_err(|error| no_repository(repository, &error))? {
        let path = repository.join(&name);
        if !name.starts_with('.') && is_folder(&path).map_err(|error| unreadable(&path, &error))? {
            models.push((name, Place::Folder(path)));
        }
    }
    Ok(models)
}

/// Waits for an answer on a thread that may block.
fn wait<T>(answer: impl Future<Output = T>) -> T {
    Handle::current().block_on(answer)
}

fn remote_error(error: RepositoryError) -> Error {
    match error {
        RepositoryError::Closed => Error::unavailable(error.to_string()),
        error => Error::internal(error.to_string()),
    }
}

/// A repository that cannot be looked into, in Triton's words where it has some.
fn no_repository(folder: &Path, error: &io::Error) -> Error {
    let path = folder.display();
    match error.kind() {
        io::ErrorKind::NotFound => Error::internal(format!("failed to stat file {path}: there is no such folder")),
        io::ErrorKind::NotADirectory => {
            Error::invalid_argument(format!("repository path is not a valid directory: {path}"))
        }
        _ => Error::internal(format!("failed to open directory {path}: {error}")),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::internal(format!("unable to read '{}': {error}", path.display()))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_no_repository_is_told_in_tritons_words() {
        let folder = tempfile::tempdir().unwrap();
        let (none, file) = (folder.path().join("none"), folder.path().join("file"));
        fs::write(&file, "x").unwrap();
        let text = |path: &Path| model_folders(path).err().unwrap();
        let missing = format!("failed to stat file {}: there is no such folder", none.display());
        assert_eq!(text(&none), Error::internal(missing));
        let other = format!("repository path is not a valid directory: {}", file.display());
        assert_eq!(text(&file), Error::invalid_argument(other));
    }

    #[test]
    fn texts_in_any_encoding_are_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.pbtxt"), b"# fin\xe9\nname: 'caf\xe9'").unwrap();
        let text = config_text(folder.path(), None).unwrap();
        assert_eq!(text.as_deref(), Some("# fin\u{fffd}\nname: 'caf\u{fffd}'"));
        let check = |content: &[u8], expect: &[&[u8]]| {
            fs::write(folder.path().join("labels.txt"), content).unwrap();
            assert_eq!(labels(folder.path(), "labels.txt").unwrap(), expect);
        };
        check(b"caf\xe9\r\n\nb\n", &[b"caf\xe9", b"", b"b"]);
        check(b"a\nb", &[b"a", b"b"]);
        check(b"", &[]);
        check(b"\n", &[b""]);
    }

    #[test]
    fn a_link_to_nowhere_is_not_a_missing_configuration() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(config_text(folder.path(), None).unwrap(), None);
        symlink("nowhere", folder.path().join("config.pbtxt")).unwrap();
        assert!(config_text(folder.path(), None).unwrap_err().message.starts_with("unable to read"));
    }

    #[test]
    fn a_configuration_is_read_from_a_file_only() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/dev/null", folder.path().join("config.pbtxt")).unwrap(); // a pipe or /dev/zero would never end
        let error = config_text(folder.path(), None).unwrap_err();
        assert!(error.message.ends_with("config.pbtxt': it is not a regular file"), "{error}");
    }
}
