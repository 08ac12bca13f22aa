//! What a request takes from the metadata of its call: parameters for its model, and the mark of a canary version.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use server_core::{
    error::{Error, Result},
    header_forwarding::HeaderPattern,
    request::{InferRequest, Parameters},
};
use server_engine::ModelHandle;

/// Metadata of a call that its first error ends.
pub(crate) const STRICT: &str = "triton_grpc_error";

/// Values under names with this ending are bytes, written as base64.
const BINARY: &str = "-bin";

/// With or without padding, as gRPC over HTTP/2 has receivers accept it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The parameters that the metadata of a call becomes, in the order of their names.
///
/// Errors: `InvalidArgument` for a reserved name, and for a value that its name calls binary and is not.
/// Source: gRPC over HTTP/2, "Custom-Metadata"; a binary value ends at its first zero, as in Triton, which passes it as a C string.
pub(crate) fn forwarded(pattern: Option<&HeaderPattern>, metadata: &HeaderMap) -> Result<Parameters> {
    let mut parameters = Parameters::new();
    let Some(pattern) = pattern else { return Ok(parameters) };
    for (name, value) in metadata {
        if is_of_the_protocol(name) {
            continue;
        }
        let (name, value) = (name.as_str(), value.as_bytes());
        if !name.ends_with(BINARY) || !pattern.matches(name) {
            parameters.extend(pattern.parameter(name, value)?);
            continue;
        }
        for value in value.split(|byte| *byte == b',') {
            let value = BASE64.decode(value.trim_ascii()).map_err(|_| not_base64(name))?;
            let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
            parameters.extend(pattern.parameter(name, &value[..end])?);
        }
    }
    parameters.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(parameters)
}

/// Adds the parameters behind those the request has already.
pub(crate) fn take_metadata(
    forwarded: impl IntoIterator<Item = <Parameters as IntoIterator>::Item>,
    model: &ModelHandle,
    metadata: &HeaderMap,
    request: &mut InferRequest,
) {
    request.parameters.extend(forwarded);
    model.mark_canary(request, |key| metadata.get(key).map(HeaderValue::as_bytes));
}

/// Whether it is a header of gRPC or of the server itself and no metadata of the caller.
fn is_of_the_protocol(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "te" | "content-type" | "content-length" | STRICT) || name.starts_with("grpc-")
}

#[cold]
fn not_base64(name: &str) -> Error {
    Error::invalid_argument(format!(
        "Header '{name}' cannot be forwarded: names that end in '{BINARY}' have values in base64"
    ))
}

#[cfg(test)]
mod tests {
    use server_core::request::Parameter;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, metadata: &[(&str, &str)], expected: Result<&[(&str, &str)]>) {
        let pattern = HeaderPattern::new(pattern).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in metadata {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let string = |(name, value): &(&str, &str)| ((*name).to_owned(), Parameter::String((*value).to_owned()));
        let expected = expected.map(|expected| expected.iter().map(string).collect());
        assert_eq!(forwarded(Some(&pattern), &headers), expected);
    }

    #[test]
    fn metadata_of_the_caller_is_forwarded_in_the_order_of_its_names() {
        check(".", &[("x-b", "1"), ("x-b", "2"), ("x-a", "3")], Ok(&[("x-a", "3"), ("x-b", "1"), ("x-b", "2")]));
        check("^x-", &[("x-a", ""), ("other", "2")], Ok(&[("x-a", "")]));
        let headers = [
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", "1S"),
            ("grpc-accept-encoding", "gzip"),
            ("triton_grpc_error", "true"),
            ("user-agent", "me"),
        ];
        check(".*", &headers, Ok(&[("user-agent", "me")]));
        assert_eq!(forwarded(None, &HeaderMap::from_iter([("te".parse().unwrap(), "x".parse().unwrap())])), Ok(vec![]));
    }

    #[test]
    fn binary_metadata_is_decoded_up_to_its_first_zero() {
        check("x-", &[("x-b-bin", "YWJj")], Ok(&[("x-b-bin", "abc")]));
        check("x-", &[("x-b-bin", "YWI=")], Ok(&[("x-b-bin", "ab")]));
        check("x-", &[("x-b-bin", "YWI, YWJj")], Ok(&[("x-b-bin", "ab"), ("x-b-bin", "abc")]));
        check("x-", &[("x-b-bin", "YWIAYw==")], Ok(&[("x-b-bin", "ab")]));
        check("x-", &[("x-b-bin", "/w==")], Ok(&[("x-b-bin", "ÿ")]));
        check("x-", &[("x-b-bin", "")], Ok(&[("x-b-bin", "")]));
        check("y-", &[("x-b-bin", "?")], Ok(&[]));
        let text = "Header 'x-b-bin' cannot be forwarded: names that end in '-bin' have values in base64";
        check("x-", &[("x-b-bin", "?")], Err(Error::invalid_argument(text)));
    }

    #[test]
    fn reserved_names_are_refused() {
        let text = "Header 'triton_x' is reserved for Triton usage and cannot be forwarded.";
        check("x", &[("triton_x", "1")], Err(Error::invalid_argument(text)));
        check("y", &[("triton_x", "1")], Ok(&[]));
    }
}
