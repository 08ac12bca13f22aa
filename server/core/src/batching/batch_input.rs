//! Inputs that no request brings: how the requests of a batch lie in one flat tensor, for models that take ragged inputs.
//!
//! Source: Triton model configuration, "Ragged Batching".

use server_proto::inference::batch_input::Kind;

use super::pack::PackError;
use crate::tensor::{DataType, Shape, element_count};

/// Computes one such input: its shape, and its elements as `data_type`, which is INT32 or FP32.
///
/// Shape: `sources` are the full shapes of the source input, one per request of the batch in its order; the result is
/// `[n]` for counts of n requests, `[n + 1]` with a leading zero, `[greatest count]` for a shape alone (its elements are
/// zeros), and one line of extents per row of the batch for item shapes.
/// Errors: `Overflow` if a count does not fit the type, `Scalar` if a source has no batch dimension.
pub fn compute(
    kind: Kind,
    data_type: DataType,
    sources: impl Iterator<Item = impl AsRef<[i64]>>,
) -> Result<(Shape, Vec<u8>), PackError> {
    let mut numbers = Vec::new();
    let mut sum = 0_i64;
    let mut greatest = 0;
    let mut rank = 0;
    if kind == Kind::BatchAccumulatedElementCountWithZero {
        numbers.push(0);
    }
    for source in sources {
        let source = source.as_ref();
        let [rows, item @ ..] = source else { return Err(PackError::Scalar) };
        let count = element_count(source).ok_or(PackError::Overflow)?;
        sum = sum.checked_add(count).ok_or(PackError::Overflow)?;
        greatest = greatest.max(count);
        rank = item.len();
        match kind {
            Kind::BatchElementCount => numbers.push(count),
            Kind::BatchAccumulatedElementCount | Kind::BatchAccumulatedElementCountWithZero => numbers.push(sum),
            Kind::BatchMaxElementCountAsShape => {}
            Kind::BatchItemShape | Kind::BatchItemShapeFlatten => {
                for _ in 0..*rows {
                    numbers.extend_from_slice(item);
                }
            }
        }
    }
    if kind == Kind::BatchMaxElementCountAsShape {
        numbers = vec![0; usize::try_from(greatest).map_err(|_| PackError::Overflow)?];
    }
    let length = numbers.len() as i64;
    let shape = match kind {
        Kind::BatchItemShape => [length.checked_div(rank as i64).unwrap_or(0), rank as i64].as_slice().into(),
        _ => [length].as_slice().into(),
    };
    let mut bytes = Vec::with_capacity(4 * numbers.len());
    for number in numbers {
        let number = i32::try_from(number).map_err(|_| PackError::Overflow)?;
        bytes.extend_from_slice(&match data_type {
            DataType::Fp32 => (number as f32).to_le_bytes(),
            _ => number.to_le_bytes(),
        });
    }
    Ok((shape, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, shape: &[i64], expect: &[i32]) {
        let sources = [[1, 3].as_slice(), &[2, 1], &[1, 4]];
        let bytes: Vec<u8> = expect.iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(compute(kind, DataType::Int32, sources.iter()), Ok((shape.into(), bytes)), "{kind:?}");
    }

    #[test]
    fn each_kind_describes_the_batch_in_its_own_way() {
        check(Kind::BatchElementCount, &[3], &[3, 2, 4]);
        check(Kind::BatchAccumulatedElementCount, &[3], &[3, 5, 9]);
        check(Kind::BatchAccumulatedElementCountWithZero, &[4], &[0, 3, 5, 9]);
        check(Kind::BatchMaxElementCountAsShape, &[4], &[0; 4]);
        check(Kind::BatchItemShape, &[4, 1], &[3, 1, 1, 4]);
        check(Kind::BatchItemShapeFlatten, &[4], &[3, 1, 1, 4]);
    }

    #[test]
    fn elements_are_floats_where_that_is_asked_for() {
        let computed = compute(Kind::BatchElementCount, DataType::Fp32, [[1, 7]].iter());
        assert_eq!(computed, Ok(([1].as_slice().into(), 7_f32.to_le_bytes().to_vec())));
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        let compute = |source: &[i64]| compute(Kind::BatchElementCount, DataType::Int32, [source].iter());
        assert_eq!(compute(&[]), Err(PackError::Scalar));
        assert_eq!(compute(&[1, 1 << 31]), Err(PackError::Overflow));
        assert_eq!(compute(&[i64::MAX, 2]), Err(PackError::Overflow));
    }
}
