//! Entry points for fuzzing, as those of `server_core::fuzzing`: what a gRPC client may send inside of HTTP/2.

use std::{sync::LazyLock, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use server_core::{
    fuzzing::check_request, header_forwarding::HeaderPattern, interface::Interface, request::Parameter,
    response::InferResponse,
};
use server_engine::SharedMemory;
use server_proto::inference::{ModelInferRequest, ModelInferResponse};

pub use crate::framing::fuzzing::framing;
use crate::{
    dispatch, forwarding,
    framing::{compression, encode},
    infer::{answer, request},
};

static INTERFACE: LazyLock<Interface> = LazyLock::new(server_core::fuzzing::interface);

/// A message `ModelInferRequest`: decoded, written and decoded again, made a request, checked, answered.
pub fn infer(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    request::fuzzing::peek(&data);
    let Ok(message) = request::decode(data.clone()) else { return };
    let written = message.encode_to_vec();
    let again = ModelInferRequest::decode(written.as_slice()).expect("what was written can be read");
    assert!(again.encode_to_vec() == written, "{again:?} is not {message:?}");
    request::fuzzing::peek(&written);
    let Ok(prepared) = request::prepare(&INTERFACE, &SharedMemory::default(), message, Instant::now()) else { return };
    let mut request = prepared.request;
    assert!(request.input_bytes() <= 8 * data.len(), "{} of {} bytes", request.input_bytes(), data.len());
    check_request(&INTERFACE, &mut request);
    let response = InferResponse {
        model_name: request.model_name,
        model_version: 1,
        id: request.id,
        parameters: request.parameters.into(),
        outputs: request.inputs,
    };
    let Ok(message) = answer::message(response, 1 << 20) else { return };
    let expected = message.encode_to_vec();
    let parts = encode::infer_response(message);
    let framed: Vec<u8> = parts.iter().flatten().copied().collect();
    let (prefix, message) = framed.split_at(5);
    assert_eq!(prefix[0], 0);
    assert_eq!(prefix[1..], u32::try_from(message.len()).expect("it is short").to_be_bytes());
    let read = ModelInferResponse::decode(message).expect("what was written can be read");
    assert!(read.encode_to_vec() == expected, "{read:?}");
}

/// Headers: a line each of a name and a value, with a colon between them.
pub fn headers(data: &[u8]) {
    static PATTERN: LazyLock<HeaderPattern> =
        LazyLock::new(|| HeaderPattern::new("x|^[a-m].*-bin$").expect("it is one"));
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..at]), HeaderValue::from_bytes(&line[at + 1..])) {
            headers.append(name, value);
        }
    }
    let _ = (compression::Encoding::of_request(&headers), compression::accepts_gzip(&headers));
    let _ = dispatch::deadline(&headers);
    if let Ok(parameters) = forwarding::forwarded(Some(&PATTERN), &headers) {
        assert!(parameters.is_sorted_by(|(one, _), (other, _)| one <= other));
        for (name, value) in parameters {
            assert!(PATTERN.matches(&name) && !name.starts_with("triton_"), "{name}");
            assert!(matches!(value, Parameter::String(_)));
            assert!(headers.contains_key(&name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use server_core::fuzzing::replay;

    use super::*;

    /// Seeds have to get past the decoder, or nothing behind it is reached.
    #[test]
    fn the_seeds_are_good_requests() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/grpc_infer");
        for name in ["typed", "raw"] {
            let seed = std::fs::read(seeds.join(name)).unwrap();
            let message = request::decode(seed.into()).unwrap();
            let prepared = request::prepare(&INTERFACE, &SharedMemory::default(), message, Instant::now());
            let mut request = prepared.unwrap_or_else(|error| panic!("{name}: {error}")).request;
            assert!(server_core::check::check(&INTERFACE, &mut request).is_ok(), "{name}");
        }
    }

    #[test]
    fn every_input_of_the_corpus_is_read() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        replay(&corpus.join("grpc_infer"), infer);
        replay(&corpus.join("grpc_framing"), framing);
        replay(&corpus.join("grpc_headers"), headers);
    }
}
