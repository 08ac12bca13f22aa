//! How the caller wants the outputs of an inference: as JSON, as binary data, in shared memory, or as classes.

use std::sync::Arc;

use server_core::tensor::Name;
use smallvec::SmallVec;

use crate::json::response::Form;

/// How the caller wants one output.
#[derive(Debug, Clone)]
pub(super) struct OutputOption {
    pub(super) name: Name,
    pub(super) form: Form,
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

    pub(super) fn form(&self, position: usize, name: &Name) -> Form {
        let default = if self.is_binary_by_default { Form::Binary } else { Form::Json };
        self.of(position, name).map_or(default, |option| option.form)
    }
}
