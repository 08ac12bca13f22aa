//! A request held against the model it names: names, counts, batch dimension, types, shapes, bytes, in Triton's order
//! and words. A request that passes needs no further look: shapes are full, sizes match, input reshapes are applied.
//!
//! Nothing is allocated unless something is wrong.

mod contents;
mod names;
mod raw;
mod shapes;

pub use raw::deduce_raw;

use crate::{error::Result, interface::Interface, request::InferRequest};

/// Checks a request against a model and makes its inputs what the runtime wants to see.
///
/// Returns the rows the request contributes to a batch: its batch dimension, or 1 for a model without one.
/// Shapes: an input with `reshape` leaves with the reshaped extents, its batch dimension kept.
/// Errors: `InvalidArgument` in Triton's words, with the request's id in front where Triton puts it.
/// Source: Triton's request normalisation; the order of checks is its order.
pub fn check(interface: &Interface, request: &mut InferRequest) -> Result<u32> {
    names::check(interface, request)?;
    let InferRequest { id, inputs, .. } = request;
    let rows = shapes::batch_size(interface, id, inputs)?;
    for (position, input) in inputs.iter_mut().enumerate() {
        let spec = interface
            .input_near(position, &input.name)
            .ok_or_else(|| names::unexpected_input(interface, &input.name))?;
        shapes::check(interface, id, spec, input)?;
        contents::check(interface, id, spec, input, rows)?;
        shapes::reshape(interface, spec, input);
    }
    if interface.max_batch_size == 0 {
        return Ok(1);
    }
    match rows {
        Some(0) => Err(shapes::empty_batch(interface, id)),
        Some(rows) => Ok(rows),
        None if interface.has_sequences || interface.inputs.is_empty() => Ok(1),
        None => Err(shapes::no_inputs(id)), // they are all optional, but something has to say how many rows there are
    }
}

#[cfg(test)]
mod tests;
