//! Strings of a JSON text: found eight bytes at a time, copied only if they hold escapes.

use std::borrow::Cow;

use super::{Parsed, Reader};

impl<'a> Reader<'a> {
    /// Reads a string. Borrowed from the text unless it holds escapes. Bytes need not be UTF-8.
    #[inline]
    pub(crate) fn string(&mut self) -> Parsed<Cow<'a, [u8]>> {
        self.at += 1;
        let start = self.at;
        self.skip_plain();
        if self.peek() == b'"' {
            let plain = &self.text[start..self.at];
            self.at += 1;
            return Ok(Cow::Borrowed(plain));
        }
        self.string_with_escapes(start).map(Cow::Owned)
    }

    /// Goes to the next quotation mark, backslash or control character, eight bytes at a time.
    #[inline]
    fn skip_plain(&mut self) {
        while let Some(chunk) = self.text[self.at..].first_chunk::<8>() {
            let found = special_bytes(u64::from_le_bytes(*chunk));
            if found != 0 {
                self.at += (found.trailing_zeros() / 8) as usize;
                return;
            }
            self.at += 8;
        }
        while self.text.get(self.at).is_some_and(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
            self.at += 1;
        }
    }

    fn string_with_escapes(&mut self, start: usize) -> Parsed<Vec<u8>> {
        let mut unescaped = self.text[start..self.at].to_vec();
        loop {
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(unescaped);
                }
                b'\\' => self.escape(&mut unescaped)?,
                0 => return Err(self.malformed("Missing a closing quotation mark in string.")),
                _ => return Err(self.malformed("Invalid escape character in string.")), // a control character
            }
            let plain = self.at;
            self.skip_plain();
            unescaped.extend_from_slice(&self.text[plain..self.at]);
        }
    }

    fn escape(&mut self, unescaped: &mut Vec<u8>) -> Parsed<()> {
        let start = self.at;
        self.at += 1;
        let byte = match self.peek() {
            byte @ (b'"' | b'\\' | b'/') => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                self.at += 1;
                let character = self.unicode(start)?;
                unescaped.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(Self::malformed_at("Invalid escape character in string.", start)),
        };
        self.at += 1;
        unescaped.push(byte);
        Ok(())
    }

    /// The character of `XXXX`, or of `XXXX\uXXXX` if the first is half of a pair.
    fn unicode(&mut self, start: usize) -> Parsed<char> {
        let lone = || Self::malformed_at("The surrogate pair in string is invalid.", start);
        let mut code = self.four_digits(start)?;
        if (0xd800..0xdc00).contains(&code) {
            if !(self.consume(b'\\') && self.consume(b'u')) {
                return Err(lone());
            }
            let second = self.four_digits(start)?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(lone());
            }
            code = 0x1_0000 + ((code - 0xd800) << 10) + (second - 0xdc00);
        }
        char::from_u32(code).ok_or_else(lone)
    }

    fn four_digits(&mut self, start: usize) -> Parsed<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = char::from(self.peek()).to_digit(16) else {
                return Err(Self::malformed_at("Incorrect hex digit after \\u escape in string.", start));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

/// Marks, with their top bits, the bytes that are a quotation mark, a backslash or below a blank. The lowest mark is
/// exact; marks above it may be false, because of borrows.
#[inline(always)]
const fn special_bytes(chunk: u64) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const fn zero(chunk: u64) -> u64 {
        chunk.wrapping_sub(LOW) & !chunk & HIGH
    }
    let controls = chunk.wrapping_sub(LOW * 0x20) & !chunk & HIGH;
    controls | zero(chunk ^ (LOW * b'"' as u64)) | zero(chunk ^ (LOW * b'\\' as u64))
}
