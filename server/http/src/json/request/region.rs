//! The parameters that say where in shared memory a tensor lies, of an input or of an output.

use super::typed::{string, unsigned};
use crate::json::{
    reader::{Parsed, Reader},
    value::text,
};

/// A part of a shared-memory region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Region {
    /// Name it was registered under.
    pub(crate) name: String,
    /// Where in the region the part begins, bytes.
    pub(crate) offset: u64,
    /// Length in bytes.
    pub(crate) byte_size: u64,
}

/// The parameters while they come.
#[derive(Debug, Default)]
pub(super) struct RegionParameters {
    name: Option<String>,
    offset: u64,
    byte_size: u64,
}

impl RegionParameters {
    /// Reads the value of the parameter of that name, if it is one of these.
    pub(super) fn read(&mut self, name: &[u8], reader: &mut Reader<'_>) -> Parsed<bool> {
        match name {
            b"shared_memory_region" => self.name = Some(text(&string(reader, "shared_memory_region")?)),
            b"shared_memory_offset" => self.offset = unsigned(reader, "shared_memory_offset")?,
            b"shared_memory_byte_size" => self.byte_size = unsigned(reader, "shared_memory_byte_size")?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether a region is named: the other parameters mean nothing alone.
    pub(super) fn is_named(&self) -> bool {
        self.name.is_some()
    }

    /// The part, if a region is named.
    pub(super) fn named(self) -> Option<Region> {
        let Self { name, offset, byte_size } = self;
        Some(Region { name: name?, offset, byte_size })
    }
}
