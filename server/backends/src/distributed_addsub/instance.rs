//! One execution context: adds and subtracts.

use std::time::Instant;

use server_core::{
    backend::Instance,
    batch::{Batch, Pending},
    completion::Marks,
    error::{Error, Result},
    response::Outputs,
    tensor::{DataType, Name, Tensor, shape_text},
};
use smallvec::smallvec;

/// Adds and subtracts.
pub(super) struct AddSubInstance {
    data_type: DataType,
    names: [Name; 2],
}

impl AddSubInstance {
    pub(super) fn new(data_type: DataType) -> Self {
        Self { data_type, names: ["OUTPUT0".into(), "OUTPUT1".into()] }
    }

    /// Whether elements of that type can be added.
    pub(super) fn takes(data_type: DataType) -> bool {
        calculate(data_type, &[], &[]).is_some()
    }

    fn answer(&self, pending: &Pending) -> Result<Outputs> {
        let input = |name: &str| {
            let input = pending.request.inputs.iter().find(|tensor| &*tensor.name == name);
            input.ok_or_else(|| Error::invalid_argument(format!("expected input {name}")))
        };
        let (first, second) = (input("INPUT0")?, input("INPUT1")?);
        if first.shape != second.shape {
            let (first, second) = (shape_text(&first.shape), shape_text(&second.shape));
            let text = format!("expected INPUT0 and INPUT1 shape to match, got {first} and {second}");
            return Err(Error::invalid_argument(text));
        }
        let (left, right) = (first.data.as_host().unwrap_or_default(), second.data.as_host().unwrap_or_default());
        let (sums, differences) = calculate(self.data_type, left, right).unwrap_or_default();
        let tensor = |name: &Name, data: Vec<u8>| Tensor {
            name: name.clone(),
            data_type: self.data_type,
            shape: first.shape.clone(),
            data: data.into(),
        };
        let tensors = smallvec![tensor(&self.names[0], sums), tensor(&self.names[1], differences)];
        Ok(Outputs { tensors, ..Outputs::default() })
    }
}

impl Instance for AddSubInstance {
    fn execute(&mut self, batch: Batch) {
        let input_end = Instant::now();
        let replies = batch.pending().iter().map(|pending| self.answer(pending)).collect();
        let end = Instant::now();
        let marks = Marks { start: batch.start(), input_end, output_start: end, end };
        batch.complete(replies, &marks);
    }

    fn runs_on_any_thread(&self) -> bool {
        true // it is nothing but numbers
    }
}

/// Bytes of all sums, and of all differences; `None` for a type that has none.
fn calculate(data_type: DataType, left: &[u8], right: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    macro_rules! each {
        ($number:ty, $add:expr, $subtract:expr) => {{
            const SIZE: usize = size_of::<$number>();
            let numbers = |bytes: &[u8]| -> Vec<$number> {
                let (chunks, _) = bytes.as_chunks::<SIZE>();
                chunks.iter().map(|chunk| <$number>::from_le_bytes(*chunk)).collect()
            };
            let pairs: Vec<_> = numbers(left).into_iter().zip(numbers(right)).collect();
            let bytes = |calculate: fn($number, $number) -> $number| -> Vec<u8> {
                pairs.iter().flat_map(|&(left, right)| calculate(left, right).to_le_bytes()).collect()
            };
            Some((bytes($add), bytes($subtract)))
        }};
        ($number:ty) => {
            each!($number, <$number>::wrapping_add, <$number>::wrapping_sub)
        };
    }
    match data_type {
        DataType::Uint8 => each!(u8),
        DataType::Uint16 => each!(u16),
        DataType::Uint32 => each!(u32),
        DataType::Uint64 => each!(u64),
        DataType::Int8 => each!(i8),
        DataType::Int16 => each!(i16),
        DataType::Int32 => each!(i32),
        DataType::Int64 => each!(i64),
        DataType::Fp32 => each!(f32, |left, right| left + right, |left, right| left - right),
        DataType::Fp64 => each!(f64, |left, right| left + right, |left, right| left - right),
        DataType::Bool | DataType::Fp16 | DataType::Bf16 | DataType::Bytes => None,
    }
}
