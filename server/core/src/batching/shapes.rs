//! What may share a batch: requests with the same inputs of the same shape, the batch dimension aside.
//!
//! Source: Triton model configuration, "Dynamic Batcher"; optional inputs must be present in all requests of a batch.

use super::queue::Item;
use crate::{batch::Pending, tensor::Tensor};

impl Item for Pending {
    fn rows(&self) -> u32 {
        self.batch_size()
    }

    fn is_abandoned(&self) -> bool {
        self.completion.is_cancelled()
    }

    fn may_share(&self, other: &Self) -> bool {
        let (own, others) = (&self.request.inputs, &other.request.inputs);
        own.len() == others.len() && own.iter().all(|tensor| others.iter().any(|other| is_alike(tensor, other)))
    }
}

fn is_alike(tensor: &Tensor, other: &Tensor) -> bool {
    tensor.name == other.name && tensor.shape.get(1..) == other.shape.get(1..)
}
