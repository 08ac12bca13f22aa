//! Fields of messages, as bytes.

use prost::encoding::{WireType, encode_varint};

/// The key of a field. All numbers of fields here are below 16, so that it is one byte.
fn key(bytes: &mut Vec<u8>, field: u32, wire_type: WireType) {
    bytes.push((field << 3) as u8 | wire_type as u8);
}

/// Most are below 128, which is one byte.
fn varint(bytes: &mut Vec<u8>, value: u64) {
    match u8::try_from(value) {
        Ok(value @ 0..0x80) => bytes.push(value),
        _ => encode_varint(value, bytes),
    }
}

pub(in crate::metrics) fn text(bytes: &mut Vec<u8>, field: u32, value: &str) {
    key(bytes, field, WireType::LengthDelimited);
    varint(bytes, value.len() as u64);
    bytes.extend_from_slice(value.as_bytes());
}

pub(super) fn unsigned(bytes: &mut Vec<u8>, field: u32, value: u64) {
    key(bytes, field, WireType::Varint);
    varint(bytes, value);
}

/// One of the types `sint32` and `sint64`: small numbers of both signs are short.
pub(super) fn signed(bytes: &mut Vec<u8>, field: u32, value: i64) {
    unsigned(bytes, field, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

pub(super) fn double(bytes: &mut Vec<u8>, field: u32, value: f64) {
    key(bytes, field, WireType::SixtyFourBit);
    bytes.extend_from_slice(&value.to_le_bytes());
}

pub(in crate::metrics) fn message(bytes: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    key(bytes, field, WireType::LengthDelimited);
    with_length(bytes, write);
}

/// What is written, behind its length. Most is short and has a length of one byte; what is longer moves to make room.
pub(super) fn with_length(bytes: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.push(0);
    write(bytes);
    let length = bytes.len() - start - 1;
    if let Ok(length @ 0..0x80) = u8::try_from(length) {
        bytes[start] = length;
        return;
    }
    let mut prefix = Vec::with_capacity(10);
    encode_varint(length as u64, &mut prefix);
    bytes.splice(start..=start, prefix);
}
