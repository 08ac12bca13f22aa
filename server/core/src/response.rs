//! What a backend answers, and what a caller receives.

use std::{ops::Deref, sync::Arc};

use smallvec::SmallVec;

use crate::{
    parameters::{Parameter, Parameters},
    tensor::{Name, Tensor},
};

/// Parameters of a response, in the order set. Shared: many backends set the same ones, or none, on every response.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResponseParameters(Option<Arc<Parameters>>);

impl Deref for ResponseParameters {
    type Target = [(String, Parameter)];

    fn deref(&self) -> &Self::Target {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }
}

impl From<Parameters> for ResponseParameters {
    fn from(parameters: Parameters) -> Self {
        Self((!parameters.is_empty()).then(|| Arc::new(parameters)))
    }
}

/// The backend's part of one response.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// Tensors; those nobody asked for are dropped on the way out.
    pub tensors: SmallVec<[Tensor; 2]>,
    /// Parameters set by the backend.
    pub parameters: ResponseParameters,
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
    pub parameters: ResponseParameters,
    /// In the order in which the backend gave them.
    pub outputs: SmallVec<[Tensor; 2]>,
}
