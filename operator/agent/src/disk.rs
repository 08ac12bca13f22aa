//! How much may be written to the disk that models are kept on. All fetches share one budget: what one was promised, another
//! cannot have. A pod that fills its volume or its node is evicted, with all it serves; a fetch that is refused hurts nobody else.
//! [`room`] decides and is pure; the rest measures.

use std::{
    collections::HashSet,
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crds::parts::ByteCount;

use crate::fault::{Fault, Reason};

/// What a fetch whose length nobody has told is promised at a time.
const STEP: u64 = 16 << 20;

/// Of its size, what a disk keeps free for others: 1 in so many parts.
const FREE_PART: u64 = 100;

/// The same for a node's disk: with less than a tenth free, a kubelet evicts pods.
const FREE_PART_OF_NODE: u64 = 10;

/// Beyond the contents: folders, the ledger, what one measurement misses.
const SLACK: u64 = 1 << 20;

/// How much of a disk models may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskLimits {
    /// Bytes that the folder may take in all.
    pub limit: Option<u64>,
    /// The disk is that of a node, whose other pods would be evicted too.
    pub is_of_node: bool,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Space {
    /// Bytes of the disk.
    size: u64,
    /// Bytes of it that may still be written.
    free: u64,
    /// Bytes of the folder.
    used: u64,
}

/// Room for what was not promised yet, and what bounds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    bytes: u64,
    bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Limit(u64),
    Disk { free: u64, kept: u64 },
}

/// The budget of one folder.
pub struct Disk {
    folder: PathBuf,
    limits: DiskLimits,
    /// Frees what can be spared at once.
    spare: Box<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Promised and not written yet.
    promised: u64,
    /// Bytes of the folder when they were counted last, with what was written since.
    used: Option<u64>,
}

/// A share of the budget. What was not written is given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    disk: Arc<Disk>,
    left: u64,
}

/// Room for `promised` bytes besides those that are written or promised already.
fn room(space: Space, limits: DiskLimits, promised: u64) -> Room {
    let part = if limits.is_of_node { FREE_PART_OF_NODE } else { FREE_PART };
    // a node that runs pods with less than that has another threshold: half of what it has is left to it
    let kept = (space.size / part).min(space.free / 2);
    let of_disk = Room {
        bytes: space.free.saturating_sub(kept).saturating_sub(promised),
        bound: Bound::Disk { free: space.free, kept },
    };
    let of_limit = limits.limit.map(|limit| Room {
        bytes: limit.saturating_sub(space.used).saturating_sub(promised).saturating_sub(SLACK),
        bound: Bound::Limit(limit),
    });
    match of_limit {
        Some(of_limit) if of_limit.bytes < of_disk.bytes => of_limit,
        _ => of_disk,
    }
}

impl Disk {
    /// The budget of `folder`; `spare` is called before anything is refused, to free what nobody needs.
    pub fn new(folder: PathBuf, limits: DiskLimits, spare: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { folder, limits, spare: Box::new(spare), state: Mutex::default() })
    }

    /// A share that holds nothing yet.
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { disk: Arc::clone(self), left: 0 }
    }

    /// Promises `bytes` more. Blocks: it may count files and delete some.
    ///
    /// Errors: `StoreFull`, with what is needed, what there is, and the cure.
    fn promise(&self, bytes: u64) -> Result<(), Fault> {
        if self.try_promise(bytes, false)?.is_ok() {
            return Ok(());
        }
        (self.spare)();
        self.try_promise(bytes, true)?.map_err(|room| self.full(bytes, room))
    }

    fn try_promise(&self, bytes: u64, counts_anew: bool) -> Result<Result<(), Room>, Fault> {
        let unreadable =
            |error| Fault::store(format_args!("cannot tell what is free in {}", self.folder.display()), &error);
        let mut state = self.lock();
        let used = match (self.limits.limit, state.used) {
            (None, _) => 0,
            (Some(_), Some(used)) if !counts_anew => used,
            (Some(_), _) => {
                let used = used(&self.folder);
                state.used = Some(used);
                used
            }
        };
        let disk = rustix::fs::statvfs(&self.folder).map_err(|error| unreadable(error.into()))?;
        let bytes_of = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        let space = Space { size: bytes_of(disk.f_blocks), free: bytes_of(disk.f_bavail), used };
        let room = room(space, self.limits, state.promised);
        if bytes > room.bytes {
            return Ok(Err(room));
        }
        state.promised += bytes;
        Ok(Ok(()))
    }

    fn full(&self, needed: u64, room: Room) -> Fault {
        let rounded = |bytes| ByteCount(bytes).rounded();
        let (needed, left) = (rounded(needed), rounded(room.bytes));
        let text = match room.bound {
            Bound::Limit(limit) => format!(
                "{needed} bytes more are needed and the store has room for {left} of its limit of {}: raise \
                 spec.modelStore.emptyDir.sizeLimit of the server, or remove models from it",
                rounded(limit)
            ),
            Bound::Disk { free, kept } => format!(
                "{needed} bytes more are needed and the disk of {} has room for {left} ({} free, of which {} are kept for others): give \
                 the server a larger disk or claim (spec.modelStore), or remove models from it",
                self.folder.display(),
                rounded(free),
                rounded(kept)
            ),
        };
        Fault::new(Reason::StoreFull, text)
    }

    fn written(&self, bytes: u64) {
        let mut state = self.lock();
        state.promised = state.promised.saturating_sub(bytes);
        state.used = state.used.map(|used| used + bytes);
    }

    fn give_back(&self, bytes: u64) {
        let mut state = self.lock();
        state.promised = state.promised.saturating_sub(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("folder", &self.folder).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Reservation {
    /// `bytes` are to come in all. Blocks. Errors: `StoreFull`.
    pub fn expect(&mut self, bytes: u64) -> Result<(), Fault> {
        let more = bytes.saturating_sub(self.left);
        self.disk.promise(more)?;
        self.left += more;
        Ok(())
    }

    /// `bytes` are about to be written. Blocks where more of them come than were expected. Errors: `StoreFull`.
    pub fn write(&mut self, bytes: u64) -> Result<(), Fault> {
        if bytes > self.left {
            let more = bytes - self.left;
            // a step at a time, and just what is needed where there is not that much
            match self.disk.try_promise(more.max(STEP), false)? {
                Ok(()) => self.left += more.max(STEP),
                Err(_) => {
                    self.disk.promise(more)?;
                    self.left += more;
                }
            }
        }
        self.left -= bytes;
        self.disk.written(bytes);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.disk.give_back(self.left);
    }
}

/// Bytes that a folder takes on its disk; what has several names counts once, and what goes away meanwhile does not count.
fn used(folder: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut folders = vec![folder.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const MIB: u64 = 1 << 20;

    #[track_caller]
    fn check(size: u64, free: u64, used: u64, limit: Option<u64>, is_of_node: bool, promised: u64, expect: u64) {
        let space = Space { size: size * MIB, free: free * MIB, used: used * MIB };
        let limits = DiskLimits { limit: limit.map(|limit| limit * MIB), is_of_node };
        assert_eq!(room(space, limits, promised * MIB).bytes, expect * MIB);
    }

    #[test]
    fn room_is_what_neither_the_limit_nor_the_disk_forbids() {
        check(1000, 500, 0, None, false, 0, 490); // a hundredth stays free
        check(1000, 500, 0, None, true, 0, 400); // a node keeps a tenth
        check(1000, 60, 0, None, true, 0, 30); // one that has less keeps half of it
        check(1000, 500, 20, Some(60), true, 0, 39);
        check(1000, 500, 20, Some(60), true, 30, 9);
        check(1000, 500, 80, Some(60), true, 0, 0);
        check(1000, 20, 0, Some(60), false, 0, 10);
        check(0, 0, 0, None, false, 5, 0);
    }

    fn disk(limit: u64) -> (tempfile::TempDir, Arc<Disk>) {
        let root = tempfile::tempdir().unwrap();
        let limits = DiskLimits { limit: Some(limit), is_of_node: false };
        let disk = Disk::new(root.path().to_owned(), limits, || {});
        (root, disk)
    }

    #[test]
    fn fetches_share_one_budget() {
        let (root, disk) = disk(61 * MIB);
        let (mut one, mut two) = (disk.reservation(), disk.reservation());
        one.expect(40 * MIB).unwrap();
        let fault = two.expect(30 * MIB).unwrap_err();
        assert_eq!(fault.reason, Reason::StoreFull);
        assert_eq!(
            fault.message,
            "30Mi bytes more are needed and the store has room for 20Mi of its limit of 61Mi: raise \
             spec.modelStore.emptyDir.sizeLimit of the server, or remove models from it"
        );
        two.expect(20 * MIB).unwrap();
        assert!(disk.reservation().write(1).is_err(), "all is promised");
        one.write(40 * MIB).unwrap();
        fs::write(root.path().join("one"), vec![1; 40 << 20]).unwrap();
        assert!(one.write(1).is_err(), "written or promised, it is taken");
        drop(two);
        // the step that is promised at a time does not fit twice; what is needed does
        one.write(12 * MIB).unwrap();
        assert_eq!(disk.lock().promised, 4 * MIB);
        one.write(7 * MIB).unwrap();
        fs::remove_file(root.path().join("one")).unwrap();
        one.write(40 * MIB).unwrap();
    }

    #[test]
    fn what_can_be_spared_goes_before_anything_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let old = root.path().join("old");
        fs::write(&old, vec![1; 10 << 20]).unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let (counter, target) = (Arc::clone(&calls), old.clone());
        let limits = DiskLimits { limit: Some(16 * MIB), is_of_node: false };
        let disk = Disk::new(root.path().to_owned(), limits, move || {
            counter.fetch_add(1, Ordering::Relaxed);
            let _ = fs::remove_file(&target);
        });
        let mut reservation = disk.reservation();
        reservation.expect(4 * MIB).unwrap();
        assert!(old.exists() && calls.load(Ordering::Relaxed) == 0);
        disk.reservation().expect(8 * MIB).unwrap();
        assert!(!old.exists());
        assert!(disk.reservation().expect(100 * MIB).is_err());
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_file_with_two_names_counts_once() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/one"), vec![1; 1 << 20]).unwrap();
        let before = used(root.path());
        assert!(before >= MIB);
        fs::hard_link(root.path().join("a/one"), root.path().join("two")).unwrap();
        assert_eq!(used(root.path()), before);
    }
}
