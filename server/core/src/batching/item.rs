//! What a queue must know of the things in it.

use crate::tensor::Name;

/// What a queue must know of the things in it.
pub trait Item {
    /// Rows it adds to a batch, at least 1.
    fn rows(&self) -> u32;
    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool;
    /// Whether it may run in one batch with `other`: equal where the model's shapes are variable, but for `exceptions`.
    fn may_share(&self, other: &Self, exceptions: &Exceptions) -> bool;
}

/// Inputs that are compared in another way than by their shapes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exceptions {
    /// Of any shape: each request's lies in the batch as it is.
    pub ragged: Box<[Name]>,
    /// Shape tensors: the batch has one, so the values must be the same.
    pub values: Box<[Name]>,
}
