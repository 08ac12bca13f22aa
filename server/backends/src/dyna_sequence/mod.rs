//! The `dyna_sequence` backend: `sequence` for the oldest strategy, where a row of the batch says nothing about whose it
//! is. It reads two more controls:
//!
//! | tensor | | |
//! |---|---|---|
//! | `CORRID` | control, any type | whose sum it is |
//! | `END` | control | the last sum of the sequence is answered with the identity added to it |
//!
//! Source: dyna_sequence backend of Triton; its clients' examples say that the last answer has the identity added.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use server_core::{
    backend::{Backend, Host, Model, ModelSource, Settings},
    config::ModelConfig,
    error::Result,
};

use crate::sequence::{Identity, SequenceModel};

/// The backend. It has no settings.
pub(crate) fn backend(_settings: Settings) -> Arc<dyn Backend> {
    Arc::new(DynaSequence)
}

struct DynaSequence;

impl Backend for DynaSequence {
    fn name(&self) -> &str {
        "dyna_sequence"
    }

    fn open(
        &self,
        _source: &ModelSource,
        _config: &mut ModelConfig, // there is no file that could know more
        _may_complete: bool,
        _host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        Ok(Box::new(SequenceModel::new(Identity::CorrelationId)))
    }
}
