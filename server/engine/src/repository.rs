//! Model folders on local disk: what is there, and whether it changed. Reads only; decisions are in `core::repository`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use server_core::error::{Error, Result};

/// The repositories of the command line.
pub(crate) struct Repositories {
    folders: BTreeSet<PathBuf>,
}

/// Where the folder of a name lies.
pub(crate) enum Found {
    /// In one repository.
    At(PathBuf),
    /// In several: none may be served.
    Ambiguous(Vec<PathBuf>),
}

/// A fingerprint of a model folder: it differs when a file was added, removed, resized or written again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Stamp(BTreeMap<PathBuf, (u64, Option<SystemTime>)>);

impl Repositories {
    pub(crate) fn new(folders: &[PathBuf]) -> Self {
        Self { folders: folders.iter().cloned().collect() }
    }

    /// Every model folder by name. Errors: a repository cannot be read.
    pub(crate) fn list(&self) -> Result<BTreeMap<String, Found>> {
        let mut models: BTreeMap<String, Found> = BTreeMap::new();
        for folder in &self.folders {
            for name in names(folder).map_err(|error| unreadable(folder, &error))? {
                let path = folder.join(&name);
                if name.starts_with('.') || !path.is_dir() {
                    continue;
                }
                match models.entry(name) {
                    std::collections::btree_map::Entry::Vacant(vacant) => {
                        vacant.insert(Found::At(path));
                    }
                    std::collections::btree_map::Entry::Occupied(mut occupied) => {
                        let paths = match occupied.get_mut() {
                            Found::At(first) => vec![first.clone(), path],
                            Found::Ambiguous(paths) => [std::mem::take(paths), vec![path]].concat(),
                        };
                        occupied.insert(Found::Ambiguous(paths));
                    }
                }
            }
        }
        Ok(models)
    }

    /// The folder of one model.
    pub(crate) fn find(&self, name: &str) -> Option<Found> {
        let mut paths: Vec<_> =
            self.folders.iter().map(|folder| folder.join(name)).filter(|path| path.is_dir()).collect();
        match paths.len() {
            0 => None,
            1 => paths.pop().map(Found::At),
            _ => Some(Found::Ambiguous(paths)),
        }
    }
}

impl Found {
    /// The folder, if there is just one. Errors: names all of them otherwise.
    pub(crate) fn only(self, name: &str) -> Result<PathBuf> {
        match self {
            Self::At(path) => Ok(path),
            Self::Ambiguous(paths) => {
                let list: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                Err(Error::invalid_argument(format!(
                    "model '{name}' is in more than one repository: {}; remove or rename all but one",
                    list.join(", ")
                )))
            }
        }
    }
}

impl Stamp {
    /// Looks at every file below `folder`. Python's compiled files come and go by themselves and do not count.
    pub(crate) fn of(folder: &Path) -> Self {
        let mut stamp = Self::default();
        stamp.collect(folder);
        stamp
    }

    fn collect(&mut self, folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                if entry.file_name() != "__pycache__" {
                    self.collect(&path);
                }
            } else {
                self.0.insert(path, (metadata.len(), metadata.modified().ok()));
            }
        }
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
    let custom = config_name.map(|name| model_dir.join("configs").join(format!("{name}.pbtxt")));
    let path = custom.filter(|path| path.is_file()).unwrap_or_else(|| model_dir.join("config.pbtxt"));
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

/// Class names of a label file, one per line. Errors: it cannot be read.
pub(crate) fn labels(model_dir: &Path, file: &str) -> Result<Vec<String>> {
    let path = model_dir.join(file);
    let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::internal(format!("unable to read '{}': {error}", path.display()))
}
