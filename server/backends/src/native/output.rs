//! What a run computed, given to each request: its rows, in the caller's shape. Large outputs are not copied.

use std::ops::Range;

use bytes::Bytes;
use server_core::{
    batch::Pending,
    batching::pack,
    buffer::Buffer,
    error::{Error, Result},
    responder::Reply,
    tensor::{DataType, Name, Shape, Tensor, element_count, shape_text, strings},
};

use super::{input::Fed, runner::Value};

/// Parts of an output up to this length are copied for each request, which is cheaper than sharing the whole.
const COPIED_PART: usize = 2048;

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
pub(super) struct Run<'a> {
    /// What it was fed, for an output may be one of the inputs.
    pub(super) fed: &'a [(usize, Fed<'a>)],
    /// Who waits, in the order of their rows.
    pub(super) requests: &'a [Pending],
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
    pub(super) fn distribute(
        &self,
        value: impl Value,
        run: &Run<'_>,
        texts: &mut Texts,
        replies: &mut [Reply],
    ) -> Result<()> {
        let (data_type, shape) = value.describe()?;
        if data_type != Some(self.data_type) {
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
        let length = elements.checked_mul(size).ok_or_else(|| self.unexpected_shape(&shape))?;
        if length <= COPIED_PART * run.requests.len() {
            let data = value.bytes()?;
            self.check_length(data, length)?;
            give(&mut |range| Bytes::copy_from_slice(&data[range.start * size..range.end * size]).into());
        } else {
            let data = value.into_bytes(run.fed)?;
            self.check_length(&data, length)?;
            give(&mut |range| data.slice(range.start * size..range.end * size).into());
        }
        Ok(())
    }

    /// Shape and elements of each request's part, where they follow an input; else nothing.
    fn shapes_by_input(&self, elements: usize, run: &Run<'_>) -> Result<Vec<(Shape, Range<usize>)>> {
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

    fn check_length(&self, data: &[u8], length: usize) -> Result<()> {
        if data.len() == length {
            return Ok(());
        }
        Err(Error::internal(format!("output '{}' has {} bytes instead of {length}", self.name, data.len())))
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
    fn new(output: &Output, shape: &[i64], elements: usize, run: &Run<'_>) -> Result<Self> {
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
