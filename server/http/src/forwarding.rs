//! What a request takes from the headers it came with: parameters for its model, and the mark of a canary version.

use http::{HeaderMap, HeaderValue};
use server_core::{error::Result, request::InferRequest};
use server_engine::ModelHandle;

use crate::Options;

/// Adds the parameters behind those the request has already.
///
/// Errors: `InvalidArgument` for a header that would be forwarded and has a reserved name.
pub(crate) fn take_headers(
    options: &Options,
    model: &ModelHandle,
    headers: &HeaderMap,
    request: &mut InferRequest,
) -> Result<()> {
    if let Some(pattern) = &options.forwarded_headers {
        for (name, value) in headers {
            request.parameters.extend(pattern.parameter(name.as_str(), value.as_bytes())?);
        }
    }
    model.mark_canary(request, |key| headers.get(key).map(HeaderValue::as_bytes));
    Ok(())
}
