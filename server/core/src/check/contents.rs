//! The bytes of an input against its shape: their number, and for BYTES the elements they hold.

use crate::{
    error::{Error, Result},
    interface::{InputSpec, Interface},
    tensor::{
        DataType, Tensor, element_count, shape_text,
        strings::{self, Truncated},
    },
};

/// Checks the bytes of one input whose extents were checked. `rows` is the batch dimension, if there is one.
pub(super) fn check(
    interface: &Interface,
    id: &str,
    spec: &InputSpec,
    input: &mut Tensor,
    rows: Option<u32>,
) -> Result<()> {
    if let Some(rows) = rows {
        input.shape[0] = i64::from(rows);
    }
    // An empty batch is measured as one row, as in Triton: bytes that should be there are missed by name.
    let measured = if rows == Some(0) { &input.shape[1..] } else { &input.shape[..] };
    if spec.data_type == DataType::Bytes {
        let count = element_count(measured).ok_or_else(|| uncountable(input, measured))?;
        return match input.data.as_host() {
            Some(bytes) => elements(interface, id, input, bytes, count),
            None => Ok(()), // lies on a device: the backend looks when it reads
        };
    }
    let expected = byte_size(input, measured)?;
    if input.data.len() != expected {
        return Err(wrong_byte_size(interface, id, input, expected));
    }
    Ok(())
}

/// Checks that a BYTES buffer holds exactly `count` whole elements.
fn elements(interface: &Interface, id: &str, input: &Tensor, bytes: &[u8], count: i64) -> Result<()> {
    let mut seen = 0i64;
    for element in strings::elements(bytes) {
        // A length that cannot be read comes before the count, a length that lies after it: Triton's order.
        if let Err(Truncated::Length { remaining }) = element {
            return Err(cut_length(interface, id, input, remaining));
        }
        seen += 1;
        if seen > count {
            return Err(too_many(interface, id, input, seen, count));
        }
        if let Err(Truncated::Element { expected, remaining }) = element {
            return Err(cut_element(interface, id, input, expected, remaining));
        }
    }
    if seen != count {
        return Err(too_few(interface, id, input, seen, count));
    }
    Ok(())
}

fn byte_size(input: &Tensor, extents: &[i64]) -> Result<usize> {
    crate::tensor::byte_count(input.data_type, extents).ok_or_else(|| unmeasurable(input, extents))
}

fn invalid(id: &str, message: String) -> Error {
    Error::invalid_argument(message).with_request_id(id)
}

#[cold]
fn wrong_byte_size(interface: &Interface, id: &str, input: &Tensor, expected: usize) -> Error {
    invalid(
        id,
        format!(
            "input byte size mismatch for input '{}' for model '{}'. Expected {expected}, got {}",
            input.name,
            interface.model_name,
            input.data.len()
        ),
    )
}

#[cold]
fn cut_length(interface: &Interface, id: &str, input: &Tensor, remaining: usize) -> Error {
    invalid(
        id,
        format!(
            "incomplete string length indicator for inference input '{}' for model '{}', expecting 4 bytes but only {remaining} bytes available. Please make sure the string length indicator is in one buffer.",
            input.name, interface.model_name
        ),
    )
}

#[cold]
fn cut_element(interface: &Interface, id: &str, input: &Tensor, expected: usize, remaining: usize) -> Error {
    invalid(
        id,
        format!(
            "incomplete string element for inference input '{}' for model '{}', expecting {expected} bytes but only {remaining} bytes available.",
            input.name, interface.model_name
        ),
    )
}

#[cold]
fn too_many(interface: &Interface, id: &str, input: &Tensor, seen: i64, count: i64) -> Error {
    invalid(
        id,
        format!(
            "unexpected number of string elements {seen} for inference input '{}' for model '{}', expecting {count}",
            input.name, interface.model_name
        ),
    )
}

#[cold]
fn too_few(interface: &Interface, id: &str, input: &Tensor, seen: i64, count: i64) -> Error {
    invalid(
        id,
        format!(
            "expected {count} string elements for inference input '{}' for model '{}', got {seen}",
            input.name, interface.model_name
        ),
    )
}

/// A BYTES shape without a number of elements.
#[cold]
fn uncountable(input: &Tensor, extents: &[i64]) -> Error {
    let name = &input.name;
    Error::invalid_argument(if extents.iter().any(|&extent| extent < 0) {
        format!("tensor '{name}' contains an invalid dimension in shape {}", shape_text(extents))
    } else {
        format!("element count for tensor '{name}' exceeds maximum size of {}", i64::MAX)
    })
}

/// A shape without a number of bytes.
#[cold]
fn unmeasurable(input: &Tensor, extents: &[i64]) -> Error {
    let name = &input.name;
    Error::invalid_argument(if extents.iter().any(|&extent| extent < 0) {
        format!("tensor '{name}' contains an invalid dimension {}", shape_text(extents))
    } else {
        format!("byte size for tensor '{name}' exceeds maximum size of {}", i64::MAX)
    })
}
