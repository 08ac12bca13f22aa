//! Which output repeats which input.

use server_core::tensor::{DataType, Name, Shape};

/// One output and the input it repeats.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    /// `INPUT<k>`.
    pub(super) input: Name,
    /// `OUTPUT<k>`.
    pub(super) output: Name,
    /// Type of both.
    pub(super) data_type: DataType,
    /// Configured extents of the output, without the batch dimension.
    pub(super) dims: Shape,
    /// Whether the shape of the output is `dims` whatever shape the input was given.
    pub(super) is_reshaped: bool,
}
