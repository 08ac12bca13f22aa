//! Log and trace settings: they are given at start, and can be neither read nor changed over HTTP.

use http::Response;
use server_core::error::{Error, Result};

use crate::body::Body;

/// `/v2/logging`. Errors: `Unsupported`, always.
pub(crate) fn logging() -> Result<Response<Body>> {
    Err(Error::unsupported("log settings are fixed when the server starts, by its '--log-*' options"))
}

/// `/v2/trace/setting` and a model's. Errors: `Unsupported`, always.
pub(crate) fn trace() -> Result<Response<Body>> {
    Err(Error::unsupported("request tracing is not offered by this server"))
}
