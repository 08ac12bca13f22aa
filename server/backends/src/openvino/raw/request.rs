//! Models that are ready to run, and the places where they do.

#![allow(unsafe_code)]

use std::sync::Arc;

use super::{Handle, Object, Result, Tensor};

/// A model that is ready to run.
pub(crate) struct Compiled(pub(super) Handle);

impl Compiled {
    /// A place to run it in: one run at a time.
    pub(crate) fn request(self: &Arc<Self>) -> Result<Request> {
        let api = self.0.api;
        // SAFETY: the compiled model is valid, and may be asked by several threads.
        let create = |request: *mut Object| unsafe { (api.compiled_model_create_infer_request)(self.0.get(), request) };
        // SAFETY: the pair of functions for requests.
        let request = unsafe { api.object("creating infer request object", api.infer_request_free, create) }?;
        Ok(Request { request, _compiled: self.clone() })
    }
}

/// One execution context of a compiled model.
pub(crate) struct Request {
    request: Handle,
    _compiled: Arc<Compiled>, // after the request
}

impl Request {
    /// Where the output of that number is written by the runs to come. The request keeps the tensor.
    pub(crate) fn bind(&mut self, output: usize, tensor: &Tensor<'static>) -> Result<()> {
        let api = self.request.api;
        // SAFETY: request and tensor are valid; the request holds a reference to what is below the tensor.
        let status =
            unsafe { (api.infer_request_set_output_tensor_by_index)(self.request.get(), output, tensor.0.get()) };
        api.check("setting output tensor", status)
    }

    /// Runs the model on these inputs: one for each, in its order. What they borrow is not looked at after the call.
    pub(crate) fn run(&mut self, inputs: &[Tensor<'_>]) -> Result<()> {
        let api = self.request.api;
        for (index, tensor) in inputs.iter().enumerate() {
            // SAFETY: as in `bind`. The request keeps a reference to the tensor, whose memory is only borrowed; it is read by the run
            // below alone, for the next one is given another tensor for every input before.
            let status =
                unsafe { (api.infer_request_set_input_tensor_by_index)(self.request.get(), index, tensor.0.get()) };
            api.check("setting input tensor", status)?;
        }
        // SAFETY: `&mut self` keeps a second run out.
        api.check("running inference", unsafe { (api.infer_request_infer)(self.request.get()) })
    }
}
