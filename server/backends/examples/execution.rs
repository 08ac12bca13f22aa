//! Question: what does one execution through the backend contract cost over the same run made straight through the C
//! interface of ONNX Runtime?
//!
//! `cargo run --release -p server-backends --example execution -- MODEL.onnx` with `ORT_DYLIB_PATH` set. The model has one
//! FP32 input and one output, and batches. For each batch size: medians of several rounds, and their spread, in
//! microseconds per execution.

#![allow(unsafe_code, clippy::print_stdout, clippy::undocumented_unsafe_blocks)]

use std::{
    error::Error,
    ffi::CString,
    hint::black_box,
    path::Path,
    ptr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ort::sys;
use server_core::{
    backend::{Backends, Device, FoundModel, Health, Host, ModelSource, Placement, Responses},
    batch::{Batch, Pending},
    completion::{Completion, EndedRequest, Marks, RequestEvents, RequestRecord, ResponseMarks, ResponseOutcome},
    config::ModelConfig,
    custom_metrics::CustomMetrics,
    request::{InferRequest, VersionChoice},
    responder::{DEFAULT_SLOT_BYTES, Replies, Reply},
    stats::FailureReason,
    tensor::{DataType, Name, Shape, Tensor},
};

const ROUNDS: usize = 15;
const EXECUTIONS: usize = 3000;

/// Counts nothing, and serves as the server that is not there.
#[derive(Default)]
struct Nobody(CustomMetrics);

impl RequestEvents for Nobody {
    fn batch_ended(&self, _: &[Pending], replies: &[Reply], _: &Marks) {
        assert!(replies.iter().all(Result::is_ok));
    }
    fn executed(&self, _: u64, _: &Marks) {}
    fn responded(&self, _: &RequestRecord, _: u32, _: ResponseOutcome, _: &ResponseMarks) {}
    fn ended(&self, _: EndedRequest<'_>, _: Result<(), FailureReason>, _: Option<&Marks>, _: Instant) {}
    fn released(&self, _: usize) {}
    fn rescheduled(&self, _: Pending, _: Option<&Marks>) {}
    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl Host for Nobody {
    fn infer(&self, _: InferRequest) -> server_core::error::Result<Box<dyn Responses>> {
        Err(server_core::error::Error::unavailable("there is no server"))
    }

    fn load_model(
        &self,
        _: &str,
        _: &str,
        _: Option<String>,
        _: Vec<(String, Bytes)>,
    ) -> server_core::error::Result<()> {
        Err(server_core::error::Error::unavailable("there is no server"))
    }

    fn unload_model(&self, _: &str, _: &str, _: bool) -> server_core::error::Result<()> {
        Err(server_core::error::Error::unavailable("there is no server"))
    }

    fn custom_metrics(&self) -> &CustomMetrics {
        &self.0
    }

    fn find_model(&self, _: &str, _: VersionChoice) -> server_core::error::Result<FoundModel> {
        Err(server_core::error::Error::unavailable("there is no server"))
    }

    fn is_model_ready(&self, _: &str, _: VersionChoice) -> server_core::error::Result<bool> {
        Err(server_core::error::Error::unavailable("there is no server"))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: execution MODEL.onnx")?;
    let path = Path::new(&path);
    let folder = path.parent().ok_or("no folder")?.to_path_buf();
    let source = ModelSource { model_dir: folder.clone(), version_dir: folder, name: "m".into(), version: 1 };
    let file = path.file_name().ok_or("no file")?.to_string_lossy().into_owned();
    let mut config = ModelConfig { name: "m".into(), default_model_filename: file, ..ModelConfig::default() };
    let backend = server_backends::all(&Default::default()).find("onnxruntime", "", &source)?;
    let host: Weak<dyn Host> = Weak::<Nobody>::new();
    let mut model = backend.open(&source, &mut config, true, &host)?;
    config.max_batch_size = 64;
    let (input, output) = (config.input[0].clone(), config.output[0].clone());
    model.configure(&Arc::new(config))?;
    let placement = Placement { instance_name: "m_0_0".into(), device: Device::Cpu, cores: None };
    let mut instance = model.instance(&placement, &Health::default())?;
    let width = input.dims.iter().product::<i64>() as usize;
    let mut raw = Raw::new(path, &input.name, &output.name)?;
    println!("{:>6} {:>22} {:>22} {:>8}", "batch", "raw us", "contract us", "over us");
    for requests in [1usize, 4, 16, 64] {
        let values = vec![0.5f32; requests * width];
        let straight = measure(|| raw.run(&values, requests, width));
        let one = Bytes::from(values[..width].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        let (name, dims) = (Name::from(input.name.as_str()), &input.dims);
        let events: Arc<dyn RequestEvents> = Arc::new(Nobody::default());
        let mut round = |_| {
            let mut spent = Duration::ZERO;
            for _ in 0..EXECUTIONS {
                let pending = (0..requests).map(|_| pending(&name, dims, &one, &events));
                let (pending, callers): (Vec<_>, Vec<_>) = pending.unzip();
                let batch = Batch::new(pending, Instant::now());
                let start = Instant::now();
                instance.execute(batch);
                spent += start.elapsed();
                drop(callers); // whoever waits drops the answer, not the instance
            }
            spent.as_secs_f64() * 1e6 / EXECUTIONS as f64
        };
        let through = (0..ROUNDS + 1).map(&mut round).collect();
        let through = Spread::of(through);
        println!("{requests:>6} {straight:>22} {through:>22} {:>8.2}", through.median - straight.median);
    }
    Ok(())
}

fn pending(name: &Name, dims: &[i64], data: &Bytes, events: &Arc<dyn RequestEvents>) -> (Pending, Replies) {
    let mut shape = Shape::from_slice(&[1]);
    shape.extend_from_slice(dims);
    let tensor = Tensor { name: name.clone(), data_type: DataType::Fp32, shape, data: data.clone().into() };
    let request = InferRequest {
        model_name: name.clone(),
        model_version: VersionChoice::Latest,
        id: String::new(),
        inputs: [tensor].into_iter().collect(),
        outputs: Default::default(),
        parameters: Vec::new(),
        sequence: None,
        priority: 0,
        timeout: None,
        received_at: Instant::now(),
        callers: None,
        trace: None,
    };
    let record = RequestRecord { received_at: request.received_at, queued_at: Instant::now(), batch_size: 1 };
    let (completion, replies) = Completion::new(record, events.clone(), DEFAULT_SLOT_BYTES);
    (Pending { request, completion }, replies)
}

struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut rounds: Vec<f64>) -> Self {
        rounds.remove(0); // warm-up
        rounds.sort_by(f64::total_cmp);
        Self { median: rounds[rounds.len() / 2], least: rounds[0], most: rounds[rounds.len() - 1] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:.2} ({:.2} to {:.2})", self.median, self.least, self.most))
    }
}

fn measure(mut once: impl FnMut()) -> Spread {
    let round = |_| {
        let start = Instant::now();
        (0..EXECUTIONS).for_each(|_| once());
        start.elapsed().as_secs_f64() * 1e6 / EXECUTIONS as f64
    };
    Spread::of((0..ROUNDS + 1).map(round).collect())
}

/// The least a run can be: one tensor over memory that is there, `Run`, release.
struct Raw {
    session: *mut sys::OrtSession,
    memory: *mut sys::OrtMemoryInfo,
    input: CString,
    output: CString,
}

impl Raw {
    /// The library is open already; its environment is one for the process.
    fn new(path: &Path, input: &str, output: &str) -> Result<Self, Box<dyn Error>> {
        let api = ort::api();
        let threads = std::thread::available_parallelism()?.get() as i32;
        let path = CString::new(path.to_str().ok_or("an odd path")?)?;
        let (mut environment, mut options) = (ptr::null_mut(), ptr::null_mut());
        let (mut session, mut memory) = (ptr::null_mut(), ptr::null_mut());
        let level = sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING;
        let (kind, place) = (sys::OrtAllocatorType::OrtDeviceAllocator, sys::OrtMemType::OrtMemTypeDefault);
        let spinning = c"session.intra_op.allow_spinning".as_ptr();
        let statuses = unsafe {
            [
                (api.CreateEnv)(level, c"raw".as_ptr(), &mut environment),
                (api.CreateSessionOptions)(&mut options),
                (api.SetIntraOpNumThreads)(options, threads),
                (api.AddSessionConfigEntry)(options, spinning, c"0".as_ptr()),
                (api.CreateSession)(environment, path.as_ptr(), options, &mut session),
                (api.CreateCpuMemoryInfo)(kind, place, &mut memory),
            ]
        };
        assert!(statuses.iter().all(|status| status.0.is_null()));
        Ok(Self { session, memory, input: CString::new(input)?, output: CString::new(output)? })
    }

    fn run(&mut self, values: &[f32], rows: usize, width: usize) {
        let (api, shape) = (ort::api(), [rows as i64, width as i64]);
        let (mut input, mut output) = (ptr::null_mut(), ptr::null_mut());
        unsafe {
            let status = (api.CreateTensorWithDataAsOrtValue)(
                self.memory,
                values.as_ptr().cast_mut().cast(),
                size_of_val(values),
                shape.as_ptr(),
                2,
                sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                &mut input,
            );
            assert!(status.0.is_null());
            let (inputs, names) = ([input.cast_const()], [self.input.as_ptr()]);
            let outputs = [self.output.as_ptr()];
            let status = (api.Run)(
                self.session,
                ptr::null(),
                names.as_ptr(),
                inputs.as_ptr(),
                1,
                outputs.as_ptr(),
                1,
                &mut output,
            );
            assert!(status.0.is_null());
            black_box(output);
            (api.ReleaseValue)(input);
            (api.ReleaseValue)(output);
        }
    }
}
