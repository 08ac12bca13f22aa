//! Errors as HTTP responses: the only place that chooses statuses.

use http::{
    HeaderValue, Response, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_TYPE},
};
use server_core::error::{Code, Error};

use crate::{body::Body, json::writer::push_string, router::RouteError};

/// Every way a request can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// An error with a class of the server's own.
    Error(Error),
    /// A model's answer to `generate`, see [`GENERATE_FAILED`].
    Generated(Error),
    /// No such path, or another method.
    Route(RouteError),
    /// The API is restricted, and the caller did not send this header with the right value.
    Restricted {
        /// Name of the header.
        header: String,
    },
    /// The request controls the server, and such are taken at a socket of their own.
    PrivateControl {
        /// What is refused, where it is taken, and the cure.
        message: String,
    },
    /// The body is compressed in an unknown way.
    UnsupportedEncoding,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// The status and the message.
    fn status_and_message(&self) -> (StatusCode, String) {
        match self {
            Self::Error(error) => (status(error.code), error.message.clone().into_owned()),
            Self::Generated(error) => (GENERATE_FAILED, error.message.clone().into_owned()),
            Self::Route(RouteError::NotFound) => (StatusCode::NOT_FOUND, "Not Found".into()),
            Self::Route(RouteError::MethodNotAllowed) => (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed".into()),
            Self::Restricted { header } => {
                (StatusCode::FORBIDDEN, format!("This API is restricted, expecting header '{header}'"))
            }
            Self::PrivateControl { message } => (StatusCode::FORBIDDEN, message.clone()),
            Self::UnsupportedEncoding => (status(Code::Unsupported), "Unsupported compression type".into()),
        }
    }

    /// The response.
    #[cold]
    pub(crate) fn into_response(self) -> Response<Body> {
        let (status, message) = self.status_and_message();
        let mut response = Response::new(Body::from(error_json(&message)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self == Self::UnsupportedEncoding {
            response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        }
        response
    }
}

/// The status of an error that a request to `generate` or `generate_stream` ends with once it was let in, whatever its class.
///
/// Source: Triton's generate extension, "typically 400", and 2.51, which has no other.
pub(crate) const GENERATE_FAILED: StatusCode = StatusCode::BAD_REQUEST;

/// The status of a class of errors.
pub(crate) const fn status(code: Code) -> StatusCode {
    match code {
        Code::Unknown | Code::InvalidArgument | Code::AlreadyExists | Code::Cancelled => StatusCode::BAD_REQUEST,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unsupported => StatusCode::NOT_IMPLEMENTED,
    }
}

/// `{"error":"MESSAGE"}`
pub(crate) fn error_json(message: &str) -> Vec<u8> {
    let mut json = b"{\"error\":".to_vec();
    push_string(&mut json, message.as_bytes());
    json.push(b'}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_status() {
        for (code, expect) in [
            (Code::Unknown, 400),
            (Code::Internal, 500),
            (Code::NotFound, 404),
            (Code::InvalidArgument, 400),
            (Code::Unavailable, 503),
            (Code::Unsupported, 501),
            (Code::AlreadyExists, 400),
            (Code::Cancelled, 400),
        ] {
            assert_eq!(status(code).as_u16(), expect, "{code:?}");
        }
    }

    #[test]
    fn failures_without_a_class_have_fixed_messages() {
        let route = Failure::Route(RouteError::NotFound).status_and_message();
        assert_eq!(route, (StatusCode::NOT_FOUND, "Not Found".into()));
        let restricted = Failure::Restricted { header: "key".into() }.status_and_message();
        assert_eq!(restricted, (StatusCode::FORBIDDEN, "This API is restricted, expecting header 'key'".into()));
        let response = Failure::UnsupportedEncoding.into_response();
        assert_eq!(response.status(), 501);
        assert_eq!(response.headers()[ACCEPT_ENCODING], "gzip, deflate");
        assert_eq!(error_json("a \"b\""), b"{\"error\":\"a \\\"b\\\"\"}");
    }
}
