//! Files of a model that the server reads itself: its configuration, and what that names: labels, initial states, warm-up data.

use std::{fs, io, path::Path};

use server_core::error::{Error, Result};

/// The content of a regular file. Nothing else is opened: a pipe would keep the load waiting, and a device would fill the memory.
pub(crate) fn content(path: &Path) -> io::Result<Vec<u8>> {
    match fs::metadata(path)? {
        found if found.is_file() => fs::read(path),
        _ => Err(io::Error::other("it is not a regular file")),
    }
}

/// The content of a regular file. Errors: `Internal` in Triton's words.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    content(path).map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => "No such file or directory".to_owned(),
            _ => error.to_string(),
        };
        Error::internal(format!("failed to open text file for read {}: {reason}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &Path, reason: &str) {
        let text = format!("failed to open text file for read {}: {reason}", path.display());
        assert_eq!(read(path).unwrap_err(), Error::internal(text));
    }

    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        assert_eq!(read(&file).unwrap(), b"x");
        check(&folder.path().join("none"), "No such file or directory");
        check(folder.path(), "it is not a regular file");
        check(Path::new("/dev/zero"), "it is not a regular file");
    }
}
