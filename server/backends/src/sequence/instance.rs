//! One execution context: the sums of the sequences that it runs.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use server_core::{
    backend::Instance,
    batch::{Batch, Pending},
    completion::Marks,
    error::{Error, Result},
    response::Outputs,
    tensor::{DataType, Name, Tensor},
};

/// What tells sequences apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The row of the batch.
    Row,
    /// The control `CORRID`.
    CorrelationId,
}

/// Whose sum: the bytes of `CORRID`, or the number of the row.
type Key = Vec<u8>;

/// Adds up.
pub(super) struct SequenceInstance {
    identity: Identity,
    delay: Duration,
    sums: HashMap<Key, Vec<i32>>,
    output: Name,
}

impl SequenceInstance {
    /// `delay` is the time one execution takes.
    pub(super) fn new(identity: Identity, delay: Duration) -> Self {
        Self { identity, delay, sums: HashMap::new(), output: "OUTPUT".into() }
    }

    fn answer(&mut self, row: usize, pending: &Pending) -> Result<Outputs> {
        let input = find(pending, "INPUT").ok_or_else(|| Error::invalid_argument("input 'INPUT' is missing"))?;
        let values: Vec<i32> = integers(input).collect();
        if !is_set(pending, "READY") {
            return Ok(self.outputs(input, &vec![0; values.len()]));
        }
        let key = match self.identity {
            Identity::Row => row.to_le_bytes().to_vec(),
            Identity::CorrelationId => find(pending, "CORRID").map(bytes).unwrap_or_default().to_vec(),
        };
        let starts = is_set(pending, "START");
        let sum = self.sums.entry(key.clone()).or_default();
        if starts || sum.len() != values.len() {
            sum.clear();
            sum.extend_from_slice(&values);
        } else {
            sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum = sum.wrapping_add(*value));
        }
        let mut answer = sum.clone();
        if self.identity == Identity::CorrelationId {
            if is_set(pending, "END") {
                let id = find(pending, "CORRID").map_or(0, number);
                answer.iter_mut().for_each(|sum| *sum = sum.wrapping_add(id));
            }
            if pending.request.sequence.as_ref().is_some_and(|sequence| sequence.is_end) {
                self.sums.remove(&key);
            }
        }
        Ok(self.outputs(input, &answer))
    }

    fn outputs(&self, like: &Tensor, values: &[i32]) -> Outputs {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = like.shape.clone();
        let tensor = Tensor { name: self.output.clone(), data_type: DataType::Int32, shape, data: data.into() };
        Outputs { tensors: [tensor].into_iter().collect(), ..Outputs::default() }
    }
}

impl Instance for SequenceInstance {
    fn execute(&mut self, batch: Batch) {
        let input_end = Instant::now();
        if !self.delay.is_zero() {
            thread::sleep(self.delay);
        }
        let output_start = if self.delay.is_zero() { input_end } else { Instant::now() };
        let rows = batch.pending().iter().enumerate();
        let replies = rows.map(|(row, pending)| self.answer(row, pending)).collect();
        let marks = Marks { start: batch.start(), input_end, output_start, end: Instant::now() };
        batch.complete(replies, &marks);
    }

    fn runs_on_any_thread(&self) -> bool {
        true // it is nothing but numbers
    }
}

fn find<'a>(pending: &'a Pending, name: &str) -> Option<&'a Tensor> {
    pending.request.inputs.iter().find(|tensor| &*tensor.name == name)
}

fn bytes(tensor: &Tensor) -> &[u8] {
    tensor.data.as_host().unwrap_or_default()
}

fn integers(tensor: &Tensor) -> impl Iterator<Item = i32> {
    bytes(tensor).chunks_exact(4).map(|chunk| i32::from_le_bytes(chunk.try_into().unwrap_or_default()))
}

/// Whether a control says yes, in whatever type: a no is all zeros.
fn is_set(pending: &Pending, control: &str) -> bool {
    find(pending, control).is_some_and(|tensor| bytes(tensor).iter().any(|&byte| byte != 0))
}

/// An identity as a number: the low bits of one, or a text of digits; other texts are 0.
fn number(identity: &Tensor) -> i32 {
    let bytes = bytes(identity);
    if identity.data_type == DataType::Bytes {
        let text = bytes.get(size_of::<u32>()..).and_then(|text| std::str::from_utf8(text).ok());
        return text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) as i32;
    }
    integers(identity).next().unwrap_or(0)
}
