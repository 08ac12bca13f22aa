//! Names, types and shapes of tensors, with every product checked for overflow.

pub mod strings;

use std::{fmt, sync::Arc};

use server_proto::inference as proto;
use smallvec::SmallVec;

use crate::buffer::Buffer;

/// A tensor, model or output name: shared, because it travels from a model's interface into every response.
pub type Name = Arc<str>;

/// Extents of a tensor, outermost first. `-1` is a wildcard and occurs only in configurations.
pub type Shape = SmallVec<[i64; 6]>;

/// Type of one element.
///
/// Source: Triton model configuration, "Datatypes".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DataType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    Uint8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint64,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// IEEE half.
    Fp16,
    /// IEEE single.
    Fp32,
    /// IEEE double.
    Fp64,
    /// Byte strings, each led by its length: see [`strings`]. `TYPE_STRING` in configurations.
    Bytes,
    /// Brain float.
    Bf16,
}

impl DataType {
    /// Every type, in the order of the protocol's table.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
        Self::Bf16,
    ];

    /// The name on the wire, e.g. `FP32`, `BYTES`.
    pub const fn wire_name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
            Self::Bf16 => "BF16",
        }
    }

    /// The type of that wire name; `None` if there is none.
    pub fn from_wire_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.wire_name() == name)
    }

    /// The configuration's enum value, e.g. `TYPE_FP32`.
    pub const fn to_config(self) -> proto::DataType {
        match self {
            Self::Bool => proto::DataType::TypeBool,
            Self::Uint8 => proto::DataType::TypeUint8,
            Self::Uint16 => proto::DataType::TypeUint16,
            Self::Uint32 => proto::DataType::TypeUint32,
            Self::Uint64 => proto::DataType::TypeUint64,
            Self::Int8 => proto::DataType::TypeInt8,
            Self::Int16 => proto::DataType::TypeInt16,
            Self::Int32 => proto::DataType::TypeInt32,
            Self::Int64 => proto::DataType::TypeInt64,
            Self::Fp16 => proto::DataType::TypeFp16,
            Self::Fp32 => proto::DataType::TypeFp32,
            Self::Fp64 => proto::DataType::TypeFp64,
            Self::Bytes => proto::DataType::TypeString,
            Self::Bf16 => proto::DataType::TypeBf16,
        }
    }

    /// The type of a configuration's enum number; `None` for `TYPE_INVALID` and unknown numbers.
    pub fn from_config(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.to_config() as i32 == number)
    }

    /// Bytes per element; `None` for [`DataType::Bytes`], whose elements carry their own lengths.
    pub const fn byte_size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wire_name())
    }
}

/// A named tensor of a request or a response.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name in the model's configuration.
    pub name: Name,
    /// Element type.
    pub data_type: DataType,
    /// Full shape, batch dimension included.
    pub shape: Shape,
    /// Row-major little-endian elements; for [`DataType::Bytes`] in the form of [`strings`].
    pub data: Buffer,
}

/// Number of elements of a shape; 1 for a scalar. `None` if an extent is negative or the product exceeds `i64::MAX`.
pub fn element_count(shape: &[i64]) -> Option<i64> {
    if shape.iter().any(|&extent| extent < 0) {
        return None;
    }
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1i64, |product, &extent| product.checked_mul(extent))
}

/// Bytes of a tensor with fixed-size elements. `None` for [`DataType::Bytes`], a wildcard, or on overflow.
pub fn byte_count(data_type: DataType, shape: &[i64]) -> Option<usize> {
    let count = usize::try_from(element_count(shape)?).ok()?;
    count.checked_mul(data_type.byte_size()?)
}

/// A shape as Triton prints it: `[1,16]`, no blanks.
pub fn shape_text(shape: &[i64]) -> String {
    let extents: Vec<String> = shape.iter().map(i64::to_string).collect();
    format!("[{}]", extents.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_both_spellings() {
        for data_type in DataType::ALL {
            assert_eq!(DataType::from_wire_name(data_type.wire_name()), Some(data_type));
            assert_eq!(DataType::from_config(data_type.to_config() as i32), Some(data_type));
        }
        assert_eq!(DataType::from_wire_name("TYPE_FP32"), None);
        assert_eq!(DataType::from_config(0), None);
    }

    #[test]
    fn counts_refuse_wildcards_and_overflow() {
        assert_eq!(element_count(&[]), Some(1));
        assert_eq!(element_count(&[2, 3]), Some(6));
        assert_eq!(element_count(&[2, -1]), None);
        assert_eq!(element_count(&[i64::MAX, 2]), None);
        assert_eq!(element_count(&[i64::MAX, 2, 0]), Some(0));
        assert_eq!(byte_count(DataType::Fp32, &[2, 3]), Some(24));
        assert_eq!(byte_count(DataType::Bytes, &[2, 3]), None);
        assert_eq!(byte_count(DataType::Fp64, &[i64::MAX]), None);
        assert_eq!(shape_text(&[-1, 16]), "[-1,16]");
    }
}
