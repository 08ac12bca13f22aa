//! Integers with a prefix: the lower bits of a first byte, and further bytes with seven bits each where those do not suffice.
//! Source: RFC 7541, section 5.1.

use super::CompressionError;

/// Bytes after the first that a number may have: so many hold all that fit into 32 bits, and nobody pads them.
const MAX_MORE: u32 = 5;

/// Takes a number of `prefix` bits and more off the start of `bytes`.
///
/// Errors: `Truncated`; `Integer` where it exceeds 32 bits or has more bytes than such a number needs.
pub(super) fn decode(bytes: &mut &[u8], prefix: u32) -> Result<usize, CompressionError> {
    let mask = u8::MAX >> (8 - prefix);
    let first = take_byte(bytes)? & mask;
    if first < mask {
        return Ok(first.into());
    }
    let mut value = u64::from(mask);
    for more in 0..MAX_MORE {
        let byte = take_byte(bytes)?;
        value += u64::from(byte & 0x7f) << (7 * more);
        if byte < 0x80 {
            return u32::try_from(value).map(|value| value as usize).map_err(|_| CompressionError::Integer);
        }
    }
    Err(CompressionError::Integer)
}

/// Appends a number whose first byte has the upper bits of `pattern` and `prefix` bits of it.
pub(super) fn encode(value: usize, prefix: u32, pattern: u8, into: &mut Vec<u8>) {
    let mask = (1_usize << prefix) - 1;
    if value < mask {
        into.push(pattern | value as u8);
        return;
    }
    into.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

fn take_byte(bytes: &mut &[u8]) -> Result<u8, CompressionError> {
    let (first, rest) = bytes.split_first().ok_or(CompressionError::Truncated)?;
    *bytes = rest;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], prefix: u32, expect: Result<usize, CompressionError>) {
        let mut rest = bytes;
        assert_eq!(decode(&mut rest, prefix), expect);
        if let Ok(value) = expect {
            let mut written = Vec::new();
            encode(value, prefix, bytes[0] & !(u8::MAX >> (8 - prefix)), &mut written);
            assert_eq!((written.as_slice(), rest), (bytes, &[][..]));
        }
    }

    #[test]
    fn the_examples_of_the_specification() {
        check(&[0b1110_1010], 5, Ok(10));
        check(&[0b1111_1111, 0b1001_1010, 0b0000_1010], 5, Ok(1337));
        check(&[42], 8, Ok(42));
    }

    #[test]
    fn the_largest_number_has_32_bits() {
        check(&[0x7f, 0x80, 0xff, 0xff, 0xff, 0x0f], 7, Ok(u32::MAX as usize));
        check(&[0x7f, 0x81, 0xff, 0xff, 0xff, 0x0f], 7, Err(CompressionError::Integer));
        check(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0x7f], 7, Err(CompressionError::Integer));
    }

    #[test]
    fn a_number_without_end_is_none() {
        check(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], 7, Err(CompressionError::Integer));
        check(&[0x7f, 0x80, 0x80], 7, Err(CompressionError::Truncated));
        check(&[], 7, Err(CompressionError::Truncated));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(value in prop_oneof![0..600_usize, 0..=u32::MAX as usize], prefix in 1..=8_u32) {
            let mut written = Vec::new();
            encode(value, prefix, 0, &mut written);
            written.push(7);
            let mut rest = written.as_slice();
            prop_assert_eq!(decode(&mut rest, prefix), Ok(value));
            prop_assert_eq!(rest, &[7]);
        }
    }
}
