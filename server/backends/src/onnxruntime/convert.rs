//! Between the server's tensors and ONNX Runtime's: element types, inputs of a batch into one tensor each, outputs of
//! the batch back to its requests. A batch of one is not copied on the way in; large outputs are not copied on the way
//! out.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use ort::{session::SharedSessionInner, sys::ONNXTensorElementDataType as Element};
use server_core::{
    batch::Pending,
    batching::pack::{self, PackError},
    buffer::Buffer,
    error::{Error, Result},
    responder::Reply,
    tensor::{DataType, Name, Shape, Tensor, element_count, shape_text, strings},
};

use super::raw::{Failure, Scratch, Value, is_aligned};

/// Parts of an output up to this length are copied for each request, which is cheaper than sharing the whole.
const COPIED_PART: usize = 2048;

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

/// Why an input cannot be fed.
pub(super) enum InputError {
    /// The requests cannot run together; each alone they may.
    CannotShareBatch,
    /// They cannot run.
    Failed(Error),
}

impl From<Failure> for InputError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure.into())
    }
}

impl Input {
    /// The requests' tensors of this name as one; `None` if it is optional and absent.
    ///
    /// A batch of one lies where the request left it, if that is aligned, and nobody changes there what the model relies on.
    /// Else the bytes are gathered in `scratch`.
    pub(super) fn feed<'a>(
        &self,
        requests: &'a [Pending],
        position: usize,
        scratch: &'a mut Scratch,
    ) -> std::result::Result<Option<Value<'a>>, InputError> {
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
        if self.data_type == DataType::Bytes {
            let texts = bytes().flat_map(|part| strings::elements(part).map_while(std::result::Result::ok));
            let count = if self.is_scalar { 1 } else { usize::MAX };
            return Ok(Some(Value::strings(&shape, texts.take(count))?));
        }
        let scalar_size = self.data_type.byte_size().filter(|_| self.is_scalar);
        let own = |data: &'a [u8]| scalar_size.and_then(|size| data.get(..size)).unwrap_or(data);
        if (requests.len() == 1 || self.is_scalar)
            && let Some(data) = self.in_place(&first.data).map(own)
        {
            return Ok(Some(Value::over(data, &shape, self.data_type)?));
        }
        let count = if self.is_scalar { 1 } else { usize::MAX };
        let bytes = || bytes().map(own).take(count);
        let length = self.length(pack::packed_len(bytes().map(<[u8]>::len)))?;
        let gathered = scratch.bytes(length);
        self.length(pack::gather(bytes(), gathered))?;
        Ok(Some(Value::over(gathered, &shape, self.data_type)?))
    }

    /// The bytes, if ONNX Runtime may read them where they lie: they are aligned, and nobody changes meanwhile what models use as
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

    /// Whether all elements of all parts are the same: a batch has several, the model takes one.
    fn is_one_value<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> bool {
        let size = self.data_type.byte_size();
        let mut elements = parts.flat_map(|part| -> Box<dyn Iterator<Item = &'a [u8]> + 'a> {
            match size {
                Some(size) => Box::new(part.chunks_exact(size)),
                None => Box::new(strings::elements(part).map_while(std::result::Result::ok)),
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

    fn shape(&self, packed: std::result::Result<Shape, PackError>) -> std::result::Result<Shape, InputError> {
        packed.map_err(|error| match error {
            PackError::Ragged { .. } => InputError::CannotShareBatch,
            other => InputError::Failed(Error::internal(format!("input '{}': {other}", self.name))),
        })
    }

    fn length(&self, packed: std::result::Result<usize, PackError>) -> std::result::Result<usize, InputError> {
        packed.map_err(|error| InputError::Failed(Error::internal(format!("input '{}': {error}", self.name))))
    }
}

/// The shape of tensors laid end to end. A count that overflows fails when the tensor is made, for want of bytes.
fn flat<'a>(parts: impl Iterator<Item = &'a Tensor>) -> Shape {
    let counts = parts.map(|tensor| element_count(&tensor.shape).unwrap_or(i64::MAX));
    Shape::from_slice(&[counts.fold(0, i64::saturating_add)])
}

/// What turns the model's shape of an output into the caller's.
pub(super) enum Restore {
    /// It is the same.
    Same,
    /// The model gives a scalar, for which responses write a shape of ones.
    Scalar {
        /// What the caller knows.
        dims: Shape,
        /// The model says so; else it may give other shapes, which stay as they are.
        is_declared: bool,
    },
    /// It is flat, and each request has the extents of one of its inputs where the caller knows none.
    ByInput {
        /// The input.
        source: Name,
        /// What the caller knows.
        dims: Shape,
    },
    /// `reshape` of the configuration, undone.
    Reshape {
        /// What the model gives.
        reshape: Shape,
        /// What the caller knows.
        dims: Shape,
    },
}

/// One output as an instance takes it.
pub(super) struct Output {
    /// Name in the configuration.
    pub(super) name: Name,
    /// Element type.
    pub(super) data_type: DataType,
    /// Model's shape to caller's.
    pub(super) restore: Restore,
    /// Callers may have it.
    pub(super) is_answered: bool,
    /// It is what a state of the sequence becomes.
    pub(super) renews_state: bool,
}

/// What the outputs of one run have in common.
pub(super) struct Run<'b, 'a> {
    /// Inputs it was given, for an output may be one of them.
    pub(super) inputs: &'b [(usize, Value<'a>)],
    /// Kept alive by outputs that are not copied.
    pub(super) session: &'b Arc<SharedSessionInner>,
    /// Who waits, in the order of their rows.
    pub(super) requests: &'b [Pending],
    /// The first dimension is the batch.
    pub(super) has_rows: bool,
}

/// Buffer for the strings of an output, used again and again.
#[derive(Default)]
pub(super) struct Texts {
    content: Vec<u8>,
    starts: Vec<usize>,
}

impl Output {
    /// Whether there is one value for a whole run, whoever takes part in it.
    pub(super) fn is_scalar(&self) -> bool {
        matches!(self.restore, Restore::Scalar { is_declared: true, .. })
    }

    /// Whether it is needed for a request.
    pub(super) fn is_wanted(&self, pending: &Pending) -> bool {
        !pending.completion.is_empty_row() && (self.renews_state || self.is_asked_for(pending))
    }

    fn is_asked_for(&self, pending: &Pending) -> bool {
        let wanted = &pending.request.outputs;
        self.is_answered && (wanted.is_empty() || wanted.iter().any(|output| output.name == self.name))
    }

    /// Gives each request that needs it its part of what the model computed: its caller, its sequence, or both.
    pub(super) fn distribute<'a>(
        &self,
        value: Value<'a>,
        run: &Run<'_, 'a>,
        texts: &mut Texts,
        replies: &mut [Reply],
    ) -> Result<()> {
        let (number, shape) = value.describe()?;
        if number != element(self.data_type) as i32 {
            return Err(Error::internal(format!("output '{}' is not of type {}", self.name, self.data_type)));
        }
        let elements = element_count(&shape).and_then(|count| usize::try_from(count).ok());
        let elements = elements.ok_or_else(|| self.unexpected_shape(&shape))?;
        let mut parts = Parts::new(self, &shape, elements, run)?;
        let by_input = self.shapes_by_input(elements, run)?;
        let mut give = |content: &mut dyn FnMut(Range<usize>) -> Buffer| {
            for (index, (pending, reply)) in run.requests.iter().zip(&mut *replies).enumerate() {
                let (shape, range) = match by_input.get(index) {
                    Some(part) => part.clone(),
                    None => parts.next(pending),
                };
                if let (true, Ok(answer)) = (self.is_wanted(pending), &mut *reply) {
                    let (name, data_type) = (self.name.clone(), self.data_type);
                    let data = parts.repeat(content(range), pending);
                    let states = pending.completion.states().filter(|_| self.renews_state);
                    // A part of a batch would keep the whole batch for as long as its sequence is silent.
                    let kept = || match data.as_host().filter(|_| run.requests.len() > 1) {
                        Some(part) => Bytes::copy_from_slice(part).into(),
                        None => data.clone(),
                    };
                    let renewed = states.map(|states| states.update(&name, data_type, shape.clone(), kept()));
                    if let Some(Err(error)) = renewed {
                        *reply = Err(error);
                    } else if self.is_asked_for(pending) {
                        answer.tensors.push(Tensor { name, data_type, shape, data });
                    }
                }
            }
        };
        let Some(size) = self.data_type.byte_size() else {
            value.read_strings(&mut texts.content, &mut texts.starts)?;
            give(&mut |range| texts.join(range).into());
            return Ok(());
        };
        if elements * size <= COPIED_PART * run.requests.len() {
            let data = value.bytes(self.data_type)?;
            give(&mut |range| Bytes::copy_from_slice(&data[range.start * size..range.end * size]).into());
        } else {
            let data = value.into_bytes(self.data_type, run.inputs, run.session)?;
            give(&mut |range| data.slice(range.start * size..range.end * size).into());
        }
        Ok(())
    }

    /// Shape and elements of each request's part, where they follow an input; else nothing.
    fn shapes_by_input(&self, elements: usize, run: &Run<'_, '_>) -> Result<Vec<(Shape, Range<usize>)>> {
        let Restore::ByInput { source, dims } = &self.restore else { return Ok(Vec::new()) };
        let mut parts = Vec::with_capacity(run.requests.len());
        let mut start = 0_usize;
        for pending in run.requests {
            let input = pending.request.inputs.iter().find(|input| input.name == *source);
            let input = input.ok_or_else(|| Error::invalid_argument(format!("input '{source}' is missing")))?;
            let rows = usize::from(run.has_rows);
            let extents = dims.iter().enumerate().map(|(index, &dim)| match dim {
                -1 => input.shape.get(rows + index).copied().unwrap_or(1),
                _ => dim,
            });
            let shape: Shape = input.shape.iter().take(rows).copied().chain(extents).collect();
            let count = element_count(&shape).and_then(|count| usize::try_from(count).ok());
            let end = count.and_then(|count| start.checked_add(count)).ok_or_else(|| self.unexpected_shape(&shape))?;
            parts.push((shape, start..end));
            start = end;
        }
        if start == elements {
            return Ok(parts);
        }
        Err(Error::internal(format!(
            "output '{}' has {elements} elements, the shapes of input '{source}' ask for {start}",
            self.name
        )))
    }

    /// The caller's shape of the model's, both without the batch dimension.
    fn restored(&self, shape: &[i64]) -> Result<Shape> {
        match &self.restore {
            Restore::Scalar { dims, .. } if shape.is_empty() && dims.iter().all(|&dim| dim == 1) => Ok(dims.clone()),
            Restore::Same | Restore::Scalar { .. } | Restore::ByInput { .. } => Ok(shape.into()),
            Restore::Reshape { reshape, dims } => {
                pack::restore_shape(shape, reshape, dims).ok_or_else(|| self.unexpected_shape(shape))
            }
        }
    }

    fn unexpected_shape(&self, shape: &[i64]) -> Error {
        Error::internal(format!("output '{}' has the unexpected shape {}", self.name, shape_text(shape)))
    }
}

impl Texts {
    /// Elements of that range in the form of the wire.
    fn join(&self, range: Range<usize>) -> Vec<u8> {
        let end_of = |index: usize| self.starts.get(index).copied().unwrap_or(self.content.len());
        let mut buffer = Vec::with_capacity(end_of(range.end) - end_of(range.start) + 4 * range.len());
        for index in range {
            strings::push(&mut buffer, &self.content[end_of(index)..end_of(index + 1)]);
        }
        buffer
    }
}

/// Shapes of an output's parts, and the elements each part has.
struct Parts {
    scatter: Option<pack::Scatter>,
    tail: Shape,
    elements: usize,
    /// One value stands for every row.
    is_repeated: bool,
}

impl Parts {
    fn new(output: &Output, shape: &[i64], elements: usize, run: &Run<'_, '_>) -> Result<Self> {
        if !run.has_rows || matches!(output.restore, Restore::ByInput { .. }) {
            return Ok(Self { scatter: None, tail: output.restored(shape)?, elements, is_repeated: false });
        }
        if shape.is_empty() && run.requests.len() == 1 {
            return Ok(Self { scatter: None, tail: output.restored(shape)?, elements, is_repeated: true });
        }
        let rows = run.requests.iter().map(|pending| pending.batch_size()).sum();
        let scatter = pack::scatter(shape, elements, rows)
            .map_err(|error| Error::internal(format!("output '{}': {error}", output.name)))?;
        Ok(Self { scatter: Some(scatter), tail: output.restored(&shape[1..])?, elements, is_repeated: false })
    }

    fn next(&mut self, pending: &Pending) -> (Shape, Range<usize>) {
        let range = match &mut self.scatter {
            None if !self.is_repeated => return (self.tail.clone(), 0..self.elements),
            None => 0..self.elements,
            Some(scatter) => scatter.take(pending.batch_size()).1,
        };
        let mut shape = Shape::from_slice(&[i64::from(pending.batch_size())]);
        shape.extend_from_slice(&self.tail);
        (shape, range)
    }

    fn repeat(&self, data: Buffer, pending: &Pending) -> Buffer {
        match data.as_host() {
            Some(bytes) if self.is_repeated && pending.batch_size() != 1 => {
                bytes.repeat(pending.batch_size() as usize).into()
            }
            _ => data,
        }
    }
}

#[cfg(test)]
mod tests {
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
