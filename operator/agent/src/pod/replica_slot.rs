//! A store that outlives pods and may be shared by replicas: each agent takes a slot in it, a folder that nobody else uses, and
//! finds there what whoever sat in it before has fetched. The server finds its repository through a link in the pod's own folder.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

/// More replicas than share one claim.
const SLOTS: u32 = 1000;

/// A slot that is taken for as long as this lives.
#[derive(Debug)]
pub(super) struct ReplicaSlot {
    folder: PathBuf,
    _lock: File,
}

impl ReplicaSlot {
    /// Takes the slot that `root` led to before, else the first free one in `store`, and makes `root` lead to it.
    ///
    /// Errors: the disk would not take it; every slot is taken.
    pub(super) fn take(store: &Path, root: &Path) -> anyhow::Result<Self> {
        let link = root.join("repository");
        let former = fs::read_link(&link).ok().and_then(|repository| Some(repository.parent()?.to_owned()));
        let former = former.filter(|folder| folder.parent() == Some(store));
        let slots = former.into_iter().chain((0..SLOTS).map(|number| store.join(format!("replica-{number}"))));
        for folder in slots {
            fs::create_dir_all(&folder).with_context(|| format!("cannot use {}", folder.display()))?;
            let lock = File::create(folder.join("slot")).with_context(|| format!("cannot use {}", folder.display()))?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    lead(&link, &folder.join("repository"))
                        .with_context(|| format!("cannot make {}", link.display()))?;
                    return Ok(Self { folder, _lock: lock });
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot lock {}: does its file system lock?", folder.display()));
                }
            }
        }
        bail!("all {SLOTS} slots in {} are taken", store.display())
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Makes `link` lead to `target`, in one step.
fn lead(link: &Path, target: &Path) -> io::Result<()> {
    let temporary = link.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(target, &temporary)?,
    }
    fs::rename(temporary, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_has_a_slot_of_its_own_and_the_next_one_takes_over_a_freed_slot() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let root = |pod: &str| {
            let root = folder.path().join(pod);
            fs::create_dir_all(&root).unwrap();
            root
        };
        let take = |pod: &str| ReplicaSlot::take(&store, &root(pod)).unwrap();
        let name = |slot: &ReplicaSlot| slot.folder().file_name().unwrap().to_str().unwrap().to_owned();

        let (one, two) = (take("a"), take("b"));
        assert_eq!([name(&one), name(&two)], ["replica-0", "replica-1"]);
        assert_eq!(fs::read_link(root("b").join("repository")).unwrap(), store.join("replica-1/repository"));
        drop(one);
        let next = take("c");
        assert_eq!(name(&next), "replica-0");

        // an agent that starts anew beside its server stays where the server's repository is
        drop((next, two));
        assert_eq!(name(&take("b")), "replica-1");
    }
}
