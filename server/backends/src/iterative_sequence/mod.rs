//! The `iterative_sequence` backend: counts `INPUT` down, one response for each step, and asks for another turn in the queue
//! between two of them, for servers and clients that try iterative sequences out. It needs no library and no model file.
//!
//! | tensor | | |
//! |---|---|---|
//! | `INPUT` | INT32 `[1]` | where to start: `n` gives `n` responses, from `n - 1` to 0 |
//! | `OUTPUT` | INT32 `[1]` | what is left |
//!
//! The model must be decoupled and use sequence batching with `iterative_sequence`; it takes any controls. Who is behind with
//! reading holds up its own request only.
//!
//! Source: test backend of Triton.

mod instance;
mod model;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use server_core::{
    backend::{Backend, Host, Model, ModelSource, Settings},
    config::ModelConfig,
    error::Result,
};

use model::IterativeSequenceModel;

/// The backend. It has no settings.
pub(crate) fn backend(_settings: Settings) -> Arc<dyn Backend> {
    Arc::new(IterativeSequence)
}

struct IterativeSequence;

impl Backend for IterativeSequence {
    fn name(&self) -> &str {
        "iterative_sequence"
    }

    fn open(
        &self,
        _source: &ModelSource,
        _config: &mut ModelConfig, // there is no file that could know more
        _may_complete: bool,
        _host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        Ok(Box::new(IterativeSequenceModel))
    }
}
