//! The `square` backend: answers `IN` with as many responses as its value says, each with that value as `OUT`, for clients
//! and servers that try decoupled models and their statistics out. It needs no library and no model file. Requests are
//! batched only as far as each brings one row.
//!
//! | parameter of the configuration | |
//! |---|---|
//! | `CUSTOM_INFER_DELAY_NS` | how long each response is computed |
//! | `CUSTOM_OUTPUT_DELAY_NS` | how long its output is made |
//! | `CUSTOM_CANCEL_DELAY_NS` | how long cleaning up takes after the caller has left |
//! | `CUSTOM_FAIL_COUNT` | so many responses are errors: the last ones before those that are empty |
//! | `CUSTOM_EMPTY_COUNT` | so many responses are empty: the last ones. They are counted, and not sent |
//!
//! Values that are no number count as 0.
//!
//! Source: square backend of Triton.

mod custom;
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

use model::SquareModel;

/// The backend. It has no settings.
pub(crate) fn backend(_settings: Settings) -> Arc<dyn Backend> {
    Arc::new(Square)
}

struct Square;

impl Backend for Square {
    fn name(&self) -> &str {
        "square"
    }

    fn open(
        &self,
        _source: &ModelSource,
        _config: &mut ModelConfig, // there is no file that could know more
        _may_complete: bool,
        _host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        Ok(Box::new(SquareModel::default()))
    }
}
