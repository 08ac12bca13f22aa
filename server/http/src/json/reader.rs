//! A reader of JSON text that hands out one value at a time and copies nothing it need not.
//!
//! Accepts what Triton's parser accepts (RFC 8259, and the tokens `NaN`, `Inf`, `Infinity` with an optional sign) and
//! refuses the rest with the same sentences at the same offsets. A NUL byte ends the text, as it does there.

mod string;

use server_core::error::Error;

use super::number::{self, Number};

/// Containers within containers; more would let a short text use up the stack.
const MAX_DEPTH: u32 = 100;

/// Why reading stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The text is no JSON, or nests too deeply: nothing after this place can be trusted.
    Malformed(Error),
    /// The text is fine so far, what it says is not.
    Meaning(Error),
}

impl Fault {
    /// The error for the caller.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Malformed(error) | Self::Meaning(error) => error,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Meaning(error)
    }
}

pub(crate) type Parsed<T> = Result<T, Fault>;

/// What a value is, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

/// A position in a JSON text.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
}

/// Reads a whole document: `read` gets its root value; nothing but blanks may surround it.
pub(crate) fn document<'a, T>(text: &'a [u8], read: impl FnOnce(&mut Reader<'a>) -> Parsed<T>) -> Parsed<T> {
    let mut reader = Reader::new(text);
    if text.starts_with(b"\xef\xbb\xbf") {
        reader.at = 3; // a byte order mark
    }
    reader.skip_blanks();
    if reader.peek() == 0 {
        return Err(reader.malformed("The document is empty."));
    }
    let value = read(&mut reader)?;
    reader.skip_blanks();
    if reader.peek() != 0 {
        return Err(reader.malformed("The document root must not be followed by other values."));
    }
    Ok(value)
}

impl<'a> Reader<'a> {
    /// A reader of one value that was found valid before, such as a part kept by [`Reader::raw`].
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// The next byte; 0 at the end.
    #[inline(always)]
    pub(crate) fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    /// Bytes that were not read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.text.len() - self.at
    }

    /// Goes past one byte if it is `expected`.
    #[inline(always)]
    pub(crate) fn consume(&mut self, expected: u8) -> bool {
        let is_there = self.peek() == expected;
        self.at += usize::from(is_there);
        is_there
    }

    #[inline(always)]
    pub(crate) fn skip_blanks(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// What the value here is; a byte that begins none is taken for a number and refused by [`Reader::number`].
    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        match self.peek() {
            b'n' => Kind::Null,
            b't' | b'f' => Kind::Bool,
            b'"' => Kind::String,
            b'[' => Kind::Array,
            b'{' => Kind::Object,
            _ => Kind::Number,
        }
    }

    /// The text is wrong here.
    #[cold]
    pub(crate) fn malformed(&self, what: &str) -> Fault {
        Self::malformed_at(what, self.at)
    }

    #[cold]
    fn malformed_at(what: &str, at: usize) -> Fault {
        Fault::Malformed(Error::internal(format!("failed to parse the request JSON buffer: {what} at {at}")))
    }

    /// Goes one container down; [`Reader::leave`] comes back up.
    #[inline]
    pub(crate) fn enter(&mut self) -> Parsed<()> {
        if self.depth == MAX_DEPTH {
            return Err(Fault::Malformed(Error::invalid_argument(format!(
                "JSON nesting depth exceeds maximum allowed limit ({MAX_DEPTH})"
            ))));
        }
        self.depth += 1;
        self.at += 1;
        self.skip_blanks();
        Ok(())
    }

    #[inline]
    pub(crate) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Reads an array: `element` must read exactly one value each time.
    #[inline]
    pub(crate) fn array(&mut self, mut element: impl FnMut(&mut Self) -> Parsed<()>) -> Parsed<()> {
        self.enter()?;
        if !self.consume(b']') {
            loop {
                element(self)?;
                self.skip_blanks();
                if self.consume(b',') {
                    self.skip_blanks();
                } else if self.consume(b']') {
                    break;
                } else {
                    return Err(self.malformed("Missing a comma or ']' after an array element."));
                }
            }
        }
        self.leave();
        Ok(())
    }

    /// Reads an object: `member` gets each name and must read exactly one value.
    #[inline]
    pub(crate) fn object(&mut self, mut member: impl FnMut(&mut Self, &[u8]) -> Parsed<()>) -> Parsed<()> {
        self.enter()?;
        if !self.consume(b'}') {
            loop {
                if self.peek() != b'"' {
                    return Err(self.malformed("Missing a name for object member."));
                }
                let name = self.string()?;
                self.skip_blanks();
                if !self.consume(b':') {
                    return Err(self.malformed("Missing a colon after a name of object member."));
                }
                self.skip_blanks();
                member(self, &name)?;
                self.skip_blanks();
                if self.consume(b',') {
                    self.skip_blanks();
                } else if self.consume(b'}') {
                    break;
                } else {
                    return Err(self.malformed("Missing a comma or '}' after an object member."));
                }
            }
        }
        self.leave();
        Ok(())
    }

    /// Reads `null`, `true` or `false`: whichever begins here.
    pub(crate) fn word(&mut self) -> Parsed<Option<bool>> {
        let (word, value): (&[u8], _) = match self.peek() {
            b'n' => (b"null", None),
            b't' => (b"true", Some(true)),
            _ => (b"false", Some(false)),
        };
        for &byte in word {
            if !self.consume(byte) {
                return Err(self.malformed("Invalid value."));
            }
        }
        Ok(value)
    }

    /// Reads a number.
    #[inline]
    pub(crate) fn number(&mut self) -> Parsed<Number> {
        let (number, length) =
            number::read(&self.text[self.at..]).map_err(|(what, at)| Self::malformed_at(what, self.at + at))?;
        self.at += length;
        Ok(number)
    }

    /// Reads a number as a single.
    #[inline]
    pub(crate) fn single(&mut self) -> Parsed<f32> {
        let (value, length) =
            number::read_f32(&self.text[self.at..]).map_err(|(what, at)| Self::malformed_at(what, self.at + at))?;
        self.at += length;
        Ok(value)
    }

    /// Goes past a comma if a number follows it, blanks at most one, as nearly all arrays of numbers are written.
    #[inline(always)]
    pub(crate) fn goes_on_with_number(&mut self) -> bool {
        let is_number = |byte: u8| byte.is_ascii_digit() || byte == b'-';
        let step = match self.text.get(self.at..).unwrap_or_default() {
            [b',', next, ..] if is_number(*next) => 1,
            [b',', b' ', next, ..] if is_number(*next) => 2,
            _ => return false,
        };
        self.at += step;
        true
    }

    /// Reads past one value of any kind, checking that it is well formed.
    pub(crate) fn skip(&mut self) -> Parsed<()> {
        match self.kind() {
            Kind::Null | Kind::Bool => self.word().map(|_| ()),
            Kind::Number => self.number().map(|_| ()),
            Kind::String => self.string().map(|_| ()),
            Kind::Array => self.array(Self::skip),
            Kind::Object => self.object(|reader, _| reader.skip()),
        }
    }

    /// Reads past one value and gives its text.
    pub(crate) fn raw(&mut self) -> Parsed<&'a [u8]> {
        let start = self.at;
        self.skip()?;
        Ok(&self.text[start..self.at])
    }

    /// Reads one value with `read`. If its meaning is wrong, the value is read past and the mistake noted: mistakes in
    /// the rest of the text are reported first.
    #[inline]
    pub(crate) fn attempt(
        &mut self,
        read: impl FnOnce(&mut Self) -> Parsed<()>,
        note: impl FnOnce(Error),
    ) -> Parsed<()> {
        let (at, depth) = (self.at, self.depth);
        match read(self) {
            Err(Fault::Meaning(error)) => {
                (self.at, self.depth) = (at, depth);
                note(error);
                self.skip()
            }
            outcome => outcome,
        }
    }

    /// Runs `read` with a fresh count of nested containers.
    pub(crate) fn at_new_depth<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        let depth = std::mem::take(&mut self.depth);
        let result = read(self);
        self.depth = depth;
        result
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn refused(text: &str, expect: &str) {
        let error = document(text.as_bytes(), Reader::skip).unwrap_err().into_error();
        assert_eq!(error.message, format!("failed to parse the request JSON buffer: {expect}"), "{text}");
        assert_eq!(error.code, server_core::error::Code::Internal);
    }

    fn string(text: &str) -> Vec<u8> {
        document(text.as_bytes(), |reader| reader.string().map(Cow::into_owned)).unwrap()
    }

    #[test]
    fn errors_have_their_offset() {
        refused("", "The document is empty. at 0");
        refused("  \n", "The document is empty. at 3");
        refused("{}x", "The document root must not be followed by other values. at 2");
        refused("{\"a\":x}", "Invalid value. at 5");
        refused("{\"a\":tru}", "Invalid value. at 8");
        refused("{\"a\":-}", "Invalid value. at 6");
        refused("{a:1}", "Missing a name for object member. at 1");
        refused("{\"a\":1,}", "Missing a name for object member. at 7");
        refused("{\"a\" 1}", "Missing a colon after a name of object member. at 5");
        refused("{\"a\":1 \"b\":2}", "Missing a comma or '}' after an object member. at 7");
        refused("{\"a\":1", "Missing a comma or '}' after an object member. at 6");
        refused("[1 2]", "Missing a comma or ']' after an array element. at 3");
        refused("[1,]", "Invalid value. at 3");
        refused("[01]", "Missing a comma or ']' after an array element. at 2");
        refused("\"abc", "Missing a closing quotation mark in string. at 4");
        refused("\"a\nb\"", "Invalid escape character in string. at 2");
        refused("\"a\\x\"", "Invalid escape character in string. at 2");
        refused("\"\\u12g4\"", "Incorrect hex digit after \\u escape in string. at 1");
        refused("\"\\ud800\"", "The surrogate pair in string is invalid. at 1");
        refused("\"\\udc00\"", "The surrogate pair in string is invalid. at 1");
        refused("[1.]", "Miss fraction part in number. at 3");
        refused("[1e]", "Miss exponent in number. at 3");
        refused("[ 1e999]", "Number too big to be stored in double. at 2");
        refused("[Nope]", "Invalid value. at 2");
    }

    #[test]
    fn deep_nesting_is_refused_before_the_stack_ends() {
        let deep = "[".repeat(100_000);
        let error = document(deep.as_bytes(), Reader::skip).unwrap_err().into_error();
        assert_eq!(error.message, "JSON nesting depth exceeds maximum allowed limit (100)");
        assert_eq!(error.code, server_core::error::Code::InvalidArgument);
        let allowed = format!("{}{}", "[".repeat(100), "]".repeat(100));
        document(allowed.as_bytes(), Reader::skip).unwrap();
    }

    #[test]
    fn escapes_become_their_characters() {
        assert_eq!(string(r#""plain text of some length""#), b"plain text of some length");
        assert_eq!(string(r#""a\"\\\/\b\f\n\r\t\u0041\u00e4\ud83d\ude00z""#), "a\"\\/\u{8}\u{c}\n\r\tAä😀z".as_bytes());
        assert_eq!(document(b"\"\xff\xfe\"", |reader| reader.string().map(Cow::into_owned)).unwrap(), b"\xff\xfe");
    }

    #[test]
    fn malformed_text_is_reported_before_a_wrong_value() {
        let read = |text: &'static str| {
            document(text.as_bytes(), |reader| {
                let mut mistakes = Vec::new();
                let refuse = |_: &mut Reader<'_>| Err(Error::internal("refused").into());
                reader.array(|reader| reader.attempt(refuse, |error| mistakes.push(error.message)))?;
                Ok(mistakes)
            })
        };
        assert_eq!(read("[1,{\"a\":[2]}]").unwrap(), ["refused", "refused"]);
        assert!(matches!(read("[1,{\"a\":[2}]"), Err(Fault::Malformed(_))));
    }

    proptest! {
        #[test]
        fn accepts_and_refuses_what_serde_json_does(text in "[\\[\\]{},:\"\\\\ntrue0-9.eE+ \\-a]{0,24}") {
            let ours = document(text.as_bytes(), Reader::skip).is_ok();
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert_eq!(ours, theirs, "{}", text);
        }

        #[test]
        fn strings_come_back_as_they_were(original: String) {
            let text = serde_json::to_string(&original).unwrap();
            prop_assert_eq!(string(&text), original.as_bytes());
        }
    }
}
