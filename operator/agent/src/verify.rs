//! What content is, in a hash: of a file while it is written, of a folder as a whole. The hash of a folder is the one
//! that `sha256sum` of its files gives, so that anybody can compute it without us.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::fault::{Fault, Reason};

/// SHA-256 of one file.
pub type FileHash = [u8; 32];

/// Name of a content: `sha256-` and the 64 digits of a folder's hash. Also the name of its folder in the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentHash(String);

impl ContentHash {
    /// The text, as the folder is called.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a folder name of the store back; `None` if it is something else.
    pub fn from_name(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("sha256-")?;
        (digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit())).then(|| Self(name.to_owned()))
    }

    /// The first digits, enough for people.
    pub fn short(&self) -> &str {
        &self.0["sha256-".len()..][..12]
    }
}

impl From<FileHash> for ContentHash {
    fn from(hash: FileHash) -> Self {
        Self(format!("sha256-{}", hex::encode(hash)))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The files of a folder: path below it, with `/` between the parts, and hash.
pub type Files = BTreeMap<String, FileHash>;

/// The hash of a folder: SHA-256 over the lines `DIGEST  PATH\n` of its files in the order of their paths.
pub fn hash_of_folder(files: &Files) -> FileHash {
    Sha256::digest(listing(files)).into()
}

/// The lines that the hash of a folder is made of.
pub fn listing(files: &Files) -> String {
    files.iter().map(|(path, hash)| format!("{}  {path}\n", hex::encode(hash))).collect()
}

/// The files of such a listing; `None` if it is none.
pub fn files_of_listing(listing: &str) -> Option<Files> {
    let file = |line: &str| {
        let (digits, path) = line.split_once("  ")?;
        let mut hash = FileHash::default();
        hex::decode_to_slice(digits, &mut hash).ok()?;
        Some((path.to_owned(), hash))
    };
    listing.lines().map(file).collect()
}

/// Compares what was fetched with what the resource promises.
///
/// Errors: `ChecksumMismatch`, naming both hashes.
pub fn check(expected: &str, actual: &FileHash) -> Result<(), Fault> {
    let actual = hex::encode(actual);
    if expected.eq_ignore_ascii_case(&actual) {
        return Ok(());
    }
    Err(Fault::new(
        Reason::ChecksumMismatch,
        format!("the fetched content has sha256 {actual}, the model's checksum is {}", expected.to_ascii_lowercase()),
    ))
}

/// A path below a model's folder as we store it, or what is wrong with it.
///
/// Only plain relative paths pass: no `..`, no absolute ones, no control characters, nothing longer than file systems take.
pub fn clean_path(path: &str) -> Result<String, String> {
    let mut parts = Vec::new();
    if path.starts_with('/') {
        return Err(format!("'{}' is an absolute path", path.escape_debug()));
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(format!("'{}' leads out of the model's folder", path.escape_debug())),
            part if part.len() > 255 => return Err(format!("'{}' is too long", path.escape_debug())),
            part if part.chars().any(|c| c.is_control() || c == '\\') => {
                return Err(format!("'{}' has characters that no file name should have", path.escape_debug()));
            }
            part => parts.push(part),
        }
    }
    match parts.len() {
        0 => Err(format!("'{}' is no file name", path.escape_debug())),
        1..=32 => Ok(parts.join("/")),
        _ => Err(format!("'{}' is too deep", path.escape_debug())),
    }
}

/// Writes a new file from a reader, hashing on the way, and makes it durable.
///
/// `seen` is called with 0 and then with the length of each piece, and may end the copy. Errors: the file exists already; writing fails; reading
/// fails, which is `unreadable`.
pub fn write_file(
    path: &Path,
    reader: &mut dyn Read,
    is_executable: bool,
    unreadable: Reason,
    mut seen: impl FnMut(u64) -> Result<(), Fault>,
) -> Result<FileHash, Fault> {
    let fail = |error: &io::Error| Fault::store(format_args!("cannot write {}", path.display()), error);
    seen(0)?;
    let mut file = create(path, is_executable).map_err(|error| fail(&error))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let length = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                return Err(Fault::new(unreadable, format!("cannot read {name}: {error}")));
            }
        };
        seen(length as u64)?;
        hasher.update(&buffer[..length]);
        file.write_all(&buffer[..length]).map_err(|error| fail(&error))?;
    }
    file.sync_all().map_err(|error| fail(&error))?;
    Ok(hasher.finalize().into())
}

/// The hash of a file that lies there. `go_on` is asked before each piece and may end it.
pub(crate) fn hash_of_file(path: &Path, go_on: impl Fn() -> Result<(), Fault>) -> Result<FileHash, Fault> {
    let fail = |error: io::Error| Fault::store(format_args!("cannot read {}", path.display()), &error);
    let mut file = File::open(path).map_err(fail)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        go_on()?;
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fail(error)),
        }
    }
}

/// Opens a new file for writing, with its folders.
pub(crate) fn create(path: &Path, is_executable: bool) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mode = if is_executable { 0o755 } else { 0o644 };
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_folder_is_that_of_its_sha256sum_listing() {
        let files = Files::from([
            ("config.pbtxt".into(), Sha256::digest(b"name: \"a\"").into()),
            ("1/model.onnx".into(), Sha256::digest(b"weights").into()),
        ]);
        let listing = format!(
            "{}  1/model.onnx\n{}  config.pbtxt\n",
            hex::encode(Sha256::digest(b"weights")),
            hex::encode(Sha256::digest(b"name: \"a\""))
        );
        let expected: FileHash = Sha256::digest(listing).into();
        assert_eq!(hash_of_folder(&files), expected);
        let name = ContentHash::from(expected);
        assert_eq!(ContentHash::from_name(name.as_str()), Some(name));
        assert_eq!(ContentHash::from_name("sha256-xyz"), None);
    }

    #[test]
    fn a_checksum_may_be_written_in_either_case_and_a_mismatch_names_both() {
        let hash: FileHash = Sha256::digest(b"x").into();
        assert!(check(&hex::encode(hash).to_uppercase(), &hash).is_ok());
        let fault = check(&"0".repeat(64), &hash).unwrap_err();
        assert_eq!(fault.reason, Reason::ChecksumMismatch);
        assert!(fault.message.contains(&hex::encode(hash)) && fault.message.contains(&"0".repeat(64)));
    }

    #[test]
    fn only_plain_paths_below_the_folder_pass() {
        assert_eq!(clean_path("./1//model.onnx").unwrap(), "1/model.onnx");
        for path in ["../x", "1/../../x", "/etc/passwd", "", ".", "a\nb", "a\\..\\b", "a\0b"] {
            assert!(clean_path(path).is_err(), "{path:?}");
        }
        assert!(clean_path(&"a/".repeat(40)).is_err());
        assert!(clean_path(&"a".repeat(300)).is_err());
    }

    #[test]
    fn a_file_is_written_once_and_hashed_on_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1/model.onnx");
        let mut seen = 0;
        let hash = write_file(&path, &mut &b"weights"[..], false, Reason::DownloadFailed, |n| {
            seen += n;
            Ok(())
        })
        .unwrap();
        assert_eq!((hash, seen), (Sha256::digest(b"weights").into(), 7));
        assert_eq!(fs::read(&path).unwrap(), b"weights");
        assert_eq!(
            write_file(&path, &mut &b"x"[..], false, Reason::DownloadFailed, |_| Ok(())).unwrap_err().reason,
            Reason::StoreFailed
        );
    }
}
