//! The classification extension: an output's values become the `k` largest of each batch row, as text.
//!
//! Pure: it takes a finished output tensor and gives the one that replaces it.
//! Source: Triton classification extension.

use std::{cmp::Ordering, fmt::Write as _};

use crate::{
    buffer::Buffer,
    error::{Error, Result},
    interface::Label,
    tensor::{DataType, Shape, Tensor, byte_count, element_count, strings},
};

/// Outputs with more elements are refused: sorting them would hold up everybody else.
const MAX_ELEMENTS: i64 = 1_000_000;

/// Replaces an output by its top classes.
///
/// Shape: with a batch dimension `[b, d_1, .., d_n]` becomes `[b, min(count, d_1 * .. * d_n)]`, without one the whole
/// tensor is a single row `[min(count, elements)]`. The result is of type BYTES; each element is `VALUE:INDEX`, or
/// `VALUE:INDEX:LABEL` where a label exists, largest value first, equal values by index.
/// Units: `count` and `labels` in classes of one row.
/// Errors: `InvalidArgument` for element types without an order and for more than a million elements; `Internal` if
/// the bytes do not fit the shape or are not in host memory.
pub fn classify(output: &Tensor, has_batch_dimension: bool, count: u32, labels: &[Label]) -> Result<Tensor> {
    let (rows, row_shape): (Option<i64>, &[i64]) = match output.shape.split_first() {
        Some((&batch, rest)) if has_batch_dimension => (Some(batch), rest),
        _ => (None, &output.shape),
    };
    let elements = element_count(&output.shape).unwrap_or(i64::MAX);
    let row_length = element_count(row_shape).unwrap_or(i64::MAX);
    if elements > MAX_ELEMENTS || row_length > MAX_ELEMENTS {
        return Err(Error::invalid_argument("classification output tensor too large"));
    }
    let Some(element_size) = output.data_type.byte_size().filter(|_| is_ordered(output.data_type)) else {
        return Err(Error::invalid_argument(format!(
            "class result not available for output due to unsupported type '{}'",
            output.data_type
        )));
    };
    let data = output.data.as_host().filter(|data| Some(data.len()) == byte_count(output.data_type, &output.shape));
    let Some(data) = data else {
        return Err(Error::internal(format!(
            "output tensor shape does not match size of output for '{}'",
            output.name
        )));
    };

    let row_length = usize::try_from(row_length).unwrap_or_default();
    let kept = row_length.min(count as usize);
    let mut texts = Vec::new();
    if row_length > 0 {
        for row in data.chunks_exact(row_length * element_size) {
            push_row(&mut texts, output.data_type, row, kept, labels);
        }
    }
    let shape: Shape = rows.into_iter().chain([kept as i64]).collect();
    Ok(Tensor { name: output.name.clone(), data_type: DataType::Bytes, shape, data: Buffer::from(texts) })
}

const fn is_ordered(data_type: DataType) -> bool {
    !matches!(data_type, DataType::Bool | DataType::Fp16 | DataType::Bf16 | DataType::Bytes)
}

/// Appends the `kept` largest elements of one row.
fn push_row(texts: &mut Vec<u8>, data_type: DataType, row: &[u8], kept: usize, labels: &[Label]) {
    macro_rules! rank {
        ($kind:ty, $compare:expr, $text:expr) => {{
            const SIZE: usize = size_of::<$kind>();
            let values: Vec<$kind> =
                row.as_chunks::<SIZE>().0.iter().map(|bytes| <$kind>::from_le_bytes(*bytes)).collect();
            for index in largest(&values, kept, $compare) {
                push_class(texts, $text, values[index], index, labels);
            }
        }};
    }
    match data_type {
        DataType::Uint8 => rank!(u8, u8::cmp, whole),
        DataType::Uint16 => rank!(u16, u16::cmp, whole),
        DataType::Uint32 => rank!(u32, u32::cmp, whole),
        DataType::Uint64 => rank!(u64, u64::cmp, whole),
        DataType::Int8 => rank!(i8, i8::cmp, whole),
        DataType::Int16 => rank!(i16, i16::cmp, whole),
        DataType::Int32 => rank!(i32, i32::cmp, whole),
        DataType::Int64 => rank!(i64, i64::cmp, whole),
        DataType::Fp32 => rank!(f32, |a, b| by_value(f64::from(*a), f64::from(*b)), fraction),
        DataType::Fp64 => rank!(f64, |a, b| by_value(*a, *b), fraction),
        DataType::Bool | DataType::Fp16 | DataType::Bf16 | DataType::Bytes => {} // refused by `classify`
    }
}

/// Indices of the `kept` largest values, largest first, equal ones by index.
fn largest<T>(values: &[T], kept: usize, compare: impl Fn(&T, &T) -> Ordering) -> Vec<usize> {
    let order = |&a: &usize, &b: &usize| compare(&values[b], &values[a]).then(a.cmp(&b));
    let mut indices: Vec<usize> = (0..values.len()).collect();
    if kept < indices.len() && kept > 0 {
        indices.select_nth_unstable_by(kept - 1, order);
    }
    indices.truncate(kept);
    indices.sort_unstable_by(order);
    indices
}

/// Order of floats in which not-a-number comes below everything.
fn by_value(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

fn push_class<T>(texts: &mut Vec<u8>, text: fn(&mut String, T), value: T, index: usize, labels: &[Label]) {
    let mut number = String::new();
    text(&mut number, value);
    let _ = write!(number, ":{index}"); // a String takes everything
    let mut class = number.into_bytes();
    if let Some(label) = labels.get(index).filter(|label| !label.is_empty()) {
        class.push(b':');
        class.extend_from_slice(label);
    }
    strings::push(texts, &class);
}

fn whole<T: std::fmt::Display>(class: &mut String, value: T) {
    let _ = write!(class, "{value}");
}

/// As C prints `%f`: six decimals, and lower-case words for what is no number.
fn fraction<T: Into<f64>>(class: &mut String, value: T) {
    let value = value.into();
    let _ = if value.is_nan() { write!(class, "nan") } else { write!(class, "{value:.6}") };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: &[i64], values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { name: "OUT".into(), data_type: DataType::Fp32, shape: shape.into(), data: data.into() }
    }

    #[track_caller]
    fn check(output: &Tensor, is_batched: bool, count: u32, labels: &[&str], shape: &[i64], expect: &[&str]) {
        let labels: Vec<Label> = labels.iter().map(|&label| label.into()).collect();
        let classes = classify(output, is_batched, count, &labels).unwrap();
        assert_eq!(classes.data_type, DataType::Bytes);
        assert_eq!(classes.shape.as_slice(), shape);
        let texts: Vec<String> = strings::elements(classes.data.as_host().unwrap())
            .map(|element| String::from_utf8(element.unwrap().to_vec()).unwrap())
            .collect();
        assert_eq!(texts, expect);
    }

    #[test]
    fn the_largest_come_first_with_their_labels() {
        let output = floats(&[1, 4], &[0.25, 3.5, -1.0, 2.0]);
        check(&output, true, 2, &["a", "b", "c"], &[1, 2], &["3.500000:1:b", "2.000000:3"]);
        check(&output, false, 9, &[], &[4], &["3.500000:1", "2.000000:3", "0.250000:0", "-1.000000:2"]);
    }

    #[test]
    fn labels_in_any_encoding_stay_as_they_are() {
        let classes = classify(&floats(&[1], &[0.5]), false, 1, &[b"caf\xe9".to_vec()]).unwrap();
        let element = strings::elements(classes.data.as_host().unwrap()).next().unwrap().unwrap();
        assert_eq!(element, b"0.500000:0:caf\xe9");
    }

    #[test]
    fn every_row_of_a_batch_has_its_own_classes() {
        let output = floats(&[2, 1, 2], &[1.0, 2.0, 4.0, 3.0]);
        check(&output, true, 1, &[], &[2, 1], &["2.000000:1", "4.000000:0"]);
    }

    #[test]
    fn equal_values_are_ordered_by_index_and_nan_is_last() {
        let output = floats(&[4], &[1.0, f32::NAN, 1.0, f32::INFINITY]);
        check(&output, false, 4, &[], &[4], &["inf:3", "1.000000:0", "1.000000:2", "nan:1"]);
    }

    #[test]
    fn integers_are_printed_plainly() {
        let data: Vec<u8> = [5i64, -7, 900].iter().flat_map(|value| value.to_le_bytes()).collect();
        let output =
            Tensor { name: "OUT".into(), data_type: DataType::Int64, shape: [3].as_slice().into(), data: data.into() };
        check(&output, false, 3, &[], &[3], &["900:2", "5:0", "-7:1"]);
    }

    #[test]
    fn types_without_an_order_and_huge_outputs_are_refused() {
        let mut output = floats(&[0], &[]);
        output.data_type = DataType::Bool;
        let error = classify(&output, false, 1, &[]).unwrap_err();
        assert_eq!(error.message, "class result not available for output due to unsupported type 'BOOL'");
        let error = classify(&floats(&[1_000_001], &[]), false, 1, &[]).unwrap_err();
        assert_eq!(error.message, "classification output tensor too large");
        let error = classify(&floats(&[3], &[1.0]), false, 1, &[]).unwrap_err();
        assert_eq!(error.message, "output tensor shape does not match size of output for 'OUT'");
    }

    #[test]
    fn nothing_to_classify_gives_nothing() {
        check(&floats(&[0, 4], &[]), true, 2, &[], &[0, 2], &[]);
        check(&floats(&[2, 0], &[]), true, 2, &[], &[2, 0], &[]);
    }
}
