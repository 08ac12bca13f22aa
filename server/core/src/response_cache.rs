//! The response cache: under which key a response is kept, and what is kept of it. Where entries lie is the engine's
//! business.
//!
//! Source: Triton response cache document.

mod entry;
mod key;
mod wire;

use bytes::Bytes;

use crate::error::Result;

pub use self::{
    entry::CachedResponse,
    key::{CacheKey, Scope, cache_key},
    wire::{DecodeError, decode, encode},
};

/// Entries in the care of somebody else, by key: a cache library. May block for a while, and is asked by many threads at once.
pub trait EntryStore: Send + Sync {
    /// The entry under that key, if there is one.
    ///
    /// Errors: it could not be looked for.
    fn look_up(&self, key: &str) -> Result<Option<Bytes>>;

    /// Keeps an entry; one that is there already stays.
    ///
    /// Errors: it is not kept.
    fn insert(&self, key: &str, entry: Bytes) -> Result<()>;
}
