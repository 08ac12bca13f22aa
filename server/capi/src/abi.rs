//! What all of the C interface is made of: numbers ([`numbers`]), opaque handles ([`handle`]), arguments ([`argument`]), the
//! objects that several parts hand to each other ([`objects`]), and how a function is declared ([`export`]).
//!
//! Source: `tritonserver.h` 1.34 and `tritonbackend.h` 1.19 of triton-inference-server/core.

pub(crate) mod argument;
pub(crate) mod export;
pub(crate) mod handle;
pub(crate) mod misuse;
pub(crate) mod numbers;
pub(crate) mod objects;
mod slot;

pub(crate) use argument::{Array, Out, Text};
pub use export::Export;
pub(crate) use export::{Status, status};
pub(crate) use handle::{Handle, Object, Table};
