//! Sequences of requests that belong together: which slot of which instance runs them.
//!
//! Source: Triton, "Stateful Models".

/// One sequence slot of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRef {
    /// Number among the slots of the instance; with the direct strategy the row of the batch.
    pub number: u32,
    /// Number of the instance.
    pub instance: u32,
}
