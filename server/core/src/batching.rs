//! Dynamic batching: who waits ([`queue`], [`levels`]), who may share a batch ([`shapes`], [`strategy`]), when it runs ([`policy`]) and
//! how its tensors become one and come apart again ([`pack`], [`batch_input`]).

pub mod batch_input;
pub mod item;
pub mod levels;
pub mod pack;
pub mod policy;
pub mod queue;
pub mod shapes;
pub mod strategy;

#[cfg(test)]
mod rules_tests;
