//! What a model file takes and gives, as far as requests can carry it.

use std::path::Path;

use ort::{session::Session, sys::ONNXTensorElementDataType, value::ValueType};
use server_core::{
    error::{Error, Result},
    tensor::{DataType, Shape},
};

use super::{convert, declared};

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
    /// A tensor whose rank the file leaves open.
    AnyRank(DataType),
    /// A tensor of a type no request can carry, in ONNX Runtime's word.
    Foreign(String),
    /// Not a tensor, in ONNX's word.
    Other(&'static str),
}

impl Signature {
    /// Asks an open session, and its file about tensors that look like scalars.
    pub(super) fn of(session: &Session, file: &Path) -> Self {
        let offered = |name: &str, kind: &ValueType| Offered { name: name.to_owned(), kind: Kind::of(kind) };
        let initializers = session.overridable_initializers();
        let mut signature = Self {
            inputs: session.inputs().iter().map(|input| offered(input.name(), input.dtype())).collect(),
            initializers: initializers.iter().map(|input| offered(input.name(), input.dtype())).collect(),
            outputs: session.outputs().iter().map(|output| offered(output.name(), output.dtype())).collect(),
        };
        signature.mark_any_rank(file);
        signature
    }

    fn mark_any_rank(&mut self, file: &Path) {
        let like_scalars = self.inputs.iter_mut().chain(&mut self.outputs).filter_map(|offered| match &offered.kind {
            Kind::Tensor(data_type, shape) if shape.is_empty() => Some((*data_type, offered)),
            _ => None,
        });
        let like_scalars: Vec<_> = like_scalars.collect();
        if like_scalars.is_empty() {
            return;
        }
        match declared::without_shape(file) {
            Ok(names) => {
                for (data_type, offered) in
                    like_scalars.into_iter().filter(|(_, offered)| names.contains(&offered.name))
                {
                    offered.kind = Kind::AnyRank(data_type);
                }
            }
            // A file in another form than ONNX Runtime usually reads: its tensors stay what the session says.
            Err(error) => tracing::debug!(%error, file = %file.display(), "cannot read which tensors have no shape"),
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

    /// Whether every input and output is declared to have any number of rows.
    pub(super) fn can_batch(&self) -> bool {
        self.fixed_rows().is_none() && !self.tensors().any(|offered| matches!(offered.kind, Kind::AnyRank(_)))
    }

    /// An input or output that does not have any number of rows, and its shape.
    pub(super) fn fixed_rows(&self) -> Option<(&str, &Shape)> {
        self.tensors().find_map(|offered| match &offered.kind {
            Kind::Tensor(_, shape) if shape.first() != Some(&-1) => Some((offered.name.as_str(), shape)),
            _ => None, // what is not served does not decide
        })
    }

    fn tensors(&self) -> impl Iterator<Item = &Offered> {
        self.inputs.iter().chain(&self.outputs)
    }
}

impl Offered {
    /// Type and shape, `None` for a shape of any rank.
    ///
    /// Errors: `Unsupported` if no request can carry it.
    pub(super) fn tensor(&self) -> Result<(DataType, Option<&[i64]>)> {
        match &self.kind {
            Kind::Tensor(data_type, shape) => Ok((*data_type, Some(shape))),
            Kind::AnyRank(data_type) => Ok((*data_type, None)),
            Kind::Foreign(word) => {
                Err(Error::unsupported(format!("unsupported datatype {word} for tensor '{}'", self.name)))
            }
            Kind::Other(word) => Err(Error::unsupported(format!(
                "Unsupported ONNX Type '{word}' for I/O '{}', expected 'ONNX_TYPE_TENSOR'.",
                self.name
            ))),
        }
    }

    /// How many dimensions it has; `None` if any number, or if it is no tensor.
    pub(super) fn rank(&self) -> Option<usize> {
        self.tensor().ok().and_then(|(_, shape)| shape).map(<[i64]>::len)
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
