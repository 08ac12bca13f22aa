//! The `pytorch` backend: TorchScript models (`pytorch_libtorch`, `model.pt`) and packages of AOTInductor (`torch_aoti`, `model.pt2`).
//! libtorch has no C interface, so it is called through a shim, which `deploy/shims/build` compiles for the libtorch that is there.
//!
//! [`library`] opens the shim when the first model needs it, and [`raw`] calls it. [`options`] reads the parameters of a model, [`places`]
//! says which tensor of a configuration is which argument or output of a script, [`package`] the same of a package, [`types`] has the
//! element types, [`model`] loads, and [`runner`] runs.

mod library;
mod model;
mod options;
mod package;
mod places;
mod raw;
mod runner;
#[cfg(test)]
mod tests;
mod types;

use std::sync::{Arc, Weak};

use server_core::{
    backend::{Backend, Host, Model, ModelSource, Settings},
    config::ModelConfig,
    error::Result,
};

use library::NAME;
use model::TorchModel;

/// The backend with its setting: `library`.
pub(crate) fn backend(settings: Settings) -> Arc<dyn Backend> {
    Arc::new(PyTorch { settings })
}

struct PyTorch {
    settings: Settings,
}

impl Backend for PyTorch {
    fn name(&self) -> &str {
        NAME
    }

    fn supported_fields(&self) -> &[&str] {
        &["batch_input", "batch_output", "cc_model_filenames", "model_operations", "sequence_batching.state"]
    }

    /// Completes nothing: neither a script nor a package says types and shapes.
    fn open(
        &self,
        source: &ModelSource,
        config: &mut ModelConfig,
        may_complete: bool,
        _host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        let runtime = library::runtime(&self.settings)?;
        if may_complete && (config.input.is_empty() || config.output.is_empty()) {
            tracing::warn!(
                "skipping model configuration auto-complete for '{}': not supported for pytorch backend",
                source.name
            );
        }
        Ok(Box::new(TorchModel::new(runtime, source)))
    }
}
