//! The regions that clients have registered, by name.

use std::sync::Arc;

use server_core::error::{Error, Result};

use super::{
    cuda,
    faults::MAX_REGIONS,
    mapping::Mapping,
    part::Part,
    region::{Kind, Memory, Region, Table, Use},
};

/// What is registered. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Regions(Arc<Table>);

/// A region as its status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionStatus {
    /// Name it was registered under.
    pub name: String,
    /// Name of the shared-memory object; empty for memory of a GPU.
    pub key: String,
    /// Where in the object it begins, bytes; 0 for memory of a GPU.
    pub offset: u64,
    /// Number of the GPU; 0 for system memory.
    pub device_id: u64,
    /// Length in bytes.
    pub byte_size: u64,
}

impl Regions {
    /// Maps a part of a POSIX shared-memory object under a name.
    ///
    /// Errors, in Triton's words: `AlreadyExists`, the name is taken; `Internal`, the object cannot be opened;
    /// `InvalidArgument`, the key or the part make no sense; `Unavailable`, there are too many regions.
    pub fn register_system(&self, name: &str, key: &str, offset: u64, byte_size: u64) -> Result<()> {
        super::key::check(name, key)?;
        self.register(name, || {
            let mapping = Mapping::open(name, key, offset, byte_size)?;
            Ok(Memory::System { key: key.to_owned(), offset, mapping })
        })
    }

    /// Opens memory of a GPU that another process has made, under a name.
    ///
    /// Errors, in Triton's words: `AlreadyExists`, the name is taken; `InvalidArgument`, there is no GPU, or it does not
    /// know the handle, or the memory is shorter.
    pub fn register_cuda(&self, name: &str, handle: &[u8], device_id: u64, byte_size: u64) -> Result<()> {
        self.register(name, || Ok(Memory::Cuda(cuda::Memory::open(name, handle, device_id, byte_size)?)))
    }

    /// Whether there is a GPU whose memory can be registered.
    pub fn has_cuda() -> bool {
        cuda::is_here()
    }

    fn register(&self, name: &str, open: impl FnOnce() -> Result<Memory>) -> Result<()> {
        let taken = || Error::already_exists(format!("shared memory region '{name}' already in manager"));
        if self.0.0.read().contains_key(name) {
            return Err(taken());
        }
        let memory = open()?; // without the lock: requests go on
        let region = Region::new(name, memory, Arc::downgrade(&self.0));
        let mut table = self.0.0.write();
        if table.len() >= MAX_REGIONS {
            return Err(Error::unavailable(format!(
                "no more than {MAX_REGIONS} shared memory regions can be registered: unregister some"
            )));
        }
        if table.contains_key(name) {
            return Err(taken());
        }
        table.insert(name.to_owned(), region);
        Ok(())
    }

    /// Forgets a region of that kind, if there is one; one that requests use when the last of them has ended.
    pub fn unregister(&self, kind: Kind, name: &str) {
        let gone = {
            let mut table = self.0.0.write();
            let is_idle = table.get(name).is_some_and(|region| region.kind() == kind && retire(region));
            if is_idle { table.remove(name) } else { None }
        };
        drop(gone); // unmapped without the lock
    }

    /// Forgets all regions of that kind, as [`Regions::unregister`] does.
    pub fn unregister_all(&self, kind: Kind) {
        let mut gone = Vec::new();
        self.0.0.write().retain(|_, region| {
            let is_idle = region.kind() == kind && retire(region);
            if is_idle {
                gone.push(region.clone());
            }
            !is_idle
        });
    }

    /// The regions of that kind, by name; or the one of that name, if it is not empty.
    ///
    /// Errors: `NotFound` in Triton's words.
    pub fn status(&self, kind: Kind, name: &str) -> Result<Vec<RegionStatus>> {
        let table = self.0.0.read();
        if name.is_empty() {
            return Ok(table.values().filter(|region| region.kind() == kind).map(|region| status(region)).collect());
        }
        let text = match (table.get(name), kind) {
            (Some(region), _) if region.kind() == kind => return Ok(vec![status(region)]),
            (Some(_), Kind::System) => {
                format!("The region named '{name}' is registered as CUDA shared memory, not system shared memory")
            }
            (Some(_), Kind::Cuda) => {
                format!("The region named '{name}' is registered as system shared memory, not CUDA shared memory")
            }
            (None, Kind::System) => format!("Unable to find system shared memory region: '{name}'"),
            (None, Kind::Cuda) => format!("Unable to find cuda shared memory region: '{name}'"),
        };
        Err(Error::not_found(text))
    }

    /// `byte_size` bytes from `offset` on of the region of that name.
    ///
    /// Errors, in Triton's words: `NotFound`, there is no such region; `InvalidArgument`, they are not inside it, there are
    /// none, or the region is broken.
    pub fn part(&self, name: &str, offset: u64, byte_size: u64) -> Result<Part> {
        let table = self.0.0.read();
        let Some(region) = table.get(name) else {
            return Err(Error::not_found(format!("Unable to find shared memory region: '{name}'")));
        };
        let (offset, len) = range(name, region.byte_size() as u64, offset, byte_size)?;
        region.check()?;
        Ok(Part::new(Use::of(region), offset, len))
    }
}

fn retire(region: &Arc<Region>) -> bool {
    let is_idle = region.retire();
    if !is_idle {
        tracing::debug!(
            "Shared memory region '{}' will be unregistered after in-flight requests complete.",
            region.name()
        );
    }
    is_idle
}

/// The range of a region that a request speaks of, as numbers of this machine.
fn range(name: &str, region_size: u64, offset: u64, byte_size: u64) -> Result<(usize, usize)> {
    let invalid = |what: &str| Error::invalid_argument(format!("Invalid {what} for shared memory region: '{name}'"));
    if offset >= region_size {
        return Err(invalid("offset"));
    }
    let Some(end) = offset.checked_add(byte_size) else {
        return Err(Error::invalid_argument(format!(
            "Integer overflow detected: byte_size ({byte_size}) + offset ({offset}) exceeds maximum value ({}) for region \
             '{name}'",
            u64::MAX
        )));
    };
    if end > region_size || byte_size == 0 {
        return Err(invalid("offset + byte size"));
    }
    Ok((offset as usize, byte_size as usize)) // inside a region, whose length is a `usize`
}

fn status(region: &Region) -> RegionStatus {
    let (key, offset, device_id) = match region.memory() {
        Memory::System { key, offset, .. } => (key.clone(), *offset, 0),
        Memory::Cuda(memory) => (String::new(), 0, memory.device_id()),
    };
    RegionStatus { name: region.name().to_owned(), key, offset, device_id, byte_size: region.byte_size() as u64 }
}

#[cfg(test)]
mod tests;
