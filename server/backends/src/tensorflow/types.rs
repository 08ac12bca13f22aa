//! Element types: TensorFlow's numbers and names, and ours.
//!
//! Source: `types.proto`.

use server_core::tensor::DataType;

/// TensorFlow's number of one of our types. It has all of them.
pub(super) const fn number(data_type: DataType) -> i32 {
    match data_type {
        DataType::Fp32 => 1,
        DataType::Fp64 => 2,
        DataType::Int32 => 3,
        DataType::Uint8 => 4,
        DataType::Int16 => 5,
        DataType::Int8 => 6,
        DataType::Bytes => 7,
        DataType::Int64 => 9,
        DataType::Bool => 10,
        DataType::Bf16 => 14,
        DataType::Uint16 => 17,
        DataType::Fp16 => 19,
        DataType::Uint32 => 22,
        DataType::Uint64 => 23,
    }
}

/// Numbers of types that are references to a variable: these above the type itself.
const REFERENCE: i32 = 100;

/// Our type of TensorFlow's number; `None` for those no request can carry. A reference to a variable counts as what it refers to.
pub(super) fn data_type(number: i32) -> Option<DataType> {
    let number = if number > REFERENCE { number - REFERENCE } else { number };
    DataType::ALL.into_iter().find(|data_type| self::number(*data_type) == number)
}

/// TensorFlow's name of a type that no request can carry.
pub(super) fn name(number: i32) -> String {
    const NAMES: [(i32, &str); 12] = [
        (0, "DT_INVALID"),
        (8, "DT_COMPLEX64"),
        (11, "DT_QINT8"),
        (12, "DT_QUINT8"),
        (13, "DT_QINT32"),
        (15, "DT_QINT16"),
        (16, "DT_QUINT16"),
        (18, "DT_COMPLEX128"),
        (20, "DT_RESOURCE"),
        (21, "DT_VARIANT"),
        (24, "DT_FLOAT8_E5M2"),
        (25, "DT_FLOAT8_E4M3FN"),
    ];
    let known = NAMES.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned())
}

/// The name that configurations have for a type.
pub(super) fn config_name(data_type: DataType) -> String {
    data_type.to_config().as_str_name().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_number_of_its_own() {
        for known in DataType::ALL {
            assert_eq!(data_type(number(known)), Some(known));
            assert_eq!(data_type(number(known) + REFERENCE), Some(known));
        }
        assert_eq!((data_type(8), &*name(8), &*name(33)), (None, "DT_COMPLEX64", "number 33"));
    }
}
