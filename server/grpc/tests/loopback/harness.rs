//! A repository of models, an engine that serves it, the front end on a port of its own, and messages for it.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use server_core::{
    backend::Backends, interface::ModelId, request::VersionChoice, stats::ModelSnapshot, tensor::DataType,
};
use server_engine::{ControlMode, Engine};
use server_grpc::Options;
use server_proto::inference::{
    InferParameter, ModelInferRequest, ModelInferResponse, grpc_inference_service_client::GrpcInferenceServiceClient,
    infer_parameter::ParameterChoice, model_infer_request::InferInputTensor,
};
use server_tls::Protocol;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tonic::transport::Channel;
use tower::service_fn;

use crate::encrypting::Encrypting;

/// A connection of a client.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<C: AsyncRead + AsyncWrite + Send + Unpin> Connection for C {}

/// Whether connections are encrypted: in the test program `over_tls`, which is made of the tests of the other.
pub(crate) const OVER_TLS: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"over_tls");

/// Longest a test waits for a state.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) type Client = GrpcInferenceServiceClient<Channel>;

/// A running server.
pub(crate) struct Server {
    pub(crate) engine: Arc<Engine>,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<std::io::Result<()>>,
    encrypting: Option<Encrypting>,
    _folder: tempfile::TempDir,
}

impl Server {
    /// With every model of this file loaded.
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        Self::of_backends(options, &[], server_backends::all(&Default::default())).await
    }

    /// The same with more models, and with these backends.
    pub(crate) async fn of_backends(mut options: Options, more: &[(&str, &str)], backends: Arc<dyn Backends>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let mut models = models();
        models.extend(more.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())));
        for (name, text) in &models {
            let backend = if text.starts_with("backend:") { "" } else { "backend: \"identity\" " };
            write(&format!("{name}/config.pbtxt"), &format!("{backend}{text}"));
            write(&format!("{name}/1/.keep"), "");
        }
        write("rows/3/.keep", "");
        write("classes/labels.txt", "zero\none\ntwo\n");
        write("broken/config.pbtxt", "backend: \"identity\" max_batch_size: -1");
        write("broken/1/.keep", "");

        let engine = Engine::new(
            server_engine::Options {
                repositories: vec![folder.path().to_owned()],
                control_mode: ControlMode::Explicit,
                startup_models: models.into_iter().map(|(name, _)| name).filter(|name| name != "asleep").collect(),
                ..Default::default()
            },
            backends,
        );
        assert_eq!(engine.start().await, Ok(server_engine::Startup::AllReady));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let encrypting = OVER_TLS.then(|| Encrypting::new(Protocol::Http2));
        options.tls = encrypting.as_ref().map(|encrypting| encrypting.acceptor.clone());
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let served = tokio::spawn(server_grpc::serve(listener, engine.clone(), options, stopped));
        Self { engine, address, stop: Some(stop), served, encrypting, _folder: folder }
    }

    pub(crate) async fn client(&self) -> Client {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        let channel = match self.encrypting.clone() {
            None => endpoint.connect().await.unwrap(),
            Some(encrypting) => {
                let address = self.address;
                let connect = move |_| {
                    let encrypting = encrypting.clone();
                    async move { Ok::<_, std::io::Error>(TokioIo::new(encrypting.connect(address).await)) }
                };
                endpoint.connect_with_connector(service_fn(connect)).await.unwrap()
            }
        };
        GrpcInferenceServiceClient::new(channel).max_decoding_message_size(usize::MAX)
    }

    /// A connection on which nothing was sent yet, encrypted where the tests' connections are.
    pub(crate) async fn connect(&self) -> Box<dyn Connection> {
        match &self.encrypting {
            None => Box::new(TcpStream::connect(self.address).await.unwrap()),
            Some(encrypting) => Box::new(encrypting.connect(self.address).await),
        }
    }

    /// A connection with nothing but the handshake of TLS.
    #[allow(dead_code)] // used where connections are encrypted
    pub(crate) async fn connect_encrypted(&self) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        self.encrypting.as_ref().expect("connections are encrypted").connect(self.address).await
    }

    /// Asks the front end to end.
    pub(crate) fn stop(&mut self) {
        self.stop.take().expect("stopped once").send(()).unwrap();
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(self) {
        tokio::time::timeout(DEADLINE, self.served).await.expect("it ends in time").unwrap().unwrap();
    }

    pub(crate) fn counted(&self, model: &str) -> ModelSnapshot {
        let id = ModelId { name: model, version: VersionChoice::Latest };
        self.engine.statistics(Some(id)).unwrap().remove(0)
    }
}

/// The models the server loads: name, and configuration without its backend.
fn models() -> Vec<(String, String)> {
    let tensors = |data_type: &str, dims: &str| {
        format!(
            "input {{ name: \"INPUT0\" data_type: {data_type} dims: [ {dims} ] }}
             output {{ name: \"OUTPUT0\" data_type: {data_type} dims: [ {dims} ] }}"
        )
    };
    let rows = tensors("TYPE_FP32", "-1");
    let slow = "parameters { key: \"execute_delay_ms\" value { string_value: \"300\" } }";
    let repeat = "backend: \"repeat\" model_transaction_policy { decoupled: true }
        input [ { name: \"IN\" data_type: TYPE_INT32 dims: -1 }, { name: \"DELAY\" data_type: TYPE_UINT32 dims: -1 },
                { name: \"WAIT\" data_type: TYPE_UINT32 dims: 1 } ]
        output [ { name: \"OUT\" data_type: TYPE_INT32 dims: 1 }, { name: \"IDX\" data_type: TYPE_UINT32 dims: 1 } ]";
    let square = "backend: \"square\" model_transaction_policy { decoupled: true }
        input { name: \"IN\" data_type: TYPE_INT32 dims: 1 } output { name: \"OUT\" data_type: TYPE_INT32 dims: 1 }
        parameters { key: \"CUSTOM_FAIL_COUNT\" value { string_value: \"1\" } }";
    let mut models = vec![
        ("repeat", repeat.to_owned()),
        ("square", square.to_owned()),
        ("rows", format!("max_batch_size: 4 version_policy {{ all {{}} }} {}", tensors("TYPE_FP32", "2"))),
        ("asleep", rows.clone()),
        ("slow", format!("{rows} {slow}")),
        ("decoupled", format!("{rows} model_transaction_policy {{ decoupled: true }}")),
        (
            "pair",
            "input [ { name: \"INPUT0\" data_type: TYPE_INT32 dims: [ 1 ] }, { name: \"INPUT1\" data_type: TYPE_STRING dims: [ 1 ] } ]
             output [ { name: \"OUTPUT0\" data_type: TYPE_INT32 dims: [ 1 ] }, { name: \"OUTPUT1\" data_type: TYPE_STRING dims: [ 1 ] } ]"
                .to_owned(),
        ),
        (
            "classes",
            "max_batch_size: 4
             input { name: \"INPUT0\" data_type: TYPE_FP32 dims: [ 3 ] }
             output { name: \"OUTPUT0\" data_type: TYPE_FP32 dims: [ 3 ] label_filename: \"labels.txt\" }"
                .to_owned(),
        ),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), text))
    .collect::<Vec<_>>();
    for data_type in DataType::ALL {
        models.push((data_type.wire_name().to_owned(), tensors(data_type.to_config().as_str_name(), "-1")));
    }
    models
}

/// A message with one raw input.
pub(crate) fn ask(model: &str, datatype: &str, shape: &[i64], data: impl Into<Bytes>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.into(),
        inputs: vec![InferInputTensor {
            name: "INPUT0".into(),
            datatype: datatype.into(),
            shape: shape.into(),
            ..Default::default()
        }],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

/// A message of FP32 values without a batch dimension, with an id.
pub(crate) fn values(model: &str, id: &str, values: &[f32]) -> ModelInferRequest {
    let shape = [i64::try_from(values.len()).unwrap()];
    ModelInferRequest { id: id.into(), ..ask(model, "FP32", &shape, floats(values)) }
}

pub(crate) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

/// `model version id: NAME TYPE SHAPE BYTES ...`
pub(crate) fn text(response: &ModelInferResponse) -> String {
    let outputs: Vec<_> = response
        .outputs
        .iter()
        .zip(&response.raw_output_contents)
        .map(|(output, data)| format!("{} {} {:?} {}", output.name, output.datatype, output.shape, data.len()))
        .collect();
    assert_eq!(response.outputs.len(), response.raw_output_contents.len());
    format!("{} {} {}: {}", response.model_name, response.model_version, response.id, outputs.join(", "))
}

/// Waits until a condition holds; fails after the deadline.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "the condition did not hold in time");
        tokio::task::yield_now().await;
    }
}
