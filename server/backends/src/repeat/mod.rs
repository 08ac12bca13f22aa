//! The `repeat` backend: answers each value of `IN` with a response of its own, for clients and servers that try decoupled
//! models out. It needs no library and no model file, and takes no batches.
//!
//! | tensor | | |
//! |---|---|---|
//! | `IN` | INT32 `[n]` | the values, one response for each; none gives the final flag alone |
//! | `DELAY` | UINT32 `[n]` | milliseconds before each response, counted from the one before |
//! | `WAIT` | UINT32 `[1]` | milliseconds after which the instance takes the next request |
//! | `OUT` | INT32 `[1]` | the value |
//! | `IDX` | UINT32 `[1]` | number of the response, from 0 |
//!
//! A request that is cancelled ends at once, and frees its instance.
//!
//! Source: repeat backend of Triton.

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

use model::RepeatModel;

/// The backend. It has no settings.
pub(crate) fn backend(_settings: Settings) -> Arc<dyn Backend> {
    Arc::new(Repeat)
}

struct Repeat;

impl Backend for Repeat {
    fn name(&self) -> &str {
        "repeat"
    }

    fn open(
        &self,
        _source: &ModelSource,
        _config: &mut ModelConfig, // there is no file that could know more
        _may_complete: bool,
        _host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        Ok(Box::new(RepeatModel))
    }
}
