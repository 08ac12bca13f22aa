//! Sequence parameters on their way through an ensemble: a step may change them for the steps behind it, and the
//! ensemble's responses carry them.

use crate::{
    error::{Error, Result},
    request::{CorrelationId, Parameter, Parameters, Sequence},
    response::ResponseParameters,
};

/// The sequence that a step's response names for the steps behind it; `None` if it names none. `current` is the step's own.
///
/// Errors: `InvalidArgument` if a parameter has the wrong type.
/// Source: Triton's ensemble scheduler, parameters `sequence_id`, `sequence_start`, `sequence_end` of a response.
pub(super) fn named(parameters: &ResponseParameters, current: Option<&Sequence>) -> Result<Option<Sequence>> {
    let mut named: Option<Sequence> = None;
    for (name, value) in parameters.iter() {
        let field = match name.as_str() {
            "sequence_id" | "sequence_start" | "sequence_end" => name.as_str(),
            _ => continue,
        };
        let sequence = named.get_or_insert_with(|| Sequence {
            id: current.map_or(CorrelationId::Number(0), |current| current.id.clone()),
            is_start: false,
            is_end: false,
        });
        match (field, value) {
            ("sequence_id", Parameter::Int(id)) => sequence.id = CorrelationId::Number(id.cast_unsigned()),
            ("sequence_id", Parameter::Uint(id)) => sequence.id = CorrelationId::Number(*id),
            ("sequence_id", Parameter::String(id)) => sequence.id = CorrelationId::Text(id.clone()),
            ("sequence_id", _) => {
                return Err(Error::invalid_argument(
                    "expected parameter 'sequence_id' to be TRITONSERVER_PARAMETER_INT or TRITONSERVER_PARAMETER_STRING",
                ));
            }
            ("sequence_start", Parameter::Bool(is_start)) => sequence.is_start = *is_start,
            ("sequence_end", Parameter::Bool(is_end)) => sequence.is_end = *is_end,
            _ => {
                return Err(Error::invalid_argument(format!(
                    "expect parameter '{field}' to be TRITONSERVER_PARAMETER_BOOL"
                )));
            }
        }
    }
    Ok(named)
}

/// The parameters of an ensemble's response whose last step belonged to that sequence. Triton sets them on every response
/// with a tensor that a step has made, with zeros where there is no sequence.
pub(super) fn parameters(sequence: Option<&Sequence>) -> Parameters {
    let id = match sequence.map(|sequence| &sequence.id) {
        None => Parameter::Int(0),
        Some(CorrelationId::Number(id)) => Parameter::Int(id.cast_signed()),
        Some(CorrelationId::Text(id)) => Parameter::String(id.clone()),
    };
    vec![
        ("sequence_id".into(), id),
        ("sequence_start".into(), Parameter::Bool(sequence.is_some_and(|sequence| sequence.is_start))),
        ("sequence_end".into(), Parameter::Bool(sequence.is_some_and(|sequence| sequence.is_end))),
    ]
}
