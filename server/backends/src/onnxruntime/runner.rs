//! A session as the runner of an instance.

use std::sync::Arc;

use bytes::Bytes;
use ort::session::SharedSessionInner;
use server_core::{
    error::Result,
    tensor::{DataType, Shape},
};
use smallvec::SmallVec;

use super::{
    element::data_type_of,
    raw::{Failure, Value},
    session::NamedSession,
};
use crate::native::{self, Fed, Values, lies_in};

/// Runs a session.
pub(super) struct Runner(pub(super) NamedSession);

/// An output of a run, and the session that may own its memory.
pub(super) struct Output<'a> {
    value: Value<'a>,
    session: &'a Arc<SharedSessionInner>,
}

impl native::Runner for Runner {
    type Value<'a> = Output<'a>;

    fn run<'a>(&'a mut self, fed: &'a [(usize, Fed<'a>)], wanted: &[usize]) -> Result<Values<Output<'a>>> {
        let inputs = fed.iter().map(|(number, fed)| Ok((*number, tensor(fed)?)));
        let inputs: SmallVec<[(usize, Value<'a>); 8]> = inputs.collect::<Result<_, Failure>>()?;
        let made = self.0.run(&inputs, wanted)?;
        let session = self.0.session();
        Ok(made.into_iter().map(|value| Output { value, session }).collect())
    }
}

fn tensor<'a>(fed: &Fed<'a>) -> Result<Value<'a>, Failure> {
    match fed {
        Fed::Numbers { data_type, shape, bytes } => Value::over(bytes, shape, *data_type),
        Fed::Strings { shape, elements } => Value::strings(shape, elements.iter()),
    }
}

impl native::Value for Output<'_> {
    fn describe(&self) -> Result<(Option<DataType>, Shape)> {
        let (number, shape) = self.value.describe()?;
        Ok((data_type_of(number), shape))
    }

    fn bytes(&self) -> Result<&[u8]> {
        Ok(self.value.bytes()?)
    }

    fn into_bytes(self, fed: &[(usize, Fed<'_>)]) -> Result<Bytes> {
        Ok(self.value.into_bytes(|address| lies_in(fed, address), self.session)?)
    }

    fn read_strings(&self, content: &mut Vec<u8>, starts: &mut Vec<usize>) -> Result<()> {
        Ok(self.value.read_strings(content, starts)?)
    }
}
