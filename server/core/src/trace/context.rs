//! The W3C trace context: how a caller says which trace a request belongs to, and what it says to those that follow in it.
//!
//! Source: W3C Trace Context, `traceparent` of version 00; later versions begin the same.

use std::{fmt, sync::Arc};

/// Most members of a `tracestate`.
const MAX_STATE_MEMBERS: usize = 32;
/// Longest `tracestate` that is handed on. Units: bytes.
const MAX_STATE: usize = 4096;

/// Identity of a trace. Never all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// Identity of a span. Never all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

macro_rules! hexadecimal {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

hexadecimal! { TraceId SpanId }

/// The span of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The trace it belongs to.
    pub trace_id: TraceId,
    /// The span itself.
    pub span: SpanId,
    /// What vendors of tracing have said of the trace: a `tracestate`, handed on as it is.
    pub state: Option<Arc<str>>,
}

impl Remote {
    /// Reads the value of a `traceparent`, and those of `tracestate`, which count as one list. `None` for a parent that is none:
    /// the request is then as one without.
    pub fn parse<'a>(parent: &[u8], states: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let remote = Self::parent(parent)?;
        Some(Self { state: state(states), ..remote })
    }

    fn parent(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.trim();
        let mut fields = text.split('-');
        let version: [u8; 1] = bytes(fields.next()?)?;
        let (trace_id, span) = (bytes(fields.next()?)?, bytes(fields.next()?)?);
        let _flags: [u8; 1] = bytes(fields.next()?)?;
        let has_more = fields.next().is_some();
        let is_valid = version != [0xff] && !(version == [0] && has_more) && trace_id != [0; 16] && span != [0; 8];
        is_valid.then_some(Self { trace_id: TraceId(trace_id), span: SpanId(span), state: None })
    }
}

/// One list of all members. `None` if there are none, or if any is malformed, which makes the whole list worthless.
fn state<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<Arc<str>> {
    let mut list = String::new();
    let mut count = 0;
    for value in values {
        for member in std::str::from_utf8(value).ok()?.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            count += 1;
            if !is_member(member) || count > MAX_STATE_MEMBERS || list.len() + member.len() >= MAX_STATE {
                return None;
            }
            if count > 1 {
                list.push(',');
            }
            list.push_str(member);
        }
    }
    (count > 0).then(|| list.into())
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let is_of_key = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let is_of_value = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'=';
    let is_key = (1..=256).contains(&key.len()) && key.bytes().all(is_of_key);
    is_key && (1..=256).contains(&value.len()) && value.bytes().all(is_of_value)
}

/// The value of a `traceparent` of a span that is recorded.
pub fn traceparent(trace_id: TraceId, span: SpanId) -> String {
    format!("00-{trace_id}-{span}-01")
}

/// As many bytes as the text has pairs of lower-case hexadecimal digits.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || digits.iter().any(|digit| !matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_and_written() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let remote = Remote::parse(text.as_bytes(), []).unwrap();
        assert_eq!(traceparent(remote.trace_id, remote.span), text);
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-what-comes";
        assert_eq!(Remote::parse(later.as_bytes(), []), Some(remote));
    }

    #[test]
    fn states_are_one_list_or_none() {
        let read = |values: &[&str]| state(values.iter().map(|value| value.as_bytes())).map(|list| list.to_string());
        assert_eq!(read(&["a=1, b@c=x y\"z", ",d/e=~"]).as_deref(), Some("a=1,b@c=x y\"z,d/e=~"));
        let many = vec!["a=1"; MAX_STATE_MEMBERS + 1].join(",");
        let (long, all) = (format!("a={}", "1".repeat(257)), format!("a={}", "1".repeat(250)));
        let too_long = vec![all.as_str(); 17].join(",");
        for values in
            [&[""][..], &[], &["a"], &["a=1", "B=1"], &["=1"], &["a="], &["a=1=2"], &[&many], &[&long], &[&too_long]]
        {
            assert_eq!(read(values), None, "{values:?}");
        }
        assert_eq!(state([b"a=\xff".as_slice()]), None);
    }

    #[test]
    fn what_is_no_parent_is_none() {
        for text in [
            "",
            "junk",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
            "00-\u{e9}f7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(Remote::parse(text.as_bytes(), []), None, "{text}");
        }
        assert_eq!(Remote::parse(b"00-\xff", []), None);
    }
}
