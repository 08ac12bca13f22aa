//! The names of a request's headers as its client wrote them, and their order. hyper gives names in lower case; a model that
//! has headers as parameters looks for what was sent.

use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

/// Most bytes that are kept: no head is longer.
const MAX_HEAD: usize = 64 << 10;

/// What has come of a connection since its last answer: a head, and what came with it of the body. A head that came with the end
/// of the request before it is not in here as a whole.
#[derive(Debug, Default)]
pub(crate) struct HeadRecord(Mutex<Vec<u8>>);

impl HeadRecord {
    /// Keeps more of it.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut record = self.0.lock();
        let room = MAX_HEAD - record.len();
        record.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Begins anew.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// The headers as they were written; `None` if what was kept is not the head that they are from.
    pub(crate) fn written<'a>(&self, headers: &'a HeaderMap) -> Option<Vec<(String, &'a HeaderValue)>> {
        let record = self.0.lock();
        let names = names(&record).filter(|names| names.len() == headers.len())?;
        let mut written: Vec<(String, &HeaderValue)> = Vec::with_capacity(names.len());
        for name in names {
            let earlier = written.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).count();
            written.push((name.to_owned(), headers.get_all(name).iter().nth(earlier)?));
        }
        Some(written)
    }
}

/// The names in a head, which begins with a line of its own and ends with an empty one.
fn names(head: &[u8]) -> Option<Vec<&str>> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.by_ref().find(|line| !line.is_empty())?; // the request line, before which there may be empty ones
    let mut names = Vec::new();
    loop {
        let line = lines.next()?;
        if line.is_empty() {
            return Some(names).filter(|_| lines.next().is_some());
        }
        let end = line.iter().position(|byte| *byte == b':')?;
        names.push(std::str::from_utf8(&line[..end]).ok()?);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[track_caller]
    fn check(pieces: &[&str], headers: &[(&str, &str)], expected: Option<&[(&str, &str)]>) {
        let record = HeadRecord::default();
        pieces.iter().for_each(|piece| record.push(piece.as_bytes()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let written = record.written(&map);
        let written: Option<Vec<_>> = written
            .as_ref()
            .map(|written| written.iter().map(|(name, value)| (&**name, value.to_str().unwrap())).collect());
        assert_eq!(written.as_deref(), expected, "{pieces:?}");
    }

    #[test]
    fn names_are_those_of_the_client_in_its_order() {
        let head = "POST / HTTP/1.1\r\nHost: x\r\nX-One: 1\r\nx-two:2\r\nX-ONE: 3\r\n\r\nbody\r\nX: y\r\n\r\n";
        let headers = [("host", "x"), ("x-one", "1"), ("x-one", "3"), ("x-two", "2")];
        let written = [("Host", "x"), ("X-One", "1"), ("x-two", "2"), ("X-ONE", "3")];
        check(&[head], &headers, Some(&written));
        check(&["\r\n", &head[..30], &head[30..]], &headers, Some(&written));
        check(&[&head.replace('\r', "")], &headers, Some(&written));
        check(&["GET / HTTP/1.1\r\n\r\n"], &[], Some(&[]));
    }

    #[test]
    fn what_is_no_whole_head_of_these_headers_says_nothing() {
        let head = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        for end in 0..head.len() - 1 {
            check(&[&head[..end]], &[("host", "x")], None);
        }
        check(&[head], &[], None);
        check(&[head], &[("other", "x")], None);
        check(&[head], &[("host", "x"), ("host", "y")], None);
        check(&["GET / HTTP/1.1\r\nHost x\r\n\r\n"], &[("host", "x")], None);
        check(&[&"x".repeat(MAX_HEAD), head], &[("host", "x")], None);
    }

    #[test]
    fn a_record_begins_anew() {
        let record = HeadRecord::default();
        record.push(b"GET /1 HTTP/1.1\r\nA: 1\r\n\r\n");
        record.clear();
        record.push(b"GET /2 HTTP/1.1\r\n\r\n");
        assert_eq!(record.written(&HeaderMap::new()), Some(vec![]));
    }
}
