//! The folder in which the backend keeps what it unpacks and builds for Python: its own files, unpacked environments,
//! environments made from a `requirements.txt`. Private to the user; shared by all servers of that user on this machine.

use std::{
    env, fs,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::getuid,
};

/// How often somebody looks whether another has finished building.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why the folder cannot be used, or what was to be built in it was not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    /// The system's refusal.
    #[error("cannot use {}: {reason}; choose another folder with --backend-config=python,cache-directory=PATH", path.display())]
    Unusable {
        /// The folder or file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Another is building the same, for too long.
    #[error("{} is being built by another process, and was not ready within {} s", path.display(), waited.as_secs())]
    Busy {
        /// What is being built.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Building it failed.
    #[error("{0}")]
    Build(String),
}

/// The folder: the setting `cache-directory`, else `tritonserver-python-UID` in the system's folder for temporary files.
/// Made if it is absent.
///
/// Errors: [`CacheError::Unusable`], also if it belongs to another user or others may write into it: code is run from it.
pub(crate) fn folder(setting: Option<&str>) -> Result<PathBuf, CacheError> {
    let uid = getuid().as_raw();
    let path = match setting {
        Some(path) => PathBuf::from(path),
        None => env::temp_dir().join(format!("tritonserver-python-{uid}")),
    };
    let unusable = |reason: String| CacheError::Unusable { path: path.clone(), reason };
    let made = fs::DirBuilder::new().mode(0o700).recursive(setting.is_some()).create(&path);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error.to_string())),
        _ => {}
    }
    let found = match setting {
        Some(_) => fs::metadata(&path),
        None => fs::symlink_metadata(&path), // anybody may put a link there
    };
    let found = found.map_err(|error| unusable(error.to_string()))?;
    if !found.is_dir() {
        return Err(unusable("it is no folder".into()));
    }
    if found.uid() != uid {
        return Err(unusable(format!("it belongs to user {}, the server runs as user {uid}", found.uid())));
    }
    if found.mode() & 0o022 != 0 {
        return Err(unusable("other users may write into it".into()));
    }
    Ok(path)
}

/// The folder `name` in the cache, built by `build` if nobody has built it yet. One builds at a time, threads and
/// processes alike; the others wait, each for `patience`. `build` gets the folder, empty, where it will stay, for
/// environments do not like to be moved; a folder that is not complete is never given out, and built from the start.
///
/// Errors: what `build` says; the next who asks tries anew. [`CacheError::Busy`] when patience is over.
pub(crate) fn build_once(
    cache: &Path,
    name: &str,
    patience: Duration,
    build: impl FnOnce(&Path) -> Result<(), CacheError>,
) -> Result<PathBuf, CacheError> {
    let path = cache.join(name);
    let complete = cache.join(format!("{name}.complete"));
    if complete.exists() && path.is_dir() {
        return Ok(path);
    }
    let lock_file = cache.join(format!("{name}.lock"));
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_file);
    let lock = lock.map_err(|error| CacheError::Unusable { path: lock_file, reason: error.to_string() })?;
    wait_for(&lock, &path, patience)?; // given back when the file is closed, by the death of this process too
    if complete.exists() && path.is_dir() {
        return Ok(path);
    }

    let unusable = |error: io::Error| CacheError::Unusable { path: path.clone(), reason: error.to_string() };
    let remove = |found: io::Result<()>| match found {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unusable(error)),
        _ => Ok(()),
    };
    remove(fs::remove_file(&complete))?;
    remove(fs::remove_dir_all(&path))?;
    fs::DirBuilder::new().mode(0o700).create(&path).map_err(unusable)?;
    match build(&path) {
        Ok(()) => {
            File::create(&complete).map_err(unusable)?;
            Ok(path)
        }
        Err(error) => {
            let _ = fs::remove_dir_all(&path); // what stays is removed before the next try
            Err(error)
        }
    }
}

fn wait_for(lock: &File, path: &Path, patience: Duration) -> Result<(), CacheError> {
    let deadline = Instant::now() + patience;
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                return Err(CacheError::Busy { path: path.into(), waited: patience });
            }
            Err(error) => return Err(CacheError::Unusable { path: path.into(), reason: error.to_string() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn the_folder_is_private_and_checked() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        let ask = || folder(Some(path.to_str().unwrap()));
        assert_eq!(ask().unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        ask().unwrap();

        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let text = ask().unwrap_err().to_string();
        assert!(text.contains("other users may write") && text.contains("cache-directory=PATH"), "{text}");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(ask().unwrap_err().to_string().contains("no folder"));
    }

    #[test]
    fn many_ask_and_one_builds() {
        let place = tempfile::tempdir().unwrap();
        let built = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let path = build_once(place.path(), "x", LONG, |path| {
                        built.fetch_add(1, Ordering::Relaxed);
                        fs::write(path.join("half"), "").unwrap();
                        thread::yield_now();
                        fs::write(path.join("whole"), "").unwrap();
                        Ok(())
                    });
                    assert!(path.unwrap().join("whole").exists());
                });
            }
        });
        assert_eq!(built.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_failed_or_was_cut_off_is_built_anew() {
        let place = tempfile::tempdir().unwrap();
        let failed = build_once(place.path(), "x", LONG, |path| {
            fs::write(path.join("rest"), "").unwrap();
            Err(CacheError::Build("no luck".into()))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no luck");

        fs::create_dir_all(place.path().join("x")).unwrap(); // a process killed while it built leaves this
        fs::write(place.path().join("x/rest"), "").unwrap();
        let path = build_once(place.path(), "x", LONG, |path| {
            assert_eq!(fs::read_dir(path).unwrap().count(), 0);
            Ok(())
        });
        assert_eq!(path.unwrap(), place.path().join("x"));

        fs::remove_dir_all(place.path().join("x")).unwrap(); // somebody cleans up
        let mut built = false;
        build_once(place.path(), "x", LONG, |_| {
            built = true;
            Ok(())
        })
        .unwrap();
        assert!(built);
    }

    #[test]
    fn patience_ends() {
        let place = tempfile::tempdir().unwrap();
        let outer = build_once(place.path(), "x", LONG, |_| {
            let inner = build_once(place.path(), "x", Duration::ZERO, |_| Ok(()));
            assert!(matches!(inner, Err(CacheError::Busy { .. })), "{inner:?}");
            Ok(())
        });
        outer.unwrap();
    }
}
