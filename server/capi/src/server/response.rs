//! `TRITONSERVER_InferenceResponse`: what a model answered a request of a library, in memory that the library gave.

use std::ffi::{CString, c_void};

use server_core::{
    error::{Error as CoreError, Result},
    request::Parameter,
    response::InferResponse,
};

use super::{
    allocator::{Allocated, Allocator},
    delete,
};
use crate::abi::{
    Handle, Out, Text,
    export::exports,
    handle::objects,
    numbers::{DataType, MemoryType, ParameterType},
    objects::{Error, text},
};

objects! { 27: InferenceResponse => "TRITONSERVER_InferenceResponse" }

/// One response, until the library deletes it.
pub(crate) struct InferenceResponse {
    model: CString,
    version: i64,
    id: CString,
    /// What came in place of outputs; the response's to delete.
    error: Handle<Error>,
    parameters: Vec<(CString, Value)>,
    outputs: Vec<Output>,
}

struct Output {
    name: CString,
    data_type: DataType,
    shape: Vec<i64>,
    memory: Allocated,
}

enum Value {
    String(CString),
    Int(i64),
    Bool(bool),
    Double(f64),
}

impl InferenceResponse {
    /// A response, with its outputs in memory of that allocator.
    ///
    /// Errors: the allocator fails.
    pub(crate) fn of(response: &InferResponse, allocator: &Allocator) -> Result<Self> {
        allocator.start()?;
        let outputs = response.outputs.iter().map(|tensor| {
            let on_device = || CoreError::unsupported(format!("output '{}' is not in memory of the host", tensor.name));
            let memory = allocator.hold(&tensor.name, tensor.data.as_host().ok_or_else(on_device)?)?;
            let (name, data_type) = (text(&tensor.name), DataType::of(tensor.data_type));
            Ok(Output { name, data_type, shape: tensor.shape.to_vec(), memory })
        });
        Ok(Self {
            model: text(&response.model_name),
            version: i64::try_from(response.model_version).unwrap_or(i64::MAX),
            id: text(&response.id),
            error: Handle::NULL,
            parameters: response.parameters.iter().map(|(name, value)| (text(name), Value::of(value))).collect(),
            outputs: outputs.collect::<Result<_>>()?,
        })
    }

    /// An error in place of one.
    pub(crate) fn failed(model: &str, id: &str, error: &CoreError) -> Self {
        Self {
            model: text(model),
            version: -1,
            id: text(id),
            error: Handle::new(Error::of(error)),
            parameters: Vec::new(),
            outputs: Vec::new(),
        }
    }
}

impl Drop for InferenceResponse {
    fn drop(&mut self) {
        let _ = self.error.take(); // there is none in most
    }
}

impl Value {
    fn of(parameter: &Parameter) -> Self {
        match parameter {
            Parameter::Bool(value) => Self::Bool(*value),
            Parameter::Int(value) => Self::Int(*value),
            Parameter::Uint(value) => Self::Int(i64::try_from(*value).unwrap_or(i64::MAX)),
            Parameter::Double(value) => Self::Double(*value),
            Parameter::String(value) => Self::String(text(value)),
        }
    }

    fn kind(&self) -> ParameterType {
        match self {
            Self::String(_) => ParameterType::STRING,
            Self::Int(_) => ParameterType::INT,
            Self::Bool(_) => ParameterType::BOOL,
            Self::Double(_) => ParameterType::DOUBLE,
        }
    }

    fn address(&self) -> *const c_void {
        match self {
            Self::String(value) => value.as_ptr().cast(),
            Self::Int(value) => (&raw const *value).cast(),
            Self::Bool(value) => (&raw const *value).cast(),
            Self::Double(value) => (&raw const *value).cast(),
        }
    }
}

exports! {
    /// Deletes a response, and gives its memory back to its allocator.
    fn TRITONSERVER_InferenceResponseDelete(response: Handle<InferenceResponse>) {
        delete(response)
    }

    /// The error that came in place of outputs, or null. It is the response's.
    fn TRITONSERVER_InferenceResponseError(response: Handle<InferenceResponse>) -> Handle<Error> {
        match response.get() {
            Ok(response) => response.error,
            Err(error) => Handle::new(Error::of(&error)),
        }
    }

    /// Who answered.
    fn TRITONSERVER_InferenceResponseModel(
        response: Handle<InferenceResponse>,
        model_name: Out<Text>,
        model_version: Out<i64>,
    ) {
        let response = response.get()?;
        model_version.set(response.version)?;
        model_name.set(Text::of(&response.model))
    }

    /// The id of the request.
    fn TRITONSERVER_InferenceResponseId(response: Handle<InferenceResponse>, id: Out<Text>) {
        id.set(Text::of(&response.get()?.id))
    }

    /// How many parameters it has.
    fn TRITONSERVER_InferenceResponseParameterCount(response: Handle<InferenceResponse>, count: Out<u32>) {
        count.set(u32::try_from(response.get()?.parameters.len()).unwrap_or(u32::MAX))
    }

    /// One of its parameters; the value is what its kind says: of a string, its first character.
    fn TRITONSERVER_InferenceResponseParameter(
        response: Handle<InferenceResponse>,
        index: u32,
        name: Out<Text>,
        kind: Out<ParameterType>,
        value: Out<*const c_void>,
    ) {
        let response = response.get()?;
        let (its_name, its_value) = response.parameters.get(index as usize).ok_or_else(|| {
            CoreError::invalid_argument(format!(
                "out of bounds index {index} response has {} parameters",
                response.parameters.len()
            ))
        })?;
        kind.set(its_value.kind())?;
        value.set(its_value.address())?;
        name.set(Text::of(its_name))
    }

    /// How many outputs it has.
    fn TRITONSERVER_InferenceResponseOutputCount(response: Handle<InferenceResponse>, count: Out<u32>) {
        count.set(u32::try_from(response.get()?.outputs.len()).unwrap_or(u32::MAX))
    }

    /// One of its outputs: valid until the response is deleted.
    fn TRITONSERVER_InferenceResponseOutput(
        response: Handle<InferenceResponse>,
        index: u32,
        name: Out<Text>,
        data_type: Out<DataType>,
        shape: Out<*const i64>,
        dim_count: Out<u64>,
        base: Out<*const c_void>,
        byte_size: Out<usize>,
        memory_type: Out<MemoryType>,
        memory_type_id: Out<i64>,
        user: Out<*mut c_void>,
    ) {
        let response = response.get()?;
        let output = output_of(&response, index)?;
        name.set(Text::of(&output.name))?;
        data_type.set(output.data_type)?;
        shape.set(output.shape.as_ptr())?;
        dim_count.set(output.shape.len() as u64)?;
        base.set(output.memory.base.0)?;
        byte_size.set(output.memory.byte_size)?;
        memory_type.set(output.memory.memory_type)?;
        memory_type_id.set(output.memory.memory_type_id)?;
        user.set(output.memory.user.0)
    }

    /// The label of a class of an output; null, for requests of libraries are not answered with classes.
    fn TRITONSERVER_InferenceResponseOutputClassificationLabel(
        response: Handle<InferenceResponse>,
        index: u32,
        _class_index: usize,
        label: Out<Text>,
    ) {
        output_of(&*response.get()?, index)?;
        label.set(Text::NULL)
    }
}

fn output_of(response: &InferenceResponse, index: u32) -> Result<&Output> {
    response.outputs.get(index as usize).ok_or_else(|| {
        CoreError::invalid_argument(format!(
            "out of bounds index {index}, response has {} outputs",
            response.outputs.len()
        ))
    })
}
