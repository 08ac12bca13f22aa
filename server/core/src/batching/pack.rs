//! One input of many requests becomes one buffer, one output of the batch comes apart again. Pure copying and counting:
//! what runs the batch decides where the buffer lies, and copies nothing at all for a batch of one.
//!
//! Source: Triton model configuration, "Dynamic Batcher" and "Reshape".

use std::ops::Range;

use server_proto::inference::{ModelConfig, ModelOutput};

use crate::tensor::{Shape, shape_text};

/// Why tensors do not fit into one batch, or an output does not come apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Nothing to pack.
    #[error("a batch needs at least one tensor")]
    Empty,
    /// The total does not fit into memory.
    #[error("the batch is larger than memory can address")]
    Overflow,
    /// Two parts differ beside the batch dimension.
    #[error("shape {} cannot share a batch with shape {}", shape_text(got), shape_text(want))]
    Ragged {
        /// Shape of the part that does not fit.
        got: Box<[i64]>,
        /// Shape of the first part.
        want: Box<[i64]>,
    },
    /// A part has no dimension at all.
    #[error("a scalar has no batch dimension")]
    Scalar,
    /// The output's first dimension is not the batch.
    #[error("shape {} does not start with the batch size {batch_size}", shape_text(shape))]
    Rows {
        /// Shape of the output.
        shape: Box<[i64]>,
        /// Rows of the batch.
        batch_size: u32,
    },
}

/// Shape of one input of a whole batch.
///
/// Shape: each part is `[b_i, d_1, .., d_n]`; the result is `[sum b_i, d_1, .., d_n]`, requests in queue order.
/// Errors: `Ragged` if the `d` differ, `Scalar` if a part has no dimension, `Overflow` if the sum exceeds `i64::MAX`.
pub fn packed_shape<'a>(parts: impl IntoIterator<Item = &'a [i64]>) -> Result<Shape, PackError> {
    let mut parts = parts.into_iter();
    let first = parts.next().ok_or(PackError::Empty)?;
    let (mut rows, rest) = match first {
        [] => return Err(PackError::Scalar),
        [rows, rest @ ..] => (*rows, rest),
    };
    for part in parts {
        match part {
            [] => return Err(PackError::Scalar),
            [more, same @ ..] if same == rest => rows = rows.checked_add(*more).ok_or(PackError::Overflow)?,
            _ => return Err(PackError::Ragged { got: part.into(), want: first.into() }),
        }
    }
    let mut shape = Shape::from(first);
    shape[0] = rows;
    Ok(shape)
}

/// Total length of the parts, in their unit.
///
/// Errors: `Overflow` if it exceeds `isize::MAX`, the most one allocation may hold.
pub fn packed_len(lengths: impl IntoIterator<Item = usize>) -> Result<usize, PackError> {
    let total = lengths.into_iter().try_fold(0usize, usize::checked_add).ok_or(PackError::Overflow)?;
    if total > isize::MAX as usize { Err(PackError::Overflow) } else { Ok(total) }
}

/// Copies the parts one after the other to the front of `buffer` and returns how many bytes were written.
///
/// Errors: `Overflow` if the buffer is too short; nothing is said about its content then.
pub fn gather<'a>(parts: impl IntoIterator<Item = &'a [u8]>, buffer: &mut [u8]) -> Result<usize, PackError> {
    let mut written = 0;
    for part in parts {
        let target = buffer.get_mut(written..).and_then(|rest| rest.get_mut(..part.len()));
        target.ok_or(PackError::Overflow)?.copy_from_slice(part);
        written += part.len();
    }
    Ok(written)
}

/// Starts taking one output of a batch apart. `length` is counted in bytes, or in elements: ranges come back in the
/// same unit.
///
/// Errors: `Rows` if the first dimension is not `batch_size`, or `length` is not a whole number of rows.
pub fn scatter(shape: &[i64], length: usize, batch_size: u32) -> Result<Scatter, PackError> {
    let wrong = || PackError::Rows { shape: shape.into(), batch_size };
    let rows = batch_size as usize;
    if shape.first() != Some(&i64::from(batch_size)) || (rows == 0 && length != 0) {
        return Err(wrong());
    }
    let row = length.checked_div(rows).unwrap_or(0);
    if row * rows != length {
        return Err(wrong());
    }
    Ok(Scatter { shape: shape.into(), row, next: 0 })
}

/// An output being taken apart, request by request.
#[derive(Debug, Clone)]
pub struct Scatter {
    shape: Shape,
    row: usize,
    next: usize,
}

impl Scatter {
    /// The next request's part: its shape, and where its content lies in the output of the batch.
    pub fn take(&mut self, batch_size: u32) -> (Shape, Range<usize>) {
        let start = self.next;
        self.next += self.row * batch_size as usize;
        let mut shape = self.shape.clone();
        shape[0] = i64::from(batch_size);
        (shape, start..self.next)
    }
}

/// `reshape` of an output in a configuration: what the model gives instead of `dims`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputReshape {
    has_batch_dimension: bool,
    reshape: Shape,
    dims: Shape,
}

impl OutputReshape {
    /// That of one of the outputs of `config`, if it has any.
    pub fn of(config: &ModelConfig, output: &ModelOutput) -> Option<Self> {
        output.reshape.as_ref().map(|reshape| Self {
            has_batch_dimension: config.max_batch_size > 0,
            reshape: Shape::from_slice(&reshape.shape),
            dims: Shape::from_slice(&output.dims),
        })
    }

    /// The shape that the caller knows of what the model gives with the shape `actual`, both with the batch dimension if there is one. Where
    /// no extent is a wildcard it is that of the configuration, whatever the model says; else `actual` stays if it is of another form.
    ///
    /// Source: Triton, how outputs are added to a response.
    pub fn undo(&self, actual: &[i64]) -> Shape {
        let (rows, rest) = actual.split_at(usize::from(self.has_batch_dimension).min(actual.len()));
        let restored = if self.dims.iter().all(|&dim| dim >= 0) {
            Some(self.dims.clone())
        } else {
            restore_shape(rest, &self.reshape, &self.dims)
        };
        rows.iter().chain(restored.as_deref().unwrap_or(rest)).copied().collect()
    }
}

/// Gives an output the shape its caller knows: `reshape` is what the model gives for the configured `dims`, and the
/// n-th `-1` of one is the n-th `-1` of the other. All three are without the batch dimension.
///
/// `None` if `actual` is not of the form `reshape`, or the wildcards of the two do not pair up.
pub fn restore_shape(actual: &[i64], reshape: &[i64], dims: &[i64]) -> Option<Shape> {
    if actual.len() != reshape.len() {
        return None;
    }
    let mut values = actual.iter().zip(reshape).filter(|(_, form)| **form == -1).map(|(value, _)| *value);
    let mut shape = Shape::new();
    for &dim in dims {
        shape.push(if dim == -1 { values.next()? } else { dim });
    }
    values.next().is_none().then_some(shape)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use server_proto::inference::ModelTensorReshape;

    use super::*;

    #[test]
    fn rows_add_up_and_the_rest_must_agree() {
        assert_eq!(packed_shape([[2, 3].as_slice(), &[1, 3]]), Ok(Shape::from_slice(&[3, 3])));
        assert_eq!(packed_shape([]), Err(PackError::Empty));
        assert_eq!(packed_shape([[].as_slice()]), Err(PackError::Scalar));
        assert_eq!(packed_shape([[i64::MAX].as_slice(), &[1]]), Err(PackError::Overflow));
        let error = packed_shape([[1, 3].as_slice(), &[1, 4]]).unwrap_err();
        assert_eq!(error.to_string(), "shape [1,4] cannot share a batch with shape [1,3]");
    }

    #[test]
    fn lengths_that_cannot_be_allocated_are_refused() {
        assert_eq!(packed_len([1, 2]), Ok(3));
        assert_eq!(packed_len([usize::MAX, 1]), Err(PackError::Overflow));
        assert_eq!(packed_len([isize::MAX as usize, 1]), Err(PackError::Overflow));
        assert_eq!(gather([[1, 2].as_slice()], &mut [0]), Err(PackError::Overflow));
    }

    #[test]
    fn an_output_without_the_batch_in_front_is_refused() {
        for shape in [[].as_slice(), &[3, 4], &[1, 8]] {
            assert!(matches!(scatter(shape, 8, 2), Err(PackError::Rows { .. })), "{shape:?}");
        }
        assert!(scatter(&[2, 4], 7, 2).is_err());
    }

    #[test]
    fn an_output_has_the_shape_of_the_configuration_for_its_caller() {
        let undone = |max_batch_size: i32, reshape: &[i64], dims: &[i64], actual: &[i64]| {
            let output = ModelOutput {
                dims: dims.to_vec(),
                reshape: Some(ModelTensorReshape { shape: reshape.to_vec() }),
                ..ModelOutput::default()
            };
            let config = ModelConfig { max_batch_size, ..ModelConfig::default() };
            OutputReshape::of(&config, &output).unwrap().undo(actual).to_vec()
        };
        assert_eq!(undone(0, &[2, 3], &[6], &[2, 3]), [6]);
        assert_eq!(undone(4, &[6], &[2, 3], &[2, 6]), [2, 2, 3]);
        assert_eq!(undone(4, &[], &[1], &[2]), [2, 1]);
        assert_eq!(undone(0, &[1, -1], &[-1], &[1, 3]), [3]);
        assert_eq!(undone(0, &[2, 3], &[6], &[6]), [6]);
        assert_eq!(undone(0, &[1, -1], &[-1], &[3]), [3], "of another form");
        assert_eq!(OutputReshape::of(&ModelConfig::default(), &ModelOutput::default()), None);
    }

    #[test]
    fn reshaped_outputs_get_their_shape_back() {
        assert_eq!(restore_shape(&[], &[], &[1]), Some(Shape::from_slice(&[1])));
        assert_eq!(restore_shape(&[7, 4], &[-1, 4], &[2, 2, -1]), Some(Shape::from_slice(&[2, 2, 7])));
        assert_eq!(restore_shape(&[7, 4], &[-1, 4], &[4]), None);
        assert_eq!(restore_shape(&[7], &[-1, 4], &[-1, 4]), None);
        assert_eq!(restore_shape(&[4], &[4], &[-1]), None);
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_apart_again(sizes in prop::collection::vec(0u32..5, 1..9), width in 0usize..7) {
            let parts: Vec<Vec<u8>> = sizes
                .iter()
                .enumerate()
                .map(|(index, &rows)| (0..rows as usize * width).map(|byte| (index * 31 + byte) as u8).collect())
                .collect();
            let shapes: Vec<[i64; 2]> = sizes.iter().map(|&rows| [i64::from(rows), width as i64]).collect();
            let shape = packed_shape(shapes.iter().map(|shape| shape.as_slice())).unwrap();
            let length = packed_len(parts.iter().map(Vec::len)).unwrap();
            let mut buffer = vec![0; length];
            prop_assert_eq!(gather(parts.iter().map(Vec::as_slice), &mut buffer), Ok(length));

            let mut scatter = scatter(&shape, length, sizes.iter().sum()).unwrap();
            for ((part, shape), &rows) in parts.iter().zip(&shapes).zip(&sizes) {
                let (own, range) = scatter.take(rows);
                prop_assert_eq!(own.as_slice(), shape.as_slice());
                prop_assert_eq!(&buffer[range], part.as_slice());
            }
        }
    }
}
