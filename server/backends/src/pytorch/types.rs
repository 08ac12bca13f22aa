//! Element types: the server's, and libtorch's by their numbers (`c10::ScalarType`). Pure.

use server_core::{config::ModelConfig, error::Error, tensor::DataType};

/// What the shim says in place of a number for a `List[str]`.
const STRINGS: i32 = -1;

/// The first libtorch whose tensors may be of unsigned types larger than a byte.
const WITH_LARGE_UNSIGNED: (u32, u32) = (2, 3);

/// libtorch's number of a type.
pub(super) const fn number(data_type: DataType) -> i32 {
    match data_type {
        DataType::Uint8 => 0,
        DataType::Int8 => 1,
        DataType::Int16 => 2,
        DataType::Int32 => 3,
        DataType::Int64 => 4,
        DataType::Fp16 => 5,
        DataType::Fp32 => 6,
        DataType::Fp64 => 7,
        DataType::Bool => 11,
        DataType::Bf16 => 15,
        DataType::Uint16 => 27,
        DataType::Uint32 => 28,
        DataType::Uint64 => 29,
        DataType::Bytes => STRINGS,
    }
}

/// The type of that number; `None` for one that no response can carry.
pub(super) fn of_number(wanted: i32) -> Option<DataType> {
    DataType::ALL.into_iter().find(|data_type| number(*data_type) == wanted)
}

/// What a type is called that no response can carry.
pub(super) fn word(number: i32) -> &'static str {
    match number {
        8 => "ComplexHalf",
        9 => "ComplexFloat",
        10 => "ComplexDouble",
        12 => "QInt8",
        13 => "QUInt8",
        14 => "QInt32",
        23 => "Float8_e5m2",
        24 => "Float8_e4m3fn",
        _ => "INVALID",
    }
}

/// Type of a configured tensor. `what`: what it is, e.g. `input 'INPUT__0'`.
///
/// Errors: `Internal` in Triton's words if a libtorch of that version has no such tensors.
pub(super) fn configured(
    config: &ModelConfig,
    what: &str,
    data_type: i32,
    version: (u32, u32),
) -> Result<DataType, Error> {
    let known = DataType::from_config(data_type);
    let is_there = |data_type: &DataType| {
        let is_large_unsigned = matches!(data_type, DataType::Uint16 | DataType::Uint32 | DataType::Uint64);
        !is_large_unsigned || version >= WITH_LARGE_UNSIGNED
    };
    known.filter(is_there).ok_or_else(|| {
        let word = known.map_or("TYPE_INVALID", |known| known.to_config().as_str_name());
        Error::internal(format!("unsupported datatype {word} for {what} for model '{}'", config.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_number_of_its_own() {
        for data_type in DataType::ALL {
            assert_eq!(of_number(number(data_type)), Some(data_type));
        }
        assert_eq!((of_number(9), word(9)), (None, "ComplexFloat"));
    }

    #[test]
    fn large_unsigned_types_are_refused_where_libtorch_has_none() {
        let config = ModelConfig { name: "m".into(), ..ModelConfig::default() };
        let of = |data_type: DataType, version| configured(&config, "input 'A'", data_type.to_config() as i32, version);
        let text = "unsupported datatype TYPE_UINT16 for input 'A' for model 'm'";
        assert_eq!(of(DataType::Uint16, (1, 13)), Err(Error::internal(text)));
        assert_eq!(of(DataType::Uint16, (2, 3)), Ok(DataType::Uint16));
        assert_eq!(of(DataType::Bf16, (1, 13)), Ok(DataType::Bf16));
        let text = "unsupported datatype TYPE_INVALID for input 'A' for model 'm'";
        assert_eq!(configured(&config, "input 'A'", 0, (2, 3)), Err(Error::internal(text)));
    }
}
