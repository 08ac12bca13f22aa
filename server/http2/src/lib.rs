//! The server side of HTTP/2, for gRPC.

#![forbid(unsafe_code)]
#![allow(dead_code)]

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod hpack;
