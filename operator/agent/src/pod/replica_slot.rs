//! A store that outlives pods and may be shared by replicas: each agent takes a slot in it, a folder that nobody else uses, and
//! finds there what whoever sat in it before has noted. The contents of models are those of all ([`triton_agent::store::shared`]). The
//! server finds its repository through a link in the pod's own folder.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use triton_agent::{lease::Lease, store::shared::SLOT};

/// More replicas than share one claim.
const SLOTS: u32 = 1000;

/// A slot whose owner has given no sign of life for so long is free.
const TTL: Duration = Duration::from_secs(60);

/// How often an owner gives one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// A slot that is taken for as long as this lives, and for a while after it: the pod's server may still serve from it.
#[derive(Debug)]
pub(super) struct ReplicaSlot {
    folder: PathBuf,
    lease: Arc<Lease>,
    /// Where the file system locks, another process on this machine knows at once.
    _lock: File,
}

impl ReplicaSlot {
    /// Takes the slot that `root` led to before, else the first free one in `store`, and makes `root` lead to it. `pod` is the name
    /// of the pod: one that comes back after its agent ended has its slot at once.
    ///
    /// Errors: the disk would not take it; every slot is taken.
    pub(super) fn take(store: &Path, root: &Path, pod: &str) -> anyhow::Result<Self> {
        let link = root.join("repository");
        let former = fs::read_link(&link).ok().and_then(|repository| Some(repository.parent()?.to_owned()));
        let former = former.filter(|folder| folder.parent() == Some(store));
        let slots = former.into_iter().chain((0..SLOTS).map(|number| store.join(format!("replica-{number}"))));
        for folder in slots {
            let unusable = || format!("cannot use {}", folder.display());
            fs::create_dir_all(&folder).with_context(unusable)?;
            let lock = File::create(folder.join(SLOT)).with_context(unusable)?;
            // network file systems may not lock, or only within one machine: the lease is what counts
            if flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
                continue;
            }
            let Some(lease) = Lease::take(&folder, SLOT, pod, TTL).with_context(unusable)? else { continue };
            lead(&link, &folder.join("repository")).with_context(|| format!("cannot make {}", link.display()))?;
            return Ok(Self { folder, lease: Arc::new(lease.keep()), _lock: lock });
        }
        bail!("all {SLOTS} slots in {} are taken", store.display())
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives signs of life. Returns only when the slot is another's.
    pub(super) fn held(&self) -> impl Future<Output = ()> + Send + use<> {
        let lease = Arc::clone(&self.lease);
        async move {
            loop {
                tokio::time::sleep(SIGN_OF_LIFE).await;
                let lease = Arc::clone(&lease);
                match tokio::task::spawn_blocking(move || lease.renew()).await {
                    Ok(Ok(true)) => {}
                    Ok(Ok(false)) | Err(_) => return,
                    Ok(Err(error)) => tracing::warn!(%error, "other pods may take this one's slot for free"),
                }
            }
        }
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
        let take = |pod: &str| ReplicaSlot::take(&store, &root(pod), pod).unwrap();
        let name = |slot: &ReplicaSlot| slot.folder().file_name().unwrap().to_str().unwrap().to_owned();

        let (one, two) = (take("a"), take("b"));
        assert_eq!([name(&one), name(&two)], ["replica-0", "replica-1"]);
        assert_eq!(fs::read_link(root("b").join("repository")).unwrap(), store.join("replica-1/repository"));
        let files = fs::read_dir(store.join("replica-0")).unwrap().flatten().map(|entry| entry.path());
        let lease = files.into_iter().find(|path| path.to_string_lossy().contains("slot.")).unwrap();
        drop(one);
        let next = take("c");
        assert_eq!(name(&next), "replica-2", "the server of the first may still serve");
        let file = File::options().write(true).open(lease).unwrap();
        file.set_modified(std::time::SystemTime::now() - 2 * TTL).unwrap();
        assert_eq!(name(&take("d")), "replica-0");

        // an agent that starts anew beside its server stays where the server's repository is
        drop((next, two));
        assert_eq!(name(&take("b")), "replica-1");
    }
}
