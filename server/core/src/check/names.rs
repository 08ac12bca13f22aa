//! Which tensors a request names: nothing twice, nothing unknown, nothing missing.

use std::collections::HashSet;

use crate::{
    error::{Error, Result},
    interface::Interface,
    request::InferRequest,
    tensor::Name,
};

/// Checks the names of inputs and requested outputs.
pub(super) fn check(interface: &Interface, request: &InferRequest) -> Result<()> {
    let InferRequest { id, inputs, outputs, .. } = request;
    if let Some(twice) = duplicate(inputs.iter().map(|input| &input.name), interface.inputs.len()) {
        return Err(duplicated("input", id, twice));
    }
    if let Some(twice) = duplicate(outputs.iter().map(|output| &output.name), interface.outputs.len()) {
        return Err(duplicated("output", id, twice));
    }
    for (position, output) in outputs.iter().enumerate() {
        if interface.output_near(position, &output.name).is_none() {
            return Err(unexpected("output", interface, &output.name));
        }
    }

    let required = interface.inputs.iter().filter(|spec| !spec.is_optional).count();
    if inputs.len() > interface.inputs.len() || inputs.len() < required {
        return Err(wrong_count(interface, request, required));
    }
    let mut required_given = 0;
    for (position, input) in inputs.iter().enumerate() {
        match interface.input_near(position, &input.name) {
            Some(spec) => required_given += usize::from(!spec.is_optional),
            None => return Err(unexpected_input(interface, &input.name)),
        }
    }
    // With optional inputs the count can be right while a required one is absent.
    if required_given < required {
        return Err(wrong_count(interface, request, required));
    }
    Ok(())
}

/// The first name that occurs a second time. `known` is how many different names make sense: more of them are looked
/// up by hash, so that a hostile list costs no more than its length.
fn duplicate<'a>(names: impl ExactSizeIterator<Item = &'a Name> + Clone, known: usize) -> Option<&'a Name> {
    if names.len() > known.max(16) {
        let mut seen = HashSet::with_capacity(names.len());
        return names.into_iter().find(|name| !seen.insert(*name));
    }
    names
        .clone()
        .enumerate()
        .find(|(position, name)| names.clone().take(*position).any(|earlier| earlier == *name))
        .map(|(_, name)| name)
}

#[cold]
fn duplicated(kind: &str, id: &str, name: &str) -> Error {
    Error::invalid_argument(format!("{kind} '{name}' already exists in request")).with_request_id(id)
}

/// The error for an input the model does not have.
#[cold]
pub(super) fn unexpected_input(interface: &Interface, name: &str) -> Error {
    unexpected("input", interface, name)
}

#[cold]
fn unexpected(kind: &str, interface: &Interface, name: &str) -> Error {
    Error::invalid_argument(format!("unexpected inference {kind} '{name}' for model '{}'", interface.model_name))
}

#[cold]
fn wrong_count(interface: &Interface, request: &InferRequest, required: usize) -> Error {
    let all = interface.inputs.len();
    let expected = if required == all {
        format!("expected {all} inputs")
    } else {
        format!("expected number of inputs between {required} and {all}")
    };
    let missing = interface
        .inputs
        .iter()
        .filter(|spec| !spec.is_optional && !request.inputs.iter().any(|input| input.name == spec.name))
        .map(|spec| &*spec.name);
    // Clients see these odd brackets: nothing given is `[]`, nothing missing is a lone `]`.
    let given = match request.inputs.is_empty() {
        true => "[]".to_owned(),
        false => quoted(request.inputs.iter().map(|input| &*input.name)),
    };
    Error::invalid_argument(format!(
        "{expected} but got {} inputs for model '{}'. Got input(s) {given}, but missing required input(s) {}. Please provide all required input(s).",
        request.inputs.len(),
        interface.model_name,
        quoted(missing),
    ))
    .with_request_id(&request.id)
}

/// `['a','b']`; of nothing, `]`.
fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("'{name}'")).collect();
    if names.is_empty() { "]".to_owned() } else { format!("[{}]", names.join(",")) }
}
