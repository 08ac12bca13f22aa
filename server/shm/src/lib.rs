//! Memory that other processes can map: a [`Segment`] is one piece of it, a [`SegmentPool`] keeps pieces for reuse. Nothing
//! of it has a name in the file system: the kernel takes it back with the last process that has it. [`Regions`] are the
//! opposite: memory that clients have made and named, and that the server maps.
//!
//! What lies in a segment is handed out as [`bytes::Bytes`], so that it goes wherever the bytes of a request or a response go;
//! [`Segment::of`] finds the segment again, for whoever can pass it on by reference.
//!
//! [`prefetch`] says to the processor which memory, of whatever kind, is about to be used.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
// Unsafe code is allowed in `segment`, in `client` (mapping, faults, cuda), in `prefetch`, and where `pool` promises that a segment has one user.

mod available;
mod client;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod pool;
mod prefetch;
mod segment;

pub use available::available as available_memory;
pub use client::{Kind, MAX_REGIONS, Part, Region, RegionStatus, Regions};
pub use pool::{Limits, SegmentPool, Writable};
pub use prefetch::prefetch;
pub use segment::{Segment, Shared};
