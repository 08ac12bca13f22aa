//! A repository in a folder of its own, and requests to what it serves.
#![allow(clippy::unwrap_used)] // helpers of tests: a failure here is the test's
#![allow(dead_code)] // each test file uses a part

pub(crate) mod nested;
pub(crate) mod scripted;

use std::{fs, path::PathBuf, sync::Arc, time::Instant};

use server_core::{
    error::Result,
    interface::ModelId,
    request::{InferRequest, VersionChoice},
    response::InferResponse,
    tensor::{DataType, Tensor, shape_text},
};
use server_engine::{ControlMode, Engine, Inference, Options};
use smallvec::smallvec;

use self::scripted::{Probe, Scripted};

/// A repository that goes when it is dropped.
pub(crate) struct Harness {
    folder: tempfile::TempDir,
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// An identity model of FP32 rows, at most 8 in a batch unless `extra` says otherwise.
    pub(crate) fn model(&self, name: &str, extra: &str, versions: &[u64]) {
        let batch = if extra.contains("max_batch_size") { "" } else { "max_batch_size: 8" };
        let config = format!(
            "backend: \"identity\" {batch} {extra}
            input {{ name: \"INPUT0\" data_type: TYPE_FP32 dims: [ -1 ] }}
            output {{ name: \"OUTPUT0\" data_type: TYPE_FP32 dims: [ -1 ] }}"
        );
        self.write(&format!("{name}/config.pbtxt"), &config);
        for version in versions {
            self.write(&format!("{name}/{version}/.keep"), "");
        }
    }

    /// A model of the scripted backend, otherwise as [`Harness::model`].
    pub(crate) fn scripted(&self, name: &str, script: &str, extra: &str, versions: &[u64]) {
        self.model(name, extra, versions);
        let path = self.folder.path().join(name).join("config.pbtxt");
        let config = fs::read_to_string(&path).unwrap().replace("\"identity\"", "\"scripted\"");
        let parameter = format!("parameters {{ key: \"script\" value {{ string_value: \"{script}\" }} }}\n");
        fs::write(path, config + &parameter).unwrap();
    }

    /// An ensemble of models with one input and one output, as [`Harness::model`] makes them: each step is its model, the
    /// tensor it reads and the tensor it writes. The ensemble takes `IN`.
    pub(crate) fn ensemble(&self, name: &str, steps: &[(&str, &str, &str)], outputs: &[&str], extra: &str) {
        let tensor =
            |side: &str, name: &str| format!("{side} {{ name: '{name}' data_type: TYPE_FP32 dims: [ -1 ] }}\n");
        let outputs: String = outputs.iter().map(|output| tensor("output", output)).collect();
        let steps: String = steps
            .iter()
            .map(|(model, from, to)| {
                format!(
                    "step {{ model_name: '{model}' model_version: -1 input_map {{ key: 'INPUT0' value: '{from}' }} \
                     output_map {{ key: 'OUTPUT0' value: '{to}' }} }}\n"
                )
            })
            .collect();
        let batch = if extra.contains("max_batch_size") { "" } else { "max_batch_size: 8" };
        let (limit, extra) = match extra.strip_prefix("limit ") {
            Some(limit) => (format!("max_inflight_requests: {limit}"), ""),
            None => (String::new(), extra),
        };
        let config = format!(
            "platform: 'ensemble' {batch} {extra}\n{}{outputs}ensemble_scheduling {{ {limit} {steps} }}\n",
            tensor("input", "IN")
        );
        self.write(&format!("{name}/config.pbtxt"), &config);
    }

    /// An engine that controls its models explicitly and has the scripted backend, with what the test sees of that.
    pub(crate) fn with_script(&self) -> (Arc<Engine>, Arc<Probe>) {
        self.with_script_and(Options::default())
    }

    /// The same with other options.
    pub(crate) fn with_script_and(&self, options: Options) -> (Arc<Engine>, Arc<Probe>) {
        let repositories = vec![self.folder.path().to_owned()];
        scripted_engine(Options { repositories, control_mode: ControlMode::Explicit, ..options })
    }

    /// The repository, or what lies in it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn engine(&self, options: Options) -> Arc<Engine> {
        let options = Options { repositories: vec![self.folder.path().to_owned()], ..options };
        Engine::new(options, server_backends::all(&Default::default()))
    }

    pub(crate) fn explicit(&self) -> Arc<Engine> {
        self.engine(Options { control_mode: ControlMode::Explicit, ..Options::default() })
    }
}

/// An engine that has the scripted backend, with what the test sees of that.
pub(crate) fn scripted_engine(options: Options) -> (Arc<Engine>, Arc<Probe>) {
    let probe = Arc::new(Probe::default());
    (Engine::new(options, Arc::new(Scripted { probe: probe.clone() })), probe)
}

pub(crate) fn id(name: &str) -> ModelId<'_> {
    ModelId { name, version: VersionChoice::Latest }
}

pub(crate) fn config_json(name: &str, max_batch_size: u32) -> String {
    format!(
        r#"{{"name": "{name}", "backend": "identity", "max_batch_size": {max_batch_size},
            "input": [{{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}}],
            "output": [{{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}}]}}"#
    )
}

/// A request of one row.
pub(crate) fn ask(model: &str, row: &[f32]) -> InferRequest {
    let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
    InferRequest {
        model_name: model.into(),
        model_version: VersionChoice::Latest,
        id: String::new(),
        inputs: smallvec![Tensor {
            name: "INPUT0".into(),
            data_type: DataType::Fp32,
            shape: smallvec![1, row.len() as i64],
            data: bytes.into(),
        }],
        outputs: smallvec![],
        parameters: vec![],
        sequence: None,
        priority: 0,
        timeout: None,
        received_at: Instant::now(),
        callers: None,
        trace: None,
    }
}

/// A request of one row to an ensemble.
pub(crate) fn ask_ensemble(model: &str, row: &[f32]) -> InferRequest {
    let mut request = ask(model, row);
    request.inputs[0].name = "IN".into();
    request
}

/// A request to `m`, a model of sequences or of turns, with one number.
pub(crate) fn ask_number(value: i32) -> InferRequest {
    let data = value.to_le_bytes().to_vec().into();
    let input = Tensor { name: "INPUT".into(), data_type: DataType::Int32, shape: smallvec![1, 1], data };
    InferRequest { inputs: smallvec![input], ..ask("m", &[]) }
}

/// Sends a request the way a front end does: find the model, then ask it.
pub(crate) fn send(engine: &Engine, request: InferRequest) -> Result<Inference> {
    let name = request.model_name.clone();
    engine.infer(&engine.model(ModelId { name: &name, version: request.model_version })?, request)
}

/// `model version: NAME TYPE SHAPE ...`
pub(crate) fn text(response: &InferResponse) -> String {
    let outputs: Vec<_> = response
        .outputs
        .iter()
        .map(|tensor| format!("{} {} {}", tensor.name, tensor.data_type, shape_text(&tensor.shape)))
        .collect();
    format!("{} {}: {}", response.model_name, response.model_version, outputs.join(", "))
}

/// Waits until something is so; gives up loudly after ten seconds.
pub(crate) async fn until(mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + std::time::Duration::from_secs(10);
    while !so() {
        assert!(Instant::now() < deadline, "it never became so");
        tokio::task::yield_now().await;
    }
}
