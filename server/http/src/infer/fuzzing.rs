//! Entry point for fuzzing of inference requests: a body of any layout, decoded, checked, answered, and decoded again.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use server_core::{
    byte_budget::ByteBudget,
    error::Result,
    fuzzing::check_request,
    request::{InferRequest, VersionChoice},
    response::InferResponse,
    tensor::{DataType, Tensor},
};
use server_engine::SharedMemory;

use super::{decode::Source, encode, output_options::OutputOptions};
use crate::{
    compression::Encoding,
    fuzzing::{INTERFACE, MAX_INPUT_SIZE},
    held::Received,
};

/// Memory for requests, bytes: more than any input needs that is not inflated.
const BUDGET: usize = 1 << 20;

/// A request: a byte that says how it is compressed and whether the next two say how long its JSON is, then its body.
pub fn infer(data: &[u8]) {
    let [flags, low, high, body @ ..] = data else { return };
    let encoding = match flags & 3 {
        0 | 3 => Encoding::Identity,
        1 => Encoding::Gzip,
        _ => Encoding::Deflate,
    };
    let json_length = (flags & 4 == 4).then(|| i32::from(i16::from_le_bytes([*low, *high])));
    let budget = Arc::new(ByteBudget::new(BUDGET));
    if let Ok((request, options)) = decode(encoding, json_length, Bytes::copy_from_slice(body), &budget) {
        let read = if encoding == Encoding::Identity { body.len() } else { MAX_INPUT_SIZE + 2048 };
        assert!(request.input_bytes() <= 8 * read, "{} of {read} bytes", request.input_bytes());
        answers_come_back(&request, options, &budget);
        check_request(&INTERFACE, &mut { request });
    }
    assert_eq!(budget.in_use(), 0, "bytes of a request that is gone are still counted");
}

fn decode(
    encoding: Encoding,
    json_length: Option<i32>,
    body: Bytes,
    budget: &Arc<ByteBudget>,
) -> Result<(InferRequest, OutputOptions)> {
    let source = Source {
        interface: INTERFACE.clone(),
        version: VersionChoice::Latest,
        json_length,
        encoding,
        max_input_size: MAX_INPUT_SIZE,
        received_at: Instant::now(),
    };
    source.limit()?.check(body.len())?;
    let _ = (source.is_long(body.len()), source.tensors_at(body.len()));
    let reservation = budget.reserve(body.len())?;
    let mut options = OutputOptions::default();
    let (request, kept) =
        source.decode(Received { bytes: body, reservation }, &SharedMemory::default(), &mut options)?;
    assert!(budget.in_use() >= request.input_bytes(), "tensors that are not counted");
    drop(kept);
    Ok((request, options))
}

/// An answer with the inputs as outputs, read as a request, has the same tensors.
fn answers_come_back(request: &InferRequest, mut options: OutputOptions, budget: &Arc<ByteBudget>) {
    let mut response = InferResponse {
        model_name: "m".into(),
        model_version: 1,
        id: request.id.clone(),
        parameters: Default::default(),
        outputs: request.inputs.clone(),
    };
    options.named.clear();
    let Ok(reply) = encode::write(&mut response, &options, &INTERFACE, Encoding::Identity) else { return };
    let (json_length, pieces) = (reply.rendered.json_length, reply.rendered.pieces);
    let mut body: Vec<u8> = pieces.iter().flat_map(|piece| piece.as_ref().to_vec()).collect();
    // quotation marks inside of strings have a backslash in front, so this stands nowhere else
    let outputs = b",\"outputs\":[";
    let at = body.windows(outputs.len()).position(|window| window == outputs).expect("an answer has outputs");
    body[at..at + outputs.len()].copy_from_slice(b", \"inputs\":[");
    let json_length = json_length.map(|length| i32::try_from(length).expect("inputs are short"));
    let (again, _) = match decode(Encoding::Identity, json_length, body.into(), budget) {
        Ok(again) => again,
        // what was longer as binary data than JSON may be
        Err(error) if error.message.contains("--http-max-input-size") => return,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(again.id, request.id);
    assert_eq!(again.inputs.len(), request.inputs.len());
    for (again, first) in again.inputs.iter().zip(&request.inputs) {
        assert_eq!((&again.name, again.data_type), (&first.name, first.data_type));
        assert_eq!(again.shape, first.shape);
        assert!(same_bytes(again, first), "{again:?} is not {first:?}");
    }
}

/// Bytes are the same; but not a number is any, and strings have their bytes replaced that are not UTF-8.
fn same_bytes(again: &Tensor, first: &Tensor) -> bool {
    let (again, bytes) = (again.data.as_host().unwrap_or_default(), first.data.as_host().unwrap_or_default());
    if again == bytes {
        return true;
    }
    match first.data_type {
        DataType::Fp32 => same_numbers(again, bytes, |bytes| f32::from_le_bytes(bytes).is_nan()),
        DataType::Fp64 => same_numbers(again, bytes, |bytes| f64::from_le_bytes(bytes).is_nan()),
        DataType::Bool => again.len() == bytes.len() && again.iter().zip(bytes).all(|(a, b)| (*a == 1) == (*b != 0)),
        DataType::Bytes => std::str::from_utf8(bytes).is_err(),
        _ => false,
    }
}

fn same_numbers<const N: usize>(again: &[u8], first: &[u8], is_nan: impl Fn([u8; N]) -> bool) -> bool {
    let (again, first) = (again.as_chunks::<N>().0, first.as_chunks::<N>().0);
    again.len() == first.len()
        && again.iter().zip(first).all(|(again, first)| again == first || (is_nan(*again) && is_nan(*first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds have to get past the parsers, or nothing behind them is reached.
    #[test]
    fn the_seeds_are_good_requests() {
        let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/http_infer");
        for (name, encoding, has_length) in [
            ("json", Encoding::Identity, false),
            ("binary", Encoding::Identity, true),
            ("gzip", Encoding::Gzip, false),
            ("deflate", Encoding::Deflate, false),
            ("gzip_binary", Encoding::Gzip, true),
        ] {
            let seed = std::fs::read(seeds.join(name)).unwrap();
            let [flags, low, high, body @ ..] = seed.as_slice() else { panic!("{name} is too short") };
            assert_eq!(flags & 4 == 4, has_length, "{name}");
            let json_length = has_length.then(|| i16::from_le_bytes([*low, *high]).into());
            let budget = Arc::new(ByteBudget::new(BUDGET));
            let (mut request, _) = decode(encoding, json_length, Bytes::copy_from_slice(body), &budget)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(server_core::check::check(&INTERFACE, &mut request), Ok(1), "{name}");
        }
    }
}
