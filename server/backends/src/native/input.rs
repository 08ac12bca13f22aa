//! Inputs of a batch into one tensor each. The numbers of a batch of one are not copied.

use std::sync::Arc;

use server_core::{
    batch::Pending,
    batching::pack::{self, PackError},
    buffer::Buffer,
    error::Error,
    tensor::{DataType, Name, Shape, Tensor, byte_count, element_count, shape_text, strings},
};

use super::scratch::GatherBuffer;

/// One input as an instance feeds it.
pub(super) struct Input {
    /// Name in the configuration.
    pub(super) name: Name,
    /// Element type.
    pub(super) data_type: DataType,
    /// The model takes a scalar, for which requests write a shape of ones.
    pub(super) is_scalar: bool,
    /// May be absent.
    pub(super) is_optional: bool,
    /// Requests of any extents are laid end to end, and the model takes one flat row.
    pub(super) is_ragged: bool,
}

/// One input of a run.
#[derive(Clone)]
pub(crate) enum Fed<'a> {
    /// Elements of a fixed size.
    Numbers {
        /// Their type.
        data_type: DataType,
        /// Of the whole batch, as the model takes it; empty for a scalar.
        shape: Shape,
        /// As many as type and shape say. They lie where a request left them, aligned to their type, or gathered and aligned to 64.
        bytes: &'a [u8],
    },
    /// Byte strings.
    Strings {
        /// Of the whole batch.
        shape: Shape,
        /// Row by row. A request may bring fewer than the shape says, which the runtime refuses.
        elements: Strings<'a>,
    },
}

impl Fed<'_> {
    /// The shape of the whole batch.
    pub(crate) fn shape(&self) -> &Shape {
        match self {
            Self::Numbers { shape, .. } | Self::Strings { shape, .. } => shape,
        }
    }

    /// The bytes of its elements; none are counted for strings.
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Numbers { bytes, .. } => bytes.len(),
            Self::Strings { .. } => 0,
        }
    }
}

/// The elements of a BYTES input over all requests of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Strings<'a> {
    pub(super) requests: &'a [Pending],
    pub(super) input: &'a Input,
    /// Where requests mostly have it among their inputs.
    pub(super) position: usize,
    /// No more than so many.
    pub(super) most: usize,
}

impl<'a> Strings<'a> {
    /// Element by element.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let Self { requests, input, position, most } = *self;
        requests.iter().flat_map(move |pending| input.strings(pending, position)).take(most)
    }
}

/// Why an input cannot be fed.
pub(super) enum InputError {
    /// The requests cannot run together; each alone they may.
    CannotShareBatch,
    /// They cannot run.
    Failed(Error),
}

impl From<Error> for InputError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Input {
    /// The requests' tensors of this name as one; `None` if it is optional and absent.
    ///
    /// A batch of one lies where the request left it, if that is aligned, and nobody changes there what the model relies on.
    /// Else the bytes are gathered in `buffer`.
    pub(super) fn feed<'a, B: GatherBuffer>(
        &'a self,
        requests: &'a [Pending],
        position: usize,
        buffer: &'a mut B,
    ) -> Result<Option<Fed<'a>>, InputError> {
        let parts = || requests.iter().filter_map(|pending| self.find(pending, position));
        let Some(first) = parts().next().filter(|_| parts().count() == requests.len()) else {
            let is_absent = self.is_optional && parts().next().is_none();
            return if is_absent { Ok(None) } else { Err(InputError::Failed(self.missing())) };
        };
        let shape = match requests {
            _ if self.is_ragged => flat(parts()),
            _ if self.is_scalar => Shape::new(),
            [_] => first.shape.clone(),
            _ => self.shape(pack::packed_shape(parts().map(|tensor| tensor.shape.as_slice())))?,
        };
        if parts().any(|tensor| tensor.data.as_host().is_none()) {
            return Err(InputError::Failed(Error::internal(format!("input '{}' is not in host memory", self.name))));
        }
        let bytes = || parts().filter_map(|tensor| tensor.data.as_host());
        if self.is_scalar && !self.is_one_value(bytes()) {
            return Err(if requests.len() > 1 {
                InputError::CannotShareBatch
            } else {
                InputError::Failed(self.varied())
            });
        }
        let most = if self.is_scalar { 1 } else { usize::MAX };
        if self.data_type == DataType::Bytes {
            let elements = Strings { requests, input: self, position, most };
            return Ok(Some(Fed::Strings { shape, elements }));
        }
        let scalar_size = self.data_type.byte_size().filter(|_| self.is_scalar);
        let own = |data: &'a [u8]| scalar_size.and_then(|size| data.get(..size)).unwrap_or(data);
        if !B::HOLDS_ALL
            && (requests.len() == 1 || self.is_scalar)
            && let Some(data) = self.in_place(&first.data).map(own)
        {
            return self.numbers(shape, data).map(Some);
        }
        let bytes = || bytes().map(own).take(most);
        let length = self.length(pack::packed_len(bytes().map(<[u8]>::len)))?;
        let gathered = buffer.bytes(length);
        self.length(pack::gather(bytes(), gathered))?;
        self.numbers(shape, gathered).map(Some)
    }

    fn numbers<'a>(&self, shape: Shape, bytes: &'a [u8]) -> Result<Fed<'a>, InputError> {
        let data_type = self.data_type;
        if byte_count(data_type, &shape) == Some(bytes.len()) {
            return Ok(Fed::Numbers { data_type, shape, bytes });
        }
        let (name, length, shape) = (&self.name, bytes.len(), shape_text(&shape));
        let text = format!("input '{name}': {length} bytes are not a {data_type} tensor of shape {shape}");
        Err(InputError::Failed(Error::internal(text)))
    }

    /// The bytes, if the runtime may read them where they lie: they are aligned, and nobody changes meanwhile what models use as
    /// places, lengths and conditions, for those are checked once, and read again when they are used.
    fn in_place<'a>(&self, data: &'a Buffer) -> Option<&'a [u8]> {
        let is_trusted = matches!(self.data_type, DataType::Int32 | DataType::Int64 | DataType::Bool);
        let may_change = data.is_of_client();
        data.as_host().filter(|bytes| is_aligned(bytes, self.data_type) && !(is_trusted && may_change))
    }

    /// The tensor of this name. Clients mostly keep the order of the configuration, so that place is tried first.
    fn find<'a>(&self, pending: &'a Pending, position: usize) -> Option<&'a Tensor> {
        let inputs = &pending.request.inputs;
        let is_it = |tensor: &&Tensor| Arc::ptr_eq(&tensor.name, &self.name) || tensor.name == self.name;
        inputs.get(position).filter(is_it).or_else(|| inputs.iter().find(is_it))
    }

    /// The byte strings that a request has for it.
    pub(super) fn strings<'a>(
        &self,
        pending: &'a Pending,
        position: usize,
    ) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let part = self.find(pending, position).and_then(|tensor| tensor.data.as_host()).unwrap_or_default();
        strings::elements(part).map_while(Result::ok)
    }

    /// Whether all elements of all parts are the same: a batch has several, the model takes one.
    fn is_one_value<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> bool {
        let size = self.data_type.byte_size();
        let mut elements = parts.flat_map(|part| -> Box<dyn Iterator<Item = &'a [u8]> + 'a> {
            match size {
                Some(size) => Box::new(part.chunks_exact(size)),
                None => Box::new(strings::elements(part).map_while(Result::ok)),
            }
        });
        elements.next().is_some_and(|first| elements.all(|other| other == first))
    }

    fn varied(&self) -> Error {
        Error::invalid_argument(format!(
            "input '{}' is a scalar of the model: give it the same value in every row of a request",
            self.name
        ))
    }

    fn missing(&self) -> Error {
        Error::invalid_argument(format!("input '{}' is missing", self.name))
    }

    fn shape(&self, packed: Result<Shape, PackError>) -> Result<Shape, InputError> {
        packed.map_err(|error| match error {
            PackError::Ragged { .. } => InputError::CannotShareBatch,
            other => InputError::Failed(Error::internal(format!("input '{}': {other}", self.name))),
        })
    }

    fn length(&self, packed: Result<usize, PackError>) -> Result<usize, InputError> {
        packed.map_err(|error| InputError::Failed(Error::internal(format!("input '{}': {error}", self.name))))
    }
}

/// Whether a tensor of that type may lie over the bytes as they are.
fn is_aligned(data: &[u8], data_type: DataType) -> bool {
    data.is_empty() || data.as_ptr().addr().is_multiple_of(data_type.byte_size().unwrap_or(1))
}

/// The shape of tensors laid end to end. A count that overflows fails when the bytes are counted.
fn flat<'a>(parts: impl Iterator<Item = &'a Tensor>) -> Shape {
    let counts = parts.map(|tensor| element_count(&tensor.shape).unwrap_or(i64::MAX));
    Shape::from_slice(&[counts.fold(0, i64::saturating_add)])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn numbers_that_a_client_could_change_meanwhile_are_read_in_place_only_if_nothing_depends_on_them() {
        let bytes = Bytes::from(vec![0; 64]);
        let aligned = bytes.slice(bytes.as_ptr().align_offset(8)..);
        for data_type in DataType::ALL {
            let input = Input { name: "I".into(), data_type, is_scalar: false, is_optional: false, is_ragged: false };
            let is_trusted = matches!(data_type, DataType::Int32 | DataType::Int64 | DataType::Bool);
            assert!(input.in_place(&Buffer::from(aligned.clone())).is_some(), "{data_type}");
            assert_eq!(input.in_place(&Buffer::of_client(aligned.clone())).is_none(), is_trusted, "{data_type}");
        }
    }
}
