//! The front end over real sockets, a real engine and the identity backend.

#![allow(clippy::unwrap_used)] // helpers of tests, which clippy takes for programs

mod admin;
mod connection;
mod control;
mod decoupled;
#[path = "../../../tls/tests/harness/encrypting.rs"]
mod encrypting;
mod harness;
mod infer;
mod pings;
mod placement;
#[path = "../../../shm/tests/harness/placing.rs"]
mod placing;
mod shutdown;
mod stream;
