//! What a backend answers, and what a caller receives.

use smallvec::SmallVec;

use crate::{
    request::Parameters,
    tensor::{Name, Tensor},
};

/// The backend's part of one response.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// Tensors; those nobody asked for are dropped on the way out.
    pub tensors: SmallVec<[Tensor; 2]>,
    /// Parameters set by the backend.
    pub parameters: Parameters,
}

/// One response as a front end writes it.
#[derive(Debug, Clone)]
pub struct InferResponse {
    /// Model that answered.
    pub model_name: Name,
    /// Its concrete version.
    pub model_version: u64,
    /// The request's id, possibly empty.
    pub id: String,
    /// Parameters set by the backend.
    pub parameters: Parameters,
    /// In the order the caller asked for, or of the configuration.
    pub outputs: SmallVec<[Tensor; 2]>,
}
