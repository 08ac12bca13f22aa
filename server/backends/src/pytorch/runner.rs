//! A loaded model as an instance runs it: what is fed goes to the places of its arguments, and outputs are checked on the way out.

use std::{ffi::CString, sync::Arc};

use bytes::Bytes;
use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    tensor::{DataType, Shape},
};
use smallvec::SmallVec;

use super::{
    places::Places,
    raw::{Given, Module, Output},
    types,
};
use crate::native::{Fed, Runner, Tensors, Value, Values};

/// One module, and where tensors go.
pub(super) struct TorchRunner {
    module: Arc<Module>,
    inputs: Vec<Input>,
    outputs: Vec<Wanted>,
    /// An operation has no threads but that which calls it.
    has_one_thread: bool,
}

struct Input {
    name: String,
    /// Which argument it is.
    place: usize,
    /// Its key, where the model takes a dictionary.
    key: Option<CString>,
}

struct Wanted {
    name: String,
    data_type: DataType,
    /// Which output it is.
    place: usize,
}

impl TorchRunner {
    /// Counts inputs and outputs in the order of `tensors`, those of the configuration.
    ///
    /// Errors: a name that cannot be passed on, or a tensor without a place.
    pub(super) fn new(
        module: Arc<Module>,
        config: &ModelConfig,
        tensors: &Tensors,
        places: &Places,
        has_one_thread: bool,
    ) -> Result<Self> {
        let unplaced = |name: &str| Error::internal(format!("tensor '{name}' of model '{}' has no place", config.name));
        let input = |name: &str| {
            let place = *places.inputs.get(name).ok_or_else(|| unplaced(name))?;
            let key = places.has_dictionary.then(|| CString::new(name)).transpose();
            let key = key.map_err(|_| Error::invalid_argument(format!("tensor name {name:?} contains a zero byte")))?;
            Ok(Input { name: name.to_owned(), place, key })
        };
        let output = |name: &str| {
            let place = *places.outputs.get(name).ok_or_else(|| unplaced(name))?;
            let data_type = output_type(config, name).ok_or_else(|| unplaced(name))?;
            Ok(Wanted { name: name.to_owned(), data_type, place })
        };
        let inputs = tensors.input_names().map(input).collect::<Result<_>>()?;
        let outputs = tensors.output_names().map(output).collect::<Result<_>>()?;
        Ok(Self { module, inputs, outputs, has_one_thread })
    }
}

/// Type of an output, or of the state that it renews.
fn output_type(config: &ModelConfig, name: &str) -> Option<DataType> {
    let outputs = config.output.iter().map(|output| (&output.name, output.data_type));
    let states = crate::native::sequence::states(config).iter().map(|state| (&state.output_name, state.data_type));
    outputs.chain(states).find(|(known, _)| *known == name).and_then(|(_, number)| DataType::from_config(number))
}

impl Runner for TorchRunner {
    type Value<'a> = Output;

    fn run<'a>(&'a mut self, fed: &'a [(usize, Fed<'a>)], wanted: &[usize]) -> Result<Values<Output>> {
        let mut given: SmallVec<[Option<Given<'_>>; 8]> = SmallVec::new();
        given.resize_with(self.inputs.len(), || None);
        for (number, value) in fed {
            let input = &self.inputs[*number];
            given[input.place] = Some(Given { key: input.key.as_deref(), value });
        }
        let mut inputs: SmallVec<[Given<'_>; 8]> = SmallVec::with_capacity(given.len());
        for (place, given) in given.into_iter().enumerate() {
            inputs.push(given.ok_or_else(|| self.missing(place))?);
        }
        let places: SmallVec<[usize; 8]> = wanted.iter().map(|&number| self.outputs[number].place).collect();
        let answer = self.module.run(&inputs, &places);
        let answer = answer.map_err(|failure| Error::internal(format!("PyTorch execute failure: {failure}")))?;
        let outputs = wanted.iter().map(|&number| &self.outputs[number]);
        outputs.zip(answer.wanted).map(|(wanted, output)| wanted.check(output, answer.count)).collect()
    }

    /// libtorch keeps threads for each thread that calls it, if operations have several.
    fn runs_on_any_thread(&self) -> bool {
        self.has_one_thread
    }
}

impl TorchRunner {
    fn missing(&self, place: usize) -> Error {
        let name = self.inputs.iter().find(|input| input.place == place).map_or("", |input| &input.name);
        Error::invalid_argument(format!("input '{name}' is missing, which a PyTorch model needs in each request"))
    }
}

impl Wanted {
    /// The output, if it is there and of the configured type.
    fn check(&self, output: Option<Output>, count: usize) -> Result<Output> {
        let name = &self.name;
        let output = output.ok_or_else(|| {
            Error::invalid_argument(format!(
                "The output {name} in the model configuration refers to an output index which doesn't exist. This model has \
                 {count} outputs"
            ))
        })?;
        let provided = types::of_number(output.number);
        if provided == Some(self.data_type) {
            return Ok(output);
        }
        let provided = provided.map_or_else(|| types::word(output.number).to_owned(), |known| known.to_string());
        Err(Error::invalid_argument(format!(
            "configuration expects datatype TYPE_{} for output '{name}', model provides TYPE_{provided}",
            self.data_type
        )))
    }
}

impl Value for Output {
    fn describe(&self) -> Result<(Option<DataType>, Shape)> {
        Ok((types::of_number(self.number), self.shape.clone()))
    }

    fn bytes(&self) -> Result<&[u8]> {
        Ok(Self::bytes(self))
    }

    /// The shim sees to it that an output is nobody else's memory.
    fn into_bytes(self, _fed: &[(usize, Fed<'_>)]) -> Result<Bytes> {
        Ok(Self::into_bytes(self))
    }

    fn read_strings(&self, content: &mut Vec<u8>, starts: &mut Vec<usize>) -> Result<()> {
        content.clear();
        starts.clear();
        let count = self.shape.first().and_then(|count| usize::try_from(*count).ok()).unwrap_or(0);
        for index in 0..count {
            starts.push(content.len());
            content.extend_from_slice(self.string(index));
        }
        Ok(())
    }
}
