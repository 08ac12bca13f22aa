//! JSON as protobuf's reader takes it, into values that know where they stand. Forms beyond JSON: single quotes, names
//! without quotes, a comma before a closing bracket, any character in a string.

use super::mistake::Mistake;

/// Deepest nesting of lists and objects, as protobuf has it.
const MOST_LEVELS: usize = 100;

/// A value and the byte it starts at.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) at: usize,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Null,
    Bool(bool),
    /// As written.
    Number(String),
    String(String),
    List(Vec<Value>),
    /// In the order written; a name may come twice.
    Object(Vec<(Name, Value)>),
}

/// The name of a field and the byte it starts at.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) at: usize,
    pub(super) text: String,
}

impl Value {
    /// What it is, for a sentence: a scalar as written, else its kind.
    pub(super) fn describe(&self) -> String {
        match &self.content {
            Content::Null => "null".into(),
            Content::Bool(value) => value.to_string(),
            Content::Number(text) => text.clone(),
            Content::String(text) => format!("{text:?}"),
            Content::List(_) => "a list".into(),
            Content::Object(_) => "an object".into(),
        }
    }
}

/// Reads one value that takes up the whole text.
pub(super) fn parse(text: &str) -> Result<Value, Mistake> {
    let mut parser = Parser { text, at: 0 };
    if text.starts_with('\u{feff}') {
        parser.at = '\u{feff}'.len_utf8();
    }
    parser.skip_space();
    if parser.peek().is_none() {
        return Err(parser.mistake("expected an object, but the text ends"));
    }
    let value = parser.value(0)?;
    parser.skip_space();
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.mistake("unexpected text after the object")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, Mistake> {
        if depth > MOST_LEVELS {
            return Err(self.mistake(format!("nested more than {MOST_LEVELS} levels deep")));
        }
        let at = self.at;
        let content = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"' | b'\'') => Content::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => Content::Number(self.number()?),
            _ => match self.word() {
                "true" => Content::Bool(true),
                "false" => Content::Bool(false),
                "null" => Content::Null,
                _ => return Err(Mistake::new(at, "expected a value")),
            },
        };
        Ok(Value { at, content })
    }

    fn object(&mut self, depth: usize) -> Result<Content, Mistake> {
        self.at += 1;
        let mut fields = Vec::new();
        loop {
            self.skip_space();
            let at = self.at;
            let text = match self.peek() {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Content::Object(fields));
                }
                Some(b'"' | b'\'') => self.string()?,
                None => return Err(self.mistake("expected a field name or '}', but the text ends")),
                Some(_) => match self.word() {
                    "" => return Err(self.mistake("expected a field name or '}'")),
                    word => word.to_owned(),
                },
            };
            self.skip_space();
            if !self.take(b':') {
                return Err(self.mistake("expected ':' after a field name"));
            }
            self.skip_space();
            fields.push((Name { at, text }, self.value(depth + 1)?));
            self.separator(b'}', "expected ',' or '}'")?;
        }
    }

    fn list(&mut self, depth: usize) -> Result<Content, Mistake> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.skip_space();
            if self.take(b']') {
                return Ok(Content::List(items));
            }
            items.push(self.value(depth + 1)?);
            self.separator(b']', "expected ',' or ']'")?;
        }
    }

    /// Takes a comma; a closing bracket is left for its owner.
    fn separator(&mut self, end: u8, expected: &str) -> Result<(), Mistake> {
        self.skip_space();
        if self.take(b',') || self.peek() == Some(end) { Ok(()) } else { Err(self.mistake(expected)) }
    }

    fn string(&mut self) -> Result<String, Mistake> {
        let start = self.at;
        let Some(quote) = self.peek() else { return Ok(String::new()) };
        self.at += 1;
        let mut content = String::new();
        loop {
            let rest = &self.text[self.at..];
            let Some(length) = rest.find([char::from(quote), '\\']) else {
                return Err(Mistake::new(start, "string without a closing quote"));
            };
            content.push_str(&rest[..length]);
            self.at += length;
            if self.take(quote) {
                return Ok(content);
            }
            self.at += 1; // the backslash
            let Some(escaped) = self.text[self.at..].chars().next() else {
                return Err(Mistake::new(start, "string without a closing quote"));
            };
            self.at += escaped.len_utf8();
            match escaped {
                'b' => content.push('\u{8}'),
                'f' => content.push('\u{c}'),
                'n' => content.push('\n'),
                'r' => content.push('\r'),
                't' => content.push('\t'),
                'v' => content.push('\u{b}'),
                'u' => content.push(self.code_point()?),
                other => content.push(other),
            }
        }
    }

    /// The character of `\uXXXX`, of which the last four are still to be read; half a pair is no character.
    fn code_point(&mut self) -> Result<char, Mistake> {
        let first = self.code_unit()?;
        let before_second = self.at;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            self.at += 2;
            let second = self.code_unit()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = before_second;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn code_unit(&mut self) -> Result<u32, Mistake> {
        let digits = self.text.get(self.at..self.at + 4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.mistake("expected four hexadecimal digits after '\\u'"))?;
        self.at += 4;
        Ok(unit)
    }

    fn number(&mut self) -> Result<String, Mistake> {
        let start = self.at;
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        while self.peek().is_some_and(is_part) {
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        let has_leading_zero = text
            .trim_start_matches('-')
            .strip_prefix('0')
            .is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit()));
        if has_leading_zero || text.parse::<f64>().is_err() {
            return Err(Mistake::new(start, format!("'{text}' is not a number")));
        }
        Ok(text.to_owned())
    }

    /// A name without quotes, or one of the three words of JSON; empty if there is none.
    fn word(&mut self) -> &str {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn mistake(&self, message: impl Into<String>) -> Mistake {
        Mistake::new(self.at, message)
    }
}
