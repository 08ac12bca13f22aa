//! What a stream needs of the server.

use std::sync::Arc;

use server_engine::{BlockingPool, Engine};

use crate::admission::Admission;

/// Limits of one stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Requests in flight; further ones wait in the connection.
    pub(crate) requests: usize,
    /// Responses of one request that wait to be read; its model waits with the next.
    pub(crate) unread: usize,
    /// Largest message sent, in bytes.
    pub(crate) send_bytes: usize,
}

/// What a stream needs of the server.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) engine: Arc<Engine>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) pool: BlockingPool,
    pub(crate) limits: Limits,
}
