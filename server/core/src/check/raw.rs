//! A body without any description: the data of a model's only input, its shape found out from the configuration.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    buffer::Buffer,
    error::{Error, Result},
    interface::{InputSpec, Interface},
    tensor::{DataType, Shape, Tensor},
};

/// Makes the only input of a model out of a bare body, of which nobody keeps anything.
///
/// Shape: the configuration's, with a batch dimension of 1 in front when batching; its one wildcard takes what the body
/// has. A BYTES body is one element: its length is put in front, which copies it.
/// Errors: `InvalidArgument` if the model has another number of inputs, more than one wildcard, or a BYTES input of
/// other than one element. Whether the body fills the shape is for [`check`](super::check) to say.
/// Source: Triton binary data extension, "Raw Binary Request".
pub fn deduce_raw(interface: &Interface, request_id: &str, body: Bytes) -> Result<Tensor> {
    let [input] = interface.inputs.as_slice() else {
        return Err(invalid(
            request_id,
            format!(
                "Raw request must only have 1 input (found 1) to be deduced but got {} inputs in '{}' model configuration",
                interface.inputs.len(),
                interface.model_name
            ),
        ));
    };
    let batch = usize::from(interface.max_batch_size > 0);
    let mut shape: Shape = smallvec::smallvec![1; batch];
    shape.extend_from_slice(&input.dims);

    let mut wildcards =
        input.dims.iter().enumerate().filter(|&(_, &dim)| dim == -1).map(|(position, _)| batch + position);
    let wildcard = wildcards.next();
    if wildcards.next().is_some() {
        return Err(invalid(
            request_id,
            format!(
                "The shape of the raw input '{}' can not be deduced because there are more than one variable-sized dimension",
                input.name
            ),
        ));
    }
    let data = match input.data_type.byte_size() {
        None => one_string(input, wildcard.is_some(), request_id, &body)?,
        Some(element_size) => {
            if let Some(position) = wildcard {
                shape[position] = rest_of_body(input, element_size, body.len());
            }
            body
        }
    };
    Ok(Tensor { name: input.name.clone(), data_type: input.data_type, shape, data: Buffer::unique(data) })
}

/// The extent of the wildcard that uses up `length` bytes, rounded down; 0 if the fixed extents leave no room for any.
fn rest_of_body(input: &InputSpec, element_size: usize, length: usize) -> i64 {
    let fixed = input
        .dims
        .iter()
        .filter(|&&dim| dim != -1)
        .try_fold(element_size, |size, &dim| usize::try_from(dim).ok().and_then(|dim| size.checked_mul(dim)));
    let extent = fixed.and_then(|fixed| length.checked_div(fixed)).unwrap_or(0);
    i64::try_from(extent).unwrap_or(i64::MAX)
}

fn one_string(input: &InputSpec, has_wildcard: bool, request_id: &str, body: &Bytes) -> Result<Bytes> {
    let is_one = !has_wildcard && input.dims.iter().all(|&dim| dim == 1);
    let length = u32::try_from(body.len()).ok().filter(|_| is_one);
    let Some(length) = length else {
        debug_assert_eq!(input.data_type, DataType::Bytes, "only BYTES has no element size");
        return Err(invalid(
            request_id,
            format!("For BYTE datatype raw input '{}', the model must have input shape [1]", input.name),
        ));
    };
    let mut element = BytesMut::with_capacity(4 + body.len());
    element.put_u32_le(length);
    element.put_slice(body);
    Ok(element.freeze())
}

#[cold]
fn invalid(request_id: &str, message: String) -> Error {
    Error::invalid_argument(message).with_request_id(request_id)
}
