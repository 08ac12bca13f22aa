//! The `tensorflow` backend: SavedModels and GraphDefs, through TensorFlow's C interface. The library is opened when the first model
//! needs it.
//!
//! [`library`] opens it, [`saved_model`] and [`graph_def`] say what a model takes and gives (an [`interface`]), [`complete`] fills a configuration in,
//! [`options`] and [`messages`] set a session up, [`runner`] runs it, [`fetches`] bounds what TensorFlow keeps of that, [`types`] names element types, and [`raw`] has the calls that
//! are not safe by themselves. What native runtimes have in common is in [`crate::native`].

mod complete;
mod fetches;
mod graph_def;
mod interface;
mod library;
mod messages;
mod model;
mod options;
mod raw;
mod runner;
mod saved_model;
#[cfg(test)]
mod tests;
mod types;

use std::sync::{Arc, Weak};

use server_core::{
    backend::{Backend, Host, Model, ModelSource, Settings},
    config::ModelConfig,
    error::Result,
};

use crate::native::loading;
use model::TensorFlowModel;

/// The backend with its settings: `library`, `default-max-batch-size`, `allow-soft-placement`, `gpu-memory-fraction`, `version`.
pub(crate) fn backend(settings: Settings) -> Arc<dyn Backend> {
    Arc::new(TensorFlow { settings })
}

struct TensorFlow {
    settings: Settings,
}

impl Backend for TensorFlow {
    fn name(&self) -> &str {
        "tensorflow"
    }

    fn supported_fields(&self) -> &[&str] {
        &["batch_input", "batch_output", "cc_model_filenames", "model_operations", "sequence_batching.state"]
    }

    fn open(
        &self,
        source: &ModelSource,
        config: &mut ModelConfig,
        may_complete: bool,
        _host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        let runtime = library::runtime(&self.settings)?;
        let mut of_any_shape = Vec::new();
        if may_complete && !model::is_graph(config) {
            let default = options::default_max_batch_size(&self.settings)?;
            of_any_shape = loading::guarded("tensorflow", &source.name, || {
                let interface = model::inspect(runtime, config, &self.settings, source)?;
                complete::complete(config, &interface.signature, default)
            })?;
        }
        Ok(Box::new(TensorFlowModel::new(runtime, &self.settings, source, of_any_shape)))
    }
}
