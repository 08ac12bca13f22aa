//! The `distributed_addsub` backend: `OUTPUT0` is the sum of `INPUT0` and `INPUT1`, `OUTPUT1` their difference, element by
//! element, of any type of number. It needs no library and no model file. Whole numbers wrap around.
//!
//! Source: test backend of Triton, where it shows a backend that lies in several libraries.

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

use model::AddSubModel;

/// The backend. It has no settings.
pub(crate) fn backend(_settings: Settings) -> Arc<dyn Backend> {
    Arc::new(DistributedAddSub)
}

struct DistributedAddSub;

impl Backend for DistributedAddSub {
    fn name(&self) -> &str {
        "distributed_addsub"
    }

    fn open(
        &self,
        _source: &ModelSource,
        _config: &mut ModelConfig, // there is no file that could know more
        _may_complete: bool,
        _host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        Ok(Box::new(AddSubModel::default()))
    }
}
