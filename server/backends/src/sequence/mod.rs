//! The `sequence` backend: answers `OUTPUT` with the sum of what came as `INPUT` since its sequence started, for servers
//! and clients that try sequences out. It needs no library and no model file. A row of the batch is a sequence, as the
//! direct strategy has it; `dyna_sequence` tells sequences apart by their identity.
//!
//! | tensor | | |
//! |---|---|---|
//! | `INPUT` | INT32 | the value to add |
//! | `OUTPUT` | INT32, as `INPUT` | the sum |
//! | `START` | control | the sum starts anew |
//! | `READY` | control | there is a request; without one the row answers zeros and its sum stays |
//!
//! | parameter of the configuration | |
//! |---|---|
//! | `execute_delay_ms` | how long one execution takes |
//!
//! Source: sequence backend of Triton.

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

pub(crate) use instance::Identity;
pub(crate) use model::SequenceModel;

/// The backend. It has no settings.
pub(crate) fn backend(_settings: Settings) -> Arc<dyn Backend> {
    Arc::new(Sequence)
}

struct Sequence;

impl Backend for Sequence {
    fn name(&self) -> &str {
        "sequence"
    }

    fn open(
        &self,
        _source: &ModelSource,
        _config: &mut ModelConfig, // there is no file that could know more
        _may_complete: bool,
        _host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        Ok(Box::new(SequenceModel::new(Identity::Row)))
    }
}
