//! What a request takes from the headers it came with: parameters for its model, and the mark of a canary version.

use http::{HeaderMap, HeaderValue};
use server_core::{error::Result, header_forwarding::HeaderPattern, request::InferRequest};
use server_engine::ModelHandle;

use crate::{connection::Activity, options::Options};

/// Adds the parameters behind those the request has already.
///
/// Errors: `InvalidArgument` for a header that would be forwarded and has a reserved name.
pub(crate) fn take_headers(
    options: &Options,
    activity: &Activity,
    model: &ModelHandle,
    headers: &HeaderMap,
    request: &mut InferRequest,
) -> Result<()> {
    if let Some(pattern) = &options.forwarded_headers {
        match activity.written(headers) {
            Some(written) => forward(pattern, written.iter().map(|(name, value)| (&**name, *value)), request)?,
            None => forward(pattern, headers.iter().map(|(name, value)| (name.as_str(), value)), request)?,
        }
    }
    model.mark_canary(request, |key| headers.get(key).map(HeaderValue::as_bytes));
    Ok(())
}

fn forward<'a>(
    pattern: &HeaderPattern,
    headers: impl Iterator<Item = (&'a str, &'a HeaderValue)>,
    request: &mut InferRequest,
) -> Result<()> {
    for (name, value) in headers {
        request.parameters.extend(pattern.parameter(name, value.as_bytes())?);
    }
    Ok(())
}
