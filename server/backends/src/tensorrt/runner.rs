//! Runs an engine on a GPU: inputs go there on one stream, runs on another, results come back on it or on a third. Two batches may be under
//! way, each in a lane with memory of its own.

use std::{borrow::Cow, mem, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use server_core::{
    backend::Health,
    error::{Error, Result},
    tensor::{DataType, Shape, shape_text},
};

use super::{
    buffers,
    description::{Description, Io},
    graphs,
    lane::{Answer, Content, Lane, Profiled, Streams},
    place::Place,
    plan::{Held, Loaded},
    profiles::{self, Given},
    raw::take_last_error,
};
use crate::{
    cuda::{CudaError, DeviceMemory, Gpu, HostMemory, Stream},
    native::{Fed, GatherBuffer, LANES, Overlapping, Staged, Value, Values},
};

/// An engine with the contexts, streams and memory of one instance.
pub(super) struct TensorRtRunner {
    /// Name of the instance, for messages.
    pub(super) name: String,
    /// One for each profile that is used; before what they run with.
    pub(super) contexts: Vec<Profiled>,
    /// Of the batches under way.
    pub(super) lanes: [Lane; LANES],
    /// What the GPU does.
    pub(super) streams: Streams,
    /// Numbers of the tensors in the engine, in the order in which runs count inputs.
    pub(super) inputs: Vec<usize>,
    /// The same of outputs.
    pub(super) outputs: Vec<usize>,
    /// Numbers of outputs whose first dimension is not the batch, for they follow the shape of an input.
    pub(super) scattered: Vec<usize>,
    /// The first dimension of every other tensor is the batch.
    pub(super) has_rows: bool,
    /// A batch may run in a graph that was captured for a larger one.
    pub(super) takes_larger_graphs: bool,
    /// Host memory of inputs and of outputs is pinned.
    pub(super) pins: (bool, bool),
    /// Held while a run is started, if the instances of a GPU do that one after the other.
    pub(super) device: Option<Arc<Mutex<()>>>,
    /// Whether the GPU still works.
    pub(super) health: Health,
    /// Memory of the GPU.
    pub(super) _held: Held,
    /// The engine.
    pub(super) loaded: Arc<Loaded>,
}

/// One run that is to be started.
struct Start<'a> {
    lane: usize,
    /// The context.
    place: usize,
    /// Where inputs lie.
    staged: &'a [Staged],
    buffers: &'a [HostBuffer],
    /// The same inputs, as the engine sees them.
    given: &'a [Given],
    /// Numbers of outputs.
    wanted: &'a [usize],
    /// Of the batch.
    rows: Option<i64>,
}

/// Why a run was not started.
enum Failure {
    Cuda(&'static str, CudaError),
    Other(Error),
}

/// The failure of a call of the driver.
fn cuda(what: &'static str) -> impl Fn(CudaError) -> Failure {
    move |error| Failure::Cuda(what, error)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl TensorRtRunner {
    /// The inputs as the engine sees them.
    fn given(&self, staged: &[Staged], buffers: &[HostBuffer], rows: Option<i64>) -> Result<Vec<Given>> {
        let given = |staged: &Staged| {
            let tensor = self.inputs[staged.number];
            let io = &self.loaded.description.tensors[tensor];
            if !io.is_shape {
                return Ok(Given { tensor, shape: staged.shape.clone(), values: None });
            }
            let bytes = &buffers[staged.buffer].memory.bytes()[..staged.length];
            let values = buffers::shape_values(io, &staged.shape, bytes, rows).ok_or_else(|| {
                Error::invalid_argument(format!("missing shape values for the shape tensor '{}'", io.text))
            })?;
            Ok(Given { tensor, shape: io.shape.clone(), values: Some(values) })
        };
        staged.iter().map(given).collect()
    }

    /// The error of a call of the driver. One after which nothing runs any more makes the instance unhealthy.
    fn failed(&self, what: &str, error: &CudaError) -> Error {
        let name = &self.name;
        if error.is_final() {
            self.health.set(false);
            let reason = format!("the GPU has failed for this process ({error}): restart the server");
            self.health.set_reason(Some(reason));
        }
        let cure = if error.is_final() {
            "; no model runs on this GPU until the server is restarted"
        } else if error.is_out_of_memory() {
            "; the memory of the GPU is used up: run fewer instances or smaller batches"
        } else {
            ""
        };
        Error::internal(format!("{what} for {name}: {error}{cure}"))
    }

    /// Gives copies and the run to the GPU.
    fn enqueue(&mut self, start: &Start<'_>) -> std::result::Result<(), Failure> {
        self.copy_inputs(start)?;
        let lane = &self.lanes[start.lane];
        lane.begin(&self.streams).map_err(cuda("failed to wait for inputs"))?;
        let computed = self.run(start)?;
        let lane = &self.lanes[start.lane];
        lane.end(&self.streams).map_err(cuda("failed to wait for outputs"))?;
        self.copy_outputs(start, computed.as_deref())?;
        self.lanes[start.lane].done.record(self.streams.output()).map_err(cuda("failed to record an event"))
    }

    fn copy_inputs(&mut self, start: &Start<'_>) -> std::result::Result<(), Failure> {
        for (staged, given) in start.staged.iter().zip(start.given) {
            let io = &self.loaded.description.tensors[given.tensor];
            let place = &mut self.lanes[start.lane].places[given.tensor];
            if let Some(values) = &given.values {
                place.put(io, values)?;
                continue;
            }
            let Place::Device(memory) = place else {
                return Err(Error::internal(format!("input '{}' lies at an unexpected place", io.text)).into());
            };
            let buffer = &start.buffers[staged.buffer].memory;
            let copied = memory.copy_from(buffer, staged.length, &self.streams.input);
            copied.map_err(cuda("failed to copy an input"))?;
        }
        Ok(())
    }

    /// Launches the graph for these shapes, or has the context run. The shapes of the graph's outputs, if there is one.
    fn run(&mut self, start: &Start<'_>) -> std::result::Result<Option<Vec<Shape>>, Failure> {
        let Self { lanes, contexts, streams, loaded, name, takes_larger_graphs, .. } = self;
        let (lane, engine) = (&lanes[start.lane], &loaded.description);
        let known = lane.graphs.get(start.place).map_or(&[][..], Vec::as_slice);
        if !known.is_empty() {
            let mut shapes: Vec<_> = start.given.iter().map(|given| (given.tensor, given.shape.clone())).collect();
            shapes.sort_by_key(|(tensor, _)| *tensor);
            let shapes: Vec<Shape> = shapes.into_iter().map(|(_, shape)| shape).collect();
            let keys = known.iter().map(|captured| &captured.key);
            if let Some(number) = graphs::choose(keys, &shapes, *takes_larger_graphs) {
                let launched = known[number].graph.launch(&streams.compute);
                launched.map_err(cuda("unable to execute graph for inference"))?;
                return Ok(Some(known[number].shapes.clone()));
            }
        }
        let shapes = start.given.iter().map(|given| (given.tensor, &given.shape));
        prepare(&mut contexts[start.place], &lane.places, engine, shapes, name)?;
        enqueue(&mut contexts[start.place], &streams.compute, name)?;
        Ok(None)
    }

    /// Has the wanted outputs copied to the host. `captured`: their shapes, where a graph ran.
    fn copy_outputs(&mut self, start: &Start<'_>, captured: Option<&[Shape]>) -> std::result::Result<(), Failure> {
        let Self { lanes, contexts, streams, loaded, outputs, scattered, pins, .. } = self;
        let context = &contexts[start.place].context;
        let Lane { places, results, answers, .. } = &mut lanes[start.lane];
        let mut found = mem::take(answers);
        found.clear();
        for &output in start.wanted {
            let tensor = outputs[output];
            let io = &loaded.description.tensors[tensor];
            let data_type = io.data_type()?;
            if io.is_shape {
                found.push(Answer { output, data_type, content: Content::Shape(tensor, start.rows) });
                continue;
            }
            let (memory, mut shape) = computed(context, &places[tensor], io, captured.map(|shapes| &shapes[tensor]))
                .ok_or_else(|| Error::internal(format!("output '{}' has no shape after a run", io.text)))?;
            // A graph that was captured for more rows computes more of them.
            let rows = start.rows.filter(|_| captured.is_some() && !scattered.contains(&output));
            if let (Some(rows), Some(first)) = (rows, shape.first_mut()) {
                *first = (*first).min(rows);
            }
            let length = length_within(io, &shape, memory)?;
            let result = &mut results[output];
            if result.len() < length {
                *result = HostMemory::new(&loaded.gpu, length, pins.1);
            }
            memory.copy_to(result, length, streams.output()).map_err(cuda("failed to copy an output"))?;
            found.push(Answer { output, data_type, content: Content::Copied(shape, length) });
        }
        *answers = found;
        Ok(())
    }
}

/// Where an output lies after a run, and its shape.
fn computed<'a>(
    context: &'a super::raw::Context,
    place: &'a Place,
    io: &Io,
    captured: Option<&Shape>,
) -> Option<(&'a DeviceMemory, Shape)> {
    match place {
        Place::Asked => context.allocated(&io.name).map(|(memory, shape)| (memory, shape.clone())),
        Place::Device(memory) => Some((memory, captured.cloned().or_else(|| context.tensor_shape(&io.name))?)),
        Place::Host(_) => None,
    }
}

/// Bytes of an output of that shape.
///
/// Errors: `Internal` if its memory is shorter, or the shape is open.
fn length_within(io: &Io, shape: &[i64], memory: &DeviceMemory) -> Result<usize> {
    let held = memory.len();
    buffers::bytes(io, shape).filter(|&length| length <= held).ok_or_else(|| {
        let (name, shape) = (&io.text, shape_text(shape));
        let text = format!("unexpected size for output '{name}', byte-size {held} is too little for shape {shape}");
        Error::internal(text)
    })
}

/// Says to a context the shapes of its inputs and where all tensors lie.
///
/// Errors: `Internal` in TensorRT's words if its profile does not allow them, or if an output does not fit where it lies: smaller
/// inputs may have larger outputs.
pub(super) fn prepare<'a>(
    profiled: &mut Profiled,
    places: &[Place],
    engine: &Description,
    shapes: impl Iterator<Item = (usize, &'a Shape)>,
    name: &str,
) -> Result<()> {
    let context = &mut profiled.context;
    take_last_error(); // of earlier calls
    for (tensor, shape) in shapes {
        let io = &engine.tensors[tensor];
        if !io.is_shape && io.shape.contains(&-1) && !context.set_input_shape(&io.name, shape) {
            let (text, shape) = (&io.text, shape_text(shape));
            return Err(in_its_words(&format!(
                "trt failed to set binding dimension to {shape} for input '{text}' for {name}"
            )));
        }
    }
    for (io, place) in engine.tensors.iter().zip(places) {
        if !place.give(context, io) {
            return Err(in_its_words(&format!("unable to set memory for '{}' for {name}", io.text)));
        }
    }
    if !context.knows_shapes() {
        let text = "failed to specify the dimensions of all input tensors or values of all input shape tensors";
        return Err(in_its_words(text));
    }
    for (io, place) in engine.tensors.iter().zip(places).filter(|(io, _)| !io.is_input) {
        if let Place::Device(memory) = place {
            let shape = context.tensor_shape(&io.name);
            let shape = shape.ok_or_else(|| Error::internal(format!("output '{}' has no shape", io.text)))?;
            length_within(io, &shape, memory)?;
        }
    }
    Ok(())
}

/// Gives a run that was prepared to a stream.
///
/// Errors: `Internal` in TensorRT's words.
pub(super) fn enqueue(profiled: &mut Profiled, stream: &Stream, name: &str) -> Result<()> {
    take_last_error(); // of earlier calls
    if profiled.context.enqueue(stream) {
        return Ok(());
    }
    Err(in_its_words(&format!("unable to enqueue for inference {name}")))
}

/// The error with what TensorRT has complained about.
fn in_its_words(what: &str) -> Error {
    let words = take_last_error().map_or_else(String::new, |words| format!(": {words}"));
    Error::internal(format!("{what}{words}"))
}

impl Overlapping for TensorRtRunner {
    type Buffer = HostBuffer;
    type Value<'a> = Computed<'a>;

    fn gather_buffer(&self) -> HostBuffer {
        HostBuffer::new(&self.loaded.gpu, self.pins.0)
    }

    fn start(
        &mut self,
        lane: usize,
        staged: &[Staged],
        buffers: &[HostBuffer],
        wanted: &[usize],
        rows: u32,
    ) -> Result<()> {
        self.loaded.gpu.enter().map_err(|error| self.failed("unable to set device", &error))?;
        let needed = self.loaded.description.side(true).count();
        if staged.len() != needed {
            let text = format!("a request has {} of the {needed} inputs that the plan needs", staged.len());
            return Err(Error::invalid_argument(text));
        }
        let rows = self.has_rows.then(|| i64::from(rows));
        let given = self.given(staged, buffers, rows)?;
        let usable: Vec<usize> = self.contexts.iter().map(|profiled| profiled.number).collect();
        let place = profiles::choose(&self.loaded.description, &usable, &given, &self.name)?;
        let device = self.device.clone();
        let _one_at_a_time = device.as_ref().map(|device| device.lock());
        let started = self.enqueue(&Start { lane, place, staged, buffers, given: &given, wanted, rows });
        started.map_err(|failure| {
            let ended = self.streams.synchronize(); // what was started of it must not use memory any more
            if let Some(error) = ended.err().filter(CudaError::is_final) {
                return self.failed("failed to run TRT inference", &error);
            }
            match failure {
                Failure::Cuda(what, error) => self.failed(what, &error),
                Failure::Other(error) => error,
            }
        })
    }

    fn wait_until_begun(&mut self, lane: usize) {
        let _ = self.lanes[lane].begun.wait(); // what is wrong is told by `finish`
    }

    fn finish(&mut self, lane: usize) -> Result<Values<Computed<'_>>> {
        let done = self.lanes[lane].done.wait();
        done.map_err(|error| self.failed("failed to run TRT inference", &error))?;
        let (engine, lane) = (&self.loaded.description, &self.lanes[lane]);
        let value = |answer: &Answer| {
            let (shape, bytes) = match &answer.content {
                Content::Copied(shape, length) => {
                    (shape.clone(), Cow::Borrowed(&lane.results[answer.output].bytes()[..*length]))
                }
                Content::Shape(tensor, rows) => {
                    let io = &engine.tensors[*tensor];
                    let elements = lane.places[*tensor].elements(io);
                    let read = elements.and_then(|elements| buffers::shape_output(io, &elements, *rows));
                    let (shape, bytes) = read.ok_or_else(|| {
                        Error::internal(format!(
                            "failed to retrieve the output shape values from binding '{}'",
                            io.text
                        ))
                    })?;
                    (shape, Cow::Owned(bytes))
                }
            };
            Ok(Computed { data_type: answer.data_type, shape, bytes })
        };
        lane.answers.iter().map(value).collect()
    }

    fn settle(&mut self) {
        if self.loaded.gpu.enter().is_ok() {
            let _ = self.streams.synchronize(); // what is wrong is told by the next run
        }
    }
}

impl Drop for TensorRtRunner {
    fn drop(&mut self) {
        self.settle();
    }
}

/// Host memory for one input, which grows when needed.
pub(super) struct HostBuffer {
    gpu: Arc<Gpu>,
    is_pinned: bool,
    memory: HostMemory,
}

impl HostBuffer {
    fn new(gpu: &Arc<Gpu>, is_pinned: bool) -> Self {
        Self { gpu: gpu.clone(), is_pinned, memory: HostMemory::new(gpu, 0, false) }
    }
}

impl GatherBuffer for HostBuffer {
    const HOLDS_ALL: bool = true;

    fn bytes(&mut self, length: usize) -> &mut [u8] {
        if self.memory.len() < length {
            self.memory = HostMemory::new(&self.gpu, length.next_power_of_two(), self.is_pinned);
        }
        &mut self.memory.bytes_mut()[..length]
    }
}

/// One output, read where it was copied to.
pub(super) struct Computed<'a> {
    data_type: DataType,
    shape: Shape,
    bytes: Cow<'a, [u8]>,
}

impl Value for Computed<'_> {
    fn describe(&self) -> Result<(Option<DataType>, Shape)> {
        Ok((Some(self.data_type), self.shape.clone()))
    }

    fn bytes(&self) -> Result<&[u8]> {
        Ok(&self.bytes)
    }

    /// A copy: the memory is for the next batch.
    fn into_bytes(self, _: &[(usize, Fed<'_>)]) -> Result<Bytes> {
        Ok(self.bytes.into_owned().into())
    }

    fn read_strings(&self, _: &mut Vec<u8>, _: &mut Vec<usize>) -> Result<()> {
        Err(Error::internal("TensorRT has no strings"))
    }
}
