//! A folder or a file on a mounted volume. It is copied, not linked: what the server runs must not change under it, and
//! must still be there when a newer version turns out to be bad.

use std::{fs, path::Path};

use super::{
    folder,
    places::Mounts,
    progress::{Fetched, Progress},
    unpack::Archive,
};
use crate::{
    fault::{Fault, Reason},
    verify::{self, Files},
};

/// Copies what lies at `path` in the claim; an archive is unpacked.
///
/// Errors: there is no such claim or path; it leads out of the claim; it changed while it was read; it is a broken archive.
pub fn fetch(mounts: &Mounts, claim: &str, path: &str, into: &Path, progress: &Progress) -> Result<Fetched, Fault> {
    let root = mounts.find(claim).ok_or_else(|| {
        Fault::new(Reason::SourceNotFound, format!("claim '{claim}' is not mounted: {}", mounts.places(claim)))
    })?;
    let shown = if path.is_empty() { "." } else { path };
    let place = match path {
        "" | "." | "./" => root.clone(),
        path => root.join(verify::clean_path(path).map_err(|wrong| Fault::new(Reason::InvalidSource, wrong))?),
    };
    if !place.exists() {
        return Err(Fault::new(Reason::SourceNotFound, format!("claim '{claim}' has nothing at '{shown}'")));
    }
    let before = folder::revision(&place)?;
    let found = folder::list(&place, &root, progress)?;
    progress.expect(found.iter().map(|file| file.length).sum())?;
    let is_bare = place.is_file();
    let archive = Archive::of(path).filter(|_| is_bare);
    // an archive is copied beside what comes out of it
    let copies = if archive.is_some() { into.with_file_name("archive") } else { into.to_owned() };
    let mut files = Files::new();
    for file in &found {
        if files.len() >= progress.limits().files {
            return Err(Fault::new(Reason::InvalidSource, format!("'{shown}' has more than {} files", files.len())));
        }
        let hash = folder::copy_file(&file.from, &copies.join(&file.path), progress)?;
        files.insert(file.path.clone(), hash);
    }
    if files.is_empty() {
        return Err(Fault::new(Reason::SourceNotFound, format!("claim '{claim}' has no files at '{shown}'")));
    }
    if folder::revision(&place)? != before {
        return Err(Fault::new(
            Reason::DownloadFailed,
            format!("'{shown}' in claim '{claim}' changed while it was read"),
        ));
    }
    let hash = match files.values().next() {
        Some(hash) if is_bare => *hash,
        _ => verify::hash_of_folder(&files),
    };
    let (Some(archive), Some(copied)) = (archive, files.keys().next()) else {
        return Ok(Fetched { files, is_bare, hash });
    };
    let files = archive.unpack(&copies.join(copied), into, progress)?;
    fs::remove_dir_all(&copies).map_err(|error| Fault::store("cannot remove the archive", &error))?;
    Ok(Fetched { files, is_bare: false, hash })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::symlink};

    use super::*;
    use crate::source::progress::Limits;

    fn claim(root: &Path) -> Mounts {
        fs::create_dir_all(root.join("models/resnet/1")).unwrap();
        fs::write(root.join("models/resnet/1/model.onnx"), "weights").unwrap();
        fs::write(root.join("models/resnet/config.pbtxt"), "").unwrap();
        fs::write(root.join("secret"), "not yours").unwrap();
        Mounts { named: BTreeMap::from([("models".into(), root.join("models"))]), ..Mounts::default() }
    }

    #[test]
    fn an_archive_of_the_claim_is_unpacked() {
        let root = tempfile::tempdir().unwrap();
        let mounts = claim(root.path());
        let mut tar = tar::Builder::new(fs::File::create(root.path().join("models/net.tar")).unwrap());
        tar.append_path_with_name(root.path().join("models/resnet/1/model.onnx"), "net/1/model.onnx").unwrap();
        tar.finish().unwrap();
        let progress = Progress::new(Limits::default(), |_| {});
        let into = root.path().join("partial/fetched");
        let fetched = fetch(&mounts, "models", "net.tar", &into, &progress).unwrap();
        assert_eq!(fetched.files.keys().collect::<Vec<_>>(), ["net/1/model.onnx"]);
        assert!(!fetched.is_bare && fs::read(into.join("net/1/model.onnx")).unwrap() == b"weights");
        assert_eq!(fs::read_dir(root.path().join("partial")).unwrap().count(), 1, "the copy of the archive is gone");
        fs::write(root.path().join("models/broken.zip"), "no archive").unwrap();
        let error = fetch(&mounts, "models", "broken.zip", &into, &progress).unwrap_err();
        assert_eq!(error.reason, Reason::InvalidSource);
    }

    #[test]
    fn a_folder_or_a_file_of_the_claim_is_copied() {
        let root = tempfile::tempdir().unwrap();
        let mounts = claim(root.path());
        let progress = Progress::new(Limits::default(), |_| {});
        let folder = fetch(&mounts, "models", "resnet", &root.path().join("a"), &progress).unwrap();
        assert_eq!(folder.files.keys().collect::<Vec<_>>(), ["1/model.onnx", "config.pbtxt"]);
        let path = "resnet/1/model.onnx";
        let file = fetch(&mounts, "models", path, &root.path().join("b"), &progress).unwrap();
        assert!(file.is_bare && fs::read(root.path().join("b/model.onnx")).unwrap() == b"weights");
        assert_eq!(Some(&file.hash), file.files.get("model.onnx"));
    }

    #[test]
    fn what_leads_out_of_the_claim_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mounts = claim(root.path());
        let progress = Progress::new(Limits::default(), |_| {});
        symlink("../../secret", root.path().join("models/resnet/labels.txt")).unwrap();
        let fault = fetch(&mounts, "models", "resnet", &root.path().join("a"), &progress).unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidSource, "{fault}");
        let fault = fetch(&mounts, "models", "../secret", &root.path().join("b"), &progress).unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidSource, "{fault}");
    }

    #[test]
    fn links_within_the_claim_are_followed() {
        let root = tempfile::tempdir().unwrap();
        let mounts = claim(root.path());
        let progress = Progress::new(Limits::default(), |_| {});
        symlink("resnet", root.path().join("models/current")).unwrap();
        let fetched = fetch(&mounts, "models", "current", &root.path().join("a"), &progress).unwrap();
        assert_eq!(fetched.files.len(), 2);
        // a circle ends
        symlink("..", root.path().join("models/resnet/up")).unwrap();
        assert!(fetch(&mounts, "models", "resnet", &root.path().join("b"), &progress).is_err());
    }

    #[test]
    fn a_missing_claim_or_path_and_too_much_of_it_are_named() {
        let root = tempfile::tempdir().unwrap();
        let mounts = claim(root.path());
        let progress = Progress::new(Limits { bytes: 3, ..Limits::default() }, |_| {});
        let into = root.path().join("a");
        assert_eq!(fetch(&mounts, "other", "", &into, &progress).unwrap_err().reason, Reason::SourceNotFound);
        assert_eq!(fetch(&mounts, "models", "x", &into, &progress).unwrap_err().reason, Reason::SourceNotFound);
        let fault = fetch(&mounts, "models", "resnet", &into, &progress).unwrap_err();
        assert_eq!((fault.reason, fault.message.contains("limit of 3")), (Reason::InvalidSource, true), "{fault}");
    }
}
