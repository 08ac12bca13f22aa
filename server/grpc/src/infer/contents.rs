//! Typed contents become the bytes every tensor has in the server: little-endian, row-major.

use server_core::{
    error::{Error, Result},
    tensor::{DataType, strings},
};
use server_proto::inference::InferTensorContents;

/// The bytes of typed contents. `want` is the data type of the input, `None` if the server has no such type.
///
/// INT8 and INT16 use the field of INT32, UINT8 and UINT16 that of UINT32: the low bytes count.
/// Errors: `InvalidArgument` if a field of another type is filled, or more than one field.
pub(super) fn bytes(
    contents: InferTensorContents,
    want: Option<DataType>,
    input: &str,
    model: &str,
) -> Result<Vec<u8>> {
    let InferTensorContents {
        bool_contents,
        int_contents,
        int64_contents,
        uint_contents,
        uint64_contents,
        fp32_contents,
        fp64_contents,
        bytes_contents,
    } = contents;
    let signed = want.filter(|want| matches!(want, DataType::Int8 | DataType::Int16)).unwrap_or(DataType::Int32);
    let unsigned = want.filter(|want| matches!(want, DataType::Uint8 | DataType::Uint16)).unwrap_or(DataType::Uint32);

    let mut only = SingleField { want, input, model, data: None };
    only.take(DataType::Bool, &bool_contents, |values| values.iter().map(|&value| u8::from(value)).collect())?;
    only.take(signed, &int_contents, |values| match signed {
        DataType::Int8 => little_endian(values, |value| [value.to_le_bytes()[0]]),
        DataType::Int16 => little_endian(values, |value| low_half(value.to_le_bytes())),
        _ => little_endian(values, |value| value.to_le_bytes()),
    })?;
    only.take(DataType::Int64, &int64_contents, |values| little_endian(values, |value| value.to_le_bytes()))?;
    only.take(unsigned, &uint_contents, |values| match unsigned {
        DataType::Uint8 => little_endian(values, |value| [value.to_le_bytes()[0]]),
        DataType::Uint16 => little_endian(values, |value| low_half(value.to_le_bytes())),
        _ => little_endian(values, |value| value.to_le_bytes()),
    })?;
    only.take(DataType::Uint64, &uint64_contents, |values| little_endian(values, |value| value.to_le_bytes()))?;
    only.take(DataType::Fp32, &fp32_contents, |values| little_endian(values, |value| value.to_le_bytes()))?;
    only.take(DataType::Fp64, &fp64_contents, |values| little_endian(values, |value| value.to_le_bytes()))?;
    only.take(DataType::Bytes, &bytes_contents, |values| {
        let mut data = Vec::with_capacity(values.iter().map(|value| 4 + value.len()).sum());
        values.iter().for_each(|value| strings::push(&mut data, value));
        data
    })?;
    Ok(only.data.unwrap_or_default())
}

/// Takes the one field that may be filled.
struct SingleField<'a> {
    want: Option<DataType>,
    input: &'a str,
    model: &'a str,
    data: Option<Vec<u8>>,
}

impl SingleField<'_> {
    fn take<T>(&mut self, given: DataType, values: &[T], write: impl FnOnce(&[T]) -> Vec<u8>) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        if self.data.is_some() {
            return Err(self.unexpected(", binary data was already supplied."));
        }
        if self.want != Some(given) {
            let want = self.want.map_or("<invalid>", DataType::wire_name);
            return Err(self.unexpected(&format!(" of type '{given}', expected datatype '{want}'")));
        }
        self.data = Some(write(values));
        Ok(())
    }

    fn unexpected(&self, tail: &str) -> Error {
        let Self { input, model, .. } = self;
        Error::invalid_argument(format!(
            "unexpected explicit tensor data for input tensor '{input}' for model '{model}'{tail}"
        ))
    }
}

fn little_endian<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut data = Vec::with_capacity(values.len() * N);
    values.iter().for_each(|&value| data.extend_from_slice(&bytes(value)));
    data
}

fn low_half([low, high, ..]: [u8; 4]) -> [u8; 2] {
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> InferTensorContents {
        InferTensorContents::default()
    }

    #[test]
    fn every_type_that_has_a_field_becomes_its_bytes() {
        for (want, contents, expected) in [
            (DataType::Bool, InferTensorContents { bool_contents: vec![true, false], ..contents() }, vec![1, 0]),
            (DataType::Int8, InferTensorContents { int_contents: vec![-2, 300], ..contents() }, vec![0xfe, 44]),
            (DataType::Int16, InferTensorContents { int_contents: vec![-2], ..contents() }, vec![0xfe, 0xff]),
            (
                DataType::Int32,
                InferTensorContents { int_contents: vec![-2], ..contents() },
                vec![0xfe, 0xff, 0xff, 0xff],
            ),
            (
                DataType::Int64,
                InferTensorContents { int64_contents: vec![1 << 40], ..contents() },
                vec![0, 0, 0, 0, 0, 1, 0, 0],
            ),
            (DataType::Uint8, InferTensorContents { uint_contents: vec![255, 256], ..contents() }, vec![255, 0]),
            (DataType::Uint16, InferTensorContents { uint_contents: vec![258], ..contents() }, vec![2, 1]),
            (DataType::Uint32, InferTensorContents { uint_contents: vec![1 << 31], ..contents() }, vec![0, 0, 0, 128]),
            (
                DataType::Uint64,
                InferTensorContents { uint64_contents: vec![u64::MAX - 1], ..contents() },
                (u64::MAX - 1).to_le_bytes().to_vec(),
            ),
            (
                DataType::Fp32,
                InferTensorContents { fp32_contents: vec![1.5], ..contents() },
                1.5f32.to_le_bytes().to_vec(),
            ),
            (
                DataType::Fp64,
                InferTensorContents { fp64_contents: vec![-0.25], ..contents() },
                (-0.25f64).to_le_bytes().to_vec(),
            ),
            (
                DataType::Bytes,
                InferTensorContents { bytes_contents: vec!["ab".into(), "".into()], ..contents() },
                b"\x02\0\0\0ab\0\0\0\0".to_vec(),
            ),
        ] {
            assert_eq!(bytes(contents, Some(want), "a", "m"), Ok(expected), "{want}");
        }
        assert_eq!(bytes(contents(), Some(DataType::Fp32), "a", "m"), Ok(vec![]));
    }

    #[test]
    fn a_field_of_another_type_is_refused() {
        let fields = [
            ("BOOL", InferTensorContents { bool_contents: vec![true], ..contents() }),
            ("INT64", InferTensorContents { int64_contents: vec![1], ..contents() }),
            ("UINT64", InferTensorContents { uint64_contents: vec![1], ..contents() }),
            ("FP32", InferTensorContents { fp32_contents: vec![1.0], ..contents() }),
            ("FP64", InferTensorContents { fp64_contents: vec![1.0], ..contents() }),
            ("BYTES", InferTensorContents { bytes_contents: vec!["x".into()], ..contents() }),
            ("INT32", InferTensorContents { int_contents: vec![1], ..contents() }),
            ("UINT32", InferTensorContents { uint_contents: vec![1], ..contents() }),
        ];
        for (given, contents) in fields {
            for want in [DataType::Fp16, DataType::Bf16, DataType::Fp32, DataType::Bool] {
                if want.wire_name() == given {
                    continue;
                }
                let message = format!(
                    "unexpected explicit tensor data for input tensor 'a' for model 'm' of type '{given}', expected datatype '{want}'"
                );
                assert_eq!(bytes(contents.clone(), Some(want), "a", "m"), Err(Error::invalid_argument(message)));
            }
        }
        let unknown = "unexpected explicit tensor data for input tensor 'a' for model 'm' of type 'INT32', expected datatype '<invalid>'";
        let contents = InferTensorContents { int_contents: vec![1], ..contents() };
        assert_eq!(bytes(contents, None, "a", "m"), Err(Error::invalid_argument(unknown)));
    }

    #[test]
    fn only_one_field_may_be_filled() {
        let both = InferTensorContents { int_contents: vec![1], fp32_contents: vec![1.0], ..contents() };
        let message =
            "unexpected explicit tensor data for input tensor 'a' for model 'm', binary data was already supplied.";
        assert_eq!(bytes(both, Some(DataType::Int16), "a", "m"), Err(Error::invalid_argument(message)));
    }
}
