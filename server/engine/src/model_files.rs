//! Files of a model that the server reads itself: its configuration, and what that names: labels, initial states, warm-up data.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

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

/// A path inside a folder, without what leads elsewhere. Errors: it leads out of the folder.
pub(crate) fn inside(name: &str) -> Result<PathBuf> {
    use std::path::Component;
    let mut normalized = PathBuf::new();
    let mut escapes = name.is_empty();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => normalized.push(part),
            Component::CurDir => {}
            Component::ParentDir => escapes |= !normalized.pop(),
            Component::RootDir | Component::Prefix(_) => escapes = true,
        }
    }
    if escapes || normalized.as_os_str().is_empty() {
        return Err(Error::invalid_argument(format!(
            "Invalid file parameter '{name}' with normalized path '{}' must stay within model directory.",
            normalized.display()
        )));
    }
    Ok(normalized)
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

    #[test]
    fn a_file_parameter_cannot_leave_its_folder() {
        assert_eq!(inside("1/./model.onnx").unwrap(), PathBuf::from("1/model.onnx"));
        assert_eq!(inside("a/../1/model.onnx").unwrap(), PathBuf::from("1/model.onnx"));
        for bad in ["../model.onnx", "/etc/passwd", "1/../../x", "", "."] {
            assert!(inside(bad).is_err(), "{bad}");
        }
    }
}
