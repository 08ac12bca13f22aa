//! The binary tensor data extension, for requests: where the JSON ends, and which bytes behind it belong to which input.
//! Nothing is copied: an input is a slice of the body.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use server_core::error::{Error, Result};

/// Tells the length of the JSON in front of binary data, in both directions.
pub(crate) static HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// How a request's body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// All of it is JSON.
    Json,
    /// So many bytes of JSON, then binary data.
    JsonThenBinary(usize),
    /// It is the data of the model's only input.
    Raw,
}

/// The length of the JSON, if the request's headers give it.
///
/// Errors: `InvalidArgument` if it is no number.
pub(crate) fn json_length(headers: &HeaderMap) -> Result<Option<i32>> {
    let Some(value) = headers.get(&HEADER_LENGTH) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let digits = text.trim();
    digits.parse().map(Some).map_err(|_| {
        let is_number = digits.strip_prefix(['-', '+']).unwrap_or(digits).bytes().all(|byte| byte.is_ascii_digit());
        Error::invalid_argument(if is_number && !digits.is_empty() {
            format!(
                "Unable to parse Inference-Header-Content-Length, value is out of range [ {}, {} ], got: {text}",
                i32::MIN,
                i32::MAX
            )
        } else {
            format!("Unable to parse Inference-Header-Content-Length, got: {text}")
        })
    })
}

/// The layout of a body.
///
/// Errors: `InvalidArgument` if its JSON would end beyond it.
pub(crate) fn layout(json_length: Option<i32>, body_length: usize) -> Result<Layout> {
    let Some(length) = json_length else { return Ok(Layout::Json) };
    match usize::try_from(length) {
        Ok(0) => Ok(Layout::Raw),
        Ok(length) if length <= body_length => Ok(Layout::JsonThenBinary(length)),
        _ => Err(Error::invalid_argument(format!(
            "inference header size should be in range (0, {body_length}), got: {length}"
        ))),
    }
}

/// The bytes behind the JSON, handed out in the order of the inputs.
#[derive(Debug)]
pub(crate) struct BinaryInputs<'a> {
    rest: Bytes,
    has_header: bool,
    model: &'a str,
}

impl<'a> BinaryInputs<'a> {
    /// `rest` is what follows the JSON; `has_header` whether a header gives the length of the JSON.
    pub(crate) fn new(rest: Bytes, has_header: bool, model: &'a str) -> Self {
        Self { rest, has_header, model }
    }

    /// The next `size` bytes, which belong to `input`.
    ///
    /// Errors: `InvalidArgument` if the body ends before.
    pub(crate) fn take(&mut self, input: &str, size: u64) -> Result<Bytes> {
        if size > 0 && !self.has_header {
            return Err(Error::invalid_argument(
                "must specify valid 'Infer-Header-Content-Length' in request header and 'binary_data_size' when \
                 passing inputs in binary data format",
            ));
        }
        let available = self.rest.len() as u64;
        if size > available {
            return Err(Error::invalid_argument(format!(
                "unexpected size for input '{input}', expecting {} additional bytes for model '{}'",
                size - available,
                self.model
            )));
        }
        Ok(self.rest.split_to(size as usize))
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Error::invalid_argument(format!("unexpected additional input data for model '{}'", self.model)))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(value: &'static str, expect: Result<Layout, &str>) {
        let mut headers = HeaderMap::new();
        headers.insert(&HEADER_LENGTH, HeaderValue::from_static(value));
        let layout = json_length(&headers).and_then(|length| layout(length, 10));
        assert_eq!(layout.map_err(|error| error.message.into_owned()), expect.map_err(str::to_owned));
    }

    #[test]
    fn the_header_says_where_the_json_ends() {
        assert_eq!(json_length(&HeaderMap::new()), Ok(None));
        assert_eq!(layout(None, 10), Ok(Layout::Json));
        check("0", Ok(Layout::Raw));
        check("10", Ok(Layout::JsonThenBinary(10)));
        check("11", Err("inference header size should be in range (0, 10), got: 11"));
        check("-1", Err("inference header size should be in range (0, 10), got: -1"));
        check("ten", Err("Unable to parse Inference-Header-Content-Length, got: ten"));
        check(
            "99999999999",
            Err("Unable to parse Inference-Header-Content-Length, value is out of range [ -2147483648, 2147483647 ], \
                 got: 99999999999"),
        );
    }

    #[test]
    fn inputs_are_slices_in_their_order() {
        let body = Bytes::from_static(b"abcdef");
        let mut binary_inputs = BinaryInputs::new(body.clone(), true, "m");
        let first = binary_inputs.take("A", 2).unwrap();
        assert_eq!(first, "ab");
        assert_eq!(first.as_ptr(), body.as_ptr());
        assert_eq!(binary_inputs.take("B", 0).unwrap(), "");
        assert_eq!(
            binary_inputs.take("C", 5).unwrap_err().message,
            "unexpected size for input 'C', expecting 1 additional bytes for model 'm'"
        );
        assert_eq!(binary_inputs.take("C", 4).unwrap(), "cdef");
        binary_inputs.finish().unwrap();
    }

    #[test]
    fn bytes_without_an_input_are_refused() {
        let error = BinaryInputs::new(Bytes::from_static(b"x"), true, "m").finish().unwrap_err();
        assert_eq!(error.message, "unexpected additional input data for model 'm'");
        let error = BinaryInputs::new(Bytes::new(), false, "m").take("A", 1).unwrap_err();
        assert!(error.message.starts_with("must specify valid 'Infer-Header-Content-Length' in request header"));
    }
}
