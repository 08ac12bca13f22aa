//! The server's element types and ONNX Runtime's.

use ort::sys::ONNXTensorElementDataType as Element;
use server_core::tensor::DataType;

/// ONNX Runtime's element type. It has all of ours.
pub(super) const fn element(data_type: DataType) -> Element {
    match data_type {
        DataType::Bool => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DataType::Uint8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DataType::Uint16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DataType::Uint32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DataType::Uint64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DataType::Int8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DataType::Int16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DataType::Int32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DataType::Int64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DataType::Fp16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DataType::Fp32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DataType::Fp64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DataType::Bytes => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
        DataType::Bf16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
    }
}

/// Our type of ONNX Runtime's number; `None` for those no request can carry.
pub(super) fn data_type(element: Element) -> Option<DataType> {
    DataType::ALL.into_iter().find(|data_type| self::element(*data_type) == element)
}

/// Our type of a number that ONNX Runtime answers, which may be of a newer library than this program knows.
pub(super) fn data_type_of(number: i32) -> Option<DataType> {
    DataType::ALL.into_iter().find(|data_type| element(*data_type) as i32 == number)
}

/// ONNX's word for a type.
pub(super) fn name(data_type: DataType) -> String {
    match data_type {
        DataType::Fp16 => "FLOAT16".into(),
        DataType::Fp32 => "FLOAT".into(),
        DataType::Fp64 => "DOUBLE".into(),
        DataType::Bf16 => "BFLOAT16".into(),
        DataType::Bytes => "STRING".into(),
        other => other.to_string(),
    }
}
