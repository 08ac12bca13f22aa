//! The `onnxruntime` backend: ONNX models, on the CPU or on GPUs. The library is opened when the first model needs it.
//!
//! [`library`] opens it, and [`plugins`] libraries with further execution providers, [`signature`] and [`declared`] read a model file's inputs and outputs, [`complete`] and [`verify`]
//! compare them with a configuration, [`options`], [`providers`] and [`provider_options`] set a session up, [`instance`] runs it, [`convert`]
//! moves tensors, [`computed`] makes those that describe a batch, [`sequence`] says which belong to sequences, and [`raw`] has the calls that are not safe by themselves.

mod arena;
mod captured;
mod complete;
mod computed;
mod convert;
mod declared;
mod device_copy;
mod instance;
mod library;
mod model;
mod newer;
mod options;
mod plugins;
mod provider_options;
mod providers;
mod raw;
mod sequence;
#[cfg(test)]
mod sequence_tests;
mod signature;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

use server_core::{
    backend::{Backend, Host, Model, ModelSource, Settings},
    config::ModelConfig,
    error::{Error, Result},
};

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
        &["batch_input", "batch_output", "model_operations", "sequence_batching.state"]
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
            let default = options::number(&self.settings, "default-max-batch-size")?.unwrap_or(DEFAULT_MAX_BATCH_SIZE);
            let file = model::file(source, config)?;
            let signature = guarded(&source.name, || model::inspect(runtime, &file, config, &source.model_dir))?;
            of_any_shape = complete::complete(config, &signature, i32::try_from(default).unwrap_or(i32::MAX))?;
        }
        Ok(Box::new(OnnxModel::new(runtime, &self.settings, source, of_any_shape)))
    }
}

/// Runs a step of loading so that a mistake in it costs this model and nothing else.
fn guarded<T>(model: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let failed = || Error::internal(format!("backend 'onnxruntime' failed inside while it loaded model '{model}'"));
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| Err(failed()))
}
