//! The parameters of one request: the server reads its own and passes the others to the backend.

use std::{collections::BTreeMap, time::Duration};

use server_core::{
    error::{Error, Result},
    request::{CorrelationId, Parameter, Parameters, Sequence},
};
use server_proto::inference::{InferParameter, infer_parameter::ParameterChoice};

/// Longest correlation id, in bytes.
const MAX_CORRELATION_ID: usize = 128;
/// The prefix of reserved keys, and the one such key that clients may use.
const RESERVED: &str = "triton_";
const EMPTY_FINAL: &str = "triton_enable_empty_final_response";

/// The parameters of a request.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RequestParameters {
    pub(super) sequence: Option<Sequence>,
    pub(super) priority: u64,
    pub(super) timeout: Option<Duration>,
    pub(super) wants_empty_final: bool,
    pub(super) others: Parameters,
}

/// Reads the parameters of a request.
///
/// Errors: a value of the wrong type, a reserved key; `Unsupported` for too long a correlation id.
pub(super) fn read(parameters: BTreeMap<String, InferParameter>) -> Result<RequestParameters> {
    let mut given = RequestParameters::default();
    let mut sequence_id = None;
    let (mut is_start, mut is_end) = (false, false);
    for (key, value) in parameters {
        match (key.as_str(), value.parameter_choice) {
            ("sequence_id", choice) => sequence_id = Some(correlation_id(choice)?),
            ("sequence_start", choice) => is_start = boolean(&key, choice)?,
            ("sequence_end", choice) => is_end = boolean(&key, choice)?,
            ("priority", choice) => given.priority = priority(choice)?,
            ("timeout", choice) => given.timeout = timeout(choice)?,
            (EMPTY_FINAL, choice) => given.wants_empty_final = boolean(&key, choice)?,
            (reserved, _) if reserved.starts_with(RESERVED) => return Err(reserved_key()),
            (_, choice) => {
                let value = other(&key, choice)?;
                given.others.push((key, value));
            }
        }
    }
    given.sequence = Sequence::of(sequence_id, is_start, is_end);
    Ok(given)
}

fn correlation_id(choice: Option<ParameterChoice>) -> Result<CorrelationId> {
    match choice {
        Some(ParameterChoice::Int64Param(number)) => Ok(CorrelationId::Number(number.cast_unsigned())),
        Some(ParameterChoice::StringParam(text)) if text.len() <= MAX_CORRELATION_ID => Ok(CorrelationId::Text(text)),
        Some(ParameterChoice::StringParam(_)) => {
            Err(Error::unsupported("string correlation ID cannot be longer than 128 characters"))
        }
        _ => Err(wrong_type("sequence_id", "int64_param or string_param")),
    }
}

fn boolean(key: &str, choice: Option<ParameterChoice>) -> Result<bool> {
    match choice {
        Some(ParameterChoice::BoolParam(value)) => Ok(value),
        _ => Err(wrong_type(key, "bool_param")),
    }
}

fn priority(choice: Option<ParameterChoice>) -> Result<u64> {
    match choice {
        Some(ParameterChoice::Uint64Param(value)) => Ok(value),
        Some(ParameterChoice::Int64Param(value)) => u64::try_from(value)
            .map_err(|_| Error::invalid_argument("invalid value for 'priority', expected value >= 0.")),
        _ => Err(wrong_type("priority", "int64_param or uint64_param")),
    }
}

/// Microseconds; 0 is the model's default. A negative number is taken as unsigned, as Triton does.
fn timeout(choice: Option<ParameterChoice>) -> Result<Option<Duration>> {
    match choice {
        Some(ParameterChoice::Int64Param(0)) => Ok(None),
        Some(ParameterChoice::Int64Param(micros)) => Ok(Some(Duration::from_micros(micros.cast_unsigned()))),
        _ => Err(wrong_type("timeout", "int64_param")),
    }
}

fn other(key: &str, choice: Option<ParameterChoice>) -> Result<Parameter> {
    match choice {
        Some(ParameterChoice::BoolParam(value)) => Ok(Parameter::Bool(value)),
        Some(ParameterChoice::Int64Param(value)) => Ok(Parameter::Int(value)),
        Some(ParameterChoice::StringParam(value)) => Ok(Parameter::String(value)),
        Some(ParameterChoice::DoubleParam(value)) => Ok(Parameter::Double(value)),
        _ => Err(wrong_type(key, "int64_param, bool_param, or string_param")),
    }
}

fn wrong_type(key: &str, expected: &str) -> Error {
    Error::invalid_argument(format!("invalid value type for '{key}' parameter, expected {expected}."))
}

fn reserved_key() -> Error {
    Error::invalid_argument(
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with 'triton_' are allowed: triton_enable_empty_final_response",
    )
}

#[cfg(test)]
mod tests {
    use super::{ParameterChoice as Choice, *};

    fn try_read(given: Vec<(&str, Option<Choice>)>) -> Result<RequestParameters> {
        let named = |(key, choice): (&str, _)| (key.to_owned(), InferParameter { parameter_choice: choice });
        read(given.into_iter().map(named).collect())
    }

    #[track_caller]
    fn check(given: Vec<(&str, Choice)>, expected: RequestParameters) {
        let given = given.into_iter().map(|(key, choice)| (key, Some(choice))).collect();
        assert_eq!(try_read(given), Ok(expected));
    }

    #[test]
    fn the_servers_own_are_understood() {
        let numbered = |number, is_start, is_end| Sequence { id: CorrelationId::Number(number), is_start, is_end };
        check(vec![], RequestParameters::default());
        check(
            vec![("sequence_id", Choice::Int64Param(-1)), ("sequence_start", Choice::BoolParam(true))],
            RequestParameters { sequence: Some(numbered(u64::MAX, true, false)), ..Default::default() },
        );
        let longest = "x".repeat(128);
        check(
            vec![("sequence_id", Choice::StringParam(longest.clone())), ("sequence_end", Choice::BoolParam(true))],
            RequestParameters {
                sequence: Some(Sequence { id: CorrelationId::Text(longest), is_start: false, is_end: true }),
                ..Default::default()
            },
        );
        check(vec![("priority", Choice::Int64Param(2))], RequestParameters { priority: 2, ..Default::default() });
        check(
            vec![("priority", Choice::Uint64Param(u64::MAX))],
            RequestParameters { priority: u64::MAX, ..Default::default() },
        );
        let timeout = |micros| RequestParameters { timeout: Some(Duration::from_micros(micros)), ..Default::default() };
        check(vec![("timeout", Choice::Int64Param(100))], timeout(100));
        check(vec![("timeout", Choice::Int64Param(-1))], timeout(u64::MAX));
        check(vec![("timeout", Choice::Int64Param(0))], RequestParameters::default());
        check(
            vec![(EMPTY_FINAL, Choice::BoolParam(true))],
            RequestParameters { wants_empty_final: true, ..Default::default() },
        );
    }

    #[test]
    fn the_others_travel_on() {
        check(
            vec![
                ("a", Choice::BoolParam(true)),
                ("b", Choice::Int64Param(-3)),
                ("c", Choice::StringParam("text".into())),
                ("d", Choice::DoubleParam(0.5)),
            ],
            RequestParameters {
                others: vec![
                    ("a".into(), Parameter::Bool(true)),
                    ("b".into(), Parameter::Int(-3)),
                    ("c".into(), Parameter::String("text".into())),
                    ("d".into(), Parameter::Double(0.5)),
                ],
                ..Default::default()
            },
        );
    }

    #[test]
    fn wrong_types_are_told_with_the_right_ones() {
        let text = || Some(Choice::StringParam("1".into()));
        for (key, choice, message) in [
            (
                "sequence_id",
                Some(Choice::Uint64Param(1)),
                "invalid value type for 'sequence_id' parameter, expected int64_param or string_param.",
            ),
            ("sequence_start", text(), "invalid value type for 'sequence_start' parameter, expected bool_param."),
            ("sequence_end", None, "invalid value type for 'sequence_end' parameter, expected bool_param."),
            ("priority", Some(Choice::Int64Param(-1)), "invalid value for 'priority', expected value >= 0."),
            ("priority", text(), "invalid value type for 'priority' parameter, expected int64_param or uint64_param."),
            (
                "timeout",
                Some(Choice::Uint64Param(1)),
                "invalid value type for 'timeout' parameter, expected int64_param.",
            ),
            (
                EMPTY_FINAL,
                Some(Choice::Int64Param(1)),
                "invalid value type for 'triton_enable_empty_final_response' parameter, expected bool_param.",
            ),
            (
                "triton_other",
                text(),
                "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with 'triton_' are allowed: triton_enable_empty_final_response",
            ),
            (
                "custom",
                Some(Choice::Uint64Param(1)),
                "invalid value type for 'custom' parameter, expected int64_param, bool_param, or string_param.",
            ),
            (
                "custom",
                None,
                "invalid value type for 'custom' parameter, expected int64_param, bool_param, or string_param.",
            ),
        ] {
            assert_eq!(try_read(vec![(key, choice)]), Err(Error::invalid_argument(message)));
        }
        let long = Some(Choice::StringParam("x".repeat(129)));
        let error = Error::unsupported("string correlation ID cannot be longer than 128 characters");
        assert_eq!(try_read(vec![("sequence_id", long)]), Err(error));
    }
}
