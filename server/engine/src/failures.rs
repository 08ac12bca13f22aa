//! Lines about requests that are refused before they are queued, at verbose level 1.
//!
//! Source: Triton's front ends.

use server_core::error::Result;

/// The id that lines about a request show; `None` if none are written now.
pub fn logged_id(id: &str) -> Option<String> {
    tracing::enabled!(tracing::Level::DEBUG).then(|| if id.is_empty() { "<id_unknown>" } else { id }.to_owned())
}

/// Says why the request of that id was refused, if it was.
pub fn log<T>(logged_id: Option<String>, outcome: Result<T>) -> Result<T> {
    if let (Err(error), Some(id)) = (&outcome, logged_id) {
        tracing::debug!("[request id: {id}] Infer failed: {error}");
    }
    outcome
}
