//! A ConfigMap: carried by the manifest, or mounted as a folder with one file per key. The kubelet replaces all keys at once by
//! swapping a link, so what is read is always one state of it; [`revision`] tells cheaply whether it is another one.

use std::path::{Path, PathBuf};

use crds::parts::source::KeyPath;
use operator_core::manifest::Keys;

use super::{
    folder,
    places::Mounts,
    progress::{Fetched, Progress},
};
use crate::{
    fault::{Fault, Reason},
    verify::{self, FileHash, Files},
};

/// Where the keys are.
#[derive(Debug)]
pub enum Origin<'a> {
    /// In the manifest.
    Carried(&'a Keys),
    /// In a folder, which had this revision.
    Mounted(PathBuf, String),
}

/// Copies the keys. Errors: there is no such key in it; a path leads out of the folder; it changed meanwhile.
pub fn fetch(
    origin: &Origin<'_>,
    name: &str,
    items: &[KeyPath],
    into: &Path,
    progress: &Progress,
) -> Result<Fetched, Fault> {
    let keys = origin.keys()?;
    let wanted: Vec<(String, String)> = if items.is_empty() {
        keys.iter().map(|key| (key.clone(), key.clone())).collect()
    } else {
        items.iter().map(|item| (item.key.clone(), item.path.clone())).collect()
    };
    let mut files = Files::new();
    for (key, path) in wanted {
        if !keys.contains(&key) {
            return Err(Fault::new(Reason::SourceNotFound, format!("ConfigMap '{name}' has no key '{key}'")));
        }
        let path = verify::clean_path(&path).map_err(|wrong| Fault::new(Reason::InvalidSource, wrong))?;
        let hash = origin.copy(&key, &into.join(&path), progress)?;
        files.insert(path, hash);
    }
    if files.is_empty() {
        return Err(Fault::new(Reason::SourceNotFound, format!("ConfigMap '{name}' has no keys")));
    }
    if !origin.is_unchanged()? {
        return Err(Fault::new(Reason::DownloadFailed, format!("ConfigMap '{name}' changed while it was read")));
    }
    Ok(Fetched { hash: verify::hash_of_folder(&files), files, is_bare: false })
}

impl Origin<'_> {
    /// The folder a ConfigMap is mounted as. Errors: it is not.
    pub fn mounted(mounts: &Mounts, name: &str) -> Result<Self, Fault> {
        let folder = mounts.find(name).ok_or_else(|| {
            Fault::new(Reason::SourceNotFound, format!("ConfigMap '{name}' is not there: {}", mounts.places(name)))
        })?;
        let revision = folder::revision(&folder)?;
        Ok(Self::Mounted(folder, revision))
    }

    fn keys(&self) -> Result<Vec<String>, Fault> {
        match self {
            Self::Carried(keys) => Ok(keys.names().into_iter().map(str::to_owned).collect()),
            Self::Mounted(folder, _) => keys(folder),
        }
    }

    fn copy(&self, key: &str, to: &Path, progress: &Progress) -> Result<FileHash, Fault> {
        match self {
            Self::Carried(keys) => {
                let mut bytes = keys.get(key).unwrap_or_default();
                verify::write_file(to, &mut bytes, false, Reason::DownloadFailed, |bytes| progress.add(bytes))
            }
            Self::Mounted(folder, _) => folder::copy_file(&folder.join(key), to, progress),
        }
    }

    fn is_unchanged(&self) -> Result<bool, Fault> {
        match self {
            Self::Carried(_) => Ok(true),
            Self::Mounted(folder, before) => Ok(folder::revision(folder)? == *before),
        }
    }
}

/// The keys; names that begin with two dots belong to the kubelet.
fn keys(mounted: &Path) -> Result<Vec<String>, Fault> {
    let unreadable = |error| Fault::new(Reason::DownloadFailed, format!("cannot read {}: {error}", mounted.display()));
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(mounted).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && mounted.join(&name).is_file() {
            keys.push(name);
        }
    }
    keys.sort();
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::source::progress::Limits;

    /// A ConfigMap as the kubelet mounts it.
    fn mounted(root: &Path, generation: &str, keys: &[(&str, &str)]) -> Mounts {
        let map = root.join("maps/tiny");
        let data = map.join(format!("..{generation}"));
        fs::create_dir_all(&data).unwrap();
        for (key, content) in keys {
            fs::write(data.join(key), content).unwrap();
            if !map.join(key).exists() {
                symlink(format!("..data/{key}"), map.join(key)).unwrap();
            }
        }
        symlink(format!("..{generation}"), map.join("..data_tmp")).unwrap();
        fs::rename(map.join("..data_tmp"), map.join("..data")).unwrap();
        Mounts { below: vec![root.join("maps")], ..Mounts::default() }
    }

    fn fetch(
        mounts: &Mounts,
        name: &str,
        items: &[KeyPath],
        into: &Path,
        progress: &Progress,
    ) -> Result<Fetched, Fault> {
        super::fetch(&Origin::mounted(mounts, name)?, name, items, into, progress)
    }

    #[test]
    fn what_the_manifest_carries_becomes_the_same_files() {
        let root = tempfile::tempdir().unwrap();
        let mounts = mounted(root.path(), "2026_1", &[("model.onnx", "weights"), ("config.pbtxt", "")]);
        let progress = Progress::new(Limits::default(), |_| {});
        let keys: Keys =
            serde_json::from_str(r#"{"data":{"config.pbtxt":""},"binaryData":{"model.onnx":"d2VpZ2h0cw=="}}"#).unwrap();
        let carried =
            |items: &[KeyPath]| super::fetch(&Origin::Carried(&keys), "tiny", items, &root.path().join("b"), &progress);
        let one = fetch(&mounts, "tiny", &[], &root.path().join("a"), &progress).unwrap();
        assert_eq!(carried(&[]).unwrap().hash, one.hash);
        assert_eq!(fs::read(root.path().join("b/model.onnx")).unwrap(), b"weights");
        let items = [KeyPath { key: "b".into(), path: "b".into() }];
        assert_eq!(carried(&items).unwrap_err().message, "ConfigMap 'tiny' has no key 'b'");
    }

    #[test]
    fn keys_become_files_and_the_links_of_the_kubelet_do_not() {
        let root = tempfile::tempdir().unwrap();
        let mounts = mounted(root.path(), "2026_1", &[("model.onnx", "weights"), ("config.pbtxt", "")]);
        let progress = Progress::new(Limits::default(), |_| {});

        let all = fetch(&mounts, "tiny", &[], &root.path().join("a"), &progress).unwrap();
        assert_eq!(all.files.keys().collect::<Vec<_>>(), ["config.pbtxt", "model.onnx"]);

        let items = [KeyPath { key: "model.onnx".into(), path: "1/model.onnx".into() }];
        let one = fetch(&mounts, "tiny", &items, &root.path().join("b"), &progress).unwrap();
        assert_eq!(one.files.keys().collect::<Vec<_>>(), ["1/model.onnx"]);
        assert_eq!(fs::read(root.path().join("b/1/model.onnx")).unwrap(), b"weights");
    }

    #[test]
    fn a_missing_map_or_key_is_named() {
        let root = tempfile::tempdir().unwrap();
        let mounts = mounted(root.path(), "2026_1", &[("a", "x")]);
        let progress = Progress::new(Limits::default(), |_| {});
        let fault = fetch(&mounts, "other", &[], &root.path().join("a"), &progress).unwrap_err();
        assert_eq!(fault.reason, Reason::SourceNotFound);
        assert!(fault.message.contains("'other'") && fault.message.contains("maps/other"), "{}", fault.message);
        let items = [KeyPath { key: "b".into(), path: "b".into() }];
        let fault = fetch(&mounts, "tiny", &items, &root.path().join("a"), &progress).unwrap_err();
        assert_eq!(fault.message, "ConfigMap 'tiny' has no key 'b'");
        let items = [KeyPath { key: "a".into(), path: "../b".into() }];
        let fault = fetch(&mounts, "tiny", &items, &root.path().join("a"), &progress).unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidSource);
    }

    #[test]
    fn a_replaced_map_has_another_revision() {
        let root = tempfile::tempdir().unwrap();
        let mounts = mounted(root.path(), "2026_1", &[("a", "x")]);
        let first = mounts.revision("tiny").unwrap();
        assert_eq!(mounts.revision("tiny").unwrap(), first);
        mounted(root.path(), "2026_2", &[("a", "y")]);
        assert_ne!(mounts.revision("tiny").unwrap(), first);
        assert_eq!(mounts.revision("none"), None);
    }
}
