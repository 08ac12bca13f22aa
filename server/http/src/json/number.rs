//! Numbers of a JSON text: whole ones exactly, others as the nearest double.
//!
//! Short decimals, nearly all that clients send, are turned into doubles by one exact multiplication or division; the
//! rest goes through the standard library.

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

/// Reads the number at the start of `text`, and its length in bytes.
///
/// Errors: what is wrong, and at which byte of `text`.
#[inline]
pub(crate) fn read(text: &[u8]) -> Result<(Number, usize), (&'static str, usize)> {
    let peek = |at: usize| text.get(at).copied().unwrap_or(0);
    let is_negative = peek(0) == b'-';
    let mut at = usize::from(is_negative);

    // whole part: 0, or digits that do not begin with 0
    let mut digits = Digits::default();
    match peek(at) {
        b'0' => at += 1,
        b'1'..=b'9' => at = digits.take(text, at),
        _ => return special(text, at, is_negative),
    }
    let whole = digits;
    let mut exponent = i64::from(digits.dropped);

    let is_double = matches!(peek(at), b'.' | b'e' | b'E');
    if !is_double {
        if whole.dropped == 0 {
            if !is_negative || whole.value == 0 {
                return Ok((Number::Uint(whole.value), at));
            }
            if let Some(value) = 0i64.checked_sub_unsigned(whole.value) {
                return Ok((Number::Int(value), at));
            }
        } else if let Some(number) = std::str::from_utf8(&text[..at]).ok().and_then(|text| text.parse().ok()) {
            return Ok((Number::Uint(number), at)); // twenty digits may still fit
        }
    }
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

    let value = match exact(digits, exponent) {
        Some(value) if is_negative => -value,
        Some(value) => value,
        None => std::str::from_utf8(&text[..at]).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::INFINITY),
    };
    if value.is_finite() { Ok((Number::Double(value), at)) } else { Err(("Number too big to be stored in double.", 0)) }
}

/// The digits of a number without its point.
#[derive(Clone, Copy, Default)]
struct Digits {
    value: u64,
    /// Digits that found no place in `value`.
    dropped: u32,
}

impl Digits {
    /// Takes in the run of digits at `at` and gives its end.
    #[inline]
    fn take(&mut self, text: &[u8], mut at: usize) -> usize {
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
fn special(text: &[u8], start: usize, is_negative: bool) -> Result<(Number, usize), (&'static str, usize)> {
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
    Ok((Number::Double(if is_negative { -value } else { value }), end))
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

    proptest! {
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
