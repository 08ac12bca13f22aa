//! An open backend library, and the functions that it has for the server. What is not optional is checked here.

use std::{ffi::c_void, path::Path};

use libloading::os::unix::Library as Opened;
use server_core::error::{Error, Result};

use super::{attributes::Attributes, instance::Instance, model::Model, object::Backend, request::Request};
use crate::{
    abi::{Handle, Status, objects::result_of},
    library::{function, open, required},
};

/// A function of a library that is given one object.
type With<T> = unsafe extern "C" fn(Handle<T>) -> Status;
type Execute = unsafe extern "C" fn(Handle<Instance>, *mut Handle<Request>, u32) -> Status;
type GetAttribute = unsafe extern "C" fn(Handle<Backend>, Handle<Attributes>) -> Status;

/// What a library calls its batcher: an address that means something to it alone.
pub(crate) type Batcher = *mut c_void;
type BatcherInitialize = unsafe extern "C" fn(*mut Batcher, Handle<Model>) -> Status;
type BatcherFinalize = unsafe extern "C" fn(Batcher) -> Status;
type BatchInclude = unsafe extern "C" fn(Handle<Request>, *mut c_void, *mut bool) -> Status;
type BatchInitialize = unsafe extern "C" fn(Batcher, *mut *mut c_void) -> Status;
type BatchFinalize = unsafe extern "C" fn(*mut c_void) -> Status;

/// The functions of a backend library, by the part of their names behind `TRITONBACKEND_`.
pub(crate) struct Library {
    initialize: Option<With<Backend>>,
    finalize: Option<With<Backend>>,
    get_attribute: Option<GetAttribute>,
    model_initialize: Option<With<Model>>,
    model_finalize: Option<With<Model>>,
    instance_initialize: Option<With<Instance>>,
    instance_finalize: Option<With<Instance>>,
    instance_ready: Option<With<Instance>>,
    execute: Execute,
    /// Its strategy for batches, if it has one.
    pub(crate) strategy: Option<StrategyFunctions>,
}

/// The functions by which a library says which requests run together.
#[derive(Clone, Copy)]
pub(crate) struct StrategyFunctions {
    initialize: Option<BatcherInitialize>,
    finalize: Option<BatcherFinalize>,
    batch_initialize: BatchInitialize,
    include: BatchInclude,
    batch_finalize: BatchFinalize,
}

impl Library {
    /// Opens the library in that file.
    ///
    /// Errors: it cannot be opened, in the loader's words; or it is no backend.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let opened = open(path)?;
        let execute = required(opened, c"TRITONBACKEND_ModelInstanceExecute", path)?;
        Ok(Self {
            initialize: function(opened, c"TRITONBACKEND_Initialize"),
            finalize: function(opened, c"TRITONBACKEND_Finalize"),
            get_attribute: function(opened, c"TRITONBACKEND_GetBackendAttribute"),
            model_initialize: function(opened, c"TRITONBACKEND_ModelInitialize"),
            model_finalize: function(opened, c"TRITONBACKEND_ModelFinalize"),
            instance_initialize: function(opened, c"TRITONBACKEND_ModelInstanceInitialize"),
            instance_finalize: function(opened, c"TRITONBACKEND_ModelInstanceFinalize"),
            instance_ready: function(opened, c"TRITONBACKEND_ModelInstanceReady"),
            execute,
            strategy: StrategyFunctions::of(opened),
        })
    }

    /// `Initialize`.
    pub(crate) fn initialize(&self, backend: Handle<Backend>) -> Result<()> {
        call(self.initialize, backend)
    }

    /// `Finalize`.
    pub(crate) fn finalize(&self, backend: Handle<Backend>) -> Result<()> {
        call(self.finalize, backend)
    }

    /// `GetBackendAttribute`.
    #[allow(unsafe_code)]
    pub(crate) fn attributes(&self, backend: Handle<Backend>, attributes: Handle<Attributes>) -> Result<()> {
        // SAFETY: the type is that of the header, and both handles are good during the call.
        self.get_attribute.map_or(Ok(()), |function| result_of(unsafe { function(backend, attributes) }))
    }

    /// `ModelInitialize`.
    pub(crate) fn model_initialize(&self, model: Handle<Model>) -> Result<()> {
        call(self.model_initialize, model)
    }

    /// `ModelFinalize`.
    pub(crate) fn model_finalize(&self, model: Handle<Model>) -> Result<()> {
        call(self.model_finalize, model)
    }

    /// `ModelInstanceInitialize`.
    pub(crate) fn instance_initialize(&self, instance: Handle<Instance>) -> Result<()> {
        call(self.instance_initialize, instance)
    }

    /// `ModelInstanceFinalize`.
    pub(crate) fn instance_finalize(&self, instance: Handle<Instance>) -> Result<()> {
        call(self.instance_finalize, instance)
    }

    /// Whether instances can be asked if they are ready.
    pub(crate) fn has_instance_ready(&self) -> bool {
        self.instance_ready.is_some()
    }

    /// `ModelInstanceReady`.
    pub(crate) fn instance_ready(&self, instance: Handle<Instance>) -> Result<()> {
        call(self.instance_ready, instance)
    }

    /// `ModelInstanceExecute`. One call at a time for each instance.
    #[allow(unsafe_code)]
    pub(crate) fn execute(&self, instance: Handle<Instance>, requests: &mut [Handle<Request>]) -> Result<()> {
        let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        // SAFETY: the type is that of the header, the handles are good, and the array lives during the call.
        result_of(unsafe { (self.execute)(instance, requests.as_mut_ptr(), count) })
    }
}

impl StrategyFunctions {
    /// Opens a library that has nothing but a strategy.
    ///
    /// Errors: it cannot be opened, or lacks a function.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::of(open(path)?).ok_or_else(|| {
            Error::invalid_argument(format!(
                "library '{}' is no batching strategy: it has to export TRITONBACKEND_ModelBatchIncludeRequest, \
                 TRITONBACKEND_ModelBatchInitialize and TRITONBACKEND_ModelBatchFinalize",
                path.display()
            ))
        })
    }

    fn of(library: &'static Opened) -> Option<Self> {
        Some(Self {
            initialize: function(library, c"TRITONBACKEND_ModelBatcherInitialize"),
            finalize: function(library, c"TRITONBACKEND_ModelBatcherFinalize"),
            batch_initialize: function(library, c"TRITONBACKEND_ModelBatchInitialize")?,
            include: function(library, c"TRITONBACKEND_ModelBatchIncludeRequest")?,
            batch_finalize: function(library, c"TRITONBACKEND_ModelBatchFinalize")?,
        })
    }

    /// `ModelBatcherInitialize`.
    #[allow(unsafe_code)]
    pub(crate) fn initialize(&self, model: Handle<Model>) -> Result<Batcher> {
        let mut batcher = std::ptr::null_mut();
        if let Some(function) = self.initialize {
            // SAFETY: the type is that of the header; the address is that of a variable.
            result_of(unsafe { function(&raw mut batcher, model) })?;
        }
        Ok(batcher)
    }

    /// `ModelBatcherFinalize`.
    #[allow(unsafe_code)]
    pub(crate) fn finalize(&self, batcher: Batcher) -> Result<()> {
        // SAFETY: the type is that of the header; the batcher is what the library gave.
        self.finalize.map_or(Ok(()), |function| result_of(unsafe { function(batcher) }))
    }

    /// `ModelBatchInitialize`.
    #[allow(unsafe_code)]
    pub(crate) fn begin(&self, batcher: Batcher) -> Result<*mut c_void> {
        let mut batch = std::ptr::null_mut();
        // SAFETY: the type is that of the header; the batcher is what the library gave, the address that of a variable.
        result_of(unsafe { (self.batch_initialize)(batcher, &raw mut batch) })?;
        Ok(batch)
    }

    /// `ModelBatchIncludeRequest`.
    #[allow(unsafe_code)]
    pub(crate) fn includes(&self, request: Handle<Request>, batch: *mut c_void) -> Result<bool> {
        let mut includes = false;
        // SAFETY: the type is that of the header; the batch is what the library gave, the address that of a variable.
        result_of(unsafe { (self.include)(request, batch, &raw mut includes) })?;
        Ok(includes)
    }

    /// `ModelBatchFinalize`.
    #[allow(unsafe_code)]
    pub(crate) fn end(&self, batch: *mut c_void) -> Result<()> {
        // SAFETY: the type is that of the header; the batch is what the library gave.
        result_of(unsafe { (self.batch_finalize)(batch) })
    }
}

#[allow(unsafe_code)]
fn call<T>(function: Option<With<T>>, object: Handle<T>) -> Result<()> {
    // SAFETY: the type is that of the header, and the handle is good during the call.
    function.map_or(Ok(()), |function| result_of(unsafe { function(object) }))
}
