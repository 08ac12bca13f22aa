//! Compressed bodies, both ways: `gzip`, and `deflate` in the sense of HTTP, which is a zlib stream.

use std::io::{Cursor, Read, Write};

use bytes::Bytes;
use flate2::{
    Compression,
    read::{MultiGzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use http::{HeaderMap, HeaderValue, header::ACCEPT_ENCODING, header::CONTENT_ENCODING};
use server_core::error::{Error, Result};

use crate::{error::Failure, held::Received, limits::inflated_too_large};

/// How much is inflated between two looks at the limits. Units: bytes.
const INFLATE_STEP: u64 = 256 << 10;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

impl Encoding {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "" | "identity" => Some(Self::Identity),
            "gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// How a request's body is compressed.
    ///
    /// Errors: in a way that is not offered.
    pub(crate) fn of_request(headers: &HeaderMap) -> Result<Self, Failure> {
        let Some(value) = headers.get(CONTENT_ENCODING) else { return Ok(Self::Identity) };
        value.to_str().ok().and_then(Self::from_name).ok_or(Failure::UnsupportedEncoding)
    }

    /// How the answer shall be compressed: the heaviest in Accept-Encoding, the first of equals.
    pub(crate) fn of_response(headers: &HeaderMap) -> Self {
        headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).map_or(Self::Identity, preferred)
    }

    /// The value of `Content-Encoding`; `None` if nothing is compressed.
    pub(crate) const fn header(self) -> Option<HeaderValue> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some(HeaderValue::from_static("gzip")),
            Self::Deflate => Some(HeaderValue::from_static("deflate")),
        }
    }
}

fn preferred(accepted: &str) -> Encoding {
    let mut best = (Encoding::Identity, 0.0);
    for entry in accepted.split(',') {
        let (name, weight) = match entry.split_once(";q=") {
            Some((name, weight)) => (name, weight.trim().parse().ok()),
            None => (entry, Some(1.0)),
        };
        let name = name.trim();
        if let (Some(encoding), Some(weight)) = (Encoding::from_name(name).filter(|_| !name.is_empty()), weight)
            && weight > best.1
        {
            best = (encoding, weight);
        }
    }
    best.0
}

/// Undoes the compression of a body. The reservation grows with what is inflated, and ends with its size.
///
/// Units: `max_size` in bytes of the result.
/// Errors: `InvalidArgument` if the result would be larger, or if the body is not what its header says; `Unavailable` if
/// the budget is used up.
pub(crate) fn decompress(body: Received, encoding: Encoding, max_size: usize) -> Result<Received> {
    match encoding {
        Encoding::Identity => Ok(body),
        Encoding::Gzip => inflate(MultiGzDecoder::new, body, max_size),
        Encoding::Deflate => inflate(ZlibDecoder::new, body, max_size),
    }
}

fn inflate<D: Read>(decoder: impl FnOnce(Cursor<Bytes>) -> D, body: Received, max_size: usize) -> Result<Received> {
    let Received { bytes, mut reservation } = body;
    let compressed = bytes.len();
    let mut decoder = decoder(Cursor::new(bytes));
    let mut whole = Vec::new();
    loop {
        let before = whole.len();
        let step = (&mut decoder).take(INFLATE_STEP).read_to_end(&mut whole);
        step.map_err(|error| Error::invalid_argument(format!("the compressed request body is damaged: {error}")))?;
        if whole.len() > max_size {
            return Err(inflated_too_large(max_size));
        }
        if whole.len() == before {
            break;
        }
        reservation.grow_to(compressed.saturating_add(whole.len()))?;
    }
    drop(decoder);
    reservation.shrink_to(whole.len());
    Ok(Received { bytes: whole.into(), reservation })
}

/// Compresses a body. Nothing can go wrong: it is written to memory.
pub(crate) fn compress(pieces: &[impl AsRef<[u8]>], encoding: Encoding) -> Vec<u8> {
    fn write<W: Write>(
        mut encoder: W,
        pieces: &[impl AsRef<[u8]>],
        finish: impl FnOnce(W) -> std::io::Result<Vec<u8>>,
    ) -> Vec<u8> {
        for piece in pieces {
            encoder.write_all(piece.as_ref()).expect("a Vec takes everything");
        }
        finish(encoder).expect("a Vec takes everything")
    }
    match encoding {
        Encoding::Identity => write(Vec::new(), pieces, Ok),
        Encoding::Gzip => write(GzEncoder::new(Vec::new(), Compression::fast()), pieces, GzEncoder::finish),
        Encoding::Deflate => write(ZlibEncoder::new(Vec::new(), Compression::fast()), pieces, ZlibEncoder::finish),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use server_core::byte_budget::ByteBudget;

    use super::*;

    pub(crate) fn decompress(body: impl Into<Bytes>, encoding: Encoding, max_size: usize) -> Result<Bytes> {
        let body = body.into();
        let budget = Arc::new(ByteBudget::new(4 << 20));
        let reservation = budget.reserve(body.len()).unwrap();
        let received = super::decompress(Received { bytes: body, reservation }, encoding, max_size)?;
        assert_eq!(budget.in_use(), received.bytes.len());
        Ok(received.bytes)
    }

    #[test]
    fn what_was_compressed_comes_back() {
        let pieces = [Bytes::from_static(b"one "), Bytes::from_static(b"two")];
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Deflate] {
            let body = compress(&pieces, encoding);
            assert_eq!(decompress(body, encoding, 7).unwrap(), "one two");
        }
    }

    #[test]
    fn a_small_body_cannot_become_a_large_one() {
        let body = compress(&[Bytes::from(vec![0; 1 << 20])], Encoding::Gzip);
        let error = decompress(body, Encoding::Gzip, 1000).unwrap_err();
        assert_eq!(
            error.message,
            "Decompressed data size exceeds the maximum allowed value of 1000 bytes. Use --http-max-input-size to \
             increase the limit."
        );
        let large = compress(&[Bytes::from(vec![0; 5 << 20])], Encoding::Deflate);
        let error = decompress(large, Encoding::Deflate, 64 << 20).unwrap_err();
        assert!(error.message.contains("--max-inflight-request-bytes"), "{error}");
        assert!(decompress(Bytes::from_static(b"not zlib"), Encoding::Deflate, 1000).is_err());
    }

    #[test]
    fn the_encoding_with_the_greatest_weight_wins_and_the_first_of_equals() {
        for (accepted, expect) in [
            ("", Encoding::Identity),
            ("gzip", Encoding::Gzip),
            ("gzip, deflate", Encoding::Gzip),
            ("deflate, gzip, br", Encoding::Deflate),
            ("gzip;q=0.5, deflate;q=0.9", Encoding::Deflate),
            ("identity, gzip", Encoding::Identity),
            ("gzip;q=0", Encoding::Identity),
            ("gzip;q=x", Encoding::Identity),
            ("*, br", Encoding::Identity),
        ] {
            assert_eq!(preferred(accepted), expect, "{accepted}");
        }
    }

    #[test]
    fn unknown_ways_to_compress_are_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(Encoding::of_request(&headers), Ok(Encoding::Identity));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("deflate"));
        assert_eq!(Encoding::of_request(&headers), Ok(Encoding::Deflate));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
        assert_eq!(Encoding::of_request(&headers), Err(Failure::UnsupportedEncoding));
    }
}
