//! Triton's repository: each model's folder is a link to a content.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    time::SystemTime,
};

use super::Store;
use crate::files::{remove_if_there, sync};
use crate::{
    fault::{Fault, Reason},
    verify::ContentHash,
};

impl Store {
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
