//! Who may call what through the front ends of clouds, and what they are answered.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{fs, future::pending, net::SocketAddr};

use harness::{Answer, Client, TestServer, one_tensor};
use server_core::{
    control::{ControlCall, PrivateControl},
    restriction::{ApiGroup, Restriction},
};
use server_engine::{ControlMode, LoadParameters};
use server_http::{InferenceType, Options, PingMode, SageMakerOptions, VertexAiRoutes};
use tokio::net::TcpListener;

const ASK: &str = r#"{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[6]}]}"#;
const MODEL: &str = "floats";

/// Both front ends of a server of one model.
struct Clouds {
    server: TestServer,
    sagemaker: SocketAddr,
    vertex: SocketAddr,
}

fn sagemaker() -> SageMakerOptions {
    SageMakerOptions { model: MODEL.into(), inference: InferenceType::Infer, ping: PingMode::Ready, repository: None }
}

impl Clouds {
    async fn open(options: Options) -> Self {
        let model = one_tensor("FP32", "[ -1 ]", "");
        let server = TestServer::open(&[(MODEL, &model)], ControlMode::None, Options::default()).await;
        Self::of(server, options, sagemaker()).await
    }

    /// Models are loaded on request.
    async fn multi_model() -> Self {
        let server = TestServer::open(&[], ControlMode::Explicit, Options::default()).await;
        let repository = server.folder().to_owned();
        let sagemaker = SageMakerOptions { repository: Some(repository), ..sagemaker() };
        Self::of(server, Options::default(), sagemaker).await
    }

    async fn of(server: TestServer, options: Options, sagemaker: SageMakerOptions) -> Self {
        let routes = VertexAiRoutes {
            predict: "/predict".into(),
            health: "/health".into(),
            model: MODEL.into(),
            has_metrics: false,
        };
        let sockets =
            [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let [at_sagemaker, at_vertex] = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        let [for_sagemaker, for_vertex] = sockets;
        let engine = server.engine.clone();
        tokio::spawn(server_http::serve_sagemaker(
            for_sagemaker,
            engine.clone(),
            options.clone(),
            sagemaker,
            pending(),
        ));
        tokio::spawn(server_http::serve_vertex_ai(for_vertex, engine, options, routes, pending()));
        Self { server, sagemaker: at_sagemaker, vertex: at_vertex }
    }

    async fn sagemaker(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        Client::to(self.sagemaker).await.send(method, path, headers, body.as_bytes()).await
    }

    async fn vertex(&self, headers: &[(&str, &str)]) -> Answer {
        Client::to(self.vertex).await.send("POST", "/predict", headers, ASK.as_bytes()).await
    }
}

const LOAD: &str = r#"{"model_name":"a","url":"/nowhere"}"#;

/// Calls of SageMaker, each with its body and its group.
const CALLS: [(&str, &str, &str, ApiGroup); 7] = [
    ("POST", "/invocations", ASK, ApiGroup::Inference),
    ("POST", "/models/a/invoke", ASK, ApiGroup::Inference),
    ("POST", "/models", LOAD, ApiGroup::ModelRepository),
    ("DELETE", "/models/a", "", ApiGroup::ModelRepository),
    ("GET", "/models", "", ApiGroup::ModelRepository),
    ("GET", "/models/a", "", ApiGroup::ModelRepository),
    ("GET", "/models/a/invoke", "", ApiGroup::ModelRepository),
];

#[tokio::test]
async fn what_is_restricted_takes_its_header_through_clouds_too() {
    for group in [ApiGroup::Inference, ApiGroup::ModelRepository] {
        let restriction = Restriction { groups: vec![group], header: "admin-key".into(), value: "s3cret".into() };
        let clouds = Clouds::open(Options { restrictions: vec![restriction], ..Options::default() }).await;
        let refusal = "This API is restricted, expecting header 'admin-key'";
        for (method, path, body, of) in CALLS {
            for headers in [&[][..], &[("admin-key", "wrong!")]] {
                let answer = clouds.sagemaker(method, path, headers, body).await;
                assert_eq!(answer.status == 403, of == group, "{method} {path}");
                if of == group {
                    answer.is_error(403, refusal);
                }
            }
            let answer = clouds.sagemaker(method, path, &[("admin-key", "s3cret")], body).await;
            assert_ne!(answer.status, 403, "{method} {path}");
        }
        let is_of_inference = group == ApiGroup::Inference;
        assert_eq!(clouds.vertex(&[]).await.status, if is_of_inference { 403 } else { 200 });
        assert_eq!(clouds.vertex(&[("admin-key", "s3cret")]).await.status, 200);
        assert_eq!(clouds.sagemaker("GET", "/ping", &[], "").await.status, 200);
    }
}

#[tokio::test]
async fn control_calls_of_a_private_socket_are_refused_through_clouds_too() {
    let private = PrivateControl { socket: "/run/control.sock".into() };
    let clouds = Clouds::open(Options { private_control: Some(private.clone()), ..Options::default() }).await;
    for (method, path, body, _) in CALLS {
        let answer = clouds.sagemaker(method, path, &[], body).await;
        match (method, path) {
            ("POST", "/models") => answer.is_error(403, &private.refusal(ControlCall::Load)),
            ("DELETE", _) => answer.is_error(403, &private.refusal(ControlCall::Unload)),
            _ => assert_ne!(answer.status, 403, "{method} {path}"),
        }
    }
    assert_eq!(clouds.vertex(&[]).await.status, 200);
    let load = ("x-vertex-ai-triton-redirect", "v2/repository/models/floats/load");
    clouds.vertex(&[load]).await.is_error(403, &private.refusal(ControlCall::Load));
}

#[tokio::test]
async fn what_sagemaker_has_unpacked_may_be_the_model_itself() {
    let clouds = Clouds::multi_model().await;
    let unpacked = tempfile::tempdir().unwrap();
    let url = unpacked.path().join("model");
    fs::create_dir_all(url.join("1")).unwrap();
    let config = format!("name: \"other\" backend: \"identity\" {}", one_tensor("FP32", "[ -1 ]", ""));
    fs::write(url.join("config.pbtxt"), config).unwrap();
    let load = serde_json::json!({ "model_name": "one", "url": url }).to_string();
    assert_eq!(clouds.sagemaker("POST", "/models", &[], &load).await.status, 200);
    assert_eq!(clouds.sagemaker("POST", "/models", &[], &load).await.status, 409);
    let shown = serde_json::json!({ "modelName": "one", "modelUrl": unpacked.path() });
    assert_eq!(clouds.sagemaker("GET", "/models/one", &[], "").await.json(), shown);
    assert_eq!(clouds.sagemaker("GET", "/models", &[], "").await.json(), serde_json::json!({ "models": [shown] }));
    for target in ["one", "s3/other.tar.gz"] {
        let target = ("x-amzn-sagemaker-target-model", target);
        let answer = clouds.sagemaker("POST", "/models/one/invoke", &[target], ASK).await;
        assert_eq!((answer.status, &answer.json()["model_name"]), (200, &"one".into()));
    }
    // one that is not ready is there and not listed
    clouds.server.engine.unload("one", false).await.unwrap();
    let is_ready = || clouds.server.engine.index(true).unwrap().iter().any(|entry| entry.name == "one");
    harness::until(|| !is_ready()).await;
    assert_eq!(clouds.sagemaker("GET", "/models", &[], "").await.text(), r#"{"models":[]}"#);
    assert_eq!(clouds.sagemaker("GET", "/models/one", &[], "").await.json(), shown);
    assert_eq!(clouds.sagemaker("DELETE", "/models/one", &[], "").await.status, 200);
    assert_eq!(clouds.sagemaker("GET", "/models/one", &[], "").await.status, 404);
}

/// An ensemble of one part, as SageMaker has unpacked it, with the body of its load. `output`: what it takes of its part.
fn ensemble(output: &str) -> (tempfile::TempDir, String) {
    let unpacked = tempfile::tempdir().unwrap();
    let step = format!(
        r#"step {{ model_name: "part" model_version: -1
            input_map {{ key: "INPUT0" value: "INPUT0" }} output_map {{ key: "{output}" value: "OUTPUT0" }} }}"#
    );
    let tensors = one_tensor("FP32", "[ -1 ]", "");
    for (name, config) in [
        ("part", format!("backend: \"identity\" {tensors}")),
        ("whole", format!("platform: \"ensemble\" {tensors} ensemble_scheduling {{ {step} }}")),
    ] {
        fs::create_dir_all(unpacked.path().join(name).join("1")).unwrap();
        fs::write(unpacked.path().join(name).join("config.pbtxt"), config).unwrap();
    }
    let load = serde_json::json!({ "model_name": "one", "url": unpacked.path() }).to_string();
    (unpacked, load)
}

#[tokio::test]
async fn an_ensemble_leaves_with_parts_that_somebody_asked_for() {
    let clouds = Clouds::multi_model().await;
    let (_unpacked, load) = ensemble("OUTPUT0");
    assert_eq!(clouds.sagemaker("POST", "/models", &[], &load).await.status, 200);
    clouds.server.engine.load("part", LoadParameters::default()).await.unwrap();
    assert_eq!(clouds.sagemaker("DELETE", "/models/one", &[], "").await.status, 200);
    assert!(clouds.server.engine.index(true).unwrap().is_empty());
    assert_eq!(clouds.sagemaker("POST", "/models", &[], &load).await.status, 200);
}

#[tokio::test]
async fn parts_of_an_ensemble_that_cannot_be_loaded_leave() {
    let clouds = Clouds::multi_model().await;
    let (_unpacked, load) = ensemble("NONE");
    assert_eq!(clouds.sagemaker("POST", "/models", &[], &load).await.status, 400);
    harness::until(|| clouds.server.engine.index(true).unwrap().is_empty()).await;
    assert_eq!(clouds.sagemaker("GET", "/models/one", &[], "").await.status, 404);
}

#[tokio::test]
async fn invocations_and_pings_are_what_the_options_say() {
    for (inference, kind, answer) in [
        (InferenceType::Generate, "application/json", r#""OUTPUT0":7.0"#),
        (InferenceType::GenerateStream, "text/event-stream; charset=utf-8", r#""OUTPUT0":7.0"#),
    ] {
        let server = TestServer::with(&[(MODEL, &one_tensor("FP32", "[ 1 ]", ""))]).await;
        let options = SageMakerOptions { inference, ping: PingMode::Live, ..sagemaker() };
        let clouds = Clouds::of(server, Options::default(), options).await;
        let answered = clouds.sagemaker("POST", "/invocations", &[], r#"{"INPUT0":7}"#).await;
        assert_eq!((answered.status, answered.header("content-type")), (200, Some(kind)));
        assert!(answered.text().contains(answer), "{}", answered.text());
        assert_ne!(clouds.sagemaker("POST", "/invocations", &[], ASK).await.status, 200);
        assert_eq!(clouds.sagemaker("GET", "/ping", &[], "").await.status, 200);
    }
}

#[tokio::test]
async fn a_server_that_is_not_ready_is_alive() {
    for (ping, status) in [(PingMode::Ready, 400), (PingMode::Live, 200)] {
        let broken = one_tensor("FP32", "[ -1 ]", "max_batch_size: -1");
        let server = TestServer::open(&[(MODEL, &broken)], ControlMode::None, Options::default()).await;
        let clouds = Clouds::of(server, Options::default(), SageMakerOptions { ping, ..sagemaker() }).await;
        assert_eq!(clouds.sagemaker("GET", "/ping", &[], "").await.status, status);
    }
}
