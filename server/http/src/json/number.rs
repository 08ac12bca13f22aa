//! Numbers of a JSON text: whole ones exactly, others as the nearest double.
//!
//! Digits are read eight at a time. Short decimals, nearly all that clients send, are turned into doubles by one exact
//! multiplication or division, and nearly all decimals into singles by one that is nearly exact; the rest goes through
//! the standard library.

/// A number as it was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// Whole and not negative.
    Uint(u64),
    /// Whole and negative.
    Int(i64),
    /// With a fraction or an exponent, too large for 64 bits, or one of `NaN`, `Infinity`, `-Infinity`.
    Double(f64),
}

impl Number {
    /// As a double, rounded if need be.
    #[inline]
    pub(crate) fn as_f64(self) -> f64 {
        match self {
            Self::Uint(value) => value as f64,
            Self::Int(value) => value as f64,
            Self::Double(value) => value,
        }
    }

    /// If it was written as a whole number that fits.
    #[inline]
    pub(crate) fn as_u64(self) -> Option<u64> {
        match self {
            Self::Uint(value) => Some(value),
            Self::Int(_) | Self::Double(_) => None,
        }
    }

    /// If it was written as a whole number that fits.
    #[inline]
    pub(crate) fn as_i64(self) -> Option<i64> {
        match self {
            Self::Uint(value) => i64::try_from(value).ok(),
            Self::Int(value) => Some(value),
            Self::Double(_) => None,
        }
    }
}

/// Powers of ten that doubles hold exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Why a text is no number: what is wrong, and at which byte.
type Wrong = (&'static str, usize);

/// Reads the number at the start of `text`, and its length in bytes.
///
/// Errors: what is wrong, and at which byte of `text`.
#[inline]
pub(crate) fn read(text: &[u8]) -> Result<(Number, usize), Wrong> {
    let scanned = match scan(text)? {
        Scan::Decimal(scanned) => scanned,
        Scan::Special(value, end) => return Ok((Number::Double(value), end)),
    };
    let Decimal { is_negative, is_whole, digits, exponent, end } = scanned;
    if is_whole {
        if digits.dropped == 0 {
            if !is_negative || digits.value == 0 {
                return Ok((Number::Uint(digits.value), end));
            }
            if let Some(value) = 0i64.checked_sub_unsigned(digits.value) {
                return Ok((Number::Int(value), end));
            }
        } else if let Some(number) = std::str::from_utf8(&text[..end]).ok().and_then(|text| text.parse().ok()) {
            return Ok((Number::Uint(number), end)); // twenty digits may still fit
        }
    }
    let value = match exact(digits, exponent) {
        Some(value) if is_negative => -value,
        Some(value) => value,
        None => std::str::from_utf8(&text[..end]).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::INFINITY),
    };
    if value.is_finite() {
        Ok((Number::Double(value), end))
    } else {
        Err(("Number too big to be stored in double.", 0))
    }
}

/// Reads the number at the start of `text` as a single: the same as [`read`] and rounding its double once more.
///
/// Errors: as [`read`].
#[inline]
pub(crate) fn read_f32(text: &[u8]) -> Result<(f32, usize), Wrong> {
    if let Scan::Decimal(decimal) = scan(text)?
        && let Some(value) = single(&decimal)
    {
        return Ok((value, decimal.end));
    }
    read(text).map(|(number, end)| (number.as_f64() as f32, end))
}

/// A number as it stands in the text.
enum Scan {
    Decimal(Decimal),
    /// `NaN`, `Infinity` or `-Infinity`, and its end.
    Special(f64, usize),
}

/// A decimal: its digits times ten to the power of `exponent`.
struct Decimal {
    is_negative: bool,
    /// It has neither a point nor an exponent.
    is_whole: bool,
    digits: Digits,
    exponent: i64,
    end: usize,
}

#[inline]
fn scan(text: &[u8]) -> Result<Scan, Wrong> {
    let peek = |at: usize| text.get(at).copied().unwrap_or(0);
    let is_negative = peek(0) == b'-';
    let mut at = usize::from(is_negative);

    // whole part: 0, or digits that do not begin with 0
    let mut digits = Digits::default();
    match peek(at) {
        b'0' => at += 1,
        b'1'..=b'9' => at = digits.take(text, at),
        _ => return special(text, at, is_negative).map(|(value, end)| Scan::Special(value, end)),
    }
    let mut exponent = i64::from(digits.dropped);
    let is_whole = !matches!(peek(at), b'.' | b'e' | b'E');
    if peek(at) == b'.' {
        at += 1;
        if !peek(at).is_ascii_digit() {
            return Err(("Miss fraction part in number.", at));
        }
        let start = at;
        at = digits.take(text, at);
        // digits that found no place are not part of the value, so they do not move its point either
        exponent = i64::from(digits.dropped) - (at - start) as i64;
    }
    if matches!(peek(at), b'e' | b'E') {
        at += 1;
        let is_small = peek(at) == b'-';
        at += usize::from(matches!(peek(at), b'+' | b'-'));
        if !peek(at).is_ascii_digit() {
            return Err(("Miss exponent in number.", at));
        }
        let mut written: i64 = 0;
        while peek(at).is_ascii_digit() {
            written = (written * 10 + i64::from(peek(at) - b'0')).min(1_000_000_000);
            at += 1;
        }
        exponent += if is_small { -written } else { written };
    }
    Ok(Scan::Decimal(Decimal { is_negative, is_whole, digits, exponent, end: at }))
}

/// The decimal as a single, if that can be told without its exact double: a quotient of two roundings is less than two
/// units in the last place of a double from the value, so that both round to the same single unless the double is
/// about halfway between two singles.
#[inline]
fn single(decimal: &Decimal) -> Option<f32> {
    let &Decimal { is_negative, is_whole, digits, exponent, .. } = decimal;
    if digits.dropped > 0 {
        return None;
    }
    let power = *EXACT_POWERS.get(usize::try_from(exponent.unsigned_abs()).ok()?)?;
    let value = digits.value as f64;
    let value = if exponent < 0 { value / power } else { value * power };
    const HALF: u64 = 1 << 28;
    let below = value.to_bits() & (2 * HALF - 1); // what a single has no place for
    let is_clear = below.wrapping_sub(HALF - 4) > 8;
    let is_normal = (f64::from(f32::MIN_POSITIVE)..f64::from(f32::MAX)).contains(&value);
    if value == 0.0 {
        return Some(if is_negative && !is_whole { -0.0 } else { 0.0 }); // "-0" is the whole number 0
    }
    (is_clear && is_normal).then_some(if is_negative { -(value as f32) } else { value as f32 })
}

/// The digits of a number without its point.
#[derive(Clone, Copy, Default)]
struct Digits {
    value: u64,
    /// Digits that found no place in `value`.
    dropped: u32,
}

impl Digits {
    /// Takes in the run of digits at `at` and gives its end: eight at a time, four, then one by one.
    #[inline]
    fn take(&mut self, text: &[u8], mut at: usize) -> usize {
        while let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk())
            && let Some(eight) = eight_digits(u64::from_le_bytes(*chunk))
            && self.value < 10_000_000_000
        {
            self.value = self.value * 100_000_000 + eight;
            at += 8;
        }
        if let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk())
            && let Some(four) = four_digits(u32::from_le_bytes(*chunk))
            && self.value < 100_000_000_000_000
        {
            self.value = self.value * 10_000 + u64::from(four);
            at += 4;
        }
        while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10) {
            if self.value < 1_000_000_000_000_000_000 {
                self.value = self.value * 10 + u64::from(digit);
            } else {
                self.dropped += 1;
            }
            at += 1;
        }
        at
    }
}

/// The number that eight digits spell; `None` if one of the bytes is no digit.
#[inline(always)]
const fn eight_digits(chunk: u64) -> Option<u64> {
    const HIGH: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    if (chunk & HIGH) | ((chunk.wrapping_add(0x0606_0606_0606_0606) & HIGH) >> 4) != 0x3333_3333_3333_3333 {
        return None;
    }
    // pairs, then fours, then all, each by one multiplication
    let pairs = (chunk & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(10 * 256 + 1) >> 8;
    let fours = (pairs & 0x00ff_00ff_00ff_00ff).wrapping_mul(100 * 65536 + 1) >> 16;
    Some(((fours & 0x0000_ffff_0000_ffff).wrapping_mul((10_000 << 32) + 1)) >> 32)
}

/// The number that four digits spell; `None` if one of the bytes is no digit.
#[inline(always)]
const fn four_digits(chunk: u32) -> Option<u32> {
    const HIGH: u32 = 0xf0f0_f0f0;
    if (chunk & HIGH) | ((chunk.wrapping_add(0x0606_0606) & HIGH) >> 4) != 0x3333_3333 {
        return None;
    }
    let pairs = (chunk & 0x0f0f_0f0f).wrapping_mul(10 * 256 + 1) >> 8;
    Some((pairs & 0x00ff_00ff).wrapping_mul(100 * 65536 + 1) >> 16)
}

/// The value, if one rounding gives the nearest double.
#[inline]
fn exact(digits: Digits, exponent: i64) -> Option<f64> {
    if digits.value == 0 && digits.dropped == 0 {
        return Some(0.0);
    }
    if digits.dropped > 0 || digits.value > 1 << 53 {
        return None;
    }
    let power = *EXACT_POWERS.get(usize::try_from(exponent.unsigned_abs()).ok()?)?;
    let value = digits.value as f64;
    Some(if exponent < 0 { value / power } else { value * power })
}

/// `NaN`, `Inf` or `Infinity` at `at`.
#[cold]
fn special(text: &[u8], start: usize, is_negative: bool) -> Result<(f64, usize), Wrong> {
    let expect = |word: &[u8], mut at: usize| {
        for byte in word {
            if text.get(at) != Some(byte) {
                return Err(("Invalid value.", at));
            }
            at += 1;
        }
        Ok(at)
    };
    let (value, end) = match text.get(start) {
        Some(b'N') => (f64::NAN, expect(b"NaN", start)?),
        Some(b'I') => {
            let end = expect(b"Inf", start)?;
            (f64::INFINITY, if text.get(end) == Some(&b'i') { expect(b"inity", end)? } else { end })
        }
        _ => return Err(("Invalid value.", start)),
    };
    Ok((if is_negative { -value } else { value }, end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Number) {
        assert_eq!(read(text.as_bytes()), Ok((expect, text.len())), "{text}");
    }

    #[test]
    fn whole_numbers_are_exact_to_the_last_bit() {
        check("0", Number::Uint(0));
        check("-0", Number::Uint(0));
        check("42", Number::Uint(42));
        check("-42", Number::Int(-42));
        check("18446744073709551615", Number::Uint(u64::MAX));
        check("9999999999999999999", Number::Uint(9_999_999_999_999_999_999));
        check("-9223372036854775808", Number::Int(i64::MIN));
        check("18446744073709551616", Number::Double(18446744073709551616.0));
        check("-9223372036854775809", Number::Double(-9223372036854775809.0));
    }

    #[test]
    fn special_values_have_their_words() {
        check("Infinity", Number::Double(f64::INFINITY));
        check("-Infinity", Number::Double(f64::NEG_INFINITY));
        check("Inf", Number::Double(f64::INFINITY));
        assert!(matches!(read(b"NaN,"), Ok((Number::Double(value), 3)) if value.is_nan()));
        assert_eq!(read(b"Infinite"), Err(("Invalid value.", 7)));
        assert_eq!(read(b"-x"), Err(("Invalid value.", 1)));
    }

    #[test]
    fn awkward_doubles_are_the_nearest() {
        for text in [
            "0.1",
            "-0.0",
            "1e22",
            "1e23",
            "123456789012345678901234567890.5",
            "0.000000000000000000000000000001",
            "4.9e-324",
            "1e-400",
            "1.7976931348623157e308",
            "9007199254740993.0",
            "0.10000000149011612",
            "100000000000000000000000e-23",
            "0.00000000000000000000000000000000000000000000000000000000000e999",
        ] {
            check(text, Number::Double(text.parse().unwrap()));
        }
        assert_eq!(read(b"1.8e308"), Err(("Number too big to be stored in double.", 0)));
    }

    #[track_caller]
    fn check_single(text: &str) {
        let (number, end) = read(text.as_bytes()).unwrap();
        let (value, single_end) = read_f32(text.as_bytes()).unwrap();
        assert_eq!((value.to_bits(), single_end), ((number.as_f64() as f32).to_bits(), end), "{text}");
    }

    #[test]
    fn awkward_singles_are_rounded_as_their_doubles() {
        for text in [
            "0",
            "-0",
            "-0.0",
            "0.1",
            "-1e-3",
            "16777217",
            "16777217.0",
            "16777216.99999999",
            "16777217.00000001",
            "1.00000005960464477539062", // halfway
            "1.000000059604644776",      // above it, below it as a double
            "0.500000029802322387695312",
            "3.4028235e38",
            "3.4028236e38",
            "1e39",
            "-1e300",
            "1e-45",
            "1.1754943e-38",
            "1.1754944e-38",
            "1e-60",
            "18446744073709551615",
            "99999999999999999999",
            "12345678901234567890123.5e-10",
            "Infinity",
            "-Infinity",
        ] {
            check_single(text);
        }
        assert!(read_f32(b"NaN").unwrap().0.is_nan());
        assert_eq!(read_f32(b"1e999"), Err(("Number too big to be stored in double.", 0)));
        assert_eq!(read_f32(b"1.x"), Err(("Miss fraction part in number.", 2)));
    }

    #[test]
    fn runs_of_digits_of_every_length_are_read_to_their_end() {
        for length in 1..40 {
            for digit in ["1", "9"] {
                let digits = digit.repeat(length);
                for text in
                    [format!("{digits}.5"), format!("0.{digits}"), format!("0.{digits},1"), format!("1e-{digits}")]
                {
                    let end = text.find(',').unwrap_or(text.len());
                    let expect: f64 = text[..end].parse().unwrap();
                    assert_eq!(read(text.as_bytes()), Ok((Number::Double(expect), end)), "{text}");
                    check_single(&text);
                }
                let (whole, end) = read(digits.as_bytes()).unwrap();
                assert_eq!((whole.as_f64(), end), (digits.parse().unwrap(), length), "{digits}");
            }
        }
        assert_eq!(eight_digits(u64::from_le_bytes(*b"12345678")), Some(12_345_678));
        assert_eq!(four_digits(u32::from_le_bytes(*b"0907")), Some(907));
        for byte in (0..=255u8).filter(|byte| !byte.is_ascii_digit()) {
            for at in 0..8 {
                let mut text = *b"00000000";
                text[at] = byte;
                assert_eq!(eight_digits(u64::from_le_bytes(text)), None, "{text:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn singles_are_rounded_as_their_doubles(
            text in "-?(0|[1-9][0-9]{0,21})(\\.[0-9]{1,25})?(e[+-]?[0-9]{1,2})?",
            single: u32,
            next in -3i64..4,
        ) {
            check_single(&text);
            let value = f32::from_bits(single);
            if value.is_finite() {
                check_single(&format!("{value:?}"));
                check_single(&format!("{:?}", f64::from(value)));
                // doubles about halfway to the next single
                let halfway = f64::from_bits(f64::from(value).to_bits().wrapping_add_signed((1 << 28) + next));
                check_single(&format!("{halfway:?}"));
            }
        }

        #[test]
        fn doubles_come_back_as_they_were(value in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
            let text = format!("{value:?}");
            prop_assert_eq!(read(text.as_bytes()), Ok((Number::Double(value), text.len())));
        }

        #[test]
        fn any_decimal_is_read_as_the_standard_library_does(text in "-?(0|[1-9][0-9]{0,25})\\.[0-9]{1,25}(e[+-]?[0-9]{1,2})?") {
            prop_assert_eq!(read(text.as_bytes()), Ok((Number::Double(text.parse().unwrap()), text.len())));
        }
    }
}
