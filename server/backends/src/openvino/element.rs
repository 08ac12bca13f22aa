//! The server's element types and OpenVINO's. Its C interface numbers them, and the numbers have changed from version to version, so
//! the opened library is asked: it reads a model with one input of each type.

use server_core::tensor::DataType;

use super::raw::{Core, Failure, Side};

/// OpenVINO's word for a type, as in its model files.
pub(super) const fn word(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Bool => "boolean",
        DataType::Uint8 => "u8",
        DataType::Uint16 => "u16",
        DataType::Uint32 => "u32",
        DataType::Uint64 => "u64",
        DataType::Int8 => "i8",
        DataType::Int16 => "i16",
        DataType::Int32 => "i32",
        DataType::Int64 => "i64",
        DataType::Fp16 => "f16",
        DataType::Fp32 => "f32",
        DataType::Fp64 => "f64",
        DataType::Bytes => STRING,
        DataType::Bf16 => "bf16",
    }
}

/// OpenVINO has strings, and its operations on the CPU copy them as if they were numbers, after which the same memory is freed twice.
/// So models with strings are refused, as by Triton.
const STRING: &str = "string";

/// Types that no model may take or give.
const FOREIGN: [&str; 13] =
    [STRING, "dynamic", "u1", "u2", "u3", "u4", "u6", "i4", "nf4", "f8e4m3", "f8e5m2", "f4e2m1", "f8e8m0"];

/// The numbers that the opened library has for types.
pub(crate) struct Elements {
    ours: Vec<(DataType, u32)>,
    foreign: Vec<(&'static str, u32)>,
}

impl Elements {
    /// Asks the library.
    ///
    /// Errors: it cannot read a model with an FP32 input.
    pub(super) fn of(core: &Core) -> Result<Self, Failure> {
        let number = |word: &str| {
            let ports = core.read_text(&model_with_input(word))?.ports(Side::Input)?;
            ports.first().map(|port| port.element).ok_or_else(|| Failure::without("reading model", "it has no input"))
        };
        number(word(DataType::Fp32))?;
        let numbers = DataType::ALL.into_iter().filter(|kind| kind.byte_size().is_some());
        let ours = numbers.filter_map(|kind| Some((kind, number(word(kind)).ok()?))).collect();
        let foreign = FOREIGN.into_iter().filter_map(|word| Some((word, number(word).ok()?))).collect();
        Ok(Self { ours, foreign })
    }

    /// The library's number of a type; `None` if it does not have it.
    pub(super) fn number(&self, data_type: DataType) -> Option<u32> {
        self.ours.iter().find(|(kind, _)| *kind == data_type).map(|(_, number)| *number)
    }

    /// The type of that number; `None` for one that no request can carry.
    pub(super) fn data_type(&self, number: u32) -> Option<DataType> {
        self.ours.iter().find(|(_, known)| *known == number).map(|(kind, _)| *kind)
    }

    /// The library's word for a number that is none of our types.
    pub(super) fn foreign(&self, number: u32) -> String {
        let known = self.foreign.iter().find(|(_, known)| *known == number);
        known.map_or_else(|| format!("number {number}"), |(word, _)| (*word).to_owned())
    }
}

/// A model that hands its one input on, in OpenVINO's own form. What its ports say of their precision must be there, and is not read.
fn model_with_input(element_type: &str) -> String {
    format!(
        r#"<?xml version="1.0"?><net name="types" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1" element_type="{element_type}"/>
<output><port id="0" precision="FP32" names="x"><dim>1</dim></port></output></layer>
<layer id="1" name="y" type="Result" version="opset1"><input><port id="0" precision="FP32"><dim>1</dim></port></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>"#
    )
}
