//! Numbers, strings and tensor elements as JSON text, in the spelling of Triton's writer.

use server_core::{
    error::{Error, Result},
    request::Parameter,
    tensor::{DataType, Tensor, strings},
};

/// Appends a string with its quotation marks. Bytes that are not UTF-8 are replaced: JSON has no others.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let valid = String::from_utf8_lossy(text);
    let mut rest = valid.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => out.extend_from_slice(format!("\\u{control:04X}").as_bytes()),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Appends a whole number.
#[inline]
pub(crate) fn push_whole(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends a double: the shortest digits that read back as the same value, with a point or an exponent.
#[inline]
pub(crate) fn push_double(out: &mut Vec<u8>, value: f64) {
    if !value.is_finite() {
        let word: &[u8] = match value {
            _ if value.is_nan() => b"NaN",
            _ if value < 0.0 => b"-Infinity",
            _ => b"Infinity",
        };
        out.extend_from_slice(word);
        return;
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value).as_bytes();
    let is_plain = (1e-4..1e15).contains(&value.abs()) || value == 0.0; // never written with an exponent
    if is_plain || !text.contains(&b'e') {
        push_short(out, text);
    } else {
        push_exponential(out, text);
    }
}

/// Appends a text of mostly 8 to 24 bytes by copies of fixed length, which need no call: its beginning, and its end over
/// the rest of that.
#[inline(always)]
fn push_short(out: &mut Vec<u8>, text: &[u8]) {
    let start = out.len();
    match (text.first_chunk::<16>(), text.last_chunk::<8>()) {
        (Some(first), Some(last)) if text.len() <= 24 => {
            out.extend_from_slice(first);
            out.truncate(start + text.len() - 8);
            out.extend_from_slice(last);
        }
        (None, Some(last)) => {
            out.extend_from_slice(&text[..8]);
            out.truncate(start + text.len() - 8);
            out.extend_from_slice(last);
        }
        _ => out.extend_from_slice(text),
    }
}

/// Values from 1e-6 to 1e21 are written without an exponent, whatever the formatter thinks of them.
#[cold]
fn push_exponential(out: &mut Vec<u8>, text: &[u8]) {
    let split = text.iter().position(|&byte| byte == b'e').unwrap_or(text.len());
    let exponent: i32 = std::str::from_utf8(text.get(split + 1..).unwrap_or_default())
        .ok()
        .and_then(|exponent| exponent.parse().ok())
        .unwrap_or_default();
    let mantissa = &text[..split];
    if !(-6..21).contains(&exponent) {
        // "1e30", not "1.0e+30"
        out.extend_from_slice(mantissa.strip_suffix(b".0").unwrap_or(mantissa));
        out.push(b'e');
        push_whole(out, exponent);
        return;
    }
    if mantissa.starts_with(b"-") {
        out.push(b'-');
    }
    let digits = mantissa.iter().copied().filter(u8::is_ascii_digit);
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', (-exponent - 1) as usize));
        let fraction: Vec<u8> = digits.collect();
        out.extend_from_slice(fraction.strip_suffix(b"0").filter(|rest| !rest.is_empty()).unwrap_or(&fraction));
    } else {
        let whole: Vec<u8> = digits.chain(std::iter::repeat(b'0')).take(exponent as usize + 1).collect();
        out.extend_from_slice(&whole);
        out.extend_from_slice(b".0");
    }
}

/// Appends a parameter's value.
pub(crate) fn push_parameter(out: &mut Vec<u8>, value: &Parameter) {
    match value {
        Parameter::Bool(true) => out.extend_from_slice(b"true"),
        Parameter::Bool(false) => out.extend_from_slice(b"false"),
        Parameter::Int(value) => push_whole(out, *value),
        Parameter::Uint(value) => push_whole(out, *value),
        Parameter::Double(value) => push_double(out, *value),
        Parameter::String(text) => push_string(out, text.as_bytes()),
    }
}

/// Appends the elements of an output, separated by commas, and gives their number.
///
/// Errors: the type has no JSON form, or the bytes do not fit the shape.
pub(crate) fn push_elements(out: &mut Vec<u8>, output: &Tensor) -> Result<usize> {
    let data = output.data.as_host().ok_or_else(|| size_mismatch(output))?;
    let expected = server_core::tensor::element_count(&output.shape).and_then(|count| usize::try_from(count).ok());
    let mut count = 0;
    // `width`: bytes that an element takes more often than not, its comma included
    macro_rules! fixed {
        ($kind:ty, $width:expr, $push:expr) => {{
            const SIZE: usize = size_of::<$kind>();
            let (elements, rest) = data.as_chunks::<SIZE>();
            if Some(elements.len()) != expected || !rest.is_empty() {
                return Err(size_mismatch(output));
            }
            out.reserve(elements.len() * $width);
            for bytes in elements {
                $push(out, <$kind>::from_le_bytes(*bytes));
                out.push(b',');
            }
            count = elements.len();
        }};
    }
    match output.data_type {
        DataType::Bool => fixed!(u8, 6, |out: &mut Vec<u8>, value: u8| {
            let word: &[u8] = if value == 0 { b"false" } else { b"true" };
            out.extend_from_slice(word);
        }),
        DataType::Uint8 => fixed!(u8, 4, push_whole),
        DataType::Uint16 => fixed!(u16, 6, push_whole),
        DataType::Uint32 => fixed!(u32, 8, push_whole),
        DataType::Uint64 => fixed!(u64, 8, push_whole),
        DataType::Int8 => fixed!(i8, 4, push_whole),
        DataType::Int16 => fixed!(i16, 6, push_whole),
        DataType::Int32 => fixed!(i32, 8, push_whole),
        DataType::Int64 => fixed!(i64, 8, push_whole),
        DataType::Fp32 => fixed!(f32, 20, |out: &mut Vec<u8>, value: f32| push_double(out, f64::from(value))),
        DataType::Fp64 => fixed!(f64, 20, push_double),
        DataType::Bytes => {
            for element in strings::elements(data) {
                push_string(out, element.map_err(|_| size_mismatch(output))?);
                out.push(b',');
                count += 1;
            }
            if Some(count) != expected {
                return Err(size_mismatch(output));
            }
        }
        DataType::Fp16 | DataType::Bf16 => {
            return Err(Error::invalid_argument(format!(
                "sending {} data via JSON is not supported. Please use the binary data format for output",
                output.data_type
            )));
        }
    }
    if count > 0 {
        out.pop(); // the last comma
    }
    Ok(count)
}

#[cold]
fn size_mismatch(output: &Tensor) -> Error {
    Error::internal(format!("output tensor shape does not match size of output for '{}'", output.name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn double(value: f64) -> String {
        let mut out = Vec::new();
        push_double(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    fn elements(data_type: DataType, shape: &[i64], data: Vec<u8>) -> Result<String> {
        let output = Tensor { name: "OUT".into(), data_type, shape: shape.into(), data: data.into() };
        let mut out = Vec::new();
        push_elements(&mut out, &output)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn strings_are_valid_json_whatever_bytes_they_are_made_of() {
        let mut out = Vec::new();
        push_string(&mut out, b"caf\xe9 \"\xff\n");
        assert_eq!(String::from_utf8(out).unwrap(), "\"caf\u{fffd} \\\"\u{fffd}\\n\"");
    }

    #[test]
    fn doubles_are_spelled_as_triton_spells_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (f64::from(0.1f32), "0.10000000149011612"),
            (123456789.0, "123456789.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "10000000000000000.0"),
            (1.5e17, "150000000000000000.0"),
            (-123456789012345680000.0, "-123456789012345680000.0"),
            (1e20, "100000000000000000000.0"),
            (1e21, "1e21"),
            (1.25e21, "1.25e21"),
            (0.001, "0.001"),
            (0.00001, "0.00001"),
            (0.00000123, "0.00000123"),
            (1e-6, "0.000001"),
            (-1e-6, "-0.000001"),
            (1e-7, "1e-7"),
            (1.5e-10, "1.5e-10"),
            (1e300, "1e300"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn short_texts_are_appended_whole() {
        for length in 0..40u8 {
            let text: Vec<u8> = (b'A'..b'A' + length).collect();
            let mut out = b"before".to_vec();
            push_short(&mut out, &text);
            assert_eq!(out, [b"before", text.as_slice()].concat());
        }
    }

    #[test]
    fn elements_of_every_type_have_their_text() {
        assert_eq!(elements(DataType::Bool, &[2], vec![0, 7]).unwrap(), "false,true");
        assert_eq!(elements(DataType::Int16, &[1, 2], vec![255, 255, 1, 0]).unwrap(), "-1,1");
        assert_eq!(elements(DataType::Uint64, &[1], vec![255; 8]).unwrap(), "18446744073709551615");
        assert_eq!(elements(DataType::Fp32, &[1], 1.5f32.to_le_bytes().to_vec()).unwrap(), "1.5");
        let words = strings::join([b"a\"\\\x01\n/".as_slice(), "ä".as_bytes()]);
        assert_eq!(elements(DataType::Bytes, &[2], words).unwrap(), "\"a\\\"\\\\\\u0001\\n/\",\"ä\"");
        assert_eq!(elements(DataType::Int8, &[0], vec![]).unwrap(), "");
        assert_eq!(elements(DataType::Int8, &[], vec![3]).unwrap(), "3");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let error = elements(DataType::Fp32, &[2], vec![0; 4]).unwrap_err();
        assert_eq!(error.message, "output tensor shape does not match size of output for 'OUT'");
        let error = elements(DataType::Bytes, &[2], strings::join([b"one".as_slice()])).unwrap_err();
        assert_eq!(error.message, "output tensor shape does not match size of output for 'OUT'");
        let error = elements(DataType::Fp16, &[1], vec![0; 2]).unwrap_err();
        let expect = "sending FP16 data via JSON is not supported. Please use the binary data format for output";
        assert_eq!(error.message, expect);
    }

    proptest! {
        #[test]
        fn doubles_read_back_as_they_were(value in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
            prop_assert_eq!(double(value).parse::<f64>().unwrap(), value);
        }

        #[test]
        fn strings_read_back_as_they_were(text: String) {
            let mut out = Vec::new();
            push_string(&mut out, text.as_bytes());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
