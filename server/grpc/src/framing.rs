//! The messages of gRPC on the bodies of HTTP/2: a prefix of five bytes, whether the message is compressed and its
//! length, before each message; a status in the trailers.
//!
//! Written here and not taken from tonic for three reasons: a message takes memory as its bytes arrive, not by the length
//! it declares; its bytes count against one budget as long as they live; and large tensors are not copied on the way out.

pub(crate) mod body;
pub(crate) mod compression;
pub(crate) mod encode;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod receive;

/// Bytes before each message: one says whether it is compressed, four are its length, most significant first.
const PREFIX: usize = 5;
