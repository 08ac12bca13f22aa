//! Model folders on local disk: what is there, and whether it changed. Reads only; decisions are in `core::repository`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use server_core::{
    error::{Error, Result},
    interface::Label,
};

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

/// What files looked like: it differs when a file was added, removed, resized or written again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Stamp(BTreeMap<PathBuf, FileStamp>);

/// Size and time of one file.
pub(crate) type FileStamp = (u64, Option<SystemTime>);

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
        stamp.collect(folder, &mut Vec::new());
        stamp
    }

    /// Each file with what it looked like.
    pub(crate) fn into_entries(self) -> impl Iterator<Item = (PathBuf, FileStamp)> {
        self.0.into_iter()
    }

    /// Adds one file.
    pub(crate) fn insert(&mut self, path: PathBuf, file: FileStamp) {
        self.0.insert(path, file);
    }

    /// `above` holds the real paths of the folders around this one: a link back to one of them is not followed.
    fn collect(&mut self, folder: &Path, above: &mut Vec<PathBuf>) {
        let (Ok(real), Ok(entries)) = (fs::canonicalize(folder), fs::read_dir(folder)) else { return };
        if above.contains(&real) {
            return;
        }
        above.push(real);
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                if entry.file_name() != "__pycache__" {
                    self.collect(&path, above);
                }
            } else {
                self.0.insert(path, (metadata.len(), metadata.modified().ok()));
            }
        }
        above.pop();
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
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(text(bytes))),
        // A link whose end is missing is no missing file: somebody meant to give a configuration.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => Ok(None),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

/// Class names of a label file, one per line, in whatever encoding they are. Errors: it cannot be read.
pub(crate) fn labels(model_dir: &Path, file: &str) -> Result<Vec<Label>> {
    let path = model_dir.join(file);
    let bytes = fs::read(&path).map_err(|error| unreadable(&path, &error))?;
    let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|&byte| byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec());
    Ok(if bytes.is_empty() { Vec::new() } else { lines.collect() })
}

/// What is not UTF-8 is replaced: comments come in any encoding, and the wire has UTF-8 only.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::internal(format!("unable to read '{}': {error}", path.display()))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_that_lead_back_are_followed_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("1/deeper")).unwrap();
        fs::write(folder.path().join("1/model.onnx"), "x").unwrap();
        for (link, to) in [("one", "."), ("two", "."), ("1/up", ".."), ("1/deeper/top", "../..")] {
            symlink(to, folder.path().join(link)).unwrap();
        }
        let stamp = Stamp::of(folder.path());
        assert!(stamp.0.contains_key(&folder.path().join("1/model.onnx")));
        assert_eq!(stamp.0.len(), 1);
        symlink("model.onnx", folder.path().join("1/same.onnx")).unwrap();
        assert_ne!(Stamp::of(folder.path()), stamp);
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
}
