//! Triton's C interfaces: libraries written for them run in this server. `abi` is what the headers define, `backend` runs
//! backend libraries, `cache` and `repoagent` those of their kinds, `server` is what libraries may ask of the server, and `exports` how
//! they find it.
//!
//! A library is trusted as far as the headers bind it: it runs in this process. What it does with handles is checked.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
// Unsafe code is allowed where it says so: arguments are read and written in `abi`, libraries are called in `backend`.

mod abi;
mod backend;
mod cache;
pub mod exports;
mod find;
mod library;
mod repoagent;
mod server;

pub use abi::Export;
pub use cache::CacheLibrary;
pub use find::Libraries;
pub use repoagent::Agents;
pub use server::custom_metrics;

/// Every function that libraries find in this server.
pub const EXPORTS: &[&[Export]] = &[
    backend::attributes::EXPORTS,
    backend::instance::EXPORTS,
    backend::memory::EXPORTS,
    backend::model::EXPORTS,
    backend::object::EXPORTS,
    backend::request::EXPORTS,
    backend::response::EXPORTS,
    backend::state::EXPORTS,
    backend::statistics::EXPORTS,
    cache::EXPORTS,
    repoagent::EXPORTS,
    server::EXPORTS,
    server::allocator::EXPORTS,
    server::buffer_attributes::EXPORTS,
    server::descriptions::EXPORTS,
    server::embedding::EXPORTS,
    server::errors::EXPORTS,
    server::infer::EXPORTS,
    server::log::EXPORTS,
    server::messages::EXPORTS,
    server::metrics::EXPORTS,
    server::models::EXPORTS,
    server::names::EXPORTS,
    server::parameters::EXPORTS,
    server::request::EXPORTS,
    server::response::EXPORTS,
    server::trace::EXPORTS,
    #[cfg(test)]
    exports::tests::EXPORTS,
];
