//! The `identity` backend: answers `OUTPUT<k>` with what came as `INPUT<k>`, any type, any shape, no copy. It needs no
//! library and no model file; servers and clients are tried out and measured with it.
//!
//! | parameter of the configuration | |
//! |---|---|
//! | `execute_delay_ms` | how long one execution takes |
//! | `instance_wise_delay_multiplier` | instance `n` takes `n` times this as long, once as long at least |
//! | `creation_delay_sec` | how long the load takes |
//!
//! The metrics page shows the bytes that each model was given as `input_byte_size_counter`.
//!
//! Source: identity backend of Triton.

mod input_bytes;
mod instance;
mod model;
mod pair;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use server_core::{
    backend::{Backend, Host, Model, ModelSource, Settings},
    config::ModelConfig,
    error::Result,
};

use model::IdentityModel;

/// The backend. It has no settings.
pub(crate) fn backend(_settings: Settings) -> Arc<dyn Backend> {
    Arc::new(Identity)
}

struct Identity;

impl Backend for Identity {
    fn name(&self) -> &str {
        "identity"
    }

    fn open(
        &self,
        _source: &ModelSource,
        _config: &mut ModelConfig, // there is no file that could know more
        _may_complete: bool,
        _host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        Ok(Box::new(IdentityModel::default()))
    }
}
