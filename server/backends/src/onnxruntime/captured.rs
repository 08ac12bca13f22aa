//! Runs whose work on the GPU is captured once and then replayed (`enable_cuda_graph` of CUDA, `trt_cuda_graph_enable` of TensorRT).
//! A replay reads and writes the memory it was captured with, so inputs and outputs of every shape have tensors of their own on the
//! device, to which and from which each run copies.
//!
//! The first run of a shape is an ordinary one, which shows what shapes the outputs have. Runs that come after the [`MOST`] shapes
//! that are kept stay ordinary, and so do those with strings.
//!
//! Source: ONNX Runtime, "CUDA Execution Provider", Using CUDA Graphs; onnxruntime_run_options_config_keys.h, `gpu_graph_id`.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    ptr::{self, NonNull},
    sync::Arc,
};

use ort::{
    AsPointer,
    session::{RunOptions, SharedSessionInner},
    sys,
};
use server_core::tensor::{DataType, Shape};

use super::{
    allocator::{Allocator, describe},
    device_copy::Device,
    raw::{Failure, Value, Values, check},
};

/// Most shapes of a session that are captured: each keeps memory of the device.
const MOST: usize = 32;
/// The option that says which captured run this is.
const GRAPH: &str = "gpu_graph_id";

/// The captured runs of one session.
pub(super) struct Captured {
    device: Device,
    make_options: Box<dyn Fn() -> Result<RunOptions, Failure> + Send>,
    /// Runs that are not captured.
    ordinary: RunOptions,
    runs: Vec<Run>,
    /// Made with the first of them, and given up after all: their tensors give their memory back to it.
    allocator: Option<Allocator>,
    /// No more runs are captured.
    is_full: bool,
}

/// What one captured run is for, and its tensors.
struct Run {
    inputs: Vec<(usize, DataType, Shape)>,
    outputs: Vec<usize>,
    bound: Bound,
}

struct Bound {
    options: RunOptions,
    binding: Binding,
    inputs: Vec<Value<'static>>,
    outputs: Vec<(DataType, Shape, Value<'static>)>,
}

// SAFETY: binding and options are plain objects without thread affinity, and used through `&mut` only.
unsafe impl Send for Captured {}

impl Captured {
    /// `make_options`: those of every run of the session.
    pub(super) fn new(
        device: Device,
        make_options: impl Fn() -> Result<RunOptions, Failure> + Send + 'static,
    ) -> Result<Self, Failure> {
        let ordinary = numbered(make_options()?, "-1")?;
        Ok(Self {
            device,
            make_options: Box::new(make_options),
            ordinary,
            runs: Vec::new(),
            allocator: None,
            is_full: false,
        })
    }

    /// Options of a run that is not captured.
    pub(super) fn ordinary(&self) -> &RunOptions {
        &self.ordinary
    }

    /// Replays the run for inputs and outputs like these, if there is one.
    pub(super) fn replay<'a>(
        &mut self,
        session: &Arc<SharedSessionInner>,
        names: &Names<'_>,
        inputs: &[(usize, Value<'_>)],
        outputs: &[usize],
    ) -> Option<Result<Values<'a>, Failure>> {
        let wanted = described(inputs)?;
        let run = self.runs.iter_mut().find(|run| run.inputs == wanted && run.outputs == outputs)?;
        Some(run.bound.replay(&self.device, session, names, inputs, outputs))
    }

    /// Prepares a run for inputs like these, after an ordinary one has made these outputs. Where the device has no memory for it, runs
    /// stay ordinary, and the log says so.
    pub(super) fn prepare(
        &mut self,
        session: &Arc<SharedSessionInner>,
        inputs: &[(usize, Value<'_>)],
        outputs: &[usize],
        made: &Values<'_>,
    ) {
        if self.is_full {
            return;
        }
        if let Err(reason) = self.add(session, inputs, outputs, made) {
            tracing::warn!(%reason, captured = self.runs.len(), "runs of further shapes are not captured");
            self.is_full = true;
        }
        self.is_full |= self.runs.len() >= MOST;
    }

    fn add(
        &mut self,
        session: &Arc<SharedSessionInner>,
        inputs: &[(usize, Value<'_>)],
        outputs: &[usize],
        made: &Values<'_>,
    ) -> Result<(), Failure> {
        let Some(wanted) = described(inputs) else { return Ok(()) };
        let Some(given) = made.iter().map(describe).collect::<Option<Vec<_>>>() else { return Ok(()) };
        let allocator = match &mut self.allocator {
            Some(allocator) => allocator,
            none => none.insert(self.device.allocator(session)?),
        };
        let own = |data_type: DataType, shape: &Shape| allocator.tensor(data_type, shape);
        let bound = Bound {
            options: numbered((self.make_options)()?, &(self.runs.len() + 1).to_string())?,
            binding: Binding::new(session)?,
            inputs: wanted.iter().map(|(_, data_type, shape)| own(*data_type, shape)).collect::<Result<_, _>>()?,
            outputs: given
                .into_iter()
                .map(|(data_type, shape)| own(data_type, &shape).map(|value| (data_type, shape, value)))
                .collect::<Result<_, _>>()?,
        };
        self.runs.push(Run { inputs: wanted, outputs: outputs.to_vec(), bound });
        Ok(())
    }

    /// How many runs are captured.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.runs.len()
    }
}

/// Names of a session's tensors, by their numbers.
pub(super) struct Names<'n> {
    pub(super) inputs: &'n [CString],
    pub(super) outputs: &'n [CString],
}

impl Bound {
    fn replay<'a>(
        &mut self,
        device: &Device,
        session: &Arc<SharedSessionInner>,
        names: &Names<'_>,
        inputs: &[(usize, Value<'_>)],
        outputs: &[usize],
    ) -> Result<Values<'a>, Failure> {
        for (kept, (_, given)) in self.inputs.iter().zip(inputs) {
            device.copy_in(kept, given)?;
        }
        device.wait()?;
        // Anew each time: an input that the model reads on the host is copied there when it is bound.
        for (kept, (number, _)) in self.inputs.iter().zip(inputs) {
            self.binding.input(&names.inputs[*number], kept)?;
        }
        for ((.., kept), number) in self.outputs.iter().zip(outputs) {
            self.binding.output(&names.outputs[*number], kept)?;
        }
        // SAFETY: session, options and binding are valid; `&mut self` keeps a second run with these tensors out.
        check(unsafe {
            (ort::api().RunWithBinding)(session.ptr().cast_mut(), self.options.ptr(), self.binding.0.as_ptr())
        })?;
        let out = |(data_type, shape, kept): &(DataType, Shape, Value<'static>)| {
            let answer = Value::on_host(*data_type, shape)?;
            device.copy_out(kept, &answer)?;
            Ok(answer)
        };
        self.outputs.iter().map(out).collect()
    }
}

/// Numbers, types and shapes of inputs; `None` if one has no fixed size.
fn described(inputs: &[(usize, Value<'_>)]) -> Option<Vec<(usize, DataType, Shape)>> {
    inputs.iter().map(|(number, value)| describe(value).map(|(data_type, shape)| (*number, data_type, shape))).collect()
}

fn numbered(mut options: RunOptions, number: &str) -> Result<RunOptions, Failure> {
    options.set(GRAPH, number)?;
    Ok(options)
}

/// Which tensors a run reads and writes.
struct Binding(NonNull<sys::OrtIoBinding>);

impl Binding {
    fn new(session: &Arc<SharedSessionInner>) -> Result<Self, Failure> {
        let mut binding = ptr::null_mut();
        // SAFETY: the session is valid; the call makes a binding that is released when this is dropped.
        check(unsafe { (ort::api().CreateIoBinding)(session.ptr().cast_mut(), &mut binding) })?;
        NonNull::new(binding).map(Self).ok_or_else(|| Failure::without("no binding came back"))
    }

    fn input(&mut self, name: &CStr, value: &Value<'_>) -> Result<(), Failure> {
        // SAFETY: binding, name and value are valid; the binding holds a reference to what is below the value.
        check(unsafe { (ort::api().BindInput)(self.0.as_ptr(), name.as_ptr(), value.as_ptr()) })
    }

    fn output(&mut self, name: &CStr, value: &Value<'_>) -> Result<(), Failure> {
        // SAFETY: as above.
        check(unsafe { (ort::api().BindOutput)(self.0.as_ptr(), name.as_ptr(), value.as_ptr()) })
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: made by CreateIoBinding and released once.
        unsafe { (ort::api().ReleaseIoBinding)(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ort::session::Session;
    use server_core::{backend::Settings, config::ModelConfig};

    use super::{
        super::{library, options::SessionOptions, session::NamedSession},
        *,
    };
    use crate::testing::{onnxruntime_settings, source};

    /// Sum and difference, in runs that are captured on the host.
    fn runner() -> Option<NamedSession> {
        let runtime = library::runtime(&onnxruntime_settings()?).unwrap();
        let options = SessionOptions::read(&ModelConfig::default(), &Settings::new(), Path::new("/m")).unwrap();
        let file = source("m").version_dir.join("add_sub.onnx");
        let session: Session = options.builder(runtime).unwrap().commit_from_file(file).unwrap();
        let captured = Captured::new(Device::Host, || Ok(RunOptions::new()?)).unwrap();
        let names = |names: [&CStr; 2]| names.map(CString::from).into();
        Some(NamedSession::new(
            session.inner(),
            names([c"A", c"B"]),
            names([c"SUM", c"DIFFERENCE"]),
            None,
            Some(captured),
        ))
    }

    #[track_caller]
    fn check(runner: &mut NamedSession, rows: usize, start: f32, outputs: &[usize]) {
        let a: Vec<f32> = (0..4 * rows).map(|index| start + index as f32).collect();
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (a_bytes, b_bytes) = (bytes(&a), bytes(&vec![2.0; a.len()]));
        let value = |bytes| Value::over(bytes, &[rows as i64, 4], DataType::Fp32).unwrap();
        let made = runner.run(&[(0, value(&a_bytes)), (1, value(&b_bytes))], outputs).unwrap();
        assert_eq!(made.len(), outputs.len());
        for (number, made) in outputs.iter().zip(&made) {
            let sign = [1.0, -1.0][*number];
            let expect: Vec<f32> = a.iter().map(|a| a + 2.0 * sign).collect();
            assert_eq!(made.bytes().unwrap(), bytes(&expect), "{rows} rows from {start}, output {number}");
        }
    }

    #[test]
    fn a_replay_answers_for_what_it_is_given_this_time() {
        let Some(mut runner) = runner() else { return };
        for start in [0.0, 10.0, 20.0] {
            for rows in [1, 3] {
                check(&mut runner, rows, start, &[0, 1]);
                check(&mut runner, rows, start + 1.0, &[1]);
            }
        }
        assert_eq!(runner.captured(), 4, "two shapes, and two sets of outputs of each");
    }

    #[test]
    fn shapes_beyond_the_most_are_run_as_they_come() {
        let Some(mut runner) = runner() else { return };
        for start in [0.0, 1.0] {
            (1..MOST + 8).for_each(|rows| check(&mut runner, rows, start, &[0]));
        }
        assert_eq!(runner.captured(), MOST);
    }

    #[test]
    fn a_machine_without_a_driver_is_told_what_to_do() {
        let Err(failure) = Device::gpu(0) else { return };
        let has_driver = !failure.message.contains("libcuda.so.1");
        assert!(has_driver || failure.message.contains("take 'enable_cuda_graph' out"), "{failure}");
    }
}
