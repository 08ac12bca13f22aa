//! The files a worker runs: `stub/` of this folder. They are part of the binary; a folder that has the same files, beside
//! the binary or in the backend directory, is used as it is (an image may have them compiled in advance), else they are
//! written into the cache, into a folder named by their content.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use sha2::{Digest, Sha256};
use tracing::warn;

use super::cache::CacheError;

/// A file: its name below the folder, and its bytes.
pub(crate) type StubFile = (&'static str, &'static [u8]);

/// Every file of the stub.
pub(crate) const FILES: &[StubFile] = include!(concat!(env!("OUT_DIR"), "/stub_files.rs"));

/// The file a worker starts with; a folder that has it is meant to be a stub.
pub(crate) const MAIN: &str = "triton_python_backend_stub.py";

/// Where a stub may lie, in order: `python` beside the binary, `../lib/tritonserver/python` seen from there, and `python`
/// in the backend directory.
pub(crate) fn places(binary: Option<&Path>, backend_directory: Option<&Path>) -> Vec<PathBuf> {
    let beside = binary.and_then(Path::parent);
    let beside = beside.map(|folder| [folder.join("python"), folder.join("../lib/tritonserver/python")]);
    beside.into_iter().flatten().chain(backend_directory.map(|folder| folder.join("python"))).collect()
}

/// The folder with the stub's files: the first of the places that has them, else one in the cache, written if need be.
/// To be asked before each start of a worker: somebody may clean up folders of temporary files.
///
/// A place whose files differ from those of this binary is passed over with a warning: server and worker speak a
/// protocol that changes with them.
///
/// Errors: the files cannot be written.
pub(crate) fn folder(
    files: &[StubFile],
    places: &[PathBuf],
    cache: impl FnOnce() -> Result<PathBuf, CacheError>,
) -> Result<PathBuf, CacheError> {
    static IS_TOLD: AtomicBool = AtomicBool::new(false); // once, not for each worker
    for place in places {
        if files.iter().all(|file| is_written(place, file)) && !files.is_empty() {
            return Ok(place.clone());
        }
        if place.join(MAIN).exists() && !IS_TOLD.swap(true, Ordering::Relaxed) {
            warn!(
                folder = %place.display(),
                "the Python files there are of another build of the server, and not used; remove or replace them"
            );
        }
    }
    let folder = cache()?.join(format!("stub-{}", content_hash(files)));
    write(files, &folder)
        .map_err(|(path, error)| CacheError::Unusable { path, reason: error.to_string() })
        .map(|()| folder)
}

fn is_written(folder: &Path, (name, content): &StubFile) -> bool {
    fs::read(folder.join(name)).is_ok_and(|found| found == *content)
}

/// Names the content: files of the same names and bytes have the same, others not.
fn content_hash(files: &[StubFile]) -> String {
    let mut hash = Sha256::new();
    for (name, content) in files {
        for part in [name.as_bytes(), content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hex::encode(&hash.finalize()[..8])
}

/// Writes what is not there yet, each file whole or not at all: several servers may do so at the same time, and workers
/// may be reading.
fn write(files: &[StubFile], folder: &Path) -> Result<(), (PathBuf, io::Error)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    for file in files {
        if is_written(folder, file) {
            continue;
        }
        let (name, content) = file;
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let partial = parent.join(format!(".{}-{number}.partial", process::id()));
        let written = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .and_then(|()| fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial))
            .and_then(|mut opened| opened.write_all(content))
            .and_then(|()| fs::rename(&partial, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&partial);
            return Err((path, error));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, thread};

    use super::*;

    const TWO: &[StubFile] = &[("triton_python_backend_stub.py", b"print(1)\n"), ("package/__init__.py", b"")];
    const OTHER: &[StubFile] = &[("triton_python_backend_stub.py", b"print(2)\n"), ("package/__init__.py", b"")];

    fn put(files: &[StubFile], folder: &Path) {
        write(files, folder).unwrap();
    }

    #[test]
    fn files_are_written_once_and_private() {
        let cache = tempfile::tempdir().unwrap();
        let ask = || folder(TWO, &[], || Ok(cache.path().into())).unwrap();
        let first = ask();
        assert_eq!(fs::read(first.join("triton_python_backend_stub.py")).unwrap(), b"print(1)\n");
        assert_eq!(fs::metadata(&first).unwrap().mode() & 0o777, 0o700);
        let inode = |name| fs::metadata(first.join(name)).unwrap().ino();
        let before = inode("triton_python_backend_stub.py");
        assert_eq!((ask(), inode("triton_python_backend_stub.py")), (first.clone(), before));
        assert_eq!(fs::read_dir(&first).unwrap().count(), 2, "no partial file is left");
    }

    #[test]
    fn what_was_changed_or_removed_is_written_again() {
        let cache = tempfile::tempdir().unwrap();
        let ask = || folder(TWO, &[], || Ok(cache.path().into())).unwrap();
        let path = ask();
        fs::write(path.join("triton_python_backend_stub.py"), "evil").unwrap();
        fs::remove_dir_all(path.join("package")).unwrap();
        ask();
        assert!(TWO.iter().all(|file| is_written(&path, file)));
    }

    #[test]
    fn other_content_lies_elsewhere() {
        let cache = tempfile::tempdir().unwrap();
        let ask = |files| folder(files, &[], || Ok(cache.path().into())).unwrap();
        assert_ne!(ask(TWO), ask(OTHER));
    }

    #[test]
    fn servers_that_start_together_do_not_disturb_each_other() {
        let cache = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let path = folder(TWO, &[], || Ok(cache.path().into())).unwrap();
                    assert!(TWO.iter().all(|file| is_written(&path, file)));
                });
            }
        });
    }

    #[test]
    fn the_first_place_with_the_same_files_is_used() {
        let place = tempfile::tempdir().unwrap();
        let places = places(Some(&place.path().join("bin/tritonserver")), Some(&place.path().join("backends")));
        let names: Vec<_> = places.iter().map(|path| path.strip_prefix(place.path()).unwrap().to_owned()).collect();
        let expect = ["bin/python", "bin/../lib/tritonserver/python", "backends/python"];
        assert_eq!(names, expect.map(PathBuf::from));

        let none = || Err(CacheError::Build("asked for the cache".into()));
        assert_eq!(folder(TWO, &places, none).unwrap_err().to_string(), "asked for the cache");
        put(TWO, &places[2]);
        assert_eq!(folder(TWO, &places, none).unwrap(), places[2]);
        put(OTHER, &places[0]); // of another build
        assert_eq!(folder(TWO, &places, none).unwrap(), places[2]);
        put(TWO, &places[0]);
        assert_eq!(folder(TWO, &places, none).unwrap(), places[0]);
    }
}
