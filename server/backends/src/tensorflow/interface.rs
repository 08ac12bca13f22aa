//! What callers may ask of a graph, and which of its tensors that is.

use std::collections::BTreeMap;

use crate::native::Signature;

/// One way to ask a graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Interface {
    /// Inputs and outputs in the words of callers.
    pub(super) signature: Signature,
    /// The tensors of the graph, `OPERATION:INDEX`, that inputs are.
    pub(super) inputs: BTreeMap<String, String>,
    /// Those that outputs are.
    pub(super) outputs: BTreeMap<String, String>,
}
