//! Sequences of requests that belong together, and what the server keeps for them. A sequence holds one slot of one
//! instance from its first request to its last ([`slots`]); a strategy says which requests run together: row by row
//! ([`direct`]) or by age ([`oldest`]). The model learns through extra inputs where in its sequence a request stands
//! ([`controls`]) and what was kept from the one before ([`state`]).
//!
//! Source: Triton model configuration, "Sequence Batcher"; Triton, "Stateful Models", "Implicit State Management" and
//! "Iterative Sequences".

mod backlog;
pub mod controls;
pub mod direct;
pub mod item;
pub mod oldest;
pub mod settings;
mod slots;
pub mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

/// One sequence slot of one instance. The order is the order in which free slots are given away: every instance gets a
/// first sequence before any gets a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRef {
    /// Number among the slots of the instance; with the direct strategy the row of the batch.
    pub number: u32,
    /// Number of the instance.
    pub instance: u32,
}
