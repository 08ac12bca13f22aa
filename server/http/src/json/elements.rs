//! The `data` of an input: JSON elements, flat or nested, become the little-endian bytes of a tensor in one pass.

use server_core::{
    error::Error,
    tensor::{DataType, strings},
};

use super::reader::{Kind, Parsed, Reader};

/// Elements as a tensor holds them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Elements {
    /// Row-major, little-endian; BYTES with their lengths in front.
    pub(crate) bytes: Vec<u8>,
    /// How many there were.
    pub(crate) count: usize,
}

/// Reads an array of elements.
///
/// `expected` is their number, known from the shape; one more is an error at once. BYTES are left to be counted by the
/// check against the model, which has messages of its own.
/// Errors: an element of the wrong kind, or too many of them.
pub(crate) fn read(reader: &mut Reader<'_>, data_type: DataType, expected: usize) -> Parsed<Elements> {
    if reader.kind() != Kind::Array {
        reader.skip()?;
        return Err(Error::internal("Unable to parse 'data': attempt to access JSON non-array as array").into());
    }
    reader.at_new_depth(|reader| read_as(reader, data_type, expected))
}

/// Reads one element, or an array of them, as the generate extension gives them.
pub(crate) fn read_scalar_or_array(reader: &mut Reader<'_>, data_type: DataType, expected: usize) -> Parsed<Elements> {
    reader.at_new_depth(|reader| read_as(reader, data_type, expected))
}

fn read_as(reader: &mut Reader<'_>, data_type: DataType, expected: usize) -> Parsed<Elements> {
    macro_rules! unsigned {
        ($kind:ty) => {
            numbers(reader, expected, |reader| {
                let number = element(reader, Kind::Number, NOT_UNSIGNED, |reader| {
                    reader.number()?.as_u64().ok_or_else(|| wrong(NOT_UNSIGNED).into())
                })?;
                <$kind>::try_from(number).map(<$kind>::to_le_bytes).map_err(|_| out_of_range(number, data_type).into())
            })
        };
    }
    macro_rules! signed {
        ($kind:ty) => {
            numbers(reader, expected, |reader| {
                let number = element(reader, Kind::Number, NOT_SIGNED, |reader| {
                    reader.number()?.as_i64().ok_or_else(|| wrong(NOT_SIGNED).into())
                })?;
                <$kind>::try_from(number).map(<$kind>::to_le_bytes).map_err(|_| out_of_range(number, data_type).into())
            })
        };
    }
    match data_type {
        DataType::Bool => numbers(reader, expected, |reader| truth(reader).map(|value| [u8::from(value)])),
        DataType::Uint8 => unsigned!(u8),
        DataType::Uint16 => unsigned!(u16),
        DataType::Uint32 => unsigned!(u32),
        DataType::Uint64 => unsigned!(u64),
        DataType::Int8 => signed!(i8),
        DataType::Int16 => signed!(i16),
        DataType::Int32 => signed!(i32),
        DataType::Int64 => signed!(i64),
        DataType::Fp32 => numbers(reader, expected, |reader| {
            element(reader, Kind::Number, NOT_DOUBLE, Reader::single).map(f32::to_le_bytes)
        }),
        DataType::Fp64 => numbers(reader, expected, |reader| float(reader).map(f64::to_le_bytes)),
        DataType::Bytes => {
            let mut elements = Elements::default();
            walk(reader, &mut |reader| {
                if reader.kind() != Kind::String {
                    reader.skip()?;
                    let text = "Unable to parse JSON bytes array: attempt to access JSON non-string as string";
                    return Err(Error::internal(text).into());
                }
                let text = reader.string()?;
                strings::push(&mut elements.bytes, &text);
                elements.count += 1;
                Ok(())
            })?;
            Ok(elements)
        }
        DataType::Fp16 | DataType::Bf16 => {
            reader.skip()?;
            Err(Error::invalid_argument(format!("{data_type} elements have no JSON form")).into())
        }
    }
}

const NOT_UNSIGNED: &str = "unsigned-integer as unsigned-integer";
const NOT_SIGNED: &str = "signed-integer as signed-integer";

const NOT_DOUBLE: &str = "number as double";

/// Reads elements of `N` bytes each.
#[inline]
fn numbers<'a, const N: usize>(
    reader: &mut Reader<'a>,
    expected: usize,
    mut one: impl FnMut(&mut Reader<'a>) -> Parsed<[u8; N]>,
) -> Parsed<Elements> {
    // `expected` comes from the caller and may exceed what the text can hold, where an element takes at least two bytes
    let capacity = expected.min(reader.remaining() / 2 + 1) * N;
    let mut bytes = Vec::with_capacity(capacity);
    walk(reader, &mut |reader| {
        loop {
            if bytes.len() / N == expected {
                reader.skip()?;
                let text = "Unable to parse 'data': Shape does not match true shape of 'data' field";
                return Err(Error::internal(text).into());
            }
            bytes.extend_from_slice(&one(reader)?);
            if !reader.goes_on_with_number() {
                return Ok(());
            }
        }
    })?;
    let count = bytes.len() / N;
    Ok(Elements { bytes, count })
}

/// Calls `leaf` for every value that is not an array, in order.
#[inline]
fn walk<'a>(reader: &mut Reader<'a>, leaf: &mut impl FnMut(&mut Reader<'a>) -> Parsed<()>) -> Parsed<()> {
    if reader.peek() == b'[' { walk_array(reader, leaf) } else { leaf(reader) }
}

fn walk_array<'a>(reader: &mut Reader<'a>, leaf: &mut impl FnMut(&mut Reader<'a>) -> Parsed<()>) -> Parsed<()> {
    reader.array(|reader| walk(reader, leaf))
}

/// Reads a value that must be of one kind.
#[inline(always)]
fn element<'a, T>(
    reader: &mut Reader<'a>,
    kind: Kind,
    other: &'static str,
    read: impl FnOnce(&mut Reader<'a>) -> Parsed<T>,
) -> Parsed<T> {
    if reader.kind() == kind {
        return read(reader);
    }
    reader.skip()?;
    Err(wrong(other).into())
}

#[inline(always)]
fn float(reader: &mut Reader<'_>) -> Parsed<f64> {
    element(reader, Kind::Number, NOT_DOUBLE, |reader| Ok(reader.number()?.as_f64()))
}

/// `true`, `false`, or a whole number, of which only 0 is false.
fn truth(reader: &mut Reader<'_>) -> Parsed<bool> {
    const OTHER: &str = "boolean as boolean";
    if reader.kind() == Kind::Number {
        return reader.number()?.as_i64().map(|value| value != 0).ok_or_else(|| wrong(OTHER).into());
    }
    element(reader, Kind::Bool, OTHER, |reader| Ok(reader.word()? == Some(true)))
}

#[cold]
fn wrong(other: &str) -> Error {
    Error::internal(format!("Unable to parse 'data': attempt to access JSON non-{other}"))
}

#[cold]
fn out_of_range(number: impl std::fmt::Display, data_type: DataType) -> Error {
    Error::invalid_argument(format!("Unable to parse 'data': {number} is out of range for {data_type}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::reader::document;

    fn parse(text: &str, data_type: DataType, expected: usize) -> Result<Elements, Error> {
        document(text.as_bytes(), |reader| read(reader, data_type, expected)).map_err(|fault| fault.into_error())
    }

    #[track_caller]
    fn check(text: &str, data_type: DataType, count: usize, bytes: &[u8]) {
        assert_eq!(parse(text, data_type, count), Ok(Elements { bytes: bytes.to_vec(), count }), "{text}");
    }

    #[track_caller]
    fn refused(text: &str, data_type: DataType, expect: &str) {
        assert_eq!(parse(text, data_type, 2).unwrap_err().message, expect, "{text}");
    }

    #[test]
    fn each_type_has_its_bytes() {
        check("[true,false,1,0]", DataType::Bool, 4, &[1, 0, 1, 0]);
        check("[0, 255]", DataType::Uint8, 2, &[0, 255]);
        check("[-1,2]", DataType::Int8, 2, &[255, 2]);
        check("[65535]", DataType::Uint16, 1, &[255, 255]);
        check("[-2]", DataType::Int16, 1, &[254, 255]);
        check("[4294967295]", DataType::Uint32, 1, &[255; 4]);
        check("[-1]", DataType::Int32, 1, &[255; 4]);
        check("[18446744073709551615]", DataType::Uint64, 1, &[255; 8]);
        check("[-9223372036854775808]", DataType::Int64, 1, &i64::MIN.to_le_bytes());
        check("[1, 2.5]", DataType::Fp32, 2, &[1.0f32.to_le_bytes(), 2.5f32.to_le_bytes()].concat());
        check("[-Infinity]", DataType::Fp64, 1, &f64::NEG_INFINITY.to_le_bytes());
        check("[\"a\",\"\"]", DataType::Bytes, 2, &[1, 0, 0, 0, b'a', 0, 0, 0, 0]);
    }

    #[test]
    fn nesting_only_groups() {
        check("[[1,2],[[3]],[]]", DataType::Uint8, 3, &[1, 2, 3]);
        let deep = format!("{}7{}", "[".repeat(100), "]".repeat(100));
        check(&deep, DataType::Uint8, 1, &[7]);
        let deeper = format!("[{deep}]");
        refused(&deeper, DataType::Uint8, "JSON nesting depth exceeds maximum allowed limit (100)");
    }

    #[test]
    fn blanks_between_numbers_change_nothing() {
        for text in ["[1,-2,3]", "[ 1, -2 , 3 ]", "[1 ,-2,\n3]", "[1,  -2,\t3]", "[[1],[-2, 3]]"] {
            check(text, DataType::Int8, 3, &[1, 254, 3]);
        }
        refused("[1, -]", DataType::Int8, "failed to parse the request JSON buffer: Invalid value. at 5");
        refused("[1, x]", DataType::Fp32, "failed to parse the request JSON buffer: Invalid value. at 4");
    }

    #[test]
    fn elements_of_the_wrong_kind_are_named() {
        refused("5", DataType::Uint8, "Unable to parse 'data': attempt to access JSON non-array as array");
        refused("[\"1\"]", DataType::Fp32, "Unable to parse 'data': attempt to access JSON non-number as double");
        refused("[\"1\"]", DataType::Bool, "Unable to parse 'data': attempt to access JSON non-boolean as boolean");
        let unsigned = "Unable to parse 'data': attempt to access JSON non-unsigned-integer as unsigned-integer";
        refused("[-1]", DataType::Uint8, unsigned);
        refused("[1.0]", DataType::Uint8, unsigned);
        refused("[null]", DataType::Uint8, unsigned);
        let signed = "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer";
        refused("[{\"a\":1}]", DataType::Int64, signed);
        let string = "Unable to parse JSON bytes array: attempt to access JSON non-string as string";
        refused("[1]", DataType::Bytes, string);
        refused("[300]", DataType::Uint8, "Unable to parse 'data': 300 is out of range for UINT8");
        refused("[-129]", DataType::Int8, "Unable to parse 'data': -129 is out of range for INT8");
        let shape = "Unable to parse 'data': Shape does not match true shape of 'data' field";
        refused("[1,2,3]", DataType::Uint8, shape);
        let broken = "failed to parse the request JSON buffer: Invalid value. at 3";
        refused("[1,x]", DataType::Fp32, broken);
    }

    #[test]
    fn a_large_declared_count_allocates_nothing() {
        let elements = parse("[1,2]", DataType::Fp64, usize::MAX / 16).unwrap();
        assert_eq!(elements.count, 2);
        assert!(elements.bytes.capacity() < 100);
    }

    proptest! {
        #[test]
        fn floats_survive(values: Vec<f32>) {
            let finite: Vec<f32> = values.into_iter().filter(|value| value.is_finite()).collect();
            let text = serde_json::to_string(&finite).unwrap();
            let bytes: Vec<u8> = finite.iter().flat_map(|value| value.to_le_bytes()).collect();
            prop_assert_eq!(parse(&text, DataType::Fp32, finite.len()).unwrap().bytes, bytes);
        }

        #[test]
        fn texts_survive(values: Vec<String>) {
            let text = serde_json::to_string(&values).unwrap();
            let elements = parse(&text, DataType::Bytes, values.len()).unwrap();
            prop_assert_eq!(elements.count, values.len());
            prop_assert_eq!(elements.bytes, strings::join(values.iter().map(|value| value.as_bytes())));
        }
    }
}
