//! What a version consists of, so that its entries are told from those of others. Other servers see what lies in Redis: those
//! that have the same files share entries, and nobody else.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use server_core::{
    config::{self, ModelConfig},
    repository::layout,
};

use super::ResponseCache;
use crate::{
    stamp::{Stamp, is_ignored},
    version_to_load::VersionToLoad,
};

/// Read at a time.
const CHUNK: usize = 1 << 20;

/// What a version consists of that is about to be opened.
pub(crate) struct Content {
    pub(super) digest: [u8; 32],
    /// How its files looked before they were read, if they were.
    stamp: Option<Stamp>,
}

impl Content {
    /// For a cache that others share, the version's files, which are read; else a number that no other load has, so that
    /// nothing is served of a version that was replaced. `None` if a file cannot be read: then nothing is cached.
    pub(crate) fn of(cache: &ResponseCache, target: &VersionToLoad<'_>) -> Option<Self> {
        if !cache.is_shared() {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&cache.next_load().to_le_bytes());
            return Some(Self { digest, stamp: None });
        }
        let stamp = Stamp::of(target.model_dir);
        match digest(target.model_dir, &stamp, target.version, target.config) {
            Ok(digest) => Some(Self { digest, stamp: Some(stamp) }),
            Err(error) => {
                let name = target.name;
                tracing::warn!("responses of model '{name}' are not cached, for its files cannot be read: {error}");
                None
            }
        }
    }

    /// Whether the files are still those that were read, so that the version was made from them.
    pub(crate) fn is_as_it_was(&self, target: &VersionToLoad<'_>) -> bool {
        self.stamp.as_ref().is_none_or(|stamp| Stamp::of(target.model_dir) == *stamp)
    }
}

/// The hash over the files that concern a version, with their names, and over its configuration as its author wrote it, without
/// what a serving model follows.
fn digest(model_dir: &Path, stamp: &Stamp, version: u64, written: &ModelConfig) -> io::Result<[u8; 32]> {
    let mut hash = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(config::to_json(&config::without_settings(written)).to_string().as_bytes());
    for (path, _) in stamp.clone().into_entries() {
        let Ok(inside) = path.strip_prefix(model_dir) else { continue };
        let top = inside.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
        let is_of_another = layout::classify([top]).versions.first().is_some_and(|other| *other != version);
        if inside == Path::new("config.pbtxt") || top == "configs" || is_ignored(inside) || is_of_another {
            continue;
        }
        part(inside.as_os_str().as_encoded_bytes());
        part(file_digest(&path)?.as_bytes());
    }
    Ok(hash.finalize().into())
}

fn file_digest(path: &Path) -> io::Result<blake3::Hash> {
    let mut hash = blake3::Hasher::new();
    let mut file = File::open(path)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hash.finalize()),
            length => hash.update(&chunk[..length]),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use server_core::config::from_text;

    use super::*;

    #[test]
    fn the_same_files_elsewhere_are_the_same_and_others_are_not() {
        let write = |folder: &Path, path: &str, text: &str| {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let digest_of =
            |folder: &Path, config: &str| digest(folder, &Stamp::of(folder), 1, &from_text(config).unwrap()).unwrap();
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [one.path(), other.path()] {
            write(folder, "1/model.onnx", "weights");
            write(folder, "1/data/a", "x");
            write(folder, "library.so", "code");
        }
        // what does not concern the version
        write(other.path(), "2/model.onnx", "other");
        write(other.path(), "config.pbtxt", "name: 'm'");
        write(other.path(), "1/__pycache__/model.pyc", "x");
        let config = "name: 'm' max_batch_size: 8";
        let first = digest_of(one.path(), config);
        assert_eq!(digest_of(other.path(), &format!("{config} instance_group {{ count: 2 }}")), first);
        assert_ne!(digest_of(one.path(), "name: 'm' max_batch_size: 4"), first);
        write(one.path(), "1/model.onnx", "Weights");
        assert_ne!(digest_of(one.path(), config), first, "of the same length");
        write(one.path(), "1/model.onnx", "weights");
        assert_eq!(digest_of(one.path(), config), first);
        write(one.path(), "library.so", "");
        assert_ne!(digest_of(one.path(), config), first);
    }
}
