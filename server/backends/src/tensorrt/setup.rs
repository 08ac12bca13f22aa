//! Makes a runner: contexts for the profiles of an instance, memory for the largest tensors they allow, and graphs.

use std::sync::{Arc, atomic::AtomicU64};

use parking_lot::Mutex;
use server_core::{
    backend::Health,
    config::ModelConfig,
    error::{Error, Result},
    tensor::{Shape, shape_text},
};

use super::{
    buffers,
    description::{Description, Io, Range},
    graphs::{self, Key, Wanted},
    lane::{Captured, Lane, Profiled, Streams},
    place::Place,
    plan::{Held, Loaded},
    raw::take_last_error,
    runner::{self, TensorRtRunner},
    settings::Execution,
};
use crate::{
    cuda::{CudaError, DeviceMemory, Event, Graph, HostMemory, Stream},
    native::{LANES, Tensors},
};

/// What an instance is made of.
pub(super) struct Setup<'a> {
    pub(super) name: &'a str,
    pub(super) config: &'a ModelConfig,
    pub(super) execution: &'a Execution,
    /// Numbers of its profiles.
    pub(super) profiles: &'a [usize],
    pub(super) tensors: &'a Tensors,
    pub(super) loaded: Arc<Loaded>,
    /// Held while a run is started, if the instances of a GPU do that one after the other.
    pub(super) device: Option<Arc<Mutex<()>>>,
    pub(super) health: &'a Health,
    /// Where memory of the GPU is counted.
    pub(super) sum: &'a Arc<AtomicU64>,
}

/// How long the tensors of an instance are at most, in bytes; `None` for an output whose size depends on data.
type Lengths = Vec<Option<usize>>;

impl Setup<'_> {
    /// The runner.
    ///
    /// Errors: `Internal` if there is not enough memory, or TensorRT or the driver refuses something; `InvalidArgument` if the profile
    /// does not allow what is configured.
    pub(super) fn runner(&self) -> Result<TensorRtRunner> {
        let (gpu, engine) = (&self.loaded.gpu, &self.loaded.description);
        let refused =
            |error: CudaError| Error::internal(format!("unable to create streams for {}: {error}", self.name));
        let compute = Stream::new(gpu, self.execution.priority).map_err(refused)?;
        let mut contexts =
            self.profiles.iter().map(|&number| self.context(number, &compute)).collect::<Result<Vec<_>>>()?;
        let lengths = self.lengths(&mut contexts)?;
        for (io, _) in engine.tensors.iter().zip(&lengths).filter(|(_, length)| length.is_none()) {
            if !contexts.iter_mut().all(|profiled| profiled.context.allocate_output(&io.name, gpu)) {
                return Err(Error::internal(format!(
                    "unable to set an allocator for output '{}' for {}",
                    io.text, self.name
                )));
            }
        }
        // Memory of such an output is used again by the next run: its copy must be before that, on the same stream.
        let may_copy_aside = lengths.iter().all(Option::is_some);
        let output = (self.execution.has_output_stream && may_copy_aside)
            .then(|| Stream::new(gpu, self.execution.priority))
            .transpose()
            .map_err(refused)?;
        let streams = Streams { input: Stream::new(gpu, self.execution.priority).map_err(refused)?, compute, output };
        let number = |name: &str, is_input: bool| {
            let unknown = || Error::internal(format!("'{name}' does not map to an input or output tensor"));
            engine.find(name, is_input).map(|(number, _)| number).ok_or_else(unknown)
        };
        let inputs = self.tensors.input_names().map(|name| number(name, true)).collect::<Result<_>>()?;
        let outputs: Vec<usize> = self.tensors.output_names().map(|name| number(name, false)).collect::<Result<_>>()?;
        let follows =
            |name: &str| self.config.batch_output.iter().any(|batch| batch.target_name.iter().any(|it| it == name));
        let scattered = self.tensors.output_names().enumerate().filter(|(_, name)| follows(name));
        let scattered = scattered.map(|(number, _)| number).collect();
        let mut lanes: [Lane; LANES] = [self.lane(&lengths, &outputs)?, self.lane(&lengths, &outputs)?];
        clear_inputs(&lanes, engine, &streams.compute).map_err(|error| {
            Error::internal(format!("unable to set memory of inputs to zero for {}: {error}", self.name))
        })?;
        self.capture(&mut lanes, &mut contexts, &streams);
        let of_tensors = lengths.iter().flatten().sum::<usize>() * LANES;
        let of_contexts = self.loaded.engine.context_memory() * contexts.len();
        Ok(TensorRtRunner {
            name: self.name.to_owned(),
            contexts,
            lanes,
            streams,
            inputs,
            outputs,
            scattered,
            has_rows: self.config.max_batch_size > 0,
            takes_larger_graphs: graphs::may_take_larger(self.config),
            pins: self.execution.pins,
            device: self.device.clone(),
            health: self.health.clone(),
            _held: Held::of(self.sum, of_tensors + of_contexts),
            loaded: self.loaded.clone(),
        })
    }

    fn context(&self, number: usize, stream: &Stream) -> Result<Profiled> {
        take_last_error(); // of earlier calls
        let words = || take_last_error().unwrap_or_else(|| "TensorRT does not say why".into());
        let context = self.loaded.engine.context(self.execution.strategy);
        let mut context =
            context.ok_or_else(|| Error::internal(format!("unable to create TensorRT context: {}", words())))?;
        if number != 0 {
            let is_set = context.set_profile(i32::try_from(number).unwrap_or(i32::MAX), stream);
            if !is_set || stream.synchronize().is_err() {
                let most = self.loaded.description.profiles.len() - 1;
                return Err(Error::invalid_argument(format!(
                    "Can not set the specified optimization profile {number}[{number}] for {}. Expected optimization profile index range \
                     0-{most}",
                    self.name
                )));
            }
        }
        Ok(Profiled { number, context })
    }

    /// The largest shapes of inputs that a profile and the configuration allow.
    fn largest(&self, profile: usize) -> Vec<(usize, Shape)> {
        let engine = &self.loaded.description;
        let ranges = engine.profiles[profile].ranges.iter();
        let inputs = engine.tensors.iter().zip(ranges).enumerate().filter(|(_, (io, _))| io.is_input);
        inputs.map(|(number, (io, range))| (number, buffers::largest(self.config, io, range.as_ref()))).collect()
    }

    fn lengths(&self, contexts: &mut [Profiled]) -> Result<Lengths> {
        let engine = &self.loaded.description;
        let mut lengths: Lengths = vec![Some(0); engine.tensors.len()];
        let mut grow = |number: usize, length: Option<usize>| {
            lengths[number] = lengths[number].zip(length).map(|(known, length)| known.max(length));
        };
        for profiled in contexts {
            let ranges = &engine.profiles[profiled.number].ranges;
            let largest = self.largest(profiled.number);
            for (number, shape) in &largest {
                let io = &engine.tensors[*number];
                let length = buffers::bytes(io, shape).ok_or_else(|| {
                    Error::internal(format!("unable to calculate size for input '{}' for {}", io.text, self.name))
                })?;
                grow(*number, Some(length));
            }
            let places = shapes_of_largest(engine, ranges)?;
            runner::prepare(
                profiled,
                &places,
                engine,
                largest.iter().map(|(number, shape)| (*number, shape)),
                self.name,
            )?;
            for (number, io) in engine.tensors.iter().enumerate().filter(|(_, io)| !io.is_input) {
                if io.is_shape {
                    grow(number, buffers::bytes(io, &io.shape));
                    continue;
                }
                let shape = profiled.context.tensor_shape(&io.name);
                let known = shape.and_then(|shape| buffers::bytes(io, &shape));
                let most = profiled.context.max_output_size(&io.name).unwrap_or(0);
                grow(number, known.map(|known| known.max(most)));
            }
        }
        Ok(lengths)
    }

    fn lane(&self, lengths: &Lengths, outputs: &[usize]) -> Result<Lane> {
        let (gpu, engine) = (&self.loaded.gpu, &self.loaded.description);
        let place = |(io, length): (&Io, &Option<usize>)| {
            let Some(length) = *length else { return Ok(Place::Asked) };
            if io.is_on_host {
                return Ok(Place::on_host(length));
            }
            DeviceMemory::new(gpu, length).map(Place::Device).map_err(|error| {
                let (side, name) = (io.side(), &io.text);
                Error::internal(format!(
                    "unable to allocate memory for {side} '{name}' for {}: {length} bytes: {error}",
                    self.name
                ))
            })
        };
        let event = |waits_busily| {
            Event::new(gpu, waits_busily)
                .map_err(|error| Error::internal(format!("unable to create CUDA event for {}: {error}", self.name)))
        };
        let result = |&number: &usize| HostMemory::new(gpu, lengths[number].unwrap_or(0), self.execution.pins.1);
        Ok(Lane {
            places: engine.tensors.iter().zip(lengths).map(place).collect::<Result<_>>()?,
            results: outputs.iter().map(result).collect(),
            fed: event(false)?,
            begun: event(true)?, // it is waited for while nothing else runs: as long as inputs are copied
            computed: event(false)?,
            done: event(self.execution.waits_busily)?,
            graphs: self.profiles.iter().map(|_| Vec::new()).collect(),
            answers: Vec::new(),
        })
    }

    /// Captures the runs that the configuration asks for. What cannot be captured runs without a graph.
    fn capture(&self, lanes: &mut [Lane], contexts: &mut [Profiled], streams: &Streams) {
        let engine = &self.loaded.description;
        if self.execution.graphs.is_empty() {
            return;
        }
        if engine.tensors.iter().any(|io| io.is_shape) {
            return tracing::warn!("Detected shape tensor, CUDA graph is not captured for {}", self.name);
        }
        for wanted in &self.execution.graphs {
            for (place, profiled) in contexts.iter_mut().enumerate() {
                for lane in &mut *lanes {
                    match self.captured(wanted, lane, profiled, &streams.compute) {
                        Ok(captured) => {
                            lane.graphs[place].push(captured);
                            tracing::debug!("captured CUDA graph for {}, batch size {}", self.name, wanted.batch_size);
                        }
                        Err(error) => tracing::warn!("unable to record CUDA graph for {}: {error}", self.name),
                    }
                }
            }
        }
    }

    fn captured(&self, wanted: &Wanted, lane: &Lane, profiled: &mut Profiled, stream: &Stream) -> Result<Captured> {
        let engine = &self.loaded.description;
        let is_flat = |name: &str| buffers::is_flat(self.config, engine, name);
        let key = wanted.key(engine, &engine.profiles[profiled.number], is_flat, self.name)?;
        self.check_room(&key, lane)?;
        let inputs = engine.tensors.iter().enumerate().filter(|(_, io)| io.is_input);
        let shapes: Vec<(usize, &Shape)> = inputs.map(|(number, _)| number).zip(&key.shapes).collect();
        runner::prepare(profiled, &lane.places, engine, shapes.into_iter(), self.name)?;
        // The first run of new shapes does what cannot be captured.
        runner::enqueue(profiled, stream, self.name)?;
        stream.synchronize().map_err(|error| Error::internal(error.to_string()))?;
        let graph = Graph::capture(stream, || runner::enqueue(profiled, stream, self.name))?;
        let shape = |io: &Io| if io.is_input { Some(Shape::new()) } else { profiled.context.tensor_shape(&io.name) };
        let shapes = engine.tensors.iter().map(shape).collect::<Option<_>>();
        let shapes = shapes.ok_or_else(|| Error::internal("an output has no shape"))?;
        Ok(Captured { key, graph, shapes })
    }

    /// Checks that the inputs of a graph are no larger than the memory there is.
    fn check_room(&self, key: &Key, lane: &Lane) -> Result<()> {
        let inputs = self.loaded.description.tensors.iter().zip(&lane.places).filter(|(io, _)| io.is_input);
        for ((io, place), shape) in inputs.zip(&key.shapes) {
            let held = match place {
                Place::Device(memory) => memory.len(),
                Place::Host(_) | Place::Asked => continue,
            };
            if buffers::bytes(io, shape).is_none_or(|length| length > held) {
                let text = format!(
                    "graph spec has shape {} for input '{}', which is more than the model takes",
                    shape_text(shape),
                    io.text
                );
                return Err(Error::invalid_argument(text));
            }
        }
        Ok(())
    }
}

/// Sets what inputs lie in to zero: the runs that are captured read it, and may take it for places in a table.
fn clear_inputs(lanes: &[Lane], engine: &Description, stream: &Stream) -> std::result::Result<(), CudaError> {
    for (io, place) in lanes.iter().flat_map(|lane| engine.tensors.iter().zip(&lane.places)) {
        if let (true, Place::Device(memory)) = (io.is_input, place) {
            memory.clear(stream)?;
        }
    }
    stream.synchronize()
}

/// Places for shape tensors with their largest values; other tensors have none yet.
fn shapes_of_largest(engine: &Description, ranges: &[Option<Range>]) -> Result<Vec<Place>> {
    let place = |(io, range): (&Io, &Option<Range>)| {
        if !io.is_on_host {
            return Ok(Place::Asked);
        }
        let mut place = Place::on_host(buffers::bytes(io, &io.shape).unwrap_or(0));
        if let (true, Some(values)) = (io.is_input, buffers::largest_values(range.as_ref())) {
            place.put(io, values)?;
        }
        Ok(place)
    };
    engine.tensors.iter().zip(ranges).map(place).collect()
}
