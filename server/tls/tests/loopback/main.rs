//! Certificates from files, and clients that connect with them over loopback.

#![allow(clippy::unwrap_used)] // a test may panic

mod clients;
mod files;
mod following;
mod harness;
mod streams;
