//! The pod's annotation as a file: which contents in rollout it may serve. The kubelet swaps the file when the annotation changes.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::watch;
use triton_agent::adopt;

/// Longest file that is read: annotations of a pod are no longer.
const LONGEST: u64 = 256 << 10;

/// What the file names.
///
/// Errors: it cannot be read, or is longer than an annotation may be.
pub(super) fn read(path: &Path) -> io::Result<BTreeSet<String>> {
    let mut text = String::new();
    if File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)? as u64 > LONGEST {
        return Err(io::Error::other(format!("it has more than {LONGEST} bytes")));
    }
    Ok(adopt::parse(&text))
}

/// Looks at the file again and again and passes on what it names, until nobody listens. While it cannot be read, what it named last
/// stands.
pub(super) async fn follow(path: PathBuf, every: Duration, adopts: watch::Sender<BTreeSet<String>>) {
    let mut reported = None;
    while !adopts.is_closed() {
        match read(&path) {
            Ok(names) => {
                reported = None;
                adopts.send_if_modified(|current| {
                    let is_new = *current != names;
                    *current = names;
                    is_new
                });
            }
            Err(error) => {
                let error = error.to_string();
                if reported.as_ref() != Some(&error) {
                    tracing::error!(path = %path.display(), error, "cannot read which contents may be served");
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
    async fn what_the_annotation_names_is_followed_and_an_unreadable_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adopt");
        let (sender, mut adopts) = watch::channel(BTreeSet::new());
        let follower = tokio::spawn(follow(path.clone(), Duration::from_secs(1), sender));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!adopts.has_changed().unwrap(), "there is no file yet");

        std::fs::write(&path, "ab12,cd34").unwrap();
        adopts.changed().await.unwrap();
        let named = BTreeSet::from(["ab12".to_owned(), "cd34".to_owned()]);
        assert_eq!(*adopts.borrow_and_update(), named);
        for junk in [vec![0xff, 0xfe], vec![b'a'; 300 << 10]] {
            std::fs::write(&path, junk).unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(!adopts.has_changed().unwrap());
        }
        std::fs::write(&path, "").unwrap();
        adopts.changed().await.unwrap();
        assert!(adopts.borrow_and_update().is_empty());
        drop(adopts);
        follower.await.unwrap();
    }
}
