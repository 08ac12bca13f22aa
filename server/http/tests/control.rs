//! Control calls where they are taken at a socket of their own: refused on the network before anything of them is read.

mod harness;

use harness::{TestServer, one_tensor};
use serde_json::json;
use server_core::{
    control::{ControlCall, PrivateControl},
    restriction::{ApiGroup, Restriction},
};
use server_engine::ControlMode;
use server_http::Options;

fn private() -> PrivateControl {
    PrivateControl { socket: "/run/control.sock".into() }
}

async fn server(restrictions: Vec<Restriction>) -> TestServer {
    let options = Options { private_control: Some(private()), restrictions, ..Options::default() };
    TestServer::open(&[("floats", &one_tensor("FP32", "[ -1 ]", ""))], ControlMode::None, options).await
}

/// Every way to control a server.
fn calls() -> Vec<(&'static str, ControlCall)> {
    vec![
        ("/v2/repository/models/floats/load", ControlCall::Load),
        ("/v2/repository/models/new/load?x=1", ControlCall::Load),
        ("/v2/repository/r/models/%66loats/load", ControlCall::Load),
        ("/v2/repository/models/floats/unload", ControlCall::Unload),
        ("/v2/repository/r/models/floats/unload", ControlCall::Unload),
        ("/v2/health/drain", ControlCall::Drain),
        ("/v2/trace/setting", ControlCall::TraceSettings),
        ("/v2/models/floats/trace/setting", ControlCall::TraceSettings),
        ("/v2/logging", ControlCall::LogSettings),
        ("/v2/systemsharedmemory/region/r/register", ControlCall::RegisterSharedMemory),
        ("/v2/systemsharedmemory/region/r/unregister", ControlCall::UnregisterSharedMemory),
        ("/v2/systemsharedmemory/unregister", ControlCall::UnregisterSharedMemory),
        ("/v2/cudasharedmemory/region/r/register", ControlCall::RegisterSharedMemory),
        ("/v2/cudasharedmemory/region/r/unregister", ControlCall::UnregisterSharedMemory),
        ("/v2/cudasharedmemory/unregister", ControlCall::UnregisterSharedMemory),
    ]
}

#[tokio::test]
async fn every_control_call_is_refused_with_the_cure() {
    let server = server(vec![]).await;
    for (path, call) in calls() {
        for body in ["", "{}", "{\"parameters\":{\"config\":\"{}\"}}", "not json"] {
            server.post(path, body).await.is_error(403, &private().refusal(call));
        }
    }
    assert!(private().refusal(ControlCall::Load).contains("--public-control=true"));
    assert_eq!(server.get("/v2/models/floats/ready").await.status, 200);
}

#[tokio::test]
async fn what_only_asks_or_infers_is_answered_as_before() {
    let server = server(vec![]).await;
    for path in ["/v2/health/ready", "/v2", "/v2/models/floats/config", "/v2/systemsharedmemory/status"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    assert_eq!(server.post("/v2/repository/index", "").await.json()[0]["name"], json!("floats"));
    let body = r#"{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[6]}]}"#;
    assert_eq!(server.post("/v2/models/floats/infer", body).await.status, 200);
    for path in ["/v2/logging", "/v2/trace/setting"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    server.get("/v2/repository/models/floats/load").await.is_error(405, "Method Not Allowed");
    server.post("/v2/repository/models//load", "").await.is_error(404, "Not Found");
}

#[tokio::test]
async fn a_refused_body_is_not_waited_for() {
    let server = server(vec![]).await;
    let mut client = server.client().await;
    client.write("POST /v2/repository/models/floats/load HTTP/1.1\r\nContent-Length: 400000000\r\n\r\n{").await;
    client.receive().await.is_error(403, &private().refusal(ControlCall::Load));
}

#[tokio::test]
async fn a_key_for_restricted_calls_opens_no_control_call() {
    let groups = vec![ApiGroup::ModelRepository, ApiGroup::Logging];
    let server = server(vec![Restriction { groups, header: "admin-key".into(), value: "abc".into() }]).await;
    let mut client = server.client().await;
    for key in ["abc", "guess"] {
        let answer = client.send("POST", "/v2/repository/models/floats/unload", &[("admin-key", key)], b"").await;
        answer.is_error(403, &private().refusal(ControlCall::Unload));
    }
    let refused = client.send("POST", "/v2/repository/index", &[], b"").await;
    refused.is_error(403, "This API is restricted, expecting header 'admin-key'");
    assert_eq!(client.send("POST", "/v2/repository/index", &[("admin-key", "abc")], b"").await.status, 200);
}

#[tokio::test]
async fn whoever_runs_the_server_may_drain_it_for_as_long_as_he_says_so() {
    let options = Options { takes_drains: true, ..Options::default() };
    let server = TestServer::open(&[("floats", &one_tensor("FP32", "[ -1 ]", ""))], ControlMode::None, options).await;
    let body = r#"{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[6]}]}"#;
    let ready = async || server.get("/v2/health/ready").await.status;
    let requests = async |lease: &str| {
        let answer = server.post("/v2/health/drain", &format!(r#"{{"lease_ms":{lease}}}"#)).await;
        assert_eq!(answer.status, 200);
        if answer.body.is_empty() { None } else { answer.json()["requests"].as_u64() }
    };
    assert_eq!(ready().await, 200);
    assert_eq!(requests("60000").await, Some(0));
    assert_eq!((ready().await, server.get("/v2/health/live").await.status), (400, 200));
    // whatever comes all the same is served and sent elsewhere
    let answer = server.post("/v2/models/floats/infer", body).await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(requests("60000").await, Some(1));
    assert_eq!(requests("0").await, None);
    assert_eq!(ready().await, 200);
    // a lease that nobody renews
    requests("1").await;
    while ready().await != 200 {
        tokio::task::yield_now().await;
    }
    let wrong = "Invalid value for 'lease_ms': expected a whole number from 0 to 60000";
    for junk in [
        "",
        "not json",
        r#"{"lease_ms":60001}"#,
        r#"{"lease_ms":-1}"#,
        r#"{"lease_ms":"5"}"#,
        r#"{"lease_ms":1.5}"#,
        "{}",
        "[1]",
    ] {
        server.post("/v2/health/drain", junk).await.is_error(400, wrong);
    }
    server.get("/v2/health/drain").await.is_error(405, "Method Not Allowed");
    assert_eq!(ready().await, 200);
}

#[tokio::test]
async fn nobody_else_may_drain_a_server() {
    let server = TestServer::with(&[("floats", &one_tensor("FP32", "[ -1 ]", ""))]).await;
    server.post("/v2/health/drain", r#"{"lease_ms":60000}"#).await.is_error(404, "Not Found");
    assert_eq!(server.get("/v2/health/ready").await.status, 200);
}
