//! The folder of this process that holds copies of remote files. It goes when its owner does; what a process left behind that
//! was killed is removed by the next one that starts there.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use md5::{Digest, Md5};
use tempfile::TempDir;

use crate::error::{AtPath, LocalError};

/// What mirrors' names begin with, and what that of the lock beside each ends with.
const PREFIX: &str = "tritonserver-models-";
const LOCK: &str = ".lock";

/// A folder of this process alone.
#[derive(Debug)]
pub(crate) struct Mirror {
    folder: PathBuf,
    lock_path: PathBuf,
    /// Locked as long as the folder is in use.
    _lock: File,
}

// === impl Mirror ===

impl Mirror {
    /// Makes one in `parent`, which is made too if it is missing, and removes those whose processes are gone.
    pub(crate) fn create(parent: &Path) -> Result<Self, LocalError> {
        fs::create_dir_all(parent).at(parent)?;
        remove_abandoned(parent);
        loop {
            // The lock comes first and is held: nobody takes the folder for an abandoned one.
            let lock = tempfile::Builder::new().prefix(PREFIX).suffix(LOCK).tempfile_in(parent).at(parent)?;
            let (file, lock_path) = lock.keep().map_err(|error| error.error).at(parent)?;
            file.lock().at(&lock_path)?;
            if !is_at(&file, &lock_path) {
                continue; // somebody has removed it before it was locked
            }
            let folder = lock_path.with_extension("");
            fs::create_dir(&folder).at(&folder)?;
            for part in ["files", "parts"] {
                fs::create_dir(folder.join(part)).at(&folder)?;
            }
            return Ok(Self { folder, lock_path, _lock: file });
        }
    }

    /// A new folder for the files of a model. It is removed when its last user lets go.
    pub(crate) fn new_folder(&self) -> Result<TempDir, LocalError> {
        let files = self.folder.join("files");
        tempfile::Builder::new().prefix("model-").tempdir_in(&files).at(files)
    }

    /// Where the part of a file lies that has come so far. `identity` tells the file, as it is, from all others of the model.
    pub(crate) fn part(&self, model: &str, identity: &str) -> PathBuf {
        self.folder.join("parts").join(format!("{}-{}", short(model), short(identity)))
    }

    /// Removes what has come of a model's files.
    pub(crate) fn remove_parts(&self, model: &str) {
        self.remove_parts_but(model, &BTreeSet::new());
    }

    /// The same, except for those that are still wanted.
    pub(crate) fn remove_parts_but(&self, model: &str, wanted: &BTreeSet<PathBuf>) {
        let prefix = format!("{}-", short(model));
        let Ok(entries) = fs::read_dir(self.folder.join("parts")) else { return };
        for entry in entries.flatten() {
            let is_of_model = entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix));
            if is_of_model && !wanted.contains(&entry.path()) {
                _ = fs::remove_file(entry.path());
            }
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes everything at once, also what is in use: the process ends.
    pub(crate) fn remove(&self) {
        remove(&self.folder, &self.lock_path);
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes the folders whose owners are gone: nobody holds their locks.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !is_lock(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        let Ok(file) = File::open(&path) else { continue };
        match file.try_lock() {
            Ok(()) if is_at(&file, &path) => {
                let folder = path.with_extension("");
                tracing::info!(folder = %folder.display(), "removing model files that another process has left behind");
                remove(&folder, &path);
            }
            Ok(()) | Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// A name of fixed length for any text.
fn short(text: &str) -> String {
    let digest: [u8; 16] = Md5::digest(text).into();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_lock(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(LOCK))
}

/// Whether the file is still the one of that name.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |(a, b): (fs::Metadata, fs::Metadata)| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().ok().zip(fs::symlink_metadata(path).ok()).is_some_and(same)
}

fn remove(folder: &Path, lock: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "cannot remove '{}'; the next server that starts here will", folder.display());
        }
        _ => _ = fs::remove_file(lock),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parent: &Path) -> Vec<String> {
        let names = fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_mirror_goes_with_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let inside = parent.path().join("made");
        let mirror = Mirror::create(&inside).unwrap();
        let model = mirror.new_folder().unwrap();
        fs::write(model.path().join("x"), "x").unwrap();
        assert_eq!(names(&inside).len(), 2);
        drop(model);
        drop(mirror);
        assert_eq!(names(&inside), Vec::<String>::new());
    }

    #[test]
    fn what_nobody_holds_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let in_use = Mirror::create(parent.path()).unwrap();
        for name in ["tritonserver-models-dead", "tritonserver-models-without-lock", "other"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        fs::write(parent.path().join("tritonserver-models-dead/x"), "x").unwrap();
        for name in ["tritonserver-models-dead.lock", "tritonserver-models-gone.lock", "other.lock"] {
            fs::write(parent.path().join(name), "").unwrap();
        }
        let next = Mirror::create(parent.path()).unwrap();
        let mut expect: Vec<String> =
            ["tritonserver-models-without-lock", "other", "other.lock"].map(Into::into).into();
        for mirror in [&in_use, &next] {
            for path in [&mirror.folder, &mirror.lock_path] {
                expect.push(path.file_name().unwrap().to_str().unwrap().into());
            }
        }
        expect.sort();
        assert_eq!(names(parent.path()), expect);
    }
}
