//! Which tensors of an ensemble come once per request, and which once per response of a decoupled step.

use crate::{
    error::{Error, Result},
    tensor::Name,
};

/// A step as far as this file looks at it: tensors by number.
pub(super) struct StepTensors {
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<usize>,
    pub(super) is_decoupled: bool,
}

/// Where the values of tensors come from. Origin 0 is the request itself; each decoupled step is an origin of its own, whose
/// every response is one more value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Origins {
    /// By tensor; `None` for tensors that never get a value.
    pub(super) of_tensor: Vec<Option<usize>>,
    /// Origin of the inputs, by step.
    pub(super) of_step: Vec<usize>,
    /// Origin of the ensemble's outputs.
    pub(super) of_outputs: usize,
    /// How many there are.
    pub(super) count: usize,
}

/// Finds the origin of every tensor.
///
/// Errors: `InvalidArgument` in Triton's words if tensors of different origins meet; `Internal` if a step can never run,
/// which verification does not let through.
pub(super) fn origins(
    ensemble: &Name,
    steps: &[StepTensors],
    names: &[Name],
    inputs: &[usize],
    outputs: &[usize],
    tensor_count: usize,
) -> Result<Origins> {
    let different = |model: &Name| {
        Error::invalid_argument(format!(
            "in ensemble {ensemble}, step of model '{model}' receives inputs originated from different decoupled models"
        ))
    };
    let mut of_tensor = vec![None; tensor_count];
    for &input in inputs {
        of_tensor[input] = Some(0);
    }
    let mut of_step = vec![0; steps.len()];
    let mut count = 1;
    let mut open: Vec<usize> = (0..steps.len()).collect();
    while !open.is_empty() {
        let before = open.len();
        let mut later = Vec::new();
        for index in open {
            let step = &steps[index];
            let Some(sources) = step.inputs.iter().map(|&tensor| of_tensor[tensor]).collect::<Option<Vec<_>>>() else {
                later.push(index);
                continue;
            };
            let origin = sources.first().copied().unwrap_or(0);
            if sources.iter().any(|&other| other != origin) {
                // Triton names the model that a tensor was first known from: for its outputs, the ensemble itself.
                let is_output = step.outputs.first().is_some_and(|tensor| outputs.contains(tensor));
                return Err(different(if is_output { ensemble } else { &names[index] }));
            }
            of_step[index] = origin;
            let origin = if step.is_decoupled {
                count += 1;
                count - 1
            } else {
                origin
            };
            for &output in &step.outputs {
                of_tensor[output] = Some(origin);
            }
        }
        if later.len() == before {
            return Err(Error::internal(format!("ensemble '{ensemble}' has steps that can never run")));
        }
        open = later;
    }
    let mut of_outputs = outputs.iter().map(|&output| of_tensor[output].unwrap_or(0));
    let first = of_outputs.next().unwrap_or(0);
    if of_outputs.any(|other| other != first) {
        return Err(different(ensemble));
    }
    Ok(Origins { of_tensor, of_step, of_outputs: first, count })
}
