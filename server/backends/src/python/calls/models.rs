//! Loads, unloads and readiness of models, for a model that asks.

use bytes::Bytes;
use server_core::error::Result;

use super::{Calls, call};

impl Calls {
    /// Loads a model as a client's request does.
    pub(super) fn load(&self, name: &str, config: Option<String>, files: Vec<(String, Bytes)>) -> Result<()> {
        self.host()?.load_model(&self.model, name, config, files)
    }

    pub(super) fn unload(&self, name: &str, unload_dependents: bool) -> Result<()> {
        self.host()?.unload_model(&self.model, name, unload_dependents)
    }

    pub(super) fn is_ready(&self, name: &str, version: &str) -> Result<bool> {
        self.host()?.is_model_ready(name, call::version(version)?)
    }
}
