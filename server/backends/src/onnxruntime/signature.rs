//! What a model file takes and gives, as far as requests can carry it.

use ort::{session::Session, sys::ONNXTensorElementDataType, value::ValueType};
use server_core::{
    error::{Error, Result},
    tensor::{DataType, Shape},
};

use super::convert;

/// Names, types and shapes of a model file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Signature {
    /// In the file's order.
    pub(super) inputs: Vec<Offered>,
    /// Constants that a request may replace.
    pub(super) initializers: Vec<Offered>,
    /// In the file's order.
    pub(super) outputs: Vec<Offered>,
}

/// One input or output of a model file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offered {
    /// Its name.
    pub(super) name: String,
    /// What it is.
    pub(super) kind: Kind,
}

/// What an input or output is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A tensor; `-1` in its shape is any extent.
    Tensor(DataType, Shape),
    /// A tensor of a type no request can carry, in ONNX Runtime's word.
    Foreign(String),
    /// Not a tensor, in ONNX's word.
    Other(&'static str),
}

impl Signature {
    /// Asks an open session.
    pub(super) fn of(session: &Session) -> Self {
        let offered = |name: &str, kind: &ValueType| Offered { name: name.to_owned(), kind: Kind::of(kind) };
        let initializers = session.overridable_initializers();
        Self {
            inputs: session.inputs().iter().map(|input| offered(input.name(), input.dtype())).collect(),
            initializers: initializers.iter().map(|input| offered(input.name(), input.dtype())).collect(),
            outputs: session.outputs().iter().map(|output| offered(output.name(), output.dtype())).collect(),
        }
    }

    /// The input or replaceable constant of that name.
    pub(super) fn input(&self, name: &str) -> Option<&Offered> {
        self.inputs.iter().chain(&self.initializers).find(|input| input.name == name)
    }

    /// The output of that name.
    pub(super) fn output(&self, name: &str) -> Option<&Offered> {
        self.outputs.iter().find(|output| output.name == name)
    }

    /// Whether every input and output may have any number of rows.
    pub(super) fn can_batch(&self) -> bool {
        self.inputs.iter().chain(&self.outputs).all(Offered::can_batch)
    }
}

impl Offered {
    /// Type and shape.
    ///
    /// Errors: `Unsupported` if no request can carry it.
    pub(super) fn tensor(&self) -> Result<(DataType, &Shape)> {
        match &self.kind {
            Kind::Tensor(data_type, shape) => Ok((*data_type, shape)),
            Kind::Foreign(word) => {
                Err(Error::unsupported(format!("unsupported datatype {word} for tensor '{}'", self.name)))
            }
            Kind::Other(word) => Err(Error::unsupported(format!(
                "Unsupported ONNX Type '{word}' for I/O '{}', expected 'ONNX_TYPE_TENSOR'.",
                self.name
            ))),
        }
    }

    fn can_batch(&self) -> bool {
        match &self.kind {
            Kind::Tensor(_, shape) => shape.first() == Some(&-1),
            Kind::Foreign(_) | Kind::Other(_) => true, // they are not served, so they do not decide
        }
    }
}

impl Kind {
    fn of(kind: &ValueType) -> Self {
        match kind {
            ValueType::Tensor { ty, shape, .. } => match convert::data_type(ONNXTensorElementDataType::from(*ty)) {
                Some(data_type) => Self::Tensor(data_type, Shape::from_slice(shape)),
                None => Self::Foreign(ty.to_string()),
            },
            ValueType::Sequence(_) => Self::Other("ONNX_TYPE_SEQUENCE"),
            ValueType::Map { .. } => Self::Other("ONNX_TYPE_MAP"),
            ValueType::Optional(_) => Self::Other("ONNX_TYPE_OPTIONAL"),
        }
    }
}
