//! How much memory the tensors of an instance need at most, and what a request's shape tensors say. Pure.

use server_core::{
    config::ModelConfig,
    tensor::{DataType, Shape},
};

use super::description::{Description, Io, Range};

/// The largest shape of an input that a profile and the configuration allow.
pub(super) fn largest(config: &ModelConfig, io: &Io, range: Option<&Range>) -> Shape {
    let mut shape = range.map_or_else(|| io.shape.clone(), |range| range.max.clone());
    if io.is_shape {
        return shape;
    }
    let batches = config.max_batch_size > 0;
    let input = config.input.iter().find(|input| input.name == io.text);
    if input.is_some_and(|input| input.allow_ragged_batch && batches) {
        return shape;
    }
    let is_computed = config.batch_input.iter().any(|input| input.target_name.contains(&io.text));
    if let (true, false, Some(rows)) = (batches, is_computed, shape.first_mut()) {
        *rows = (*rows).min(i64::from(config.max_batch_size));
    }
    let dims = input.map(|input| input.reshape.as_ref().map_or(&input.dims, |reshape| &reshape.shape));
    let own = shape.iter_mut().skip(usize::from(batches));
    for (extent, dim) in own.zip(dims.into_iter().flatten()).filter(|(_, dim)| **dim >= 0) {
        *extent = (*extent).min(*dim);
    }
    shape
}

/// Bytes of a tensor in memory, padding included; `None` if a dimension is open, or on overflow.
pub(super) fn bytes(io: &Io, shape: &[i64]) -> Option<usize> {
    let size = io.data_type.ok()?.byte_size()?;
    usize::try_from(io.layout.elements(shape)?).ok()?.checked_mul(size)
}

/// Largest values of a shape tensor, for which outputs are largest.
pub(super) fn largest_values(range: Option<&Range>) -> Option<&[i64]> {
    range.and_then(|range| range.values.as_ref()).map(|[_, _, most]| &**most)
}

/// The values of a shape tensor for a batch: the number of rows in front where there are rows, and those of the first row, for all rows
/// have the same.
///
/// Shape: `shape` is that of the batch, `bytes` its elements. `None` if they are no integers or too few.
pub(super) fn shape_values(io: &Io, shape: &[i64], bytes: &[u8], rows: Option<i64>) -> Option<Vec<i64>> {
    let own = &shape[usize::from(rows.is_some()).min(shape.len())..];
    let count = usize::try_from(server_core::tensor::element_count(own)?).ok()?;
    let values: Option<Vec<i64>> = match io.data_type.ok()? {
        DataType::Int32 => bytes
            .get(..count.checked_mul(4)?)?
            .chunks_exact(4)
            .map(|value| Some(i64::from(i32::from_le_bytes(value.try_into().ok()?))))
            .collect(),
        DataType::Int64 => bytes
            .get(..count.checked_mul(8)?)?
            .chunks_exact(8)
            .map(|value| Some(i64::from_le_bytes(value.try_into().ok()?)))
            .collect(),
        _ => None,
    };
    Some(rows.into_iter().chain(values?).collect())
}

/// The elements of a shape tensor as it takes them; `None` if one is too large for its type.
pub(super) fn encode(io: &Io, values: &[i64]) -> Option<Vec<u8>> {
    match io.data_type.ok()? {
        DataType::Int32 => {
            let narrow = values.iter().map(|&value| i32::try_from(value)).collect::<Result<Vec<_>, _>>().ok()?;
            Some(narrow.into_iter().flat_map(i32::to_le_bytes).collect())
        }
        _ => Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
    }
}

/// What callers see of an output that is a shape: its values once for each row, without the number of rows in front.
///
/// Shape: `values` are the engine's; the result has a shape of `[rows, n - 1]`, or `[n]` without rows, and its elements.
/// `None` if the values do not begin with the number of rows.
pub(super) fn shape_output(io: &Io, values: &[u8], rows: Option<i64>) -> Option<(Shape, Vec<u8>)> {
    let size = io.data_type.ok()?.byte_size()?;
    let count = (values.len() / size) as i64;
    let Some(rows) = rows else { return Some((Shape::from_slice(&[count]), values.to_vec())) };
    let (first, own) = values.split_at_checked(size)?;
    let mut number = [0; 8];
    number.get_mut(..size)?.copy_from_slice(first);
    (i64::from_le_bytes(number) == rows).then(|| {
        let repeated = own.repeat(usize::try_from(rows).unwrap_or(0));
        (Shape::from_slice(&[rows, count - 1]), repeated)
    })
}

/// Inputs whose first dimension is not the batch: ragged and computed ones, and shapes.
pub(super) fn is_flat(config: &ModelConfig, engine: &Description, name: &str) -> bool {
    let is_ragged = config.input.iter().any(|input| input.name == name && input.allow_ragged_batch);
    let is_computed = config.batch_input.iter().any(|input| input.target_name.iter().any(|target| target == name));
    is_ragged || is_computed || engine.find(name, true).is_some_and(|(_, io)| io.is_shape)
}

#[cfg(test)]
mod tests {
    use server_core::config::from_text;

    use super::{
        super::description::testing::{io, range},
        *,
    };

    fn integers(data_type: DataType) -> Io {
        Io { data_type: Ok(data_type), is_shape: true, ..io("s", true, &[3]) }
    }

    #[test]
    fn the_largest_shape_is_the_smaller_of_profile_and_configuration() {
        let range = range(&[1, 1, 3], &[2, 2, 3], &[16, 512, 3]);
        let largest =
            |text: &str| super::largest(&from_text(text).unwrap(), &io("x", true, &[-1, -1, 3]), range.as_ref());
        assert_eq!(largest("max_batch_size: 4 input { name: 'x' dims: [ 128, 3 ] }").as_slice(), [4, 128, 3]);
        assert_eq!(largest("max_batch_size: 64 input { name: 'x' dims: [ -1, 3 ] }").as_slice(), [16, 512, 3]);
        assert_eq!(largest("input { name: 'x' dims: [ 2, -1, 3 ] }").as_slice(), [2, 512, 3]);
        assert_eq!(bytes(&io("x", true, &[-1, 3]), &[2, 3]), Some(24));
        assert_eq!(bytes(&io("x", true, &[-1, 3]), &[-1, 3]), None);
    }

    #[test]
    fn shape_tensors_have_the_rows_in_front_of_their_values() {
        let request = [5_i32, 6, 5, 6].into_iter().flat_map(i32::to_le_bytes).collect::<Vec<u8>>();
        let io = integers(DataType::Int32);
        let values = shape_values(&io, &[2, 2], &request, Some(2)).unwrap();
        assert_eq!(values, [2, 5, 6]);
        assert_eq!(
            encode(&io, &values).unwrap(),
            [2_i32, 5, 6].into_iter().flat_map(i32::to_le_bytes).collect::<Vec<u8>>()
        );
        assert_eq!(encode(&io, &[1 << 40]), None);
        assert_eq!(shape_values(&io, &[4], &request[..8], None), None);
    }

    #[test]
    fn outputs_that_are_shapes_are_given_once_for_each_row() {
        let values = [2_i64, 7, 8].into_iter().flat_map(i64::to_le_bytes).collect::<Vec<u8>>();
        let io = integers(DataType::Int64);
        let (shape, repeated) = shape_output(&io, &values, Some(2)).unwrap();
        assert_eq!((shape.as_slice(), repeated.len()), ([2, 2].as_slice(), 32));
        assert_eq!(shape_output(&io, &values, Some(3)), None);
        assert_eq!(shape_output(&io, &values, None), Some((Shape::from_slice(&[3]), values.clone())));
    }
}
