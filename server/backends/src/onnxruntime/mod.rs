//! The `onnxruntime` backend: ONNX models, on the CPU or on GPUs. The library is opened when the first model needs it.
//!
//! [`library`] opens it, and [`plugins`] libraries with further execution providers, [`describe`] and [`declared`] read a model file's
//! inputs and outputs, [`options`], [`providers`] and [`provider_options`] set a session up, [`runner`] runs it, and [`raw`] has the
//! calls that are not safe by themselves. What lies between a run and its requests is in [`crate::native`].

mod allocator;
mod arena;
mod captured;
mod declared;
mod describe;
mod device_copy;
mod element;
mod library;
mod model;
mod newer;
mod options;
mod plugins;
mod provider_options;
mod providers;
mod raw;
mod runner;
#[cfg(test)]
mod sequence_tests;
mod session;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use server_core::{
    backend::{Backend, Host, Model, ModelSource, Settings},
    config::ModelConfig,
    error::Result,
};

use crate::native::{complete, loading, settings};
use model::OnnxModel;

/// `--backend-config=onnxruntime,default-max-batch-size=` if it is not given.
const DEFAULT_MAX_BATCH_SIZE: usize = 4;

/// The backend with its settings: `library`, `default-max-batch-size`, `enable-global-threadpool`,
/// `intra_op_thread_count`, `inter_op_thread_count`, `enable-shared-arena`, `ep-library.NAME`.
pub(crate) fn backend(settings: Settings) -> Arc<dyn Backend> {
    Arc::new(OnnxRuntime { settings })
}

struct OnnxRuntime {
    settings: Settings,
}

impl Backend for OnnxRuntime {
    fn name(&self) -> &str {
        "onnxruntime"
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
        if may_complete && !complete::is_complete(config) {
            let default = settings::number(&self.settings, "default-max-batch-size")?.unwrap_or(DEFAULT_MAX_BATCH_SIZE);
            let file = model::file(source, config, loading::first_device(config))?;
            let signature = model::guarded(&source.name, || model::inspect(runtime, &file, config, &source.model_dir))?;
            of_any_shape = complete::complete(config, &signature, i32::try_from(default).unwrap_or(i32::MAX))?;
        }
        Ok(Box::new(OnnxModel::new(runtime, &self.settings, source, of_any_shape)))
    }
}
