//! Entry points for fuzzing, as those of `server_core::fuzzing`: what an HTTP client may send, from the head of a request to the
//! bytes behind its JSON.

use std::{sync::LazyLock, time::Instant};

use http::{
    HeaderMap, HeaderValue, Method,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING},
};
use serde_json::Value as Json;
use server_core::{fuzzing::check_request, interface::Interface};

pub use crate::infer::fuzzing::infer;
use crate::{
    binary::{HEADER_LENGTH, Layout, json_length, layout},
    compression::Encoding,
    generate::request,
    json::{
        number::{self, Number},
        value::Value,
    },
    repository::{index_query, load_parameters, unload_dependents},
    router::{Route, route},
};

/// Limit of JSON, raw and inflated bodies in all targets, bytes.
pub(crate) const MAX_INPUT_SIZE: usize = 1 << 16;

/// Longer inputs than this are not asked for: `-max_len`.
pub(crate) static INTERFACE: LazyLock<std::sync::Arc<Interface>> =
    LazyLock::new(|| std::sync::Arc::new(server_core::fuzzing::interface()));

/// Any JSON: where another reader accepts a text, ours does, and finds the same; so do those of the small bodies.
pub fn json(data: &[u8]) {
    number(data);
    let ours = Value::parse(data);
    let _ = (index_query(data), unload_dependents(data));
    if let Ok(parameters) = load_parameters(data) {
        let size: usize = parameters.files.iter().map(|(_, content)| content.len()).sum();
        assert!(size <= data.len(), "{size} bytes of files in {}", data.len());
    }
    // another limit of nesting, and numbers beyond doubles, are no difference
    if let Ok(theirs) = serde_json::from_slice::<Json>(data)
        && depth(&theirs) < 100
    {
        match ours {
            Ok(ours) => same(&ours, &theirs),
            Err(error) => panic!("{error}"),
        }
    }
}

fn depth(value: &Json) -> usize {
    match value {
        Json::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Json::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn same(ours: &Value<'_>, theirs: &Json) {
    match (ours, theirs) {
        (Value::Null, Json::Null) => {}
        (Value::Bool(ours), Json::Bool(theirs)) => assert_eq!(ours, theirs),
        (Value::String(ours), Json::String(theirs)) => assert_eq!(**ours, *theirs.as_bytes()),
        (Value::Number(Number::Uint(ours)), Json::Number(theirs)) if theirs.is_u64() => {
            assert_eq!(Some(*ours), theirs.as_u64());
        }
        (Value::Number(Number::Int(ours)), Json::Number(theirs)) if theirs.is_i64() => {
            assert_eq!(Some(*ours), theirs.as_i64());
        }
        (Value::Number(ours), Json::Number(theirs)) => {
            // theirs may be off by the last digit of a double: ours are compared with the standard library's in `number`
            let (ours, theirs) = (ours.as_f64(), theirs.as_f64().expect("any number is a double"));
            assert!((ours - theirs).abs() <= theirs.abs() * 1e-15 + f64::MIN_POSITIVE, "{ours} {theirs}");
        }
        (Value::Array(ours), Json::Array(theirs)) => {
            assert_eq!(ours.len(), theirs.len());
            ours.iter().zip(theirs).for_each(|(ours, theirs)| same(ours, theirs));
        }
        (Value::Object(ours), Json::Object(theirs)) => {
            // of two members with one name they keep the last
            for (name, theirs) in theirs {
                let last = ours.iter().rfind(|(other, _)| other == name);
                same(&last.unwrap_or_else(|| panic!("no member {name}")).1, theirs);
            }
            assert!(ours.iter().all(|(name, _)| theirs.contains_key(name)));
        }
        _ => panic!("{ours:?} is not {theirs}"),
    }
}

/// A number at the start of the text is the one that the standard library reads.
fn number(data: &[u8]) {
    if let Ok((ours, length)) = number::read(data) {
        let text = std::str::from_utf8(&data[..length]).expect("numbers are ASCII");
        let theirs: f64 = text.parse().expect("the standard library reads what JSON calls a number");
        let ours = match ours {
            Number::Uint(value) => {
                assert_eq!(text.parse(), Ok(i128::from(value))); // -0 is 0
                return;
            }
            Number::Int(value) => {
                assert_eq!(text.parse(), Ok(value));
                return;
            }
            Number::Double(value) => value,
        };
        assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{text}: {ours} {theirs}");
    }
    if let Ok((ours, length)) = number::read_f32(data) {
        let text = std::str::from_utf8(&data[..length]).expect("numbers are ASCII");
        let theirs: f64 = text.parse().expect("the standard library reads what JSON calls a number");
        // through a double, as Triton has it
        let theirs = theirs as f32;
        assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{text}: {ours} {theirs}");
    }
}

/// The head of a request: a path in the first line, then a line each for the values of the headers that are read.
pub fn head(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    if let Some(Ok(path)) = lines.next().map(std::str::from_utf8) {
        for method in [Method::GET, Method::POST] {
            if let Ok(found) = route(&method, path) {
                names_come_back(&method, path, &found);
            }
        }
    }
    let mut headers = HeaderMap::new();
    for name in [&HEADER_LENGTH, &CONTENT_ENCODING, &ACCEPT_ENCODING] {
        if let Some(Ok(value)) = lines.next().map(HeaderValue::from_bytes) {
            headers.insert(name, value);
        }
    }
    if let Ok(length) = json_length(&headers) {
        for body_length in [0, 1, data.len(), usize::MAX] {
            match layout(length, body_length) {
                Ok(Layout::JsonThenBinary(length)) => assert!(length <= body_length),
                Ok(Layout::Json) => assert_eq!(length, None),
                Ok(Layout::Raw) => assert_eq!(length, Some(0)),
                Err(_) => assert_ne!(length, None),
            }
        }
    }
    let _ = Encoding::of_request(&headers);
    let _ = Encoding::of_response(&headers);
}

/// A name that is found in a path is found again when each of its bytes is percent-encoded.
fn names_come_back(method: &Method, path: &str, found: &Route<'_>) {
    let Route::Model { name, .. } = found else { return };
    assert!(!name.is_empty());
    let rest = path.strip_prefix("/v2/models/").expect("all models are there");
    let tail = rest.find('/').map_or("", |at| &rest[at..]);
    let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let encoded = format!("/v2/models/{encoded}{tail}");
    assert_eq!(route(method, &encoded).as_ref(), Ok(found));
}

/// The body of a generate request.
pub fn generate(data: &[u8]) {
    if let Ok(mut request) = request::parse(&INTERFACE, data, MAX_INPUT_SIZE, Instant::now()) {
        assert!(request.input_bytes() <= 8 * data.len(), "{} of {} bytes", request.input_bytes(), data.len());
        check_request(&INTERFACE, &mut request);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use server_core::fuzzing::replay;

    use super::*;

    #[test]
    fn every_input_of_the_corpus_is_read() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        replay(&corpus.join("http_json"), json);
        replay(&corpus.join("http_head"), head);
        replay(&corpus.join("http_generate"), generate);
        replay(&corpus.join("http_infer"), infer);
    }
}
