//! What a model file takes and gives, as far as requests can carry it.

use server_core::{
    error::{Error, Result},
    tensor::{DataType, Shape},
};

/// Names, types and shapes of a model file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Signature {
    /// In the file's order.
    pub(crate) inputs: Vec<Offered>,
    /// Constants that a request may replace.
    pub(crate) initializers: Vec<Offered>,
    /// In the file's order.
    pub(crate) outputs: Vec<Offered>,
}

/// One input or output of a model file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offered {
    /// Its name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What an input or output is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A tensor; `-1` in its shape is any extent.
    Tensor(DataType, Shape),
    /// A tensor whose rank the file leaves open.
    AnyRank(DataType),
    /// A tensor of a type no request can carry, in the runtime's word.
    Foreign(String),
    /// Not a tensor; the sentence says what, in the runtime's words.
    Other(String),
}

impl Signature {
    /// The input or replaceable constant of that name.
    pub(crate) fn input(&self, name: &str) -> Option<&Offered> {
        self.inputs.iter().chain(&self.initializers).find(|input| input.name == name)
    }

    /// The output of that name.
    pub(crate) fn output(&self, name: &str) -> Option<&Offered> {
        self.outputs.iter().find(|output| output.name == name)
    }

    /// Whether every input and output is declared to have any number of rows.
    pub(crate) fn can_batch(&self) -> bool {
        self.fixed_rows().is_none() && !self.tensors().any(|offered| matches!(offered.kind, Kind::AnyRank(_)))
    }

    /// An input or output that does not have any number of rows, and its shape.
    pub(crate) fn fixed_rows(&self) -> Option<(&str, &Shape)> {
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
    pub(crate) fn tensor(&self) -> Result<(DataType, Option<&[i64]>)> {
        match &self.kind {
            Kind::Tensor(data_type, shape) => Ok((*data_type, Some(shape))),
            Kind::AnyRank(data_type) => Ok((*data_type, None)),
            Kind::Foreign(word) => {
                Err(Error::unsupported(format!("unsupported datatype {word} for tensor '{}'", self.name)))
            }
            Kind::Other(sentence) => Err(Error::unsupported(sentence.clone())),
        }
    }

    /// How many dimensions it has; `None` if any number, or if it is no tensor.
    pub(crate) fn rank(&self) -> Option<usize> {
        self.tensor().ok().and_then(|(_, shape)| shape).map(<[i64]>::len)
    }
}
