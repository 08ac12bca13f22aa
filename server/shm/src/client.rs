//! Shared memory of clients: regions that they make, register under a name, and speak of in requests in place of bytes.
//!
//! The client keeps its region and may do with it what it likes: write it at any time, make it shorter, remove its name. So
//! bytes of a region are only ever moved as opaque data, as those of a [`crate::Segment`]; and an access behind the end of
//! what is left finds zeros, and the region is broken from then on ([`faults`]).
//!
//! Source: Triton's shared-memory extension; its texts where it has one.

mod cuda;
mod faults;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod key;
mod mapping;
mod part;
mod region;
mod regions;

pub use faults::MAX_REGIONS;
pub use part::Part;
pub use region::{Kind, Region};
pub use regions::{RegionStatus, Regions};
