//! Counters that something keeps beside the server's own.

/// A counter that a model keeps beside the server's own. The page shows it with the labels `model` and `version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomCounter {
    /// Name of the family: the same help text wherever it is used.
    pub name: &'static str,
    /// What it counts, for the page.
    pub help: &'static str,
    /// How many so far.
    pub value: u64,
}
