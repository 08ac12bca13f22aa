//! The shared-memory parameters of one tensor, of a request's input or output.

use std::collections::BTreeMap;

use server_core::error::{Error, Result};
use server_engine::RegionPart;
use server_proto::inference::{InferParameter, infer_parameter::ParameterChoice};

/// Reads where in shared memory a tensor lies; `None` if its data is in the message.
///
/// Errors: a parameter of the wrong type, or one without the others.
pub(super) fn region<'a>(
    tensor: &str,
    parameters: &'a BTreeMap<String, InferParameter>,
) -> Result<Option<RegionPart<'a>>> {
    if parameters.is_empty() {
        return Ok(None);
    }
    let name = match choice(parameters, "shared_memory_region") {
        None => None,
        Some(Some(ParameterChoice::StringParam(name))) => Some(name.as_str()),
        Some(_) => return Err(wrong_type("shared_memory_region", tensor, "string_param")),
    };
    let offset = number("shared_memory_offset", tensor, parameters, name.is_some())?.unwrap_or(0);
    let byte_size = number("shared_memory_byte_size", tensor, parameters, name.is_some())?;
    match (name, byte_size) {
        (None, _) => Ok(None),
        (Some(region), Some(byte_size)) => Ok(Some(RegionPart { region, offset, byte_size })),
        (Some(_), None) => Err(Error::invalid_argument(format!(
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor '{tensor}'"
        ))),
    }
}

/// The number of that name, if it is given; it needs a region and the right type. A negative one is a large one, as in Triton:
/// beyond every region.
fn number(
    key: &str,
    tensor: &str,
    parameters: &BTreeMap<String, InferParameter>,
    has_region: bool,
) -> Result<Option<u64>> {
    match choice(parameters, key) {
        None => Ok(None),
        Some(_) if !has_region => Err(Error::invalid_argument(format!(
            "'{key}' can not be specified without 'shared_memory_region' parameter for tensor '{tensor}'"
        ))),
        Some(Some(ParameterChoice::Int64Param(number))) => Ok(Some(number.cast_unsigned())),
        Some(_) => Err(wrong_type(key, tensor, "int64_param")),
    }
}

fn choice<'a>(parameters: &'a BTreeMap<String, InferParameter>, key: &str) -> Option<Option<&'a ParameterChoice>> {
    parameters.get(key).map(|parameter| parameter.parameter_choice.as_ref())
}

fn wrong_type(key: &str, tensor: &str, expected: &str) -> Error {
    Error::invalid_argument(format!(
        "invalid value type for '{key}' parameter for tensor '{tensor}', expected {expected}."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&str, ParameterChoice)]) -> Result<Option<(String, u64, u64)>> {
        let named = |(key, choice): &(&str, ParameterChoice)| {
            ((*key).to_owned(), InferParameter { parameter_choice: Some(choice.clone()) })
        };
        let parameters = given.iter().map(named).collect();
        let part = |part: RegionPart<'_>| (part.region.to_owned(), part.offset, part.byte_size);
        region("t", &parameters).map(|found| found.map(part))
    }

    #[test]
    fn a_region_needs_its_size_and_may_have_an_offset() {
        let name = ("shared_memory_region", ParameterChoice::StringParam("r".into()));
        let offset = ("shared_memory_offset", ParameterChoice::Int64Param(8));
        let size = ("shared_memory_byte_size", ParameterChoice::Int64Param(64));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("other", ParameterChoice::BoolParam(true))]), Ok(None));
        assert_eq!(read(&[name.clone(), size.clone()]), Ok(Some(("r".into(), 0, 64))));
        assert_eq!(read(&[name.clone(), offset.clone(), size.clone()]), Ok(Some(("r".into(), 8, 64))));
        let negative = ("shared_memory_offset", ParameterChoice::Int64Param(-1));
        assert_eq!(read(&[name.clone(), negative, size.clone()]), Ok(Some(("r".into(), u64::MAX, 64))));
        for (given, message) in [
            (
                vec![name.clone(), offset.clone()],
                "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor 't'",
            ),
            (
                vec![offset],
                "'shared_memory_offset' can not be specified without 'shared_memory_region' parameter for tensor 't'",
            ),
            (
                vec![size],
                "'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter for tensor 't'",
            ),
            (
                vec![("shared_memory_region", ParameterChoice::Int64Param(1))],
                "invalid value type for 'shared_memory_region' parameter for tensor 't', expected string_param.",
            ),
            (
                vec![name.clone(), ("shared_memory_offset", ParameterChoice::StringParam("8".into()))],
                "invalid value type for 'shared_memory_offset' parameter for tensor 't', expected int64_param.",
            ),
            (
                vec![name, ("shared_memory_byte_size", ParameterChoice::Uint64Param(64))],
                "invalid value type for 'shared_memory_byte_size' parameter for tensor 't', expected int64_param.",
            ),
        ] {
            assert_eq!(read(&given), Err(Error::invalid_argument(message)));
        }
    }
}
