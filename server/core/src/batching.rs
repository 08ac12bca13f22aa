//! Dynamic batching: who waits ([`queue`]), who may share a batch ([`shapes`]) and when it runs ([`policy`]).

pub mod policy;
pub mod queue;
pub mod shapes;
