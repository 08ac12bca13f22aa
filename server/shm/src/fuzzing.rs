//! Entry point for fuzzing, as those of `server_core::fuzzing`: parts of shared memory that a request may speak of.

pub use crate::client::fuzzing::parts;
