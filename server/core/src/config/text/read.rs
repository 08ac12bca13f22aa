//! Reads the text form. The grammar is protobuf's, by the reflection library; two things it does not know and every
//! repository uses are rewritten first: a list of messages without a colon, and a byte order mark.

use miette::Diagnostic;
use prost_reflect::DynamicMessage;

use crate::config::{ModelConfig, ParseError, reflect};

const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads a configuration in protobuf's text format.
///
/// Accepted: comments, `[ .. ]` lists and repeated fields, optional commas and semicolons, enums by name or number,
/// map entries, both quotes, adjacent strings, decimal, hexadecimal and octal numbers.
/// Errors: a mistake in form, or a field, enum value or type the schema does not have, with line and column.
/// Source: protobuf, "Text Format Language Specification".
pub fn from_text(text: &str) -> Result<ModelConfig, ParseError> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let with_colons = WithColons::new(text);
    DynamicMessage::parse_text_format(reflect::schema(), &with_colons.text)
        .map(|message| reflect::from_dynamic(&message))
        .or_else(|error| {
            // Strings of the schema are UTF-8, and Triton takes any bytes that are written as escapes.
            let valid = with_valid_escapes(text);
            if valid != text {
                return from_text(&valid);
            }
            let label = error.labels().and_then(|mut labels| labels.next());
            let byte = label.map_or(with_colons.text.len(), |label| label.offset());
            Err(ParseError::at(text, with_colons.original_byte(byte), error.to_string()))
        })
}

/// The text with `\351` and `\xe9` in strings written as characters; bytes that make none are replaced.
fn with_valid_escapes(text: &str) -> String {
    let mut valid = String::with_capacity(text.len());
    let (mut rest, mut bytes) = (text, Vec::new());
    let mut quote = None;
    while let Some(next) = rest.chars().next() {
        let escape = if quote.is_some() && next == '\\' { high_escape(&rest[1..]) } else { None };
        if let Some((byte, length)) = escape {
            bytes.push(byte);
            rest = &rest[1 + length..];
            continue;
        }
        valid.push_str(&String::from_utf8_lossy(&bytes));
        bytes.clear();
        let escaped = if quote.is_some() && next == '\\' { rest[1..].chars().next() } else { None };
        let length = next.len_utf8() + escaped.map_or(0, char::len_utf8);
        valid.push_str(&rest[..length]);
        rest = &rest[length..];
        match quote {
            None if next == '#' => {
                let end = rest.find('\n').unwrap_or(rest.len());
                valid.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            None => quote = Some(next).filter(|next| matches!(next, '"' | '\'')),
            Some(open) if open == next => quote = None,
            Some(_) => {}
        }
    }
    valid.push_str(&String::from_utf8_lossy(&bytes));
    valid
}

/// The byte that digits after a backslash stand for, and how many characters say so; `None` below 128.
fn high_escape(rest: &str) -> Option<(u8, usize)> {
    let digits =
        |text: &str, most: usize, is_digit: fn(&u8) -> bool| text.bytes().take(most).take_while(is_digit).count();
    let (radix, start, count) = match rest.strip_prefix(['x', 'X']) {
        Some(hex) => (16, 1, digits(hex, 2, u8::is_ascii_hexdigit)),
        None => (8, 0, digits(rest, 3, |digit| (b'0'..=b'7').contains(digit))),
    };
    let byte = u8::from_str_radix(rest.get(start..start + count)?, radix).ok()?;
    (byte >= 0x80).then_some((byte, start + count))
}

// === impl WithColons ===

/// A text in which `field [` has become `field: [`.
struct WithColons {
    text: String,
    /// Where colons were put in, as bytes of the original.
    colons: Vec<usize>,
}

impl WithColons {
    fn new(original: &str) -> Self {
        let colons = lists_without_colon(original.as_bytes());
        let mut text = String::with_capacity(original.len() + colons.len());
        let mut copied = 0;
        for &colon in &colons {
            text.push_str(&original[copied..colon]);
            text.push(':');
            copied = colon;
        }
        text.push_str(&original[copied..]);
        Self { text, colons }
    }

    /// The byte of the original that stands at `byte` here.
    fn original_byte(&self, byte: usize) -> usize {
        let before = self.colons.iter().enumerate().take_while(|(added, colon)| *colon + *added < byte).count();
        byte - before
    }
}

/// The ends of all words followed by `[`, as bytes. A word there can only be a field's name.
fn lists_without_colon(text: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut last_word_end = None;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let length = match byte {
            b'#' => length_while(&text[at..], |b| b != b'\n'),
            b'"' | b'\'' => quoted_length(&text[at..]),
            _ if byte.is_ascii_whitespace() => 1,
            _ if is_word(byte) => length_while(&text[at..], is_word),
            _ => 1,
        };
        match byte {
            b'#' => {}
            b'[' => ends.extend(last_word_end.take()),
            _ if byte.is_ascii_whitespace() => {}
            _ if is_word(byte) && !byte.is_ascii_digit() => last_word_end = Some(at + length),
            _ => last_word_end = None,
        }
        at += length;
    }
    ends
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn length_while(text: &[u8], holds: impl Fn(u8) -> bool) -> usize {
    text.iter().position(|&byte| !holds(byte)).unwrap_or(text.len())
}

/// Length of the string that starts `text`, quotes included; to the end if it is not closed.
fn quoted_length(text: &[u8]) -> usize {
    let mut escaped = false;
    for (at, &byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == text[0] => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{WithColons, from_text};
    use crate::config::ModelConfig;

    fn read(text: &str) -> ModelConfig {
        from_text(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        assert_eq!(from_text(text).expect_err("must not parse").to_string(), expected);
    }

    #[test]
    fn lists_of_messages_need_no_colon() {
        for text in
            ["input[{name:'a'}]", "input [ { name: 'a' } ]", "input: [{name: 'a'}]", "input # x\n [ < name: 'a' > ]"]
        {
            assert_eq!(read(text).input[0].name, "a", "{text}");
        }
    }

    #[test]
    fn only_names_before_lists_get_a_colon() {
        let text = "a [ b 'c [ \\' d [' # e [\n f[1] g: 1 [ h: X, [";
        assert_eq!(WithColons::new(text).text, "a: [ b 'c [ \\' d [' # e [\n f:[1] g: 1 [ h: X, [");
    }

    #[test]
    fn every_spelling_of_a_value_is_read() {
        let config = read(
            "max_batch_size: 0x10; name: 'a\\'b' \"\\x41\\102\\n\" ,
             dynamic_batching { preferred_batch_size: [ 010, 4 ] preferred_batch_size: 16, preserve_ordering: True }
             instance_group { kind: 2 count: 3 }",
        );
        assert_eq!(config.max_batch_size, 16);
        assert_eq!(config.name, "a'bAB\n");
        assert_eq!(config.instance_group[0].kind().as_str_name(), "KIND_CPU");
    }

    #[test]
    fn a_byte_order_mark_is_not_a_word() {
        assert_eq!(read("\u{feff}name: 'a'").name, "a");
        check_error("\u{feff}nam: 'a'", "line 1, column 1: field 'nam' not found for message 'inference.ModelConfig'");
    }

    #[test]
    fn escapes_may_make_any_bytes() {
        assert_eq!(read("name: 'caf\\351 \\xe9'").name, "caf\u{fffd} \u{fffd}");
        assert_eq!(read("name: \"\\303\\251\\\\351\\n\" # '\\351").name, "é\\351\n");
        assert_eq!(read("backend: '\\xff' name: '\\\\xe9\\'\\xc3\\xa9'").name, "\\xe9'é");
        check_error(
            "name: '\\351'\nnam: 1",
            "line 2, column 1: field 'nam' not found for message 'inference.ModelConfig'",
        );
    }

    #[test]
    fn mistakes_are_found_where_they_are() {
        check_error(
            "name: 'a'\ninput [\n  { name: 'x' data_typ: TYPE_FP32 } ]\n",
            "line 3, column 15: field 'data_typ' not found for message 'inference.ModelInput'",
        );
        check_error(
            "input[{name:'x' data_type: TYPE_FP31}]",
            "line 1, column 28: value 'TYPE_FP31' was not found for enum 'inference.DataType'",
        );
        check_error("input[{ dims[ 1 2 ] }]", "line 1, column 17: expected ',' or ']', but found '2'");
        check_error("name: 'a'\nname: 'b'", "line 2, column 7: 'name' is already set");
        check_error(
            "input {\n  name: 'x'\n",
            "line 3, column 1: expected '}' or a field name, but reached end of input",
        );
        check_error("name: 'abc", "line 1, column 11: expected string terminator, but reached end of input");
        check_error(
            "dynamic_batching { } sequence_batching { }",
            "line 1, column 40: a value is already set for oneof 'scheduling_choice'",
        );
        check_error(
            "max_batch_size: 4294967296",
            "line 1, column 17: expected value to be a signed 32-bit integer, but the value 4294967296 is out of range",
        );
    }

    proptest! {
        #[test]
        fn junk_never_panics(text in "\\PC{0,60}|[a-z_\\[\\]{}<>:,;'\"\\\\#0-9xX.\n -]{0,80}") {
            let _ = from_text(&text);
        }
    }
}
