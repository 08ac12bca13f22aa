//! HPACK: how HTTP/2 writes header fields. Blocks of bytes become fields here, and fields become blocks.
//!
//! Both directions keep a table of fields that were sent before, so every block of a connection passes through here in the order in
//! which it is sent, also those of calls that are refused. No frames, no limits of its own: the caller bounds what a block may be long.
//! Source: RFC 7541; what a well-formed field is: RFC 9113, section 8.2.

mod decode;
mod encode;
mod entry;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod huffman;
mod integer;
mod static_table;
mod table;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

pub(crate) use self::{decode::Decoder, encode::Encoder};

/// Size of both tables until something else is agreed, in bytes as [`table`] counts them. Source: RFC 9113, section 6.5.2.
pub(crate) const DEFAULT_TABLE_SIZE: usize = 4096;

/// A field of a request.
///
/// The values of pseudo-header fields are as they came: whether they make sense, are there once and before all others is for the caller
/// to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    /// `:method`
    Method(Bytes),
    /// `:scheme`
    Scheme(Bytes),
    /// `:authority`
    Authority(Bytes),
    /// `:path`
    Path(Bytes),
    /// Any other. The value is marked as sensitive if the client asked never to index it.
    Header(HeaderName, HeaderValue),
}

/// Why a block gives no request. Only after [`Compression`](Self::Compression) are the tables of the two sides different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HpackError {
    /// The block cannot be read: an error of the connection, `COMPRESSION_ERROR`.
    #[error("header block cannot be read: {0}")]
    Compression(#[from] CompressionError),
    /// A field has a name or a value that HTTP/2 forbids: an error of the stream, `PROTOCOL_ERROR`.
    #[error("header block has a malformed field")]
    Malformed,
    /// The fields are larger together than was permitted.
    #[error("header list is too large")]
    TooLarge,
}

/// What is wrong with a block that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CompressionError {
    /// It ends within a field.
    #[error("it ends within a field")]
    Truncated,
    /// A number does not fit.
    #[error("a number is too large")]
    Integer,
    /// No table has that many entries.
    #[error("no entry has that index")]
    Index,
    /// A string is no Huffman code, or is padded with something else than the beginning of its end symbol.
    #[error("a string is not in the Huffman code")]
    Huffman,
    /// The table is to be made larger than it may be, or not at the start of the block.
    #[error("the size of the table is changed against the rules")]
    TableSize,
}
