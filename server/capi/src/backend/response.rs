//! `TRITONBACKEND_Response`, its outputs, and `TRITONBACKEND_ResponseFactory`, by which a library answers a request that it has
//! released.

use std::{ffi::c_void, ptr, sync::Arc};

use parking_lot::Mutex;
use server_core::{
    batching::pack::OutputReshape,
    buffer::Buffer,
    config::ModelConfig,
    error::{Error, Result},
    request::{Parameter, Parameters},
    response::Outputs,
    tensor::{DataType as CoreDataType, Name, Shape, Tensor, byte_count, shape_text},
};
use smallvec::SmallVec;

use super::{answering::Answering, memory::Block, request::Request};
use crate::abi::{
    Array, Handle, Out, Text,
    export::exports,
    handle::{Part, objects},
    numbers::{DataType, MemoryType, response_flag},
    objects::{self, Attributes, BufferAttributes},
};

objects! {
    9: Response => "TRITONBACKEND_Response",
    10: Factory => "TRITONBACKEND_ResponseFactory",
}

/// What makes responses to one request, whether the library still has it or not.
pub(crate) struct Factory {
    /// The way back.
    pub(crate) answering: Arc<Answering>,
}

/// A response that is being made.
pub(crate) struct Response {
    answering: Arc<Answering>,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    outputs: Made,
    parameters: Parameters,
}

/// Outputs that are being made, each in a place of its own: libraries look at their shapes while others are added.
type Made = SmallVec<[Box<MadeOutput>; 4]>;

struct MadeOutput {
    name: Name,
    data_type: CoreDataType,
    shape: Shape,
    block: Option<Block>,
    /// What the library was given to look at: gone with the response.
    attributes: Option<Handle<BufferAttributes>>,
}

impl Drop for MadeOutput {
    fn drop(&mut self) {
        if let Some(handle) = self.attributes.take() {
            let _ = handle.take(); // the library deleted it, which is not its to do
        }
    }
}

/// An output of a response.
pub(crate) struct Output;

impl Part for Output {
    const NAME: &'static str = "TRITONBACKEND_Output";
}

impl Response {
    fn new(answering: Arc<Answering>) -> Self {
        Self { answering, content: Mutex::default() }
    }

    /// Adds an output without bytes; returns its number.
    ///
    /// Errors: as those of [`shape_of`]; or the response has it already.
    fn add(&self, name: &str, data_type: CoreDataType, shape: &[i64]) -> Result<usize> {
        let shape = self.answering.model.with_config(|config| shape_of(config, name, shape))?;
        let mut content = self.content.lock();
        if content.outputs.iter().any(|output| *output.name == *name) {
            return Err(Error::invalid_argument(format!("the response has output '{name}' already")));
        }
        let name = self.answering.model.shared_name(name);
        content.outputs.push(Box::new(MadeOutput { name, data_type, shape, block: None, attributes: None }));
        Ok(content.outputs.len() - 1)
    }

    /// What was made of it.
    ///
    /// Errors: an output has not as many bytes as its shape asks for.
    fn take_outputs(&self) -> Result<Outputs> {
        let mut content = std::mem::take(&mut *self.content.lock());
        let mut outputs = Outputs { parameters: content.parameters.into(), ..Outputs::default() };
        for output in &mut content.outputs {
            let block = output.block.take();
            let got = block.as_ref().map_or(0, Block::len);
            let expected = byte_count(output.data_type, &output.shape);
            let is_right = expected == Some(got) || output.data_type == CoreDataType::Bytes;
            if !is_right || output.shape.iter().any(|&dim| dim < 0) {
                let model = &self.answering.model;
                let expected = expected.map_or_else(|| "no".to_owned(), |bytes| bytes.to_string());
                return Err(Error::internal(format!(
                    "the backend of model {:?} gave {got} bytes for output '{}' of type {} and shape {}, which has {expected} bytes",
                    model.name,
                    output.name,
                    output.data_type,
                    shape_text(&output.shape),
                )));
            }
            outputs.tensors.push(Tensor {
                name: output.name.clone(),
                data_type: output.data_type,
                shape: output.shape.clone(),
                data: block.map(|block| Buffer::unique(block.into_bytes())).unwrap_or_default(),
            });
        }
        Ok(outputs)
    }

    /// Sets a parameter, once more if it is there.
    fn set(&self, name: Text, value: Parameter) -> Result<()> {
        let name = name.get()?;
        let parameters = &mut self.content.lock().parameters;
        match parameters.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => parameters.push((name.into_owned(), value)),
        }
        Ok(())
    }
}

/// The shape of an output that a library gives with its own: one with `reshape` has the extents of the configuration.
///
/// Errors: the model has no output of that name.
fn shape_of(config: &ModelConfig, name: &str, shape: &[i64]) -> Result<Shape> {
    let known = config.output.iter().find(|output| output.name == name).ok_or_else(|| {
        Error::invalid_argument(format!("unexpected inference output '{name}' for model '{}'", config.name))
    })?;
    Ok(OutputReshape::of(config, known).map_or_else(|| shape.into(), |reshape| reshape.undo(shape)))
}

/// Type and shape of a tensor as a library gives them.
///
/// Errors: the type is none, or the shape is missing or too long.
pub(crate) fn type_and_shape(
    data_type: DataType,
    shape: &Array<i64>,
    dims_count: u32,
) -> Result<(CoreDataType, &[i64])> {
    let known = data_type.to_core();
    let known = known.ok_or_else(|| Error::invalid_argument(format!("{} is no type of a tensor", data_type.0)))?;
    Ok((known, shape.shape(dims_count.into())?))
}

fn send(response: Handle<Response>, flags: u32, error: Handle<objects::Error>) -> Result<()> {
    let response = response.take()?;
    let (reply, misuse) = if error.is_null() {
        (response.take_outputs(), Ok(()))
    } else {
        match error.get() {
            Ok(error) => (Err(error.to_core()), Ok(())),
            Err(misuse) => (Err(misuse.clone()), Err(misuse)), // the caller hears that there is an error, if not which
        }
    };
    response.answering.send(reply, flags & response_flag::FINAL != 0)?;
    misuse
}

fn output_of(
    response: Handle<Response>,
    find: impl FnOnce(&Made) -> Result<usize>,
    name: Out<Text>,
    data_type: Out<DataType>,
    shape: Out<*const i64>,
    dim_count: Out<u64>,
) -> Result<()> {
    let response = response.get()?;
    let content = response.content.lock();
    let output = &content.outputs[find(&content.outputs)?];
    name.set_if_wanted_with(|| response.answering.model.name_of(&output.name));
    data_type.set_if_wanted(DataType::of(output.data_type));
    shape.set_if_wanted(output.shape.as_ptr());
    dim_count.set_if_wanted(output.shape.len() as u64);
    Ok(())
}

exports! {
    /// Makes responses to a request, also when it is released.
    fn TRITONBACKEND_ResponseFactoryNew(factory: Out<Handle<Factory>>, request: Handle<Request>) {
        let answering = request.get()?.answering.clone();
        factory.give(Factory { answering })
    }

    /// Deletes a factory.
    fn TRITONBACKEND_ResponseFactoryDelete(factory: Handle<Factory>) {
        factory.take().map(drop)
    }

    /// Ends the responses without a further one.
    fn TRITONBACKEND_ResponseFactorySendFlags(factory: Handle<Factory>, send_flags: u32) {
        let factory = factory.get()?;
        if send_flags & response_flag::FINAL != 0 {
            factory.answering.finish(None)?;
        }
        Ok(())
    }

    /// Whether the caller of the request has left.
    fn TRITONBACKEND_ResponseFactoryIsCancelled(factory: Handle<Factory>, is_cancelled: Out<bool>) {
        is_cancelled.set(factory.get()?.answering.is_cancelled())
    }

    /// A response to a request.
    fn TRITONBACKEND_ResponseNew(response: Out<Handle<Response>>, request: Handle<Request>) {
        let answering = request.get()?.answering.clone();
        response.give(Response::new(answering))
    }

    /// A response to the request of a factory.
    fn TRITONBACKEND_ResponseNewFromFactory(response: Out<Handle<Response>>, factory: Handle<Factory>) {
        let answering = factory.get()?.answering.clone();
        response.give(Response::new(answering))
    }

    /// Deletes a response that is not sent.
    fn TRITONBACKEND_ResponseDelete(response: Handle<Response>) {
        response.take().map(drop)
    }

    /// Sets a parameter that is a text.
    fn TRITONBACKEND_ResponseSetStringParameter(response: Handle<Response>, name: Text, value: Text) {
        response.get()?.set(name, Parameter::String(value.get()?.into_owned()))
    }

    /// Sets a parameter that is a number.
    fn TRITONBACKEND_ResponseSetIntParameter(response: Handle<Response>, name: Text, value: i64) {
        response.get()?.set(name, Parameter::Int(value))
    }

    /// Sets a parameter that is true or false.
    fn TRITONBACKEND_ResponseSetBoolParameter(response: Handle<Response>, name: Text, value: bool) {
        response.get()?.set(name, Parameter::Bool(value))
    }

    /// Sets a parameter that is a floating-point number.
    fn TRITONBACKEND_ResponseSetDoubleParameter(response: Handle<Response>, name: Text, value: f64) {
        response.get()?.set(name, Parameter::Double(value))
    }

    /// Adds an output, whose bytes follow with [`TRITONBACKEND_OutputBuffer`].
    fn TRITONBACKEND_ResponseOutput(
        handle: Handle<Response>,
        output: Out<Handle<Response, Output>>,
        name: Text,
        data_type: DataType,
        shape: Array<i64>,
        dims_count: u32,
    ) {
        let response = handle.get()?;
        output.set(Handle::NULL)?;
        let (data_type, shape) = type_and_shape(data_type, &shape, dims_count)?;
        let number = response.add(&name.get()?, data_type, shape)?;
        output.set(handle.part(number)?)
    }

    /// Sends a response, or the error in its place; the response is gone whatever comes of it, the error is the library's.
    fn TRITONBACKEND_ResponseSend(response: Handle<Response>, send_flags: u32, error: Handle<objects::Error>) {
        send(response, send_flags, error)
    }

    /// Memory for the bytes of an output: of the host, whatever the library would like.
    fn TRITONBACKEND_OutputBuffer(
        output: Handle<Response, Output>,
        buffer: Out<*mut c_void>,
        byte_size: u64,
        memory_type: Out<MemoryType>,
        memory_type_id: Out<i64>,
    ) {
        let (response, number) = output.part_of()?;
        buffer.set(ptr::null_mut())?;
        let mut content = response.content.lock();
        let output = content.outputs.get_mut(number).ok_or_else(|| Error::invalid_argument("the response was sent"))?;
        if output.block.is_some() {
            let text = format!("allocated buffer for output '{}' already", output.name);
            return Err(Error::already_exists(text));
        }
        let block = Block::new(byte_size)?;
        buffer.set(block.address())?;
        output.block = Some(block);
        memory_type.set_if_wanted(MemoryType::CPU);
        memory_type_id.set_if_wanted(0);
        Ok(())
    }

    /// Where the bytes of an output lie.
    fn TRITONBACKEND_OutputBufferAttributes(
        output: Handle<Response, Output>,
        attributes: Out<Handle<BufferAttributes>>,
    ) {
        let (response, number) = output.part_of()?;
        let mut content = response.content.lock();
        let output = content.outputs.get_mut(number).ok_or_else(|| Error::invalid_argument("the response was sent"))?;
        let size = output.block.as_ref().map_or(0, Block::len);
        let new = || Handle::new(BufferAttributes(Mutex::new(Attributes::of_host(size))));
        attributes.set(*output.attributes.get_or_insert_with(new))
    }

    /// What an output of that name is that was added before.
    fn TRITONBACKEND_InferenceResponseOutputByName(
        response: Handle<Response>,
        name: Text,
        data_type: Out<DataType>,
        shape: Out<*const i64>,
        dim_count: Out<u64>,
    ) {
        let name = name.get()?;
        let find = |outputs: &Made| {
            let found = outputs.iter().position(|output| *output.name == *name);
            found.ok_or_else(|| Error::not_found(format!("the response has no output '{name}'")))
        };
        output_of(response, find, Out::NOWHERE, data_type, shape, dim_count)
    }

    /// What the output of that number is that was added before.
    fn TRITONBACKEND_InferenceResponseOutput(
        response: Handle<Response>,
        index: u32,
        name: Out<Text>,
        data_type: Out<DataType>,
        shape: Out<*const i64>,
        dim_count: Out<u64>,
    ) {
        let find = |outputs: &Made| {
            let text = || format!("out of bounds index {index}: response has {} outputs", outputs.len());
            Some(index as usize).filter(|&index| index < outputs.len()).ok_or_else(|| Error::invalid_argument(text()))
        };
        output_of(response, find, name, data_type, shape, dim_count)
    }
}
