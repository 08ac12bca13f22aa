//! One execution context of an identity model. The bytes of an answer are the bytes of its request.

use std::{
    thread,
    time::{Duration, Instant},
};

use server_core::{
    backend::Instance,
    batch::{Batch, Pending},
    buffer::Buffer,
    completion::Marks,
    error::{Error, Result},
    request::{Parameter, Parameters},
    response::{Outputs, ResponseParameters},
    tensor::{Shape, Tensor, element_count, shape_text},
};

use super::{input_bytes::Cell, pair::Pair};

/// Repeats inputs as outputs.
pub(super) struct IdentityInstance {
    pairs: Vec<Pair>,
    batches: bool,
    delay: Duration,
    parameters: ResponseParameters,
    input_bytes: Cell,
}

impl IdentityInstance {
    /// `delay` is the time one execution takes.
    pub(super) fn new(pairs: Vec<Pair>, batches: bool, delay: Duration, input_bytes: Cell) -> Self {
        Self { pairs, batches, delay, parameters: parameters().into(), input_bytes }
    }

    fn answer(&self, pending: &Pending) -> Result<Outputs> {
        let wanted = &pending.request.outputs;
        let mut outputs = Outputs { parameters: self.parameters.clone(), ..Outputs::default() };
        for pair in &self.pairs {
            if wanted.is_empty() || wanted.iter().any(|output| output.name == pair.output) {
                outputs.tensors.push(self.output(pair, pending)?);
            }
        }
        Ok(outputs)
    }

    fn output(&self, pair: &Pair, pending: &Pending) -> Result<Tensor> {
        let input = pending.request.inputs.iter().find(|tensor| tensor.name == pair.input);
        let (shape, data) = match input {
            Some(tensor) if !pair.is_reshaped => (tensor.shape.clone(), tensor.data.clone()),
            Some(tensor) => (self.shape(pair, pending), tensor.data.clone()),
            None => {
                let shape = self.shape(pair, pending);
                (shape.clone(), zeros(pair, &shape)?)
            }
        };
        Ok(Tensor { name: pair.output.clone(), data_type: pair.data_type, shape, data })
    }

    /// The configured shape, 1 for extents it leaves open.
    fn shape(&self, pair: &Pair, pending: &Pending) -> Shape {
        let rows = self.batches.then_some(i64::from(pending.batch_size()));
        rows.into_iter().chain(pair.dims.iter().map(|&dim| if dim < 0 { 1 } else { dim })).collect()
    }
}

impl Instance for IdentityInstance {
    fn execute(&mut self, batch: Batch) {
        let input_end = Instant::now();
        if !self.delay.is_zero() {
            thread::sleep(self.delay);
        }
        let output_start = if self.delay.is_zero() { input_end } else { Instant::now() };
        self.input_bytes.add(batch.pending().iter().map(|pending| pending.request.input_bytes()).sum());
        let replies = batch.pending().iter().map(|pending| self.answer(pending)).collect();
        let marks = Marks { start: batch.start(), input_end, output_start, end: Instant::now() };
        batch.complete(replies, &marks);
    }

    fn runs_on_any_thread(&self) -> bool {
        true // it is nothing but numbers
    }
}

/// What Triton's identity backend sets on every response, for clients that try response parameters out.
fn parameters() -> Parameters {
    vec![
        ("param0".into(), Parameter::String("an example string parameter".into())),
        ("param1".into(), Parameter::Int(42)),
        ("param2".into(), Parameter::Bool(false)),
        ("param3".into(), Parameter::Double(123.123)),
    ]
}

/// Most bytes of an output made up for an absent input: no protocol carries more, and the configuration can ask for it.
const MOST_ZEROS: usize = i32::MAX as usize;

/// Zeros, or empty strings: an element of a BYTES tensor is at least its length.
fn zeros(pair: &Pair, shape: &[i64]) -> Result<Buffer> {
    let size = pair.data_type.byte_size().unwrap_or(size_of::<u32>());
    let count = element_count(shape).and_then(|count| usize::try_from(count).ok()?.checked_mul(size));
    match count.filter(|&count| count <= MOST_ZEROS) {
        Some(count) => Ok(vec![0; count].into()),
        None => Err(Error::invalid_argument(format!(
            "output '{}' of shape {} exceeds {MOST_ZEROS} bytes: give its input, or configure smaller 'dims'",
            pair.output,
            shape_text(shape)
        ))),
    }
}
