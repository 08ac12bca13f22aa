//! How the caller wants the outputs of an inference: as JSON, as binary data, or as classes.

use std::sync::Arc;

use server_core::tensor::Name;
use smallvec::SmallVec;

/// How the caller wants one output.
#[derive(Debug, Clone)]
pub(super) struct OutputOption {
    pub(super) name: Name,
    /// As binary data behind the JSON.
    pub(super) is_binary: bool,
    /// So many top classes instead of the values; 0 for the values.
    pub(super) classification: u32,
}

/// How the caller wants the outputs.
#[derive(Debug, Clone, Default)]
pub(super) struct OutputOptions {
    /// Outputs that the request does not name.
    pub(super) is_binary_by_default: bool,
    /// In the order of the request.
    pub(super) named: SmallVec<[OutputOption; 2]>,
}

impl OutputOptions {
    /// The option of an output, which is most often the one at its own position.
    pub(super) fn of(&self, position: usize, name: &Name) -> Option<&OutputOption> {
        let same = |option: &&OutputOption| Arc::ptr_eq(&option.name, name) || option.name == *name;
        self.named.get(position).filter(same).or_else(|| self.named.iter().find(same))
    }

    pub(super) fn is_binary(&self, position: usize, name: &Name) -> bool {
        self.of(position, name).map_or(self.is_binary_by_default, |option| option.is_binary)
    }
}
