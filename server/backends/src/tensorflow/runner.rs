//! A session as one instance runs it.

use std::sync::Arc;

use bytes::Bytes;
use server_core::{
    error::{Error, Result},
    tensor::{DataType, Shape},
};
use smallvec::SmallVec;

use super::raw::{Endpoint, Failure, Functions, Session, Tensor};
use crate::native::{Fed, Runner, Value, Values};

/// A session, which other instances may run as well, and the tensors of its graph that this one feeds and takes.
pub(super) struct SessionRunner {
    functions: &'static Functions,
    session: Arc<Session>,
    inputs: Vec<Endpoint>,
    outputs: Vec<Endpoint>, // runs want them in ascending order
}

impl SessionRunner {
    /// Tensors come in the order in which runs count them.
    pub(super) fn new(
        functions: &'static Functions,
        session: Arc<Session>,
        inputs: Vec<Endpoint>,
        outputs: Vec<Endpoint>,
    ) -> Self {
        Self { functions, session, inputs, outputs }
    }

    fn tensor(&self, fed: &Fed<'_>) -> Result<Tensor, Failure> {
        match fed {
            Fed::Numbers { data_type, shape, bytes } => Tensor::of_numbers(self.functions, *data_type, shape, bytes),
            Fed::Strings { shape, elements } => Tensor::of_strings(self.functions, shape, elements.iter()),
        }
    }
}

impl Runner for SessionRunner {
    type Value<'a> = Tensor;

    fn run<'a>(&'a mut self, fed: &'a [(usize, Fed<'a>)], wanted: &[usize]) -> Result<Values<Tensor>> {
        if wanted.is_empty() {
            return Ok(Values::new());
        }
        let one = |(number, fed): &(usize, Fed<'_>)| Ok((self.inputs[*number], self.tensor(fed)?));
        let inputs = fed.iter().map(one).collect::<Result<SmallVec<[_; 8]>, Failure>>()?;
        if wanted.len() == self.outputs.len() || self.session.fetches.admit(wanted) {
            let outputs: SmallVec<[Endpoint; 8]> = wanted.iter().map(|&number| self.outputs[number]).collect();
            return Ok(self.session.run(&inputs, &outputs)?);
        }
        let all = self.session.run(&inputs, &self.outputs)?;
        Ok(all.into_iter().enumerate().filter(|(number, _)| wanted.contains(number)).map(|(_, value)| value).collect())
    }
}

impl Value for Tensor {
    fn describe(&self) -> Result<(Option<DataType>, Shape)> {
        Ok(Tensor::describe(self))
    }

    fn bytes(&self) -> Result<&[u8]> {
        Tensor::bytes(self).map_err(Error::from)
    }

    fn into_bytes(self, _fed: &[(usize, Fed<'_>)]) -> Result<Bytes> {
        Tensor::into_bytes(self).map_err(Error::from) // what was fed is TensorFlow's own copy
    }

    fn read_strings(&self, content: &mut Vec<u8>, starts: &mut Vec<usize>) -> Result<()> {
        Tensor::read_strings(self, content, starts).map_err(Error::from)
    }
}
