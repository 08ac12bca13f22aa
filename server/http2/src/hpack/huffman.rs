//! The Huffman code of header strings.
//!
//! It is a canonical code: codes of one length are consecutive numbers in the order of their symbols, so that the lengths say
//! everything. What is common is at most ten bits long and found in one step, the rest by its length.
//! Source: RFC 7541, section 5.2 and appendix B.

use super::CompressionError;

/// Bits of the code of each byte, and of the symbol that ends a string, which none contains.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Bits of the longest code. Codes are compared as numbers of so many bits, the code in the upper ones.
const LONGEST: usize = 30;
/// Codes up to this length are found by the bits themselves.
const SHORT: u32 = 10;

/// The codes of one length.
#[derive(Clone, Copy)]
struct OfLength {
    /// The first of them, and the first code of another length behind them.
    first: u32,
    end: u32,
    /// Where their symbols begin in [`Tables::symbols`].
    start: usize,
}

struct Tables {
    /// Symbol and length by the next ten bits; length 0 where the code is longer.
    short: [(u8, u8); 1 << SHORT],
    of_length: [OfLength; LONGEST + 1],
    /// All symbols in the order of their codes.
    symbols: [u16; LENGTHS.len()],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut short = [(0, 0); 1 << SHORT];
    let mut of_length = [OfLength { first: 0, end: 0, start: 0 }; LONGEST + 1];
    let mut symbols = [0; LENGTHS.len()];
    let (mut code, mut count, mut length) = (0, 0, 1);
    while length <= LONGEST {
        of_length[length].first = code;
        of_length[length].start = count;
        let step = 1 << (LONGEST - length);
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                if length <= SHORT as usize {
                    let from = (code >> (LONGEST as u32 - SHORT)) as usize;
                    let mut at = from;
                    while at < from + (1 << (SHORT as usize - length)) {
                        short[at] = (symbol as u8, length as u8);
                        at += 1;
                    }
                }
                symbols[count] = symbol as u16;
                count += 1;
                code += step;
            }
            symbol += 1;
        }
        of_length[length].end = code;
        length += 1;
    }
    assert!(code == 1 << LONGEST, "every sequence of bits begins with a code");
    Tables { short, of_length, symbols }
}

/// Appends the string that is written in `coded`.
///
/// Errors: `Huffman` where it contains the end symbol, or is padded with a byte or more, or with anything but ones.
pub(super) fn decode(coded: &[u8], into: &mut Vec<u8>) -> Result<(), CompressionError> {
    into.reserve(coded.len() * 8 / 5); // the shortest code has five bits
    // The next `count` bits, from the uppermost on; zeros behind them.
    let (mut bits, mut count) = (0_u64, 0_u32);
    let mut rest = coded;
    loop {
        while count <= 56
            && let Some((byte, more)) = rest.split_first()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
            rest = more;
        }
        let (symbol, length) = next(bits);
        if length > count {
            break;
        }
        into.push(u8::try_from(symbol).map_err(|_| CompressionError::Huffman)?);
        bits <<= length;
        count -= length;
    }
    // shifted to the end in two steps: there may be none
    let padding = bits >> 1 >> (63 - count);
    if count < 8 && padding == (1 << count) - 1 { Ok(()) } else { Err(CompressionError::Huffman) }
}

/// The symbol whose code these bits begin with, and the length of the code.
fn next(bits: u64) -> (u16, u32) {
    let (symbol, length) = TABLES.short[(bits >> (64 - SHORT)) as usize];
    if length != 0 {
        return (symbol.into(), length.into());
    }
    let code = (bits >> (64 - LONGEST)) as u32;
    let mut length = SHORT as usize + 1;
    while code >= TABLES.of_length[length].end {
        length += 1; // the last length ends behind all codes
    }
    let OfLength { first, start, .. } = TABLES.of_length[length];
    (TABLES.symbols[start + ((code - first) >> (LONGEST - length)) as usize], length as u32)
}

/// The string in its code, for tests: what is sent is short, or is sent once.
#[cfg(test)]
pub(super) fn encode(string: &[u8]) -> Vec<u8> {
    let mut bits = Bits::default();
    string.iter().for_each(|byte| bits.push((*byte).into()));
    bits.padded()
}

#[cfg(test)]
#[derive(Default)]
struct Bits(Vec<bool>);

#[cfg(test)]
impl Bits {
    fn push(&mut self, symbol: u16) {
        let length = usize::from(LENGTHS[usize::from(symbol)]);
        let OfLength { first, start, .. } = TABLES.of_length[length];
        let place = TABLES.symbols[start..].iter().position(|one| *one == symbol).unwrap();
        let code = first + ((place as u32) << (LONGEST - length));
        self.0.extend((0..length).map(|at| code >> (LONGEST - 1 - at) & 1 == 1));
    }

    /// With ones up to the end of the byte.
    fn padded(self) -> Vec<u8> {
        self.0
            .chunks(8)
            .map(|byte| (0..8).fold(0, |sum, at| sum << 1 | u8::from(*byte.get(at).unwrap_or(&true))))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use fluke_hpack::huffman::HuffmanDecoder;
    use proptest::prelude::*;

    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, CompressionError> {
        let mut string = Vec::new();
        decode(coded, &mut string).map(|()| string)
    }

    #[track_caller]
    fn check(coded: &[u8], expect: Option<&str>) {
        assert_eq!(decoded(coded).ok().as_deref(), expect.map(str::as_bytes), "{coded:x?}");
    }

    #[test]
    fn the_examples_of_the_specification() {
        check(&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff], Some("www.example.com"));
        check(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], Some("no-cache"));
        check(&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], Some("custom-key"));
    }

    #[test]
    fn each_byte_is_what_another_reader_takes_it_for() {
        for byte in 0..=255 {
            for string in [vec![byte], vec![b'0', byte, byte, b'z']] {
                let coded = encode(&string);
                assert_eq!(decoded(&coded), Ok(string.clone()));
                assert_eq!(HuffmanDecoder::new().decode(&coded).unwrap(), string);
            }
        }
    }

    #[test]
    fn padding_is_the_beginning_of_the_end_symbol_and_shorter_than_a_byte() {
        check(&[], Some(""));
        check(&[0b0000_0111], Some("0"));
        check(&[0b0000_0110], None);
        check(&[0b0000_0000], None); // another "0" would need ten bits
        check(&[0b0000_0111, 0xff], None);
        check(&[0xff], None);
        check(&[0xff, 0xff, 0xff, 0xff], None);
    }

    #[test]
    fn the_end_symbol_ends_nothing() {
        for string in ["", "0", "abc"] {
            let mut bits = Bits::default();
            string.bytes().for_each(|byte| bits.push(byte.into()));
            bits.push(256);
            bits.push(b'0'.into());
            assert_eq!(decoded(&bits.padded()), Err(CompressionError::Huffman));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(string in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..100),
            "[ -~]{0,100}".prop_map(String::into_bytes),
        ]) {
            prop_assert_eq!(decoded(&encode(&string)), Ok(string));
        }

        #[test]
        fn any_bytes_are_what_another_reader_takes_them_for(coded in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(decoded(&coded).ok(), HuffmanDecoder::new().decode(&coded).ok());
        }
    }
}
