//! Notices that the code of a model has changed, while somebody works on it: `--backend-config=python,reload=true`. Reads names,
//! sizes and times of files, never their content.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use server_core::{
    backend::Settings,
    error::{Error, Result},
};

const SETTING: &str = "reload";

/// How often the files are looked at, at most.
const INTERVAL: Duration = Duration::from_millis(500);

/// How deep folders are looked into, and how many entries are looked at.
const DEEPEST: usize = 8;
const MOST_ENTRIES: usize = 10_000;

/// Whether the setting asks for it.
///
/// Errors: it is neither `true` nor `false`.
pub(super) fn is_wanted(settings: &Settings) -> Result<bool> {
    match settings.get(SETTING).map(String::as_str) {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(other) => Err(Error::invalid_argument(format!(
            "--backend-config=python,{SETTING}={other}: the value is 'true' or 'false'"
        ))),
    }
}

/// The Python files of a model, as one worker of it has read them.
#[derive(Debug)]
pub(super) struct Sources {
    /// The folder with `model.py`, with all that is in it, and further ones that modules are looked for in, without.
    folders: Vec<PathBuf>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    stamp: u64,
}

impl Sources {
    /// The files as they are now.
    pub(super) fn new(folders: &[PathBuf]) -> Self {
        let seen = Seen { at: Instant::now(), stamp: stamp(folders) };
        Self { folders: folders.to_vec(), seen: Mutex::new(seen) }
    }

    /// Whether they are other ones than the last time this said so. Looks at most every [`INTERVAL`].
    pub(super) fn have_changed(&self, now: Instant) -> bool {
        let mut seen = self.seen.lock();
        if now.saturating_duration_since(seen.at) < INTERVAL {
            return false;
        }
        let stamp = stamp(&self.folders);
        let has_changed = stamp != seen.stamp;
        *seen = Seen { at: now, stamp };
        has_changed
    }
}

fn stamp(folders: &[PathBuf]) -> u64 {
    let mut files = Vec::new();
    for (index, folder) in folders.iter().enumerate() {
        collect(folder, if index == 0 { DEEPEST } else { 0 }, &mut files);
    }
    files.sort_unstable();
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    hasher.finish()
}

/// A file as it is told from another: its path, size, number, and when it was written.
type Mark = (PathBuf, u64, u64, i64, i64);

fn collect(folder: &Path, deeper: usize, files: &mut Vec<Mark>) {
    let Ok(entries) = fs::read_dir(folder) else { return }; // gone just now: so are its files
    for entry in entries.flatten() {
        if files.len() >= MOST_ENTRIES {
            return;
        }
        let path = entry.path();
        let is_python = path.extension().is_some_and(|extension| extension == "py");
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if deeper > 0 && entry.file_name() != "__pycache__" {
                collect(&path, deeper - 1, files);
            }
        } else if is_python {
            files.push((path, metadata.len(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_new_and_removed_python_files_are_noticed_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let (version, above) = (folder.path().join("1"), folder.path());
        fs::create_dir_all(version.join("package/__pycache__")).unwrap();
        fs::write(version.join("model.py"), "1").unwrap();
        let sources = Sources::new(&[version.clone(), above.to_owned()]);
        let mut now = Instant::now();
        let mut has_changed = || {
            now += INTERVAL;
            sources.have_changed(now)
        };
        assert!(!has_changed());
        for (file, text, expect) in [
            ("1/model.py", "two", true),
            ("1/weights.bin", "x", false),
            ("1/package/part.py", "x", true),
            ("1/package/__pycache__/part.py", "x", false),
            ("beside.py", "x", true),
            ("config.pbtxt", "x", false),
        ] {
            fs::write(above.join(file), text).unwrap();
            assert_eq!((file, has_changed()), (file, expect));
            assert!(!has_changed(), "{file}: once for each change");
        }
        fs::remove_file(version.join("package/part.py")).unwrap();
        assert!(has_changed());
    }

    #[test]
    fn files_are_looked_at_now_and_then() {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources::new(&[folder.path().to_owned()]);
        let now = Instant::now();
        fs::write(folder.path().join("model.py"), "").unwrap();
        assert!(!sources.have_changed(now));
        assert!(sources.have_changed(now + INTERVAL));
    }

    #[test]
    fn the_setting_is_checked() {
        let wanted = |value: &str| is_wanted(&Settings::from([(SETTING.into(), value.into())]));
        assert!(wanted("true").unwrap() && !wanted("false").unwrap() && !is_wanted(&Settings::new()).unwrap());
        assert!(wanted("yes").unwrap_err().message.contains("'true' or 'false'"));
    }
}
