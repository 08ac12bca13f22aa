//! Reading folders somebody else writes: what is in them, whether they changed, one file copied. Links are followed only
//! as far as the mount goes.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::progress::Progress;
use crate::{
    fault::{Fault, Reason},
    verify::{self, FileHash},
};

/// A file of a folder.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where it is read from, all links resolved.
    pub(crate) from: PathBuf,
    /// Its path below the folder; the file name if the place itself is a file.
    pub(crate) path: String,
    /// Its length in bytes.
    pub(crate) length: u64,
}

const DEEPEST: usize = 32;

/// Every file at `place`, a file or a folder within `root`, in the order of their paths.
///
/// Errors: a link leads out of `root` or in circles; something that is no file; a name that is no text; no longer wanted.
pub(crate) fn list(place: &Path, root: &Path, progress: &Progress) -> Result<Vec<Found>, Fault> {
    let root = canonical(root)?;
    let mut files = Vec::new();
    let place = within(place, &root)?;
    if place.is_file() {
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let path = verify::clean_path(&name).map_err(|wrong| Fault::new(Reason::InvalidSource, wrong))?;
        let length = fs::metadata(&place).map_err(|error| unreadable(&place, &error))?.len();
        return Ok(vec![Found { from: place, path, length }]);
    }
    walk(&place, "", &root, 0, progress, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// A text that differs once anything at `place` was added, removed or written again.
pub(crate) fn revision(place: &Path) -> Result<String, Fault> {
    let mut lines = Vec::new();
    stat(place, "", 0, &mut lines)?;
    lines.sort();
    Ok(hex::encode(&Sha256::digest(lines.concat())[..12]))
}

/// Copies one file, hashing on the way.
pub(crate) fn copy_file(from: &Path, to: &Path, progress: &Progress) -> Result<FileHash, Fault> {
    let mut file = File::open(from).map_err(|error| unreadable(from, &error))?;
    let is_executable = file.metadata().map_err(|error| unreadable(from, &error))?.permissions().mode() & 0o111 != 0;
    verify::write_file(to, &mut file, is_executable, Reason::DownloadFailed, |bytes| progress.add(bytes))
}

fn walk(
    folder: &Path,
    prefix: &str,
    root: &Path,
    depth: usize,
    progress: &Progress,
    files: &mut Vec<Found>,
) -> Result<(), Fault> {
    if depth > DEEPEST {
        return Err(Fault::new(Reason::InvalidSource, format!("'{prefix}' is too deep, or its links lead in circles")));
    }
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let entry = entry.map_err(|error| unreadable(folder, &error))?;
        progress.check()?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            let shown = name.to_string_lossy().into_owned();
            return Err(Fault::new(Reason::InvalidSource, format!("the name of '{prefix}{shown}' is not UTF-8")));
        };
        if name == "lost+found" && folder == root {
            continue; // the file system's own, on the root of a volume
        }
        let path = format!("{prefix}{name}");
        let target = within(&entry.path(), root)?;
        let metadata = fs::metadata(&target).map_err(|error| unreadable(&target, &error))?;
        if metadata.is_dir() {
            walk(&target, &format!("{path}/"), root, depth + 1, progress, files)?;
        } else if metadata.is_file() {
            let path = verify::clean_path(&path).map_err(|wrong| Fault::new(Reason::InvalidSource, wrong))?;
            files.push(Found { from: target, path, length: metadata.len() });
        } else {
            return Err(Fault::new(Reason::InvalidSource, format!("'{path}' is neither a file nor a folder")));
        }
    }
    Ok(())
}

fn stat(place: &Path, prefix: &str, depth: usize, lines: &mut Vec<String>) -> Result<(), Fault> {
    let metadata = fs::metadata(place).map_err(|error| unreadable(place, &error))?;
    if !metadata.is_dir() {
        let (s, ns) = (metadata.mtime(), metadata.mtime_nsec());
        lines.push(format!("{prefix}\0{}\0{}\0{s}.{ns}\n", metadata.len(), metadata.ino()));
        return Ok(());
    }
    if depth > DEEPEST {
        return Ok(()); // `walk` says so
    }
    for entry in fs::read_dir(place).map_err(|error| unreadable(place, &error))? {
        let entry = entry.map_err(|error| unreadable(place, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("..") || (name == "lost+found" && depth == 0) {
            continue;
        }
        stat(&entry.path(), &format!("{prefix}/{name}"), depth + 1, lines)?;
    }
    Ok(())
}

/// `path` with its links resolved, provided it stays within `root`.
fn within(path: &Path, root: &Path) -> Result<PathBuf, Fault> {
    let target = canonical(path)?;
    if !target.starts_with(root) {
        let shown = path.strip_prefix(root).unwrap_or(path).display();
        return Err(Fault::new(Reason::InvalidSource, format!("'{shown}' is a link that leads out of the volume")));
    }
    Ok(target)
}

fn canonical(path: &Path) -> Result<PathBuf, Fault> {
    fs::canonicalize(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Fault {
    let reason =
        if error.kind() == std::io::ErrorKind::NotFound { Reason::SourceNotFound } else { Reason::DownloadFailed };
    Fault::new(reason, format!("cannot read {}: {error}", path.display()))
}
