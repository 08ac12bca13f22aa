//! Responses that several handlers give.

use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};

use crate::body::Body;

/// Status 200 without a body.
pub(crate) fn empty() -> Response<Body> {
    Response::new(Body::empty())
}

/// Status 200 with a JSON body.
pub(crate) fn json(text: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
