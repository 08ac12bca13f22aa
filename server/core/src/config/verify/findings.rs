//! What checks find.

use crate::config::Problem;

/// Where the checks put what they find.
pub(super) struct Findings<'a> {
    /// Name of the model, which many sentences end with.
    pub(super) model: &'a str,
    pub(super) problems: Vec<Problem>,
}

impl Findings<'_> {
    pub(super) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem::new(path, message));
    }

    /// Adds a sentence that ends with ` for MODEL`.
    pub(super) fn add_for_model(&mut self, path: impl Into<String>, message: impl AsRef<str>) {
        let message = format!("{} for {}", message.as_ref(), self.model);
        self.add(path, message);
    }
}
