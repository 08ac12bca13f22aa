//! Errors of what this server does not offer, one text for all front ends.

use crate::error::Error;

/// The error of reading and of changing trace settings.
pub fn trace_settings() -> Error {
    Error::unsupported("request tracing is not offered by this server, so there are no trace settings")
}

/// The error of reading and of changing log settings.
pub fn log_settings() -> Error {
    Error::unsupported("log settings are fixed when the server starts, by its '--log-*' options")
}
