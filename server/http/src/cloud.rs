//! What the front ends of clouds have in common: they serve the inference protocol under paths of their own, with a content type of
//! their own.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};

use crate::{binary::HEADER_LENGTH, body::Body, error::Failure, reply::empty, router::RouteError};

/// Has the headers say as those of the inference protocol where the JSON of a body ends, if its content is of type
/// `TYPE;json-header-size=LENGTH`. What is no length is found out where lengths are read.
pub(crate) fn take_content_type(headers: &mut HeaderMap, content_type: &str) {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return };
    let Some(parameters) = value.trim().strip_prefix(content_type) else { return };
    let length = parameters.split(';').find_map(|it| it.trim().strip_prefix("json-header-size="));
    if let Some(length) = length.and_then(|length| HeaderValue::from_str(length).ok()) {
        headers.insert(&HEADER_LENGTH, length);
    }
}

/// Has a response with binary data say where its JSON ends in the type of its content.
pub(crate) fn give_content_type(response: &mut Response<Body>, content_type: &str) {
    let Some(length) = response.headers_mut().remove(&HEADER_LENGTH) else { return };
    let value = [content_type.as_bytes(), b";json-header-size=", length.as_bytes()].concat();
    let value = HeaderValue::from_bytes(&value).expect("both parts are header values");
    response.headers_mut().insert(CONTENT_TYPE, value);
}

/// The value of a header, if it is text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty())
}

/// The answer to a path that is not served: clouds only ask for those that they know.
pub(crate) fn no_such_path() -> Response<Body> {
    with_status(StatusCode::BAD_REQUEST)
}

/// The answer to another method than the path has.
pub(crate) fn other_method(allowed: &'static str) -> Response<Body> {
    let mut response = Failure::Route(RouteError::MethodNotAllowed).into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// A response that has nothing but its status.
pub(crate) fn with_status(status: StatusCode) -> Response<Body> {
    let mut response = empty();
    *response.status_mut() = status;
    response
}

/// Whether it asks whether the server is ready, and only that.
pub(crate) fn is_get(method: &Method) -> bool {
    method == Method::GET
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "application/vnd.x.binary+json";

    #[test]
    fn the_type_of_the_content_says_where_its_json_ends() {
        for (value, length) in [
            ("application/vnd.x.binary+json;json-header-size=12", Some("12")),
            (" application/vnd.x.binary+json; charset=utf-8; json-header-size=-4", Some("-4")),
            ("application/vnd.x.binary+json;json-header-size=x", Some("x")),
            ("application/vnd.x.binary+json", None),
            ("application/json;json-header-size=12", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(value).unwrap());
            take_content_type(&mut headers, TYPE);
            assert_eq!(headers.get(&HEADER_LENGTH).map(|it| it.to_str().unwrap()), length, "{value}");
        }
        let mut none = HeaderMap::new();
        take_content_type(&mut none, TYPE);
        assert!(none.is_empty());
    }

    #[test]
    fn a_response_with_binary_data_says_it_in_the_same_way() {
        let mut response = empty();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        give_content_type(&mut response, TYPE);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        response.headers_mut().insert(&HEADER_LENGTH, HeaderValue::from_static("134"));
        give_content_type(&mut response, TYPE);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/vnd.x.binary+json;json-header-size=134");
        assert!(!response.headers().contains_key(&HEADER_LENGTH));
    }
}
