//! What is wrong in a text, and where.

use std::fmt;

/// A mistake in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line in the text, from 1.
    pub line: usize,
    /// Column in the text, from 1.
    pub column: usize,
    /// The resource it is in, such as `TritonModel digits`; empty where that is not known.
    pub resource: String,
    /// The field, as [`crate::Problem::path`]; empty where the text is not YAML.
    pub path: String,
    /// What is wrong and the cure.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        for part in [&self.resource, &self.path] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}
