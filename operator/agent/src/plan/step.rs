//! What a plan says: the steps to begin.

use std::time::Instant;

use crate::verify::ContentHash;

/// Something to begin now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Bring the content into the store.
    Fetch(String),
    /// Put the content into the repository for a server that is yet to start.
    Link(String, ContentHash),
    /// Put the content into the repository and have the server load it; back to the confirmed one if it fails.
    Load(String, ContentHash),
    /// Take the model out of the server, then out of the repository.
    Unload(String),
    /// Take what somebody else has loaded out of the server: there is nothing to load in its place.
    Evict(String),
    /// Delete a content.
    Delete(ContentHash),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Steps to begin now, independent of each other.
    pub steps: Vec<Step>,
    /// When to ask again at the latest, even if nothing happens.
    pub wake: Option<Instant>,
    /// Nothing is under way, and nothing will be tried again unless something changes.
    pub is_settled: bool,
}
