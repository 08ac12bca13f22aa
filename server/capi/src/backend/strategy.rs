//! Which requests run together, as a library says: the functions `TRITONBACKEND_ModelBatch...` of a library that the model names, of
//! one that lies beside the model or its backend, or of the backend library itself.
//!
//! | order | place |
//! |---|---|
//! | 1 | the parameter `TRITON_BATCH_STRATEGY_PATH` of the configuration |
//! | 2 | `batchstrategy.so` in the folder of the version, of the model, of the backend |
//! | 3 | the backend library |

use std::{
    ffi::c_void,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use parking_lot::Mutex;
use server_core::{
    backend::ModelSource,
    batch::Pending,
    batching::strategy::{BatchStrategy, OpenBatch},
    config::{ModelConfig, SchedulingChoice},
    error::{Error, Result},
};

use super::{
    answering::Answering,
    library::{Batcher, StrategyFunctions},
    model::Model,
    request::Request,
};
use crate::abi::Handle;

/// The parameter of a configuration that names a library.
const PARAMETER: &str = "TRITON_BATCH_STRATEGY_PATH";
/// A library of that name needs no parameter.
const FILE: &str = "batchstrategy.so";

/// What a library says of the batches of one model.
pub(crate) struct Strategy {
    functions: StrategyFunctions,
    model: Arc<Model>,
    batcher: Mutex<Option<Address>>,
}

/// An address that means something to the library alone.
struct Address(Batcher);

// SAFETY: the headers bind the library to take its batcher on any thread.
#[allow(unsafe_code)]
unsafe impl Send for Address {}

impl Strategy {
    /// The strategy of a model that batches, if it has one. `own` are the functions of the backend library, `folder` is its place.
    ///
    /// Errors: the library that the model names is not there, cannot be opened or is no strategy; or what it says at its start.
    pub(crate) fn of(
        config: &ModelConfig,
        source: &ModelSource,
        folder: &Path,
        own: Option<StrategyFunctions>,
        model: &Arc<Model>,
        handle: Handle<Model>,
    ) -> Result<Option<Arc<Self>>> {
        if !matches!(config.scheduling_choice, Some(SchedulingChoice::DynamicBatching(_))) {
            return Ok(None);
        }
        let named = config.parameters.get(PARAMETER).map(|parameter| PathBuf::from(&parameter.string_value));
        if let Some(path) = named.as_ref().filter(|path| !path.is_file()) {
            let text = format!("Batching library path not found: {}", path.display());
            return Err(Error::not_found(text));
        }
        let beside = [&source.version_dir, &source.model_dir, folder].map(|place| place.join(FILE));
        let path = named.or_else(|| beside.into_iter().find(|path| path.is_file()));
        let functions = path.map(|path| StrategyFunctions::open(&path)).transpose()?.or(own);
        let Some(functions) = functions else { return Ok(None) };
        let batcher = Mutex::new(Some(Address(functions.initialize(handle)?)));
        Ok(Some(Arc::new(Self { functions, model: model.clone(), batcher })))
    }

    /// The model ends: so does its batcher. Batches are formed without it then.
    pub(crate) fn end(&self) {
        if let Some(Address(batcher)) = self.batcher.lock().take()
            && let Err(error) = self.functions.finalize(batcher)
        {
            tracing::error!("TRITONBACKEND_ModelBatcherFinalize failed: {error}");
        }
    }
}

impl BatchStrategy<Pending> for Strategy {
    fn begin(&self) -> Option<Box<dyn OpenBatch<Pending> + '_>> {
        let batcher = self.batcher.lock();
        let batch = self.functions.begin(batcher.as_ref()?.0);
        let batch = batch.inspect_err(|error| tracing::error!("TRITONBACKEND_ModelBatchInitialize failed: {error}"));
        Some(Box::new(Open { strategy: self, batch: batch.ok()? }))
    }
}

/// A batch that is being formed.
struct Open<'a> {
    strategy: &'a Strategy,
    batch: *mut c_void,
}

impl OpenBatch<Pending> for Open<'_> {
    fn includes(&mut self, pending: &Pending) -> bool {
        let answering = Answering::of_waiting(self.strategy.model.clone(), &pending.completion, Instant::now());
        let handle = Handle::new(Request::new(pending.request.clone(), Arc::new(answering)));
        let includes = self.strategy.functions.includes(handle, self.batch);
        let _ = handle.take(); // the library gave it back, which is not its to do
        includes.unwrap_or_else(|error| {
            tracing::error!("TRITONBACKEND_ModelBatchIncludeRequest failed: {error}");
            false
        })
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.strategy.functions.end(self.batch) {
            tracing::error!("TRITONBACKEND_ModelBatchFinalize failed: {error}");
        }
    }
}
