//! The response cache: under which key a response is kept, and what is kept of it. Where entries lie is the engine's
//! business.
//!
//! Source: Triton response cache document.

mod entry;
mod key;
mod wire;

pub use self::{
    entry::CachedResponse,
    key::{CacheKey, Scope, cache_key},
    wire::{DecodeError, decode, encode},
};
