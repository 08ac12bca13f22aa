//! One registered region, and who uses it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use parking_lot::RwLock;
use server_core::{
    buffer::Buffer,
    error::{Error, Result},
};

use super::{cuda, mapping::Mapping};

/// Kinds of memory that clients register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// POSIX shared memory.
    System,
    /// Memory of a GPU.
    Cuda,
}

/// Where the bytes of a region are.
#[derive(Debug)]
pub(super) enum Memory {
    System {
        key: String,
        /// Where in the object of that name it begins.
        offset: u64,
        mapping: Mapping,
    },
    Cuda(cuda::Memory),
}

/// What is registered, by name.
#[derive(Debug, Default)]
pub(super) struct Table(pub(super) RwLock<BTreeMap<String, Arc<Region>>>);

impl Table {
    /// Takes a region out that was unregistered and that nobody uses any more.
    pub(super) fn remove_if_over(&self, region: &Arc<Region>) {
        let gone = {
            let mut table = self.0.write();
            let is_it = table.get(region.name()).is_some_and(|found| Arc::ptr_eq(found, region) && found.is_over());
            if is_it { table.remove(region.name()) } else { None }
        };
        drop(gone);
    }
}

/// A region of a client.
pub struct Region {
    name: String,
    memory: Memory,
    /// Who holds a part of it.
    uses: AtomicUsize,
    /// Its client unregistered it while it was used: it goes with its last use.
    awaits_last_use: AtomicBool,
    table: Weak<Table>,
}

/// System regions by the address of their first byte.
static MAPPED: RwLock<BTreeMap<usize, Weak<Region>>> = RwLock::new(BTreeMap::new());

impl Region {
    pub(super) fn new(name: &str, memory: Memory, table: Weak<Table>) -> Arc<Self> {
        let (uses, awaits_last_use) = (AtomicUsize::new(0), AtomicBool::new(false));
        let region = Arc::new(Self { name: name.to_owned(), memory, uses, awaits_last_use, table });
        if let Some(address) = region.address() {
            MAPPED.write().insert(address, Arc::downgrade(&region));
        }
        region
    }

    /// The region that the bytes lie in; `None` if they lie elsewhere, or there are none.
    pub fn of(buffer: &Buffer) -> Option<Arc<Self>> {
        let bytes = buffer.as_host().filter(|bytes| buffer.is_of_client() && !bytes.is_empty())?;
        let address = bytes.as_ptr() as usize;
        let region = MAPPED.read().range(..=address).next_back()?.1.upgrade()?;
        (address - region.address()? < region.byte_size()).then_some(region)
    }

    /// Name it was registered under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kind of memory it is.
    pub fn kind(&self) -> Kind {
        match &self.memory {
            Memory::System { .. } => Kind::System,
            Memory::Cuda(_) => Kind::Cuda,
        }
    }

    /// Length in bytes.
    pub fn byte_size(&self) -> usize {
        match &self.memory {
            Memory::System { mapping, .. } => mapping.len(),
            Memory::Cuda(memory) => memory.len(),
        }
    }

    /// Whether all that was read and written of it so far was there.
    ///
    /// Errors: `InvalidArgument`, it was not.
    pub fn check(&self) -> Result<()> {
        match &self.memory {
            Memory::System { mapping, .. } if mapping.is_broken() => Err(self.broken()),
            _ => Ok(()),
        }
    }

    #[cold]
    fn broken(&self) -> Error {
        Error::invalid_argument(format!(
            "shared memory region '{}' is shorter than it was when it was registered, or the system has no memory for it. \
             Unregister it, and register one of the length that it has.",
            self.name
        ))
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    fn address(&self) -> Option<usize> {
        match &self.memory {
            Memory::System { mapping, .. } => Some(mapping.address()),
            Memory::Cuda(_) => None,
        }
    }

    /// Says that it is not wanted any more; whether nobody uses it. Called with the table locked.
    pub(super) fn retire(&self) -> bool {
        self.awaits_last_use.store(true, SeqCst);
        self.uses.load(SeqCst) == 0
    }

    /// Whether it may leave the table. Called with the table locked.
    pub(super) fn is_over(&self) -> bool {
        self.awaits_last_use.load(SeqCst) && self.uses.load(SeqCst) == 0
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(address) = self.address() {
            MAPPED.write().remove(&address); // before it is unmapped
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("name", &self.name).field("byte_size", &self.byte_size()).finish_non_exhaustive()
    }
}

/// Keeps a region registered and mapped.
#[derive(Debug)]
pub(super) struct Use(Arc<Region>);

impl Use {
    /// Called with the table locked, at least to be read.
    pub(super) fn of(region: &Arc<Region>) -> Self {
        region.uses.fetch_add(1, SeqCst);
        Self(region.clone())
    }

    pub(super) fn region(&self) -> &Arc<Region> {
        &self.0
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let was_last = self.0.uses.fetch_sub(1, SeqCst) == 1;
        if was_last
            && self.0.awaits_last_use.load(SeqCst)
            && let Some(table) = self.0.table.upgrade()
        {
            table.remove_if_over(&self.0);
        }
    }
}
