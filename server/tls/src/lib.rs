//! Connections of the front ends, plain or encrypted, and the certificates behind the encrypted ones.
//!
//! A [`Stream`] is what a front end reads and writes; without TLS it is the socket and nothing else. An [`Acceptor`] makes
//! encrypted ones of sockets, with certificates that it reads again when their files change. Knows no HTTP.

#![forbid(unsafe_code)]

mod acceptor;
mod certificate;
mod client_verifier;
mod encrypted;
mod files;
mod identity;
mod protocol;
mod read_ahead;
mod reload;
mod stream;
mod transport;

pub use acceptor::{AcceptError, Acceptor};
pub use files::{Files, LoadError, PemFile};
pub use protocol::Protocol;
pub use reload::Reloader;
pub use stream::Stream;
pub use transport::Progress;

/// Makes AWS-LC what every library of this process encrypts with that asks for no other. Call it before there are threads.
pub fn install_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default(); // fails only if there is one already
}
