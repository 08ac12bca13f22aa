//! The manifest as a file: read, proved, followed while it changes. A file that cannot be read or proved is reported and
//! the last good one stands.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use operator_core::manifest::{Manifest, ManifestError};
use tokio::sync::watch;

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}", path = .0.display(), error = .1)]
    File(PathBuf, io::Error),
    /// Its content is none we can follow.
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    Content(PathBuf, ManifestError),
}

/// Reads the manifest at `path`.
pub fn read(path: &Path) -> Result<Manifest, ReadError> {
    let text = std::fs::read_to_string(path).map_err(|error| ReadError::File(path.to_owned(), error))?;
    Manifest::from_json(&text).map_err(|error| ReadError::Content(path.to_owned(), error))
}

/// Looks at the file again and again and passes each new manifest on, until nobody listens.
pub async fn follow(path: PathBuf, every: Duration, manifests: watch::Sender<Arc<Manifest>>) {
    let mut reported = None;
    while !manifests.is_closed() {
        match read(&path) {
            Ok(manifest) => {
                reported = None;
                manifests.send_if_modified(|current| {
                    let is_new = current.hash != manifest.hash;
                    if is_new {
                        *current = Arc::new(manifest);
                    }
                    is_new
                });
            }
            Err(error) => {
                let error = error.to_string();
                if reported.as_ref() != Some(&error) {
                    tracing::error!(%error, "the last good manifest stands");
                    reported = Some(error);
                }
            }
        }
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_passed_on_and_a_damaged_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        let (one, two) = (Manifest::new("ml", "one", Vec::new()), Manifest::new("ml", "two", Vec::new()));
        std::fs::write(&path, one.to_json()).unwrap();
        let (sender, mut receiver) = watch::channel(Arc::new(read(&path).unwrap()));
        let follower = tokio::spawn(follow(path.clone(), Duration::from_secs(1), sender));

        std::fs::write(&path, one.to_json().replace("one", "eno")).unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!receiver.has_changed().unwrap());

        std::fs::write(&path, two.to_json()).unwrap();
        receiver.changed().await.unwrap();
        assert_eq!(receiver.borrow_and_update().server, "two");
        drop(receiver);
        follower.await.unwrap();
    }
}
