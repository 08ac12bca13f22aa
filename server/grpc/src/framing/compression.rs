//! Compressed messages, both ways, and the headers that agree on them.
//!
//! Source: gRPC, "Compression". `deflate` is a zlib stream there, as in HTTP.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes, buf::Reader};
use flate2::{
    Compression,
    read::{MultiGzDecoder, ZlibDecoder},
    write::GzEncoder,
};
use http::{HeaderMap, HeaderValue};
use server_core::byte_budget::Reservation;
use tonic::{Status, metadata::MetadataValue};

use super::receive::{Held, received_too_large};
use crate::error::status;

const ACCEPTED: &str = "identity,gzip,deflate";
/// Bytes a message is inflated by in one step.
const STEP: usize = 64 << 10;

/// How a client compresses its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Deflate,
}

impl Encoding {
    /// The encoding of the messages of a call; `None` if they are not compressed.
    ///
    /// Errors: `Unimplemented`, with the encodings that are accepted.
    pub(crate) fn of_request(headers: &HeaderMap) -> Result<Option<Self>, Status> {
        let Some(name) = headers.get("grpc-encoding") else { return Ok(None) };
        match name.as_bytes() {
            b"identity" => Ok(None),
            b"gzip" => Ok(Some(Self::Gzip)),
            b"deflate" => Ok(Some(Self::Deflate)),
            other => {
                let name = String::from_utf8_lossy(other);
                let mut status =
                    Status::unimplemented(format!("Content is compressed with `{name}` which isn't supported"));
                status.metadata_mut().insert("grpc-accept-encoding", MetadataValue::from_static(ACCEPTED));
                Err(status)
            }
        }
    }
}

/// Whether a client reads messages compressed with gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get("grpc-accept-encoding").and_then(|names| names.to_str().ok());
    accepted.is_some_and(|names| names.split(',').any(|name| name.trim() == "gzip"))
}

/// The header that announces messages compressed with gzip.
pub(crate) const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// A message with gzip. It belongs on the blocking pool if the message is large.
pub(super) fn gzip(message: &[Bytes]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    for part in message {
        encoder.write_all(part).expect("a vector takes every byte");
    }
    encoder.finish().expect("a vector takes every byte").into()
}

/// A message while it is inflated, so that one that becomes large can go on elsewhere.
pub(super) struct Inflate {
    source: Source,
    data: Vec<u8>,
    /// Of the compressed message, until it is read, and of what it becomes.
    reservation: Reservation,
    /// Bytes of the compressed message.
    compressed: usize,
    max_bytes: usize,
}

/// How far a message is inflated.
pub(super) enum Inflated {
    Complete(Bytes),
    Partial(Box<Inflate>),
}

enum Source {
    Gzip(MultiGzDecoder<Reader<Bytes>>),
    Deflate(ZlibDecoder<Reader<Bytes>>),
}

impl Inflate {
    /// Starts with a compressed message.
    pub(super) fn new(encoding: Encoding, compressed: Held, max_bytes: usize) -> Box<Self> {
        let Held { bytes, reservation } = compressed;
        let compressed = bytes.len();
        let source = match encoding {
            Encoding::Gzip => Source::Gzip(MultiGzDecoder::new(bytes.reader())),
            Encoding::Deflate => Source::Deflate(ZlibDecoder::new(bytes.reader())),
        };
        Box::new(Self { source, data: Vec::new(), reservation, compressed, max_bytes })
    }

    /// Goes on until the message is complete or has more than `bytes` bytes.
    ///
    /// Errors: it becomes longer than allowed, the budget has no place for it, or it is damaged.
    pub(super) fn up_to(mut self: Box<Self>, bytes: usize) -> Result<Inflated, Status> {
        while self.data.len() <= bytes {
            if self.step()? == 0 {
                return Ok(Inflated::Complete(self.into_bytes()));
            }
        }
        Ok(Inflated::Partial(self))
    }

    /// Goes on until the message is complete.
    ///
    /// Errors: as [`Inflate::up_to`].
    pub(super) fn finish(mut self: Box<Self>) -> Result<Bytes, Status> {
        while self.step()? > 0 {}
        Ok(self.into_bytes())
    }

    /// Inflates some bytes more, and says how many.
    fn step(&mut self) -> Result<usize, Status> {
        let length = self.data.len();
        // One byte beyond the limit tells a message that is too long from one that fits.
        let step = STEP.min(self.max_bytes - length + 1);
        self.reservation.grow_to(self.compressed + length + step).map_err(status)?;
        self.data.resize(length + step, 0);
        let count = self.source.read(&mut self.data[length..]);
        let count = count.map_err(|error| Status::internal(format!("cannot decompress a message: {error}")))?;
        self.data.truncate(length + count);
        if self.data.len() > self.max_bytes {
            return Err(received_too_large(self.data.len(), self.max_bytes));
        }
        Ok(count)
    }

    fn into_bytes(self: Box<Self>) -> Bytes {
        let Self { data, mut reservation, .. } = *self;
        reservation.shrink_to(data.len());
        Held { bytes: data.into(), reservation }.into_bytes()
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Deflate(decoder) => decoder.read(buffer),
        }
    }
}
