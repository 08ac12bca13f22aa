//! What the tests of libraries share: libraries compiled with the system's C compiler, and a model of one, run by hand.
#![allow(dead_code, clippy::unwrap_used)] // each test uses a part of it; what cannot be is a failure of the test

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Weak},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use server_capi::Libraries;
use server_core::{
    backend::{
        Backend, Backends, Device, FoundModel, Health, Host, Instance, Model, ModelSource, Placement, Responses,
    },
    batch::{Batch, Pending},
    completion::{Completion, EndedRequest, Marks, RequestEvents, RequestRecord, ResponseMarks, ResponseOutcome},
    config::{self, Machine, ModelConfig, from_text},
    custom_metrics::CustomMetrics,
    error::{Error, Result},
    request::{InferRequest, VersionChoice},
    responder::{DEFAULT_SLOT_BYTES, Replies, Reply},
    stats::FailureReason,
    tensor::{DataType, Tensor},
};

/// How long a test waits for what must come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Compiles `tests/libraries/NAME.c` into that folder as `libtriton_AS.so`.
pub(crate) fn compile(name: &str, as_name: &str, folder: &Path) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = folder.join(format!("libtriton_{as_name}.so"));
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(&compiler);
    command
        .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread", "-DONE_INSTANCE_AT_A_TIME", "-o"])
        .arg(&path);
    command.arg("-I").arg(here.join("include")).arg(here.join(format!("tests/libraries/{name}.c")));
    let output = command.output().unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    path
}

/// A server has no backend but libraries.
pub(crate) struct NothingBuiltIn;

impl Backends for NothingBuiltIn {
    fn find(&self, name: &str, _runtime: &str, _source: &ModelSource) -> Result<Arc<dyn Backend>> {
        Err(Error::invalid_argument(format!("unable to find backend library for backend '{name}'")))
    }
}

/// Libraries of a backend directory of their own.
pub(crate) struct Directory {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) libraries: Libraries,
}

/// A backend directory with those libraries, by the name of their source and that of the backend.
pub(crate) fn directory(libraries: &[(&str, &str)]) -> Directory {
    let folder = tempfile::tempdir().unwrap();
    for (source, name) in libraries {
        let of_backend = folder.path().join(name);
        fs::create_dir(&of_backend).unwrap();
        compile(source, name, &of_backend);
    }
    let libraries = Libraries::new(
        Arc::new(NothingBuiltIn),
        BTreeMap::new(),
        folder.path().to_owned(),
        /* auto_complete */ true,
    );
    Directory { folder, libraries }
}

/// A model that lies in a folder that is not there.
pub(crate) fn source() -> ModelSource {
    let nowhere = PathBuf::from("/nonexistent/m");
    ModelSource { version_dir: nowhere.join("1"), model_dir: nowhere, name: "m".into(), version: 1 }
}

/// A loaded model with one instance, and what was counted of it.
pub(crate) struct Served {
    pub(crate) config: Arc<ModelConfig>,
    pub(crate) instance: Box<dyn Instance>,
    pub(crate) model: Box<dyn Model>,
    pub(crate) events: Arc<Recorder>,
}

impl Directory {
    /// Loads a model of that configuration.
    pub(crate) fn load(&self, config: &str) -> Result<Served> {
        let mut config = from_text(config).unwrap();
        let backend = self.libraries.find(&config.backend, &config.runtime, &source())?;
        config.name = "m".into();
        let machine = Machine::default();
        backend.prepare(&mut config, &machine);
        let host: Weak<dyn Host> = Weak::<NoHost>::new();
        let mut model = backend.open(&source(), &mut config, true, &host)?;
        config::normalize(&mut config, &machine);
        let config = Arc::new(config);
        model.configure(&config)?;
        let placement = Placement { instance_name: "m_0_0".into(), device: Device::Cpu, cores: None };
        let instance = model.instance(&placement, &Health::default())?;
        Ok(Served { config, instance, model, events: Arc::default() })
    }
}

impl Served {
    /// Runs requests together; gives the way to their answers.
    pub(crate) fn run(&mut self, requests: impl IntoIterator<Item = InferRequest>) -> Vec<Answers> {
        let mut answers = Vec::new();
        self.run_with(requests, |way| answers.push(way));
        answers
    }

    /// The same, and gives the ways before they run.
    pub(crate) fn run_with(&mut self, requests: impl IntoIterator<Item = InferRequest>, mut give: impl FnMut(Answers)) {
        let now = Instant::now();
        let pending = requests.into_iter().map(|request| {
            let record = RequestRecord { received_at: now, queued_at: now, batch_size: 1 };
            let (completion, replies) = Completion::new(record, self.events.clone(), DEFAULT_SLOT_BYTES);
            give(Answers(replies));
            Pending { request, completion }
        });
        let batch = Batch::new(pending.collect(), now);
        self.instance.execute(batch);
    }

    /// Runs one request; its only answer.
    pub(crate) fn ask(&mut self, request: InferRequest) -> Reply {
        self.run([request]).remove(0).next().expect("an answer")
    }
}

/// The answers to one request.
pub(crate) struct Answers(Replies);

impl Answers {
    /// The next one, or `None` after the last.
    pub(crate) fn next(&mut self) -> Option<Reply> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.0.poll_next(&mut Context::from_waker(&waker)) {
                Poll::Ready(reply) => return reply,
                Poll::Pending => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    assert!(!left.is_zero(), "no answer in time");
                    thread::park_timeout(left);
                }
            }
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits until that holds.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What was counted.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Counts>);

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) executed_rows: Vec<u64>,
    pub(crate) succeeded: u32,
    pub(crate) failed: u32,
    pub(crate) responses: u32,
    pub(crate) released: usize,
    pub(crate) rescheduled: u32,
}

impl Recorder {
    pub(crate) fn counts(&self) -> Counts {
        self.0.lock().clone()
    }
}

impl RequestEvents for Recorder {
    fn batch_ended(&self, _: &[Pending], _: &[Reply], _: &Marks) {
        panic!("libraries answer request by request");
    }

    fn executed(&self, rows: u64, marks: &Marks) {
        assert!(marks.start <= marks.input_end && marks.output_start <= marks.end);
        self.0.lock().executed_rows.push(rows);
    }

    fn responded(&self, _: &RequestRecord, index: u32, _: ResponseOutcome, _: &ResponseMarks) {
        let mut counts = self.0.lock();
        assert_eq!(index, counts.responses);
        counts.responses += 1;
    }

    fn ended(&self, _: EndedRequest<'_>, outcome: Result<(), FailureReason>, _: Option<&Marks>, _: Instant) {
        let mut counts = self.0.lock();
        match outcome {
            Ok(()) => counts.succeeded += 1,
            Err(_) => counts.failed += 1,
        }
    }

    fn released(&self, count: usize) {
        self.0.lock().released += count;
    }

    fn rescheduled(&self, request: Pending, _: Option<&Marks>) {
        self.0.lock().rescheduled += 1;
        request.completion.reject(FailureReason::Other, Error::internal("again"));
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

struct NoHost;

impl Host for NoHost {
    fn infer(&self, _: InferRequest) -> Result<Box<dyn Responses>> {
        Err(Error::internal("there is no server"))
    }

    fn load_model(&self, _: &str, _: &str, _: Option<String>, _: Vec<(String, bytes::Bytes)>) -> Result<()> {
        Err(Error::internal("there is no server"))
    }

    fn unload_model(&self, _: &str, _: &str, _: bool) -> Result<()> {
        Err(Error::internal("there is no server"))
    }

    fn find_model(&self, _: &str, _: VersionChoice) -> Result<FoundModel> {
        Err(Error::internal("there is no server"))
    }

    fn is_model_ready(&self, _: &str, _: VersionChoice) -> Result<bool> {
        Ok(false)
    }

    fn custom_metrics(&self) -> &CustomMetrics {
        unreachable!("the host is never there")
    }
}

/// A request with those numbers as `INPUT0`.
pub(crate) fn request(values: &[i32]) -> InferRequest {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = [values.len() as i64][..].into();
    let input = Tensor { name: "INPUT0".into(), data_type: DataType::Int32, shape, data: data.into() };
    InferRequest {
        model_name: "m".into(),
        model_version: VersionChoice::Latest,
        id: String::new(),
        inputs: [input].into_iter().collect(),
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

/// The numbers of the only output.
pub(crate) fn values(reply: &Reply) -> Vec<i32> {
    let outputs = reply.as_ref().expect("a response");
    assert_eq!(outputs.tensors.len(), 1);
    let bytes = outputs.tensors[0].data.as_host().unwrap();
    bytes.chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// The configuration of a model of that backend, with more in it.
pub(crate) fn config(backend: &str, more: &str) -> String {
    format!(
        "backend: '{backend}' input {{ name: 'INPUT0' data_type: TYPE_INT32 dims: [-1] }} \
         output {{ name: 'OUTPUT0' data_type: TYPE_INT32 dims: [-1] }} {more}"
    )
}
