//! What all requests share.

use std::sync::Arc;

use server_engine::Engine;

use crate::options::Options;

/// The engine, and how to serve it.
pub(crate) struct Server {
    pub(crate) engine: Arc<Engine>,
    pub(crate) options: Options,
}
