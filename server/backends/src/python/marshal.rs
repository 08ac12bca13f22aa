//! Python's `marshal` format, version 2, as far as messages need it: both sides read and write it at the speed of their
//! language, and the worker needs nothing but its standard library for it.
//!
//! Source: CPython, `Python/marshal.c`; the format of these types is the same from 3.8 on.

use std::str;

/// Deepest nesting that is read.
const MAX_DEPTH: u32 = 32;

// === writing ===

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Writes into that memory, from its start.
    pub(super) fn reusing(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Self { bytes }
    }

    /// What was written.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn none(&mut self) {
        self.bytes.push(b'N');
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.bytes.push(if value { b'T' } else { b'F' });
    }

    /// A number; beyond 32 bits it is written in digits of 15.
    pub(super) fn int(&mut self, value: i64) {
        match i32::try_from(value) {
            Ok(value) => {
                self.bytes.push(b'i');
                self.bytes.extend_from_slice(&value.to_le_bytes());
            }
            Err(_) => self.digits(value < 0, value.unsigned_abs()),
        }
    }

    pub(super) fn uint(&mut self, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.int(value),
            Err(_) => self.digits(false, value),
        }
    }

    fn digits(&mut self, is_negative: bool, value: u64) {
        let count = i32::try_from((64 - value.leading_zeros()).div_ceil(15)).unwrap_or(0);
        self.bytes.push(b'l');
        self.bytes.extend_from_slice(&(if is_negative { -count } else { count }).to_le_bytes());
        for digit in 0..count {
            let digit = u16::try_from(value >> (15 * digit) & 0x7fff).unwrap_or(0);
            self.bytes.extend_from_slice(&digit.to_le_bytes());
        }
    }

    pub(super) fn float(&mut self, value: f64) {
        self.bytes.push(b'g');
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn str(&mut self, value: &str) {
        match u8::try_from(value.len()) {
            Ok(length) if value.is_ascii() => self.bytes.extend_from_slice(&[b'z', length]),
            _ => self.sized(b'u', value.len()),
        }
        self.bytes.extend_from_slice(value.as_bytes());
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.sized(b's', value.len());
        self.bytes.extend_from_slice(value);
    }

    /// So many values follow.
    pub(super) fn tuple(&mut self, count: usize) {
        match u8::try_from(count) {
            Ok(count) => self.bytes.extend_from_slice(&[b')', count]),
            Err(_) => self.sized(b'(', count),
        }
    }

    /// Values that were written before.
    pub(super) fn written(&mut self, values: &[u8]) {
        self.bytes.extend_from_slice(values);
    }

    /// Keys and values follow, each key before its value; then [`Writer::end_dict`].
    pub(super) fn begin_dict(&mut self) {
        self.bytes.push(b'{');
    }

    pub(super) fn end_dict(&mut self) {
        self.bytes.push(b'0');
    }

    /// Lengths are those of messages, which are bounded far below `i32::MAX`; a longer one is cut off by its reader.
    fn sized(&mut self, kind: u8, length: usize) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_le_bytes());
    }
}

// === reading ===

/// One value of a message.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A number of 64 bits.
    Int(i64),
    /// A number that only fits unsigned.
    Uint(u64),
    /// A float.
    Float(f64),
    /// A text.
    Str(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A tuple or a list.
    List(Vec<Value<'a>>),
    /// A dictionary, in its order.
    Dict(Vec<(Value<'a>, Value<'a>)>),
}

/// Reads one value; gives what follows it as well. Whatever the bytes are, it reads no further than they go.
///
/// Errors: what is wrong with them.
pub(super) fn read(bytes: &[u8]) -> Result<(Value<'_>, &[u8]), &'static str> {
    let mut reader = Reader { rest: bytes };
    let value = reader.value(0)?;
    Ok((value, reader.rest))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: u32) -> Result<Value<'a>, &'static str> {
        if depth > MAX_DEPTH {
            return Err("nested too deeply");
        }
        let kind = self.array::<1>()?[0] & 0x7f; // the high bit marks values that are used again: not written by version 2
        Ok(match kind {
            b'N' => Value::None,
            b'T' => Value::Bool(true),
            b'F' => Value::Bool(false),
            b'i' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'l' => self.long()?,
            b'g' => Value::Float(f64::from_le_bytes(self.array()?)),
            b's' => {
                let length = self.length()?;
                Value::Bytes(self.take(length)?)
            }
            b'z' | b'Z' => {
                let length = self.array::<1>()?[0];
                self.text(length.into())?
            }
            b'u' | b'a' | b'A' | b't' => {
                let length = self.length()?;
                self.text(length)?
            }
            b')' => {
                let count = self.array::<1>()?[0];
                self.list(count.into(), depth)?
            }
            b'(' | b'[' => {
                let count = self.length()?;
                self.list(count, depth)?
            }
            b'{' => self.dict(depth)?,
            _ => return Err("a value of a type that messages do not have"),
        })
    }

    fn list(&mut self, count: usize, depth: u32) -> Result<Value<'a>, &'static str> {
        let mut values = Vec::with_capacity(count.min(self.rest.len())); // each has a byte at least
        for _ in 0..count {
            values.push(self.value(depth + 1)?);
        }
        Ok(Value::List(values))
    }

    fn dict(&mut self, depth: u32) -> Result<Value<'a>, &'static str> {
        let mut entries = Vec::new();
        while self.rest.first() != Some(&b'0') {
            entries.push((self.value(depth + 1)?, self.value(depth + 1)?));
        }
        self.take(1)?;
        Ok(Value::Dict(entries))
    }

    fn long(&mut self) -> Result<Value<'a>, &'static str> {
        let count = i32::from_le_bytes(self.array()?);
        let mut value: u128 = 0;
        for digit in 0..count.unsigned_abs() {
            let part: u128 = u16::from_le_bytes(self.array()?).into();
            if digit >= 5 && part > 0 {
                return Err("a number of more than 64 bits");
            }
            value |= part << (15 * digit.min(5));
        }
        if count < 0 {
            let value = i128::try_from(value).map_err(|_| "a number of more than 64 bits")?;
            return i64::try_from(-value).map(Value::Int).map_err(|_| "a number of more than 64 bits");
        }
        let value = u64::try_from(value).map_err(|_| "a number of more than 64 bits")?;
        Ok(i64::try_from(value).map_or(Value::Uint(value), Value::Int))
    }

    fn text(&mut self, length: usize) -> Result<Value<'a>, &'static str> {
        str::from_utf8(self.take(length)?).map(Value::Str).map_err(|_| "a text that is not UTF-8")
    }

    fn length(&mut self) -> Result<usize, &'static str> {
        usize::try_from(i32::from_le_bytes(self.array()?)).map_err(|_| "a negative length")
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (array, rest) = self.rest.split_first_chunk().ok_or("cut off")?;
        self.rest = rest;
        Ok(*array)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or("cut off")?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Value<'a> {
    /// The items of a tuple or list; none of anything else.
    pub(super) fn items(&self) -> &[Value<'a>] {
        match self {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// A text; empty for anything else.
    pub(super) fn text(&self) -> &'a str {
        match self {
            Value::Str(text) => text,
            _ => "",
        }
    }

    /// A number that is not negative.
    pub(super) fn number(&self) -> Option<u64> {
        match self {
            Value::Int(value) => u64::try_from(*value).ok(),
            Value::Uint(value) => Some(*value),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_python_writes_is_read() {
        // marshal.dumps((None, True, 1, -1, 2**40, -2**63, 2**64 - 1, 1.5, "a", "\u20ac", b"x", [1], {"k": 2}), 2)
        let bytes =
            b"(\r\0\0\0NTi\x01\0\0\0i\xff\xff\xff\xffl\x03\0\0\0\0\0\0\0\0\x04l\xfb\xff\xff\xff\0\0\0\0\0\0\0\0\x08\0\
            l\x05\0\0\0\xff\x7f\xff\x7f\xff\x7f\xff\x7f\x0f\0g\0\0\0\0\0\0\xf8?u\x01\0\0\0au\x03\0\0\0\xe2\x82\xac\
            s\x01\0\0\0x[\x01\0\0\0i\x01\0\0\0{u\x01\0\0\0ki\x02\0\0\x000";
        let (value, rest) = read(bytes).unwrap();
        let expect = [
            Value::None,
            Value::Bool(true),
            Value::Int(1),
            Value::Int(-1),
            Value::Int(1 << 40),
            Value::Int(i64::MIN),
            Value::Uint(u64::MAX),
            Value::Float(1.5),
            Value::Str("a"),
            Value::Str("\u{20ac}"),
            Value::Bytes(b"x"),
            Value::List(vec![Value::Int(1)]),
            Value::Dict(vec![(Value::Str("k"), Value::Int(2))]),
        ];
        assert_eq!((value, rest), (Value::List(expect.into()), &b""[..]));
    }

    #[test]
    fn nesting_has_an_end() {
        let deep = [b")\x01".repeat(100), b"N".to_vec()].concat();
        assert_eq!(read(&deep), Err("nested too deeply"));
    }

    proptest! {
        #[test]
        fn numbers_and_texts_come_back(int: i64, uint: u64, text: String, bytes: Vec<u8>) {
            let mut writer = Writer::default();
            writer.tuple(4);
            writer.int(int);
            writer.uint(uint);
            writer.str(&text);
            writer.bytes(&bytes);
            let written = writer.into_bytes();
            let (value, rest) = read(&written).unwrap();
            let items = value.items();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(&items[0], &Value::Int(int));
            prop_assert_eq!(items[1].number(), Some(uint));
            prop_assert_eq!(&items[2..], &[Value::Str(&text), Value::Bytes(&bytes)]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
