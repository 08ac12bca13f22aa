//! What the files of a model's folder look like, without reading them, and which of them count.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::io::Errno;
use server_core::repository::layout;

/// What files looked like: it differs when a file was added, removed, resized or written again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Stamp(BTreeMap<PathBuf, FileStamp>);

/// Size and time of one file.
pub(crate) type FileStamp = (u64, Option<SystemTime>);

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

/// Whether a file concerns no version: hidden ones, copies that editors keep, what Python compiles for itself when it runs,
/// and folders that look like a version and are none, such as one that is being uploaded under another name.
pub(crate) fn is_ignored(inside: &Path) -> bool {
    let mut names = inside.iter().filter_map(|name| name.to_str());
    let has_version_like_folder = inside.iter().count() > 1
        && names.clone().next().is_some_and(|top| {
            top.starts_with(|first: char| first.is_ascii_digit() || first == '-' || first == '+')
                && layout::classify([top]).versions.is_empty()
        });
    has_version_like_folder || names.any(|name| name.starts_with('.') || name.ends_with('~') || name == "__pycache__")
}

/// Whether an error is about a file or a link as it is, and not about storage that does not answer now.
pub(crate) fn is_of_the_entry(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | NotADirectory | InvalidFilename)
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

#[cfg(test)]
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
}
