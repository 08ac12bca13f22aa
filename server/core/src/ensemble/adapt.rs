//! Shapes on their way between models with a batch dimension and models without one.

use crate::{interface::OutputSpec, tensor::Shape};

/// Whether the extents are equal, where `-1` on either side is any extent.
pub(super) fn matches(left: &[i64], right: &[i64]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(&left, &right)| left == right || left < 0 || right < 0)
}

/// The shape in which a tensor enters a model, or leaves the ensemble.
///
/// Shapes: `shape` is full; `dims` are those of the receiving side, without its batch dimension. A tensor without a batch
/// dimension gets one of 1 if the receiver wants one and the rest fits; one of a batch of 1 loses it if the receiver has
/// none and does not take it as it is.
/// Units: `rows` is the batch of whoever made the tensor, 0 if that has no batch dimension.
/// Source: Triton's ensemble scheduler.
pub(super) fn adapt(dims: &[i64], is_batching: bool, rows: u32, shape: Shape) -> Shape {
    if is_batching == (rows != 0) {
        return shape;
    }
    if is_batching && matches(dims, &shape) {
        let mut batched = Shape::with_capacity(shape.len() + 1);
        batched.push(1);
        batched.extend_from_slice(&shape);
        return batched;
    }
    if !is_batching && rows == 1 && !matches(dims, &shape) {
        return Shape::from_slice(shape.get(1..).unwrap_or_default());
    }
    shape
}

/// The extents that an ensemble shows of an output whose configuration reshapes it: `shape` has those of `reshape`, behind
/// the batch dimension if there is one. A shape that does not fit stays as it is.
pub(super) fn undo_reshape(spec: &OutputSpec, is_batching: bool, shape: Shape) -> Shape {
    let Some(reshape) = &spec.reshape else { return shape };
    let batch = usize::from(is_batching);
    let Some(inner) = shape.get(batch..).filter(|inner| matches(reshape, inner)) else { return shape };
    let mut free = inner.iter().zip(reshape).filter(|&(_, &dim)| dim == -1).map(|(&extent, _)| extent);
    let mut shown = Shape::from_slice(&shape[..batch]);
    for &dim in &spec.dims {
        let extent = if dim == -1 { free.next() } else { Some(dim) };
        shown.push(extent.unwrap_or(dim));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    #[track_caller]
    fn check(dims: &[i64], is_batching: bool, rows: u32, shape: &[i64], expect: &[i64]) {
        assert_eq!(adapt(dims, is_batching, rows, Shape::from_slice(shape)).as_slice(), expect);
    }

    #[test]
    fn a_batch_dimension_comes_and_goes_only_where_it_must() {
        check(&[3], true, 2, &[2, 3], &[2, 3]);
        check(&[3], false, 0, &[3], &[3]);
        check(&[3], true, 0, &[3], &[1, 3]);
        check(&[3], true, 0, &[4, 3], &[4, 3]); // it carries the batch already
        check(&[3], false, 1, &[1, 3], &[3]);
        check(&[-1, 3], false, 1, &[1, 3], &[1, 3]); // taken whole
        check(&[-1, 3], false, 4, &[4, 3], &[4, 3]);
        check(&[3], false, 4, &[4, 3], &[4, 3]); // does not fit: the model says so
    }

    #[test]
    fn an_output_shows_its_dims_again() {
        let spec = OutputSpec {
            name: "o".into(),
            data_type: DataType::Fp32,
            dims: Shape::from_slice(&[-1, 1]),
            reshape: Some(Shape::from_slice(&[-1])),
            labels: vec![],
        };
        assert_eq!(undo_reshape(&spec, true, Shape::from_slice(&[2, 5])).as_slice(), [2, 5, 1]);
        assert_eq!(undo_reshape(&spec, false, Shape::from_slice(&[5])).as_slice(), [5, 1]);
        assert_eq!(undo_reshape(&spec, false, Shape::from_slice(&[5, 2])).as_slice(), [5, 2]);
    }
}
