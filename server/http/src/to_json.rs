//! Administrative answers as JSON, members in the order of their declaration.

use serde::Serialize;
use server_core::error::{Error, Result};

/// Writes a value.
pub(crate) fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::internal(format!("the answer has no JSON form: {error}")))
}
