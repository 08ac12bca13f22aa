//! From the fields of a header block to the head of a request, checked. Pure.
//!
//! Source: RFC 9113, sections 8.1 to 8.3.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, Entry, TE, TRANSFER_ENCODING, UPGRADE},
};

use crate::hpack::Field;

/// Headers that a usual request of gRPC has, and a few more.
const USUAL_HEADERS: usize = 12;

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    method: Bytes,
    path: Bytes,
    headers: HeaderMap,
}

impl Request {
    /// The method, which for gRPC is `POST`.
    pub fn method(&self) -> &str {
        text(&self.method)
    }

    /// The path without a query.
    pub fn path(&self) -> &str {
        let path = text(&self.path);
        path.split_once('?').map_or(path, |(path, _)| path)
    }

    /// All headers. Cookies that came in several fields are one.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

/// What was checked to be text.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A request whose fields come one by one.
#[derive(Debug, Default)]
pub(crate) struct RequestBuilder {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    headers: HeaderMap,
    is_malformed: bool,
}

impl RequestBuilder {
    pub(crate) fn new() -> Self {
        Self { headers: HeaderMap::with_capacity(USUAL_HEADERS), ..Self::default() }
    }

    /// Takes the next field of the block.
    pub(crate) fn take(&mut self, field: Field) {
        let (place, value) = match field {
            Field::Header(name, value) => return self.take_header(name, value),
            Field::Method(value) => (&mut self.method, value),
            Field::Scheme(value) => (&mut self.scheme, value),
            Field::Authority(value) => (&mut self.authority, value),
            Field::Path(value) => (&mut self.path, value),
        };
        // each once, and all before the others
        self.is_malformed |= place.is_some() || !self.headers.is_empty();
        *place = Some(value);
    }

    fn take_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.is_malformed |=
            is_of_connection(&name) || (name == TE && !value.as_bytes().eq_ignore_ascii_case(b"trailers"));
        if name != COOKIE {
            // a map that has no room left takes 32768 fields, more than a list may have
            self.is_malformed |= self.headers.try_append(name, value).is_err();
            return;
        }
        match self.headers.try_entry(name) {
            Ok(Entry::Vacant(entry)) => _ = entry.try_insert(value),
            Ok(Entry::Occupied(mut entry)) => {
                let joined = [entry.get().as_bytes(), value.as_bytes()].join(&b"; "[..]);
                match HeaderValue::from_maybe_shared(Bytes::from(joined)) {
                    Ok(joined) => _ = entry.insert(joined),
                    Err(_) => self.is_malformed = true,
                }
            }
            Err(_) => self.is_malformed = true,
        }
    }

    /// The request, and how long its body is if it says so; `None` if it is malformed.
    pub(crate) fn finish(self) -> Option<(Request, Option<u64>)> {
        let Self { method, scheme, path, headers, is_malformed, .. } = self;
        let (method, path) = (method?, path?);
        let is_good = !is_malformed && scheme.is_some() && is_token(&method) && method != "CONNECT" && is_path(&path);
        let mut length = None;
        for value in headers.get_all(CONTENT_LENGTH) {
            let stated: u64 =
                value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
            if length.is_some_and(|length| length != stated) {
                return None;
            }
            length = Some(stated);
        }
        is_good.then_some((Request { method, path, headers }, length))
    }
}

/// Whether a header is about a connection of HTTP/1.1, which HTTP/2 knows nothing of. Source: RFC 9113, section 8.2.2.
fn is_of_connection(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

fn is_token(method: &[u8]) -> bool {
    let is_good = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !method.is_empty() && method.iter().all(is_good)
}

fn is_path(path: &[u8]) -> bool {
    let begins = path.starts_with(b"/") || path == b"*";
    begins && path.iter().all(|byte| *byte > b' ' && *byte != 0x7f) && std::str::from_utf8(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a request of these fields, of which pseudo-header fields begin with a colon.
    fn build(fields: &[(&'static str, &'static str)]) -> Option<(Request, Option<u64>)> {
        let mut builder = RequestBuilder::new();
        for &(name, value) in fields {
            builder.take(match name {
                ":method" => Field::Method(value.into()),
                ":scheme" => Field::Scheme(value.into()),
                ":authority" => Field::Authority(value.into()),
                ":path" => Field::Path(value.into()),
                _ => Field::Header(name.parse().unwrap(), value.parse().unwrap()),
            });
        }
        builder.finish()
    }

    const GOOD: [(&str, &str); 3] = [(":method", "POST"), (":scheme", "http"), (":path", "/a/b?c")];

    /// The good fields and these, in that order: whether that is a request.
    #[track_caller]
    fn check(more: &[(&'static str, &'static str)], is_good: bool) {
        assert_eq!(build(&[&GOOD, more].concat()).is_some(), is_good, "{more:?}");
    }

    #[test]
    fn a_request_is_what_its_fields_say() {
        let (request, length) =
            build(&[&GOOD[..], &[("x", "1"), ("x", "2"), ("content-length", "7")]].concat()).unwrap();
        assert_eq!((request.method(), request.path(), length), ("POST", "/a/b", Some(7)));
        assert_eq!(request.headers().get_all("x").iter().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn cookies_are_joined() {
        let (request, _) =
            build(&[&GOOD[..], &[("cookie", "a=b"), ("x", "y"), ("cookie", "c=d"), ("cookie", "e")]].concat()).unwrap();
        assert_eq!(request.headers().get_all("cookie").iter().collect::<Vec<_>>(), ["a=b; c=d; e"]);
    }

    #[test]
    fn malformed_requests_are_none() {
        for without in 0..GOOD.len() {
            let fields: Vec<_> =
                GOOD.iter().enumerate().filter(|(index, _)| *index != without).map(|(_, field)| *field).collect();
            assert!(build(&fields).is_none(), "{fields:?}");
        }
        check(&[(":authority", "x")], true);
        check(&[(":path", "/twice")], false);
        check(&[("x", "y"), (":authority", "late")], false);
        check(&[("te", "trailers")], true);
        check(&[("te", "gzip")], false);
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
            check(&[(name, "x")], false);
        }
        check(&[("content-length", "1"), ("content-length", "1")], true);
        check(&[("content-length", "1"), ("content-length", "2")], false);
        for length in ["", "-1", "+1", "1x", "99999999999999999999"] {
            check(&[("content-length", length)], false);
        }
        let other = |method, path| build(&[(":method", method), (":scheme", "http"), (":path", path)]).is_some();
        assert!(other("GET", "*") && other("POST", "/ä"));
        for (method, path) in [
            ("", "/"),
            ("a b", "/"),
            ("CONNECT", "/"),
            ("POST", ""),
            ("POST", "x"),
            ("POST", "/ "),
            ("POST", "/\u{7f}"),
        ] {
            assert!(!other(method, path), "{method:?} {path:?}");
        }
    }
}
