//! `--http-max-input-size`: to what it applies, and Triton's texts for what exceeds it. Binary tensor data is not
//! limited by it; the budget of bytes in flight bounds that.

use server_core::error::{Error, Result};

/// How many bytes a request's body may have, by what it is. Units: bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLimit {
    /// All of it is JSON.
    Json(usize),
    /// All of it is one tensor.
    Raw(usize),
    /// It is compressed, and may have so many bytes when it is inflated.
    Inflated(usize),
    /// It carries binary tensor data.
    None,
}

impl BodyLimit {
    /// Checks the size of a body, or of as much of it as has arrived.
    ///
    /// Errors: `InvalidArgument` if it is too large.
    pub(crate) fn check(self, size: usize) -> Result<()> {
        match self {
            Self::Json(max) if size > max => Err(json_too_large(size, max)),
            Self::Raw(max) if size > max => Err(raw_too_large(size, max)),
            // What cannot be compressed grows: by the frame of the format, and five bytes per block of stored data.
            Self::Inflated(max) if size > max + max / 1000 + 1024 => Err(inflated_too_large(max)),
            _ => Ok(()),
        }
    }
}

/// The JSON of a request is too large.
#[cold]
pub(crate) fn json_too_large(size: usize, max: usize) -> Error {
    Error::invalid_argument(format!(
        "request JSON size of {size} bytes exceeds the maximum allowed input size of {max} bytes. Use \
         --http-max-input-size to increase the limit."
    ))
}

/// A body that is one tensor is too large.
#[cold]
pub(crate) fn raw_too_large(size: usize, max: usize) -> Error {
    Error::invalid_argument(format!(
        "Raw input has a byte_size ({size} bytes) that exceeds the maximum allowed value of {max} bytes. Use \
         --http-max-input-size to increase the limit."
    ))
}

/// A body is too large when it is inflated.
#[cold]
pub(crate) fn inflated_too_large(max: usize) -> Error {
    Error::invalid_argument(format!(
        "Decompressed data size exceeds the maximum allowed value of {max} bytes. Use --http-max-input-size to increase \
         the limit."
    ))
}
