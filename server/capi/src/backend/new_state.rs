//! A state of a sequence that is being made.

use server_core::tensor::{DataType, Shape};

use super::memory::Block;
use crate::abi::{Handle, objects::BufferAttributes};

/// A state that is being made: a part of its request.
pub(crate) struct NewState {
    pub(super) name: String,
    pub(super) data_type: DataType,
    pub(super) shape: Shape,
    pub(super) block: Option<Block>,
    /// What the library was given to look at: gone with the request.
    pub(super) attributes: Option<Handle<BufferAttributes>>,
}

impl Drop for NewState {
    fn drop(&mut self) {
        if let Some(handle) = self.attributes.take() {
            let _ = handle.take(); // the library deleted it, which is not its to do
        }
    }
}
