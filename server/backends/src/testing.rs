//! What tests of backends share: requests made by hand, batches run through the contract, and the question whether the
//! runtime library is there.

use std::{
    env,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Instant,
};

use parking_lot::Mutex;
use server_core::{
    backend::{Device, FoundModel, Host, Instance, ModelSource, Placement, Responses, Settings},
    batch::{Batch, Pending},
    buffer::Buffer,
    completion::{Completion, EndedRequest, Marks, RequestEvents, RequestRecord, ResponseMarks, ResponseOutcome},
    custom_metrics::CustomMetrics,
    error::Error,
    request::{InferRequest, RequestedOutput, VersionChoice},
    responder::{DEFAULT_SLOT_BYTES, Replies, Reply},
    response::Outputs,
    stats::FailureReason,
    tensor::{DataType, Tensor},
};

/// The library for tests: `ORT_DYLIB_PATH`, or what the project's set-up put into `.venv`. Without one the test is
/// skipped with a line that says so; where `CI` promises it, it fails.
pub(crate) fn onnxruntime_settings() -> Option<Settings> {
    let found = env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).or_else(in_virtual_environment);
    match found {
        Some(path) => Some(Settings::from([("library".to_owned(), path.display().to_string())])),
        None if env::var("CI").is_ok_and(|value| value == "true") => {
            panic!("ONNX Runtime is missing: set ORT_DYLIB_PATH")
        }
        None => {
            println!("skipped: no ONNX Runtime: set ORT_DYLIB_PATH, or install the package onnxruntime into .venv");
            None
        }
    }
}

fn in_virtual_environment() -> Option<PathBuf> {
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/lib").read_dir().ok()?;
    let folders = libraries.flatten().map(|python| python.path().join("site-packages/onnxruntime/capi"));
    let files = folders.filter_map(|folder| folder.read_dir().ok()).flat_map(|entries| entries.flatten());
    files
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so")))
}

/// The setting `library` with a runtime for tests: the file or folder that `variable` names, or `installed` below target/runtimes, where
/// e2e/runtimes/install puts it. Without one the test is skipped with a line that says so; where `CI` promises it, on x86_64, it fails.
pub(crate) fn runtime_settings(variable: &str, installed: &str) -> Option<Settings> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/runtimes").join(installed);
    let found = env::var_os(variable).map(PathBuf::from).or_else(|| place.exists().then_some(place));
    if let Some(path) = found {
        return Some(Settings::from([("library".to_owned(), path.display().to_string())]));
    }
    let is_promised = cfg!(target_arch = "x86_64") && env::var("CI").is_ok_and(|value| value == "true");
    assert!(!is_promised, "a runtime is missing: set {variable}");
    println!("skipped: no target/runtimes/{installed}: set {variable}, or run e2e/runtimes/install");
    None
}

/// The library that an example of this crate is built into, with its tests. Where only some of them were built the test is skipped
/// with a line that says so; where `CI` promises it, it fails.
pub(crate) fn example(name: &str) -> Option<String> {
    let tests = env::current_exe().expect("a test has a file");
    let built = tests.parent()?.parent()?.join(format!("examples/lib{name}.so"));
    if built.exists() {
        return Some(built.display().to_string());
    }
    assert!(!env::var("CI").is_ok_and(|value| value == "true"), "{} is missing", built.display());
    println!("skipped: {} is missing: cargo build -p server-backends --examples makes it", built.display());
    None
}

/// The folder of the test models, as a model with all its versions in one.
pub(crate) fn source(name: &str) -> ModelSource {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    ModelSource { model_dir: folder.clone(), version_dir: folder, name: name.into(), version: 1 }
}

/// The first instance of a group, on the CPU.
pub(crate) fn on_cpu() -> Placement {
    Placement { instance_name: "m_0_0".into(), device: Device::Cpu, cores: None }
}

/// A tensor of that content.
pub(crate) fn tensor(name: &str, data_type: DataType, shape: &[i64], data: impl Into<Buffer>) -> Tensor {
    Tensor { name: name.into(), data_type, shape: shape.into(), data: data.into() }
}

/// An FP32 tensor.
pub(crate) fn floats(name: &str, shape: &[i64], values: &[f32]) -> Tensor {
    tensor(name, DataType::Fp32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

/// A request for all outputs.
pub(crate) fn request(inputs: impl IntoIterator<Item = Tensor>) -> InferRequest {
    InferRequest {
        model_name: "m".into(),
        model_version: VersionChoice::Latest,
        id: String::new(),
        inputs: inputs.into_iter().collect(),
        outputs: Default::default(),
        parameters: Vec::new(),
        sequence: None,
        priority: 0,
        timeout: None,
        received_at: Instant::now(),
        callers: None,
        trace: None,
    }
}

/// The same request for some outputs.
pub(crate) fn asking_for(names: &[&str], request: InferRequest) -> InferRequest {
    let wanted = |name: &&str| RequestedOutput::values(*name);
    InferRequest { outputs: names.iter().map(wanted).collect(), ..request }
}

/// Records every execution it observes.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<(usize, Marks)>>);

impl RequestEvents for Recorder {
    fn batch_ended(&self, requests: &[Pending], replies: &[Reply], marks: &Marks) {
        assert_eq!(requests.len(), replies.len());
        self.0.lock().push((requests.len(), *marks));
    }

    fn executed(&self, _rows: u64, _marks: &Marks) {}

    fn responded(&self, _: &RequestRecord, _index: u32, _outcome: ResponseOutcome, _marks: &ResponseMarks) {}

    fn ended(&self, _: EndedRequest<'_>, outcome: Result<(), FailureReason>, _: Option<&Marks>, _: Instant) {
        assert!(outcome.is_ok(), "a request was dropped");
    }

    fn released(&self, _count: usize) {}

    fn rescheduled(&self, _request: Pending, _: Option<&Marks>) {}

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A server that is not there: for backends that ask nobody.
pub(crate) fn no_host() -> Weak<dyn Host> {
    struct Nobody(CustomMetrics);
    impl Host for Nobody {
        fn infer(&self, _request: InferRequest) -> Result<Box<dyn Responses>, Error> {
            Err(Error::unavailable("there is no server"))
        }

        fn load_model(&self, _: &str, _: &str, _: Option<String>, _: Vec<(String, bytes::Bytes)>) -> Result<(), Error> {
            Err(Error::unavailable("there is no server"))
        }

        fn unload_model(&self, _: &str, _: &str, _: bool) -> Result<(), Error> {
            Err(Error::unavailable("there is no server"))
        }

        fn custom_metrics(&self) -> &CustomMetrics {
            &self.0
        }

        fn find_model(&self, _: &str, _: VersionChoice) -> Result<FoundModel, Error> {
            Err(Error::unavailable("there is no server"))
        }

        fn is_model_ready(&self, _: &str, _: VersionChoice) -> Result<bool, Error> {
            Err(Error::unavailable("there is no server"))
        }
    }
    Weak::<Nobody>::new()
}

/// Runs the requests as one batch: their replies, after checking that each has exactly one and that time went forward.
pub(crate) fn run_batch(instance: &mut dyn Instance, requests: Vec<(u32, InferRequest)>) -> (Vec<Reply>, Marks) {
    let count = requests.len();
    let recorder = Arc::new(Recorder::default());
    let (pending, callers): (Vec<Pending>, Vec<Replies>) = requests
        .into_iter()
        .map(|(batch_size, request)| {
            let record = RequestRecord { received_at: request.received_at, queued_at: Instant::now(), batch_size };
            let (completion, replies) = Completion::new(record, recorder.clone(), DEFAULT_SLOT_BYTES);
            (Pending { request, completion }, replies)
        })
        .unzip();
    instance.execute(Batch::new(pending, Instant::now()));

    let executions = recorder.0.lock();
    let [(observed, marks)] = executions.as_slice() else { panic!("{} executions were observed", executions.len()) };
    assert_eq!(*observed, count);
    assert!(marks.start <= marks.input_end && marks.input_end <= marks.output_start && marks.output_start <= marks.end);
    (callers.into_iter().map(only_reply).collect(), *marks)
}

/// Runs one request of a model without a batch dimension.
pub(crate) fn run_one(instance: &mut dyn Instance, request: InferRequest) -> Result<Outputs, Error> {
    let (mut replies, _) = run_batch(instance, vec![(1, request)]);
    replies.remove(0)
}

/// The reply, and that there is no other.
pub(crate) fn only_reply(mut replies: Replies) -> Reply {
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Some(reply)) = replies.poll_next(&mut context) else { panic!("a request got no reply") };
    assert!(matches!(replies.poll_next(&mut context), Poll::Ready(None)), "a request got more than one end");
    reply
}

/// The output of that name.
#[track_caller]
pub(crate) fn output<'a>(outputs: &'a Outputs, name: &str) -> &'a Tensor {
    outputs.tensors.iter().find(|tensor| &*tensor.name == name).unwrap_or_else(|| panic!("no output {name}"))
}

/// Bytes of a tensor.
pub(crate) fn bytes(tensor: &Tensor) -> &[u8] {
    tensor.data.as_host().expect("tests run on the host")
}

/// Values of an FP32 tensor.
#[track_caller]
pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.data_type, DataType::Fp32);
    bytes(tensor).chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().expect("four bytes"))).collect()
}
