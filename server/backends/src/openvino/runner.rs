//! A request of OpenVINO as the runner of an instance. Inputs are read where they lie; outputs are written into tensors of which
//! responses may keep one each, for the next run gets others then.

use std::sync::Arc;

use bytes::Bytes;
use server_core::{
    error::{Error, Result},
    tensor::{DataType, Shape},
};
use smallvec::SmallVec;

use super::{
    library::Runtime,
    prepare::Rows,
    raw::{Failure, Request, Tensor},
};
use crate::native::{self, Fed, Signature, Tensors, Values, scratch::Scratch};

/// Tensors of one output that wait for responses to let go of them, and are written again then.
const MOST_SPARE: usize = 3;

/// Runs a compiled model.
pub(super) struct Runner {
    runtime: &'static Runtime,
    request: Request,
    /// Which input of the instance each input of the model is.
    inputs: Vec<usize>,
    /// In the order of the instance.
    outputs: Vec<Slot>,
    rows: Rows,
    pads: bool,
    /// Where batches are filled up, one per input of the model.
    padded: Vec<Scratch>,
}

/// One output: where it is written.
struct Slot {
    /// Its place among the model's.
    place: usize,
    /// OpenVINO's number of its type.
    element: u32,
    /// The shape of the next tensor.
    shape: Shape,
    bound: Option<Arc<Tensor<'static>>>,
    spare: Vec<Arc<Tensor<'static>>>,
}

/// An output of a run.
pub(super) struct Output {
    runtime: &'static Runtime,
    tensor: Arc<Tensor<'static>>,
    /// Of so many rows these are the run's own.
    own_rows: Option<(i64, i64)>,
}

impl Runner {
    /// `signature`: inputs and outputs in the model's order.
    ///
    /// Errors: one of `tensors` is not among them, or one of them not among the inputs.
    pub(super) fn new(
        runtime: &'static Runtime,
        request: Request,
        signature: &Signature,
        tensors: &Tensors,
        rows: Rows,
        pads: bool,
    ) -> Result<Self> {
        let missing = |name: &str| Error::internal(format!("'{name}' is not a tensor of the model"));
        let fed: Vec<&str> = tensors.input_names().collect();
        let number = |name: &str| fed.iter().position(|fed| *fed == name).ok_or_else(|| missing(name));
        let inputs = signature.inputs.iter().map(|input| number(&input.name)).collect::<Result<Vec<_>>>()?;
        let slot = |name: &str| {
            let place = signature.outputs.iter().position(|output| output.name == name);
            let place = place.ok_or_else(|| missing(name))?;
            let (data_type, shape) = signature.outputs[place].tensor()?;
            let element = runtime.elements.number(data_type).ok_or_else(|| missing(name))?;
            let rank = shape.map_or(1, <[i64]>::len);
            let mut shape =
                shape.map_or_else(|| Shape::from_elem(0, rank), |shape| shape.iter().map(|&dim| dim.max(0)).collect());
            if let (Rows::Fixed(rows), Some(first)) = (rows, shape.first_mut()) {
                *first = rows;
            }
            Ok(Slot { place, element, shape, bound: None, spare: Vec::new() })
        };
        let outputs = tensors.output_names().map(slot).collect::<Result<_>>()?;
        let padded = inputs.iter().map(|_| Scratch::default()).collect();
        Ok(Self { runtime, request, inputs, outputs, rows, pads, padded })
    }

    /// How many rows a run has and how many the model takes, if the run must be filled up.
    fn padding(&self, fed: &[(usize, Fed<'_>)]) -> Result<Option<(i64, i64)>> {
        let Rows::Fixed(fixed) = self.rows else { return Ok(None) };
        let rows = fed.iter().find_map(|(_, fed)| fed.shape().first().copied()).unwrap_or(fixed);
        match rows {
            _ if rows == fixed => Ok(None),
            _ if self.pads && rows < fixed => Ok(Some((rows, fixed))),
            _ => Err(Error::internal(format!(
                "expected requests with batch size '{fixed}', got '{rows}'... this error can be avoided by setting \
                 'ENABLE_BATCH_PADDING' parameter in model configuration to 'YES' at a performance cost."
            ))),
        }
    }
}

impl native::Runner for Runner {
    type Value<'a> = Output;

    fn run<'a>(&'a mut self, fed: &'a [(usize, Fed<'a>)], wanted: &[usize]) -> Result<Values<Output>> {
        let own_rows = self.padding(fed)?;
        for slot in &mut self.outputs {
            slot.bind(self.runtime, &mut self.request)?;
        }
        let mut inputs = SmallVec::<[Tensor<'_>; 8]>::new();
        for (number, scratch) in self.inputs.iter().zip(&mut self.padded) {
            let found = fed.iter().find(|(fed, _)| fed == number);
            let (_, fed) = found.ok_or_else(|| Error::internal("an input of the model is missing"))?;
            inputs.push(tensor(self.runtime, fed, own_rows, scratch)?);
        }
        self.request.run(&inputs)?;
        let output = |&number: &usize| {
            let tensor = self.outputs[number].bound.clone();
            let tensor = tensor.ok_or_else(|| Error::internal("an output has no place"))?;
            let own_rows = match own_rows {
                Some((_, all)) if tensor.describe()?.1.first() == Some(&all) => own_rows,
                _ => None, // it has no rows
            };
            Ok(Output { runtime: self.runtime, tensor, own_rows })
        };
        wanted.iter().map(output).collect()
    }

    fn runs_parts(&self) -> bool {
        self.rows == Rows::Any || self.pads
    }

    fn runs_on_any_thread(&self) -> bool {
        false // OpenVINO keeps a stream for each thread that calls it
    }
}

impl Slot {
    /// Sees to it that nobody else has the tensor that the next run writes.
    fn bind(&mut self, runtime: &Runtime, request: &mut Request) -> Result<(), Failure> {
        if self.bound.as_mut().is_some_and(|bound| Arc::get_mut(bound).is_some()) {
            return Ok(());
        }
        let free = self.spare.iter_mut().position(|spare| Arc::get_mut(spare).is_some());
        let next = match free {
            Some(place) => self.spare.swap_remove(place),
            None => Arc::new(Tensor::owned(runtime.api, self.element, &self.shape)?),
        };
        request.bind(self.place, &next)?;
        let last = self.bound.replace(next);
        self.spare.extend(last.filter(|_| self.spare.len() < MOST_SPARE));
        Ok(())
    }
}

/// An input as a tensor of OpenVINO; filled up with zeros where rows are missing.
fn tensor<'a>(
    runtime: &Runtime,
    fed: &Fed<'a>,
    own_rows: Option<(i64, i64)>,
    scratch: &'a mut Scratch,
) -> Result<Tensor<'a>> {
    let no_strings = || Error::unsupported("OpenVINO models take no strings");
    let Fed::Numbers { data_type, shape, bytes } = fed else { return Err(no_strings()) };
    let number = runtime.elements.number(*data_type);
    let number = number.ok_or_else(|| Error::unsupported(format!("OpenVINO has no type {data_type}")))?;
    let Some((_, rows)) = own_rows.filter(|(own, _)| shape.first() == Some(own)) else {
        return Ok(Tensor::over(runtime.api, bytes, shape, *data_type, number)?);
    };
    let mut full = shape.clone();
    full[0] = rows;
    let length = server_core::tensor::byte_count(*data_type, &full);
    let length = length.ok_or_else(|| Error::internal("a batch that is filled up is too large"))?;
    let filled = scratch.bytes(length);
    filled[..bytes.len()].copy_from_slice(bytes);
    filled[bytes.len()..].fill(0);
    Ok(Tensor::over(runtime.api, filled, &full, *data_type, number)?)
}

impl Output {
    /// The part of so many bytes that belongs to the run's own rows.
    fn own_part(&self, bytes: usize) -> usize {
        let part = self.own_rows.and_then(|(own, all)| Some((usize::try_from(own).ok()?, usize::try_from(all).ok()?)));
        part.map_or(bytes, |(own, all)| bytes / all.max(1) * own)
    }
}

impl native::Value for Output {
    fn describe(&self) -> Result<(Option<DataType>, Shape)> {
        let (number, mut shape) = self.tensor.describe()?;
        if let (Some((own, _)), Some(first)) = (self.own_rows, shape.first_mut()) {
            *first = own;
        }
        Ok((self.runtime.elements.data_type(number), shape))
    }

    fn bytes(&self) -> Result<&[u8]> {
        let bytes = self.tensor.bytes()?;
        Ok(&bytes[..self.own_part(bytes.len())])
    }

    fn into_bytes(self, _fed: &[(usize, Fed<'_>)]) -> Result<Bytes> {
        let part = self.own_part(self.tensor.bytes()?.len());
        Ok(Bytes::from_owner(Kept(self.tensor)).slice(..part))
    }

    fn read_strings(&self, _content: &mut Vec<u8>, _starts: &mut Vec<usize>) -> Result<()> {
        Err(Error::unsupported("OpenVINO models give no strings"))
    }
}

/// An output that somebody still reads.
struct Kept(Arc<Tensor<'static>>);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes().unwrap_or_default()
    }
}
