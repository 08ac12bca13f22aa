//! A client of one bucket. It tells the headers of each answer along with its body.

use std::sync::Arc;

use object_store::ObjectStore;

use crate::error::Tried;

/// A client, and what it was made with.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) tried: Tried,
}

/// The headers of an answer, kept beside its body.
#[derive(Debug, Clone)]
pub(crate) struct Headers(pub(crate) http::HeaderMap);
