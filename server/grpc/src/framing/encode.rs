//! Messages become framed bytes. Large tensors are handed on as they are, not copied.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use server_proto::inference::{ModelInferResponse, ModelStreamInferResponse};
use smallvec::{SmallVec, smallvec};

use super::{PREFIX, compression::gzip};

/// A framed message in pieces, in order. The first begins with the prefix.
pub(crate) type Parts = SmallVec<[Bytes; 4]>;

/// Tensors from this size on are pieces of their own: one copy costs less than one frame more below it.
const SEPARATE: usize = 8 << 10;

/// Field of the raw tensors, the last of a [`ModelInferResponse`].
const RAW_OUTPUT_CONTENTS: u32 = 6;
/// Field of the response, the last of a [`ModelStreamInferResponse`].
const INFER_RESPONSE: u32 = 2;

/// Any message, framed.
pub(crate) fn message(message: &impl Message) -> Parts {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    put_prefix(&mut buffer, false, length);
    message.encode_raw(&mut buffer);
    smallvec![buffer.freeze()]
}

/// The response of a unary inference call, framed.
pub(crate) fn infer_response(mut message: ModelInferResponse) -> Parts {
    let raw = std::mem::take(&mut message.raw_output_contents);
    let response = Response::new(&message, &raw);
    let mut pieces = Pieces::new(PREFIX + response.copied_len());
    put_prefix(&mut pieces.buffer, false, response.len());
    response.put(&mut pieces);
    pieces.finish()
}

/// A response of a stream, framed.
pub(crate) fn stream_response(mut message: ModelStreamInferResponse) -> Parts {
    let Some(mut inner) = message.infer_response.take() else { return self::message(&message) };
    let raw = std::mem::take(&mut inner.raw_output_contents);
    let response = Response::new(&inner, &raw);
    let outer = message.encoded_len();
    let inner_head = key_len(INFER_RESPONSE) + encoded_len_varint(response.len() as u64);
    let mut pieces = Pieces::new(PREFIX + outer + inner_head + response.copied_len());
    put_prefix(&mut pieces.buffer, false, outer + inner_head + response.len());
    message.encode_raw(&mut pieces.buffer);
    encode_key(INFER_RESPONSE, WireType::LengthDelimited, &mut pieces.buffer);
    encode_varint(response.len() as u64, &mut pieces.buffer);
    response.put(&mut pieces);
    pieces.finish()
}

/// Bytes of a framed message without its prefix.
pub(crate) fn message_len(parts: &Parts) -> usize {
    parts.iter().map(Bytes::len).sum::<usize>() - PREFIX
}

/// A framed message, compressed with gzip. It belongs on the blocking pool if the message is large.
pub(crate) fn compressed(mut parts: Parts) -> Parts {
    let _prefix = parts[0].split_to(PREFIX);
    let data = gzip(&parts);
    let mut prefix = BytesMut::with_capacity(PREFIX);
    put_prefix(&mut prefix, true, data.len());
    smallvec![prefix.freeze(), data]
}

/// Lengths are checked against limits below 4 GiB before a message is framed.
fn put_prefix(buffer: &mut BytesMut, is_compressed: bool, length: usize) {
    buffer.put_u8(u8::from(is_compressed));
    buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// A [`ModelInferResponse`], its raw tensors apart.
struct Response<'a> {
    head: &'a ModelInferResponse,
    head_len: usize,
    raw: &'a [Bytes],
}

impl<'a> Response<'a> {
    fn new(head: &'a ModelInferResponse, raw: &'a [Bytes]) -> Self {
        Self { head, head_len: head.encoded_len(), raw }
    }

    fn len(&self) -> usize {
        self.head_len + self.raw.iter().map(|tensor| tensor_head_len(tensor) + tensor.len()).sum::<usize>()
    }

    /// Bytes that are not pieces of their own.
    fn copied_len(&self) -> usize {
        let copied = |tensor: &Bytes| if tensor.len() < SEPARATE { tensor.len() } else { 0 };
        self.head_len + self.raw.iter().map(|tensor| tensor_head_len(tensor) + copied(tensor)).sum::<usize>()
    }

    fn put(&self, pieces: &mut Pieces) {
        self.head.encode_raw(&mut pieces.buffer);
        for tensor in self.raw {
            encode_key(RAW_OUTPUT_CONTENTS, WireType::LengthDelimited, &mut pieces.buffer);
            encode_varint(tensor.len() as u64, &mut pieces.buffer);
            pieces.put(tensor);
        }
    }
}

fn tensor_head_len(tensor: &Bytes) -> usize {
    key_len(RAW_OUTPUT_CONTENTS) + encoded_len_varint(tensor.len() as u64)
}

/// Pieces of a message under way: those that are complete, and the one that is written to.
struct Pieces {
    parts: Parts,
    buffer: BytesMut,
}

impl Pieces {
    fn new(capacity: usize) -> Self {
        Self { parts: Parts::new(), buffer: BytesMut::with_capacity(capacity) }
    }

    fn put(&mut self, tensor: &Bytes) {
        if tensor.len() < SEPARATE {
            self.buffer.put_slice(tensor);
        } else {
            self.parts.push(self.buffer.split().freeze());
            self.parts.push(tensor.clone());
        }
    }

    fn finish(mut self) -> Parts {
        if !self.buffer.is_empty() {
            self.parts.push(self.buffer.freeze());
        }
        self.parts
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use server_proto::inference::model_infer_response::InferOutputTensor;

    use super::*;

    fn response(sizes: &[usize]) -> ModelInferResponse {
        let output =
            |size: &usize| InferOutputTensor { name: "x".into(), shape: vec![*size as i64], ..Default::default() };
        ModelInferResponse {
            model_name: "m".into(),
            id: "7".into(),
            outputs: sizes.iter().map(output).collect(),
            raw_output_contents: sizes.iter().map(|&size| vec![size as u8; size].into()).collect(),
            ..Default::default()
        }
    }

    #[track_caller]
    fn check(parts: &Parts, message: &impl Message) {
        let expected = message.encode_to_vec();
        let all = parts.concat();
        assert_eq!(all[0], 0);
        assert_eq!(u32::from_be_bytes(all[1..5].try_into().unwrap()) as usize, expected.len());
        assert!(all[5..] == expected, "the bytes differ");
        assert_eq!(message_len(parts), expected.len());
    }

    #[test]
    fn the_bytes_are_those_of_protobuf() {
        for sizes in [&[][..], &[0], &[1], &[SEPARATE - 1], &[SEPARATE], &[100_000], &[3, 70_000, 0, 70_000, 5]] {
            let response = response(sizes);
            check(&message(&response), &response);
            check(&infer_response(response.clone()), &response);
            for error in ["", "went wrong"] {
                let stream =
                    ModelStreamInferResponse { error_message: error.into(), infer_response: Some(response.clone()) };
                check(&stream_response(stream.clone()), &stream);
            }
        }
        let empty = ModelStreamInferResponse::default();
        check(&stream_response(empty.clone()), &empty);
    }

    #[test]
    fn large_tensors_are_not_copied() {
        let response = response(&[10, SEPARATE, 20]);
        let tensor = response.raw_output_contents[1].clone();
        let parts = infer_response(response);
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[1].as_ptr(), tensor.as_ptr());
    }

    #[test]
    fn a_compressed_message_is_marked_and_inflates_to_the_same() {
        let response = response(&[10, 100_000]);
        let all = compressed(infer_response(response.clone())).concat();
        assert_eq!((all[0], u32::from_be_bytes(all[1..5].try_into().unwrap()) as usize), (1, all.len() - PREFIX));
        let mut inflated = Vec::new();
        GzDecoder::new(&all[5..]).read_to_end(&mut inflated).unwrap();
        assert!(inflated == response.encode_to_vec() && all.len() < 2000);
    }
}
