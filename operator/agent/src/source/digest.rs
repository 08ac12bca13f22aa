//! What a source says a file's content is, before it is fetched; and whether it came so.

use std::{fmt, fs::File, io::Read, path::Path};

use sha1::Sha1;
use sha2::Digest as _;

use super::{download::Downloaded, progress::Progress};
use crate::{
    fault::{Fault, Reason},
    verify::FileHash,
};

/// What a file's content must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256 of its bytes.
    Sha256(FileHash),
    /// The name git gives it: SHA-1 of `blob LENGTH\0` and its bytes.
    GitBlob {
        /// The SHA-1.
        sha1: [u8; 20],
        /// The length in bytes.
        length: u64,
    },
}

impl Digest {
    /// A SHA-256 in hexadecimal; `None` if the text is none.
    pub fn sha256(text: &str) -> Option<Self> {
        let mut hash = FileHash::default();
        hex::decode_to_slice(text, &mut hash).ok()?;
        Some(Self::Sha256(hash))
    }

    /// The name git gives to a content of that length; `None` if the text is none.
    pub fn git_blob(text: &str, length: u64) -> Option<Self> {
        let mut sha1 = [0; 20];
        hex::decode_to_slice(text, &mut sha1).ok()?;
        Some(Self::GitBlob { sha1, length })
    }

    /// Whether what was downloaded to `path` is what was promised. Reads the disk only for the names of git.
    ///
    /// Errors: `DownloadFailed`, with what came and what should have: a connection may have changed it, so that another attempt
    /// can help; no longer wanted; `StoreFailed` if it cannot be read.
    pub fn check(&self, name: &str, downloaded: &Downloaded, path: &Path, progress: &Progress) -> Result<(), Fault> {
        let actual = match self {
            Self::Sha256(_) => Self::Sha256(downloaded.hash),
            Self::GitBlob { .. } => git_blob_of(path, downloaded.length, progress)?,
        };
        if *self == actual {
            return Ok(());
        }
        Err(Fault::new(Reason::DownloadFailed, format!("{name} came with {actual}; it should have {self}")))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hash) => write!(f, "sha256:{}", hex::encode(hash)),
            Self::GitBlob { sha1, length } => write!(f, "{length} bytes and git's hash {}", hex::encode(sha1)),
        }
    }
}

fn git_blob_of(path: &Path, length: u64, progress: &Progress) -> Result<Digest, Fault> {
    let fail = |error: std::io::Error| Fault::store(format_args!("cannot read {}", path.display()), &error);
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {length}\0"));
    let mut file = File::open(path).map_err(fail)?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        progress.check()?;
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(Digest::GitBlob { sha1: hasher.finalize().into(), length }),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::Sha256;

    use super::*;
    use crate::source::{progress::Limits, web::unwatched};

    #[test]
    fn a_file_is_checked_by_its_sha_256_or_by_gits_name_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, progress) = (folder.path().join("file"), unwatched(Limits::default()));
        std::fs::write(&path, "hello\n").unwrap();
        let downloaded = Downloaded { hash: Sha256::digest("hello\n").into(), length: 6 };
        // as `printf 'hello\n' | git hash-object --stdin` says
        let git = Digest::git_blob("ce013625030ba8dba906f756967f9e9ca394464a", 6).unwrap();
        let sha256 = Digest::sha256(&hex::encode(Sha256::digest("hello\n"))).unwrap();
        for digest in [git, sha256] {
            digest.check("file", &downloaded, &path, &progress).unwrap();
        }
        std::fs::write(&path, "hellO\n").unwrap();
        let fault = git.check("file", &downloaded, &path, &progress).unwrap_err();
        assert!(fault.reason == Reason::DownloadFailed && fault.message.contains("ce013625"), "{fault}");
        let other = Downloaded { hash: Sha256::digest("hellO\n").into(), length: 6 };
        assert!(
            sha256.check("file", &other, &path, &progress).unwrap_err().message.starts_with("file came with sha256:")
        );
        progress.cancel();
        assert_eq!(git.check("file", &downloaded, &path, &progress).unwrap_err().message, "no longer wanted");
        assert_eq!((Digest::sha256("abc"), Digest::git_blob("abc", 3)), (None, None));
    }
}
