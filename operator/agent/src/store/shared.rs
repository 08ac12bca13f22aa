//! What replicas share on one claim: contents under their hash, which of them each entry of a manifest came to be, and whose turn it is
//! to fetch one. Each replica has a folder of its own beside them, with its repository and its ledger.
//!
//! ```text
//! store/ listings/         contents of all, as in a folder of one agent
//! staged/KEY.json          what an entry of a manifest, in one state of its source, came to be
//! fetching/KEY.7           somebody fetches it (a lease)
//! replica-N/               repository, ledger.json, partial of one replica; slot.7, the lease of its pod
//! ```
//!
//! Nobody deletes what another one speaks of, or has touched a while ago: whoever begins to use a content touches its listing first
//! and looks whether it is there afterwards; whoever deletes moves it away first and looks whether it was touched afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::{Record, Staged};
use crate::files::{remove_if_there, sync, write_synced};
use crate::{
    lease::{self, Lease},
    verify::ContentHash,
};

/// Name of the lease of a replica's folder.
pub const SLOT: &str = "slot";

/// What a replica spoke of that has not been heard of for so long is nobody's.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A content that was touched since then may be somebody's who has yet to note it.
const FRESH: Duration = Duration::from_secs(600);

/// The same where there is no room for what somebody wants.
const FRESH_WHERE_SHORT: Duration = Duration::from_secs(120);

/// How long a fetch may go without a sign of life.
const TURN: Duration = Duration::from_secs(30);

/// How often it gives one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// The folder that replicas share, as one of them sees it.
#[derive(Debug)]
pub(super) struct Shared {
    folder: PathBuf,
    /// The folder of this replica.
    own: PathBuf,
}

/// The right to fetch an entry, for as long as this lives.
#[derive(Debug)]
pub struct Turn {
    _lease: Arc<Lease>,
    task: JoinHandle<()>,
}

impl Shared {
    /// Makes its folders, and moves contents there that the replica's own folder has from before they were shared.
    pub(super) fn open(folder: &Path, own: &Path) -> io::Result<Self> {
        for name in ["store", "listings", "staged", "fetching"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let shared = Self { folder: folder.to_owned(), own: own.to_owned() };
        shared.move_contents()?;
        shared.remove_abandoned()?;
        Ok(shared)
    }

    /// Says that a content is used from now on. Whether it is there is asked after this.
    pub(super) fn touch(&self, content: &ContentHash) -> io::Result<()> {
        match File::open(self.listing(content)) {
            Ok(file) => lease::touch(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()), // nothing to keep
            Err(error) => Err(error),
        }
    }

    /// Whether somebody may be about to use it.
    pub(super) fn is_fresh(&self, content: &ContentHash, is_short: bool) -> io::Result<bool> {
        let limit = if is_short { FRESH_WHERE_SHORT } else { FRESH };
        match lease::age(&self.folder.join("listings"), &self.listing(content)) {
            Ok(age) => Ok(age < limit),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Contents that other replicas speak of. Errors: one cannot be asked, so that nothing may be deleted.
    pub(super) fn used_by_others(&self) -> io::Result<BTreeSet<ContentHash>> {
        let mut used = BTreeSet::new();
        for replica in self.others()? {
            if is_abandoned(&replica)? {
                continue;
            }
            match fs::read(replica.join("ledger.json")) {
                Ok(bytes) => {
                    let ledger: BTreeMap<String, Record> = serde_json::from_slice(&bytes)?;
                    for record in ledger.into_values() {
                        used.extend(record.active);
                        used.extend(record.staged.map(|staged| staged.content));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let links = match fs::read_dir(replica.join("repository")) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                links => links?,
            };
            for link in links {
                let target = fs::read_link(link?.path()).ok();
                used.extend(target.and_then(|target| ContentHash::from_name(target.file_name()?.to_str()?)));
            }
        }
        Ok(used)
    }

    /// What an entry came to be, if any replica has fetched it.
    pub(super) fn staged(&self, key: &str) -> Option<Staged> {
        let staged: Staged = serde_json::from_slice(&fs::read(self.index(key)).ok()?).ok()?;
        (staged.key == key).then_some(staged)
    }

    /// Notes it for the others.
    pub(super) fn note(&self, staged: &Staged) -> io::Result<()> {
        let path = self.index(&staged.key);
        let name = self.own.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_extension(format!("{name}.new"));
        write_synced(&temporary, &serde_json::to_vec(staged)?)?;
        fs::rename(temporary, path)?;
        sync(&self.folder.join("staged"))
    }

    /// The right to fetch an entry, unless another replica has it.
    pub(super) fn take_turn(&self, key: &str) -> io::Result<Option<Lease>> {
        let owner = self.own.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Lease::take(&self.folder.join("fetching"), &short(key), &owner, TURN)
    }

    /// The folders of the other replicas.
    fn others(&self) -> io::Result<Vec<PathBuf>> {
        let mut others = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("replica-") && entry.path() != self.own {
                others.push(entry.path());
            }
        }
        Ok(others)
    }

    /// Contents of this replica alone, from before they were shared, become those of all; its repository leads there.
    fn move_contents(&self) -> io::Result<()> {
        for name in ["listings", "store"] {
            let former = self.own.join(name);
            let entries = match fs::read_dir(&former) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let to = self.folder.join(name).join(entry.file_name());
                if to.exists() {
                    continue; // another replica had it too
                }
                match fs::rename(entry.path(), &to) {
                    Err(_) if to.exists() => {} // and was faster
                    moved => moved?,
                }
            }
            if name == "store" {
                self.lead_to_shared_contents()?;
            }
            fs::remove_dir_all(&former)?;
        }
        Ok(())
    }

    fn lead_to_shared_contents(&self) -> io::Result<()> {
        let repository = self.own.join("repository");
        for entry in fs::read_dir(&repository).into_iter().flatten() {
            let link = entry?.path();
            let Some(content) = fs::read_link(&link).ok().and_then(|target| Some(target.file_name()?.to_owned()))
            else {
                continue;
            };
            let temporary = link.with_extension("moved");
            remove_if_there(&temporary)?;
            symlink(Path::new("../../store").join(content), &temporary)?;
            fs::rename(temporary, link)?;
        }
        Ok(())
    }

    /// Folders of replicas that are not heard of any more.
    fn remove_abandoned(&self) -> io::Result<()> {
        for replica in self.others()? {
            // a pod of before there were leases has locked it
            let lock = File::open(replica.join(SLOT));
            let is_locked = lock.is_ok_and(|lock| {
                rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
                    == Err(rustix::io::Errno::WOULDBLOCK)
            });
            if !is_locked && is_abandoned(&replica)? {
                tracing::info!(folder = %replica.display(), "removing what a replica has left behind");
                fs::remove_dir_all(&replica)?;
            }
        }
        Ok(())
    }

    fn listing(&self, content: &ContentHash) -> PathBuf {
        self.folder.join("listings").join(content.as_str())
    }

    fn index(&self, key: &str) -> PathBuf {
        self.folder.join("staged").join(format!("{}.json", short(key)))
    }
}

impl Turn {
    /// Gives signs of life as long as it lives.
    pub(super) fn new(lease: Lease) -> Self {
        let lease = Arc::new(lease);
        let renewed = Arc::clone(&lease);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(SIGN_OF_LIFE).await;
                let lease = Arc::clone(&renewed);
                match tokio::task::spawn_blocking(move || lease.renew()).await {
                    Ok(Ok(true)) => {}
                    // another one fetches it as well: both come to the same
                    Ok(Ok(false)) | Err(_) => return,
                    Ok(Err(error)) => tracing::warn!(%error, "others may take this fetch for broken off"),
                }
            }
        });
        Self { _lease: lease, task }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether nobody has had the folder of a replica for long. One without a lease was made by an agent of before there were leases, or
/// is just being made: its own time counts.
fn is_abandoned(replica: &Path) -> io::Result<bool> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let age = match lease::holder(replica, SLOT) {
        Ok(Some(holder)) => Ok(holder.age),
        Ok(None) => lease::age(replica, replica),
        Err(error) => Err(error),
    };
    match age {
        Err(error) if gone(&error) => Ok(true),
        age => Ok(age? > ABANDONED),
    }
}

/// A name for a file of a key.
fn short(key: &str) -> String {
    hex::encode(&Sha256::digest(key)[..16])
}

#[cfg(test)]
mod tests;
