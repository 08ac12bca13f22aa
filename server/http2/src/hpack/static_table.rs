//! The static table: fields that both sides know from the start.
//! Source: RFC 7541, appendix A.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};

use super::{
    Field::{Authority, Header, Method, Path, Scheme},
    entry::{
        Entry::{self, Field, Malformed},
        Name,
    },
};

/// Number of entries; their indices begin with 1, and those of the dynamic table follow.
pub(super) const LENGTH: usize = 61;
/// The first entry whose name has no colon, as those of all that follow.
const FIRST_HEADER: usize = 15;

/// The entry with this index, which is not 0.
pub(super) fn get(index: usize) -> Option<&'static Entry> {
    ENTRIES.get(index.checked_sub(1)?)
}

/// An index whose entry has this name.
pub(super) fn index_of(name: &HeaderName) -> Option<usize> {
    let has_name = |entry: &Entry| matches!(entry, Field(Header(one, _)) if one == name);
    ENTRIES[FIRST_HEADER - 1..].iter().position(has_name).map(|place| FIRST_HEADER + place)
}

/// The index of a field `:status`, and whether that is its value, too.
pub(super) fn index_of_status(status: u16) -> (usize, bool) {
    match status {
        200 => (8, true),
        204 => (9, true),
        206 => (10, true),
        304 => (11, true),
        400 => (12, true),
        404 => (13, true),
        500 => (14, true),
        _ => (8, false),
    }
}

const fn header(name: HeaderName) -> Entry {
    with_value(name, "")
}

const fn with_value(name: HeaderName, value: &'static str) -> Entry {
    Field(Header(name, HeaderValue::from_static(value)))
}

const fn bytes(value: &'static str) -> Bytes {
    Bytes::from_static(value.as_bytes())
}

/// Responses have a status, requests none.
const STATUS: Entry = Malformed(Name::Malformed { length: ":status".len() });

static ENTRIES: [Entry; LENGTH] = [
    Field(Authority(bytes(""))),
    Field(Method(bytes("GET"))),
    Field(Method(bytes("POST"))),
    Field(Path(bytes("/"))),
    Field(Path(bytes("/index.html"))),
    Field(Scheme(bytes("http"))),
    Field(Scheme(bytes("https"))),
    STATUS, // 200
    STATUS, // 204
    STATUS, // 206
    STATUS, // 304
    STATUS, // 400
    STATUS, // 404
    STATUS, // 500
    header(header::ACCEPT_CHARSET),
    with_value(header::ACCEPT_ENCODING, "gzip, deflate"),
    header(header::ACCEPT_LANGUAGE),
    header(header::ACCEPT_RANGES),
    header(header::ACCEPT),
    header(header::ACCESS_CONTROL_ALLOW_ORIGIN),
    header(header::AGE),
    header(header::ALLOW),
    header(header::AUTHORIZATION),
    header(header::CACHE_CONTROL),
    header(header::CONTENT_DISPOSITION),
    header(header::CONTENT_ENCODING),
    header(header::CONTENT_LANGUAGE),
    header(header::CONTENT_LENGTH),
    header(header::CONTENT_LOCATION),
    header(header::CONTENT_RANGE),
    header(header::CONTENT_TYPE),
    header(header::COOKIE),
    header(header::DATE),
    header(header::ETAG),
    header(header::EXPECT),
    header(header::EXPIRES),
    header(header::FROM),
    header(header::HOST),
    header(header::IF_MATCH),
    header(header::IF_MODIFIED_SINCE),
    header(header::IF_NONE_MATCH),
    header(header::IF_RANGE),
    header(header::IF_UNMODIFIED_SINCE),
    header(header::LAST_MODIFIED),
    header(header::LINK),
    header(header::LOCATION),
    header(header::MAX_FORWARDS),
    header(header::PROXY_AUTHENTICATE),
    header(header::PROXY_AUTHORIZATION),
    header(header::RANGE),
    header(header::REFERER),
    header(header::REFRESH),
    header(header::RETRY_AFTER),
    header(header::SERVER),
    header(header::SET_COOKIE),
    header(header::STRICT_TRANSPORT_SECURITY),
    header(header::TRANSFER_ENCODING),
    header(header::USER_AGENT),
    header(header::VARY),
    header(header::VIA),
    header(header::WWW_AUTHENTICATE),
];
