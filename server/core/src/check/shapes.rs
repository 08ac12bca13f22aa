//! Batch dimension, element type and extents of the inputs, and the reshape a configuration may ask for.

use crate::{
    error::{Error, Result},
    interface::{InputSpec, Interface},
    tensor::{Shape, Tensor, shape_text},
};

/// Triton's hint, appended when a model has a batch dimension.
const BATCH_NOTE: &str = "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting max_batch_size to zero. See the model configuration docs for more info on max_batch_size.";

/// The batch dimension all inputs agree on; `None` for a model without one, or a request without inputs.
pub(super) fn batch_size(interface: &Interface, id: &str, inputs: &[Tensor]) -> Result<Option<u32>> {
    if interface.max_batch_size == 0 {
        return Ok(None);
    }
    let mut rows: Option<i64> = None;
    for input in inputs {
        let Some(&extent) = input.shape.first() else {
            return Err(no_batch_dimension(interface, id, input));
        };
        match rows {
            // An empty batch agrees with whatever follows, as in Triton; its bytes are checked later.
            None | Some(0) => rows = Some(extent),
            Some(rows) if rows != extent => return Err(unequal_batch(interface, id, input)),
            Some(_) => {}
        }
    }
    match rows.map(u32::try_from) {
        None => Ok(None),
        Some(Ok(rows)) if rows <= interface.max_batch_size => Ok(Some(rows)),
        Some(_) => Err(batch_too_big(interface, id)), // a negative extent wraps around in Triton: the same words
    }
}

/// Checks element type and extents of one input.
pub(super) fn check(interface: &Interface, id: &str, spec: &InputSpec, input: &Tensor) -> Result<()> {
    if input.data_type != spec.data_type {
        return Err(wrong_type(interface, id, spec, input));
    }
    let extents = &input.shape[batch_dimensions(interface)..];
    if spec.takes_any_shape {
        return if extents.contains(&-1) { Err(wildcard(interface, id, input)) } else { Ok(()) };
    }
    if extents.len() != spec.dims.len() {
        return Err(wrong_shape(interface, id, spec, input));
    }
    for (&extent, &dim) in extents.iter().zip(&spec.dims) {
        if extent == -1 {
            return Err(wildcard(interface, id, input));
        }
        if dim != -1 && dim != extent {
            return Err(wrong_shape(interface, id, spec, input));
        }
    }
    Ok(())
}

/// Replaces the extents behind the batch dimension by those of the configuration's `reshape`; wildcards of the one
/// become the wildcards of the other, in order.
pub(super) fn reshape(interface: &Interface, spec: &InputSpec, input: &mut Tensor) {
    let Some(reshape) = &spec.reshape else { return };
    let batch = batch_dimensions(interface);
    let mut free =
        input.shape[batch..].iter().zip(&spec.dims).filter(|&(_, &dim)| dim == -1).map(|(&extent, _)| extent);
    let mut shape = Shape::from_slice(&input.shape[..batch]);
    for &dim in reshape {
        let extent = if dim == -1 { free.next() } else { Some(dim) };
        shape.push(extent.unwrap_or(dim));
    }
    input.shape = shape;
}

fn batch_dimensions(interface: &Interface) -> usize {
    usize::from(interface.max_batch_size > 0)
}

fn invalid(id: &str, message: String) -> Error {
    Error::invalid_argument(message).with_request_id(id)
}

/// The error for a request without inputs: none says how large its batch is.
#[cold]
pub(super) fn no_inputs(id: &str) -> Error {
    invalid(id, "out of bounds index 0: request has 0 inputs".into())
}

#[cold]
pub(super) fn empty_batch(interface: &Interface, id: &str) -> Error {
    invalid(id, format!("inference request batch-size must be >= 1 for '{}'", interface.model_name))
}

#[cold]
fn no_batch_dimension(interface: &Interface, id: &str, input: &Tensor) -> Error {
    let Interface { model_name, .. } = interface;
    invalid(id, format!("input '{}' has no shape but model requires batch dimension for '{model_name}'", input.name))
}

#[cold]
fn unequal_batch(interface: &Interface, id: &str, input: &Tensor) -> Error {
    let Interface { model_name, .. } = interface;
    invalid(id, format!("input '{}' batch size does not match other inputs for '{model_name}'", input.name))
}

#[cold]
fn batch_too_big(interface: &Interface, id: &str) -> Error {
    let Interface { model_name, max_batch_size, .. } = interface;
    invalid(id, format!("inference request batch-size must be <= {max_batch_size} for '{model_name}'"))
}

#[cold]
fn wrong_type(interface: &Interface, id: &str, spec: &InputSpec, input: &Tensor) -> Error {
    invalid(
        id,
        format!(
            "inference input '{}' data-type is '{}', but model '{}' expects '{}'",
            input.name, input.data_type, interface.model_name, spec.data_type
        ),
    )
}

#[cold]
fn wildcard(interface: &Interface, id: &str, input: &Tensor) -> Error {
    invalid(
        id,
        format!(
            "All input dimensions should be specified for input '{}' for model '{}', got {}",
            input.name,
            interface.model_name,
            shape_text(&input.shape)
        ),
    )
}

#[cold]
fn wrong_shape(interface: &Interface, id: &str, spec: &InputSpec, input: &Tensor) -> Error {
    let expected = interface.full_shape(&spec.dims);
    let note = if interface.max_batch_size > 0 { BATCH_NOTE } else { "" };
    invalid(
        id,
        format!(
            "unexpected shape for input '{}' for model '{}'. Expected {}, got {}. {note}",
            input.name,
            interface.model_name,
            shape_text(&expected),
            shape_text(&input.shape)
        ),
    )
}
