//! Everything but inference, over a real socket and a real engine.

mod harness;

use std::sync::Arc;

use harness::{TestServer, one_tensor};
use serde_json::json;
use server_core::{
    byte_budget::ByteBudget,
    restriction::{ApiGroup, Restriction},
};
use server_engine::ControlMode;
use server_http::Options;

fn floats() -> String {
    one_tensor("FP32", "[ 4 ]", "max_batch_size: 8")
}

#[tokio::test]
async fn server_and_model_metadata_are_served() {
    let server = TestServer::with(&[("floats", &floats())]).await;
    for path in ["/v2/health/live", "/v2/health/ready", "/v2/models/floats/ready", "/v2/models/floats/versions/1/ready"]
    {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.text()), (200, ""), "{path}");
    }
    let metadata = server.get("/v2").await;
    assert!(metadata.text().starts_with("{\"name\":\"triton\",\"version\":\""), "{}", metadata.text());
    assert_eq!(metadata.json()["extensions"].as_array().unwrap().len(), 13);
    assert_eq!(
        server.get("/v2/models/floats?x=1").await.text(),
        "{\"name\":\"floats\",\"versions\":[\"1\"],\"platform\":\"identity\",\
         \"inputs\":[{\"name\":\"INPUT0\",\"datatype\":\"FP32\",\"shape\":[-1,4]}],\
         \"outputs\":[{\"name\":\"OUTPUT0\",\"datatype\":\"FP32\",\"shape\":[-1,4]}]}"
    );
    let config = server.get("/v2/models/floats/versions/1/config").await.json();
    assert_eq!((&config["name"], &config["max_batch_size"]), (&json!("floats"), &json!(8)));
    assert_eq!(config["input"][0]["dims"], json!([4]));
}

#[tokio::test]
async fn statistics_count_what_ran() {
    let server = TestServer::with(&[("floats", &floats()), ("other", &floats())]).await;
    let body = json!({"inputs": [{"name": "INPUT0", "shape": [3, 4], "datatype": "FP32", "data": vec![0; 12]}]});
    assert_eq!(server.post("/v2/models/floats/infer", body.to_string()).await.status, 200);
    let stats = server.get("/v2/models/floats/stats").await.json();
    let model = &stats["model_stats"][0];
    assert_eq!((&model["name"], &model["version"]), (&json!("floats"), &json!("1")));
    assert_eq!((&model["inference_count"], &model["execution_count"]), (&json!(3), &json!(1)));
    assert_eq!(model["inference_stats"]["success"]["count"], json!(1));
    assert_eq!(server.get("/v2/models/stats").await.json()["model_stats"].as_array().unwrap().len(), 2);
    server.get("/v2/models/none/stats").await.is_error(400, "requested model 'none' is not available");
    let missing = server.get("/v2/models/floats/versions/5/stats").await;
    missing.is_error(400, "requested model version is not available for model 'floats'");
}

#[tokio::test]
async fn unknown_models_paths_and_methods_have_errors_of_their_own() {
    let server = TestServer::with(&[]).await;
    for path in ["/v2/models/none", "/v2/models/none/config"] {
        server.get(path).await.is_error(404, "Request for unknown model: 'none' is not found");
    }
    for path in ["/v2/models/none/ready", "/v2/models/none/versions/3/ready"] {
        server.get(path).await.is_error(400, "Model version not ready");
    }
    server.get("/v2/models/a%20b").await.is_error(404, "Request for unknown model: 'a b' is not found");
    server.get("/base/v2").await.is_error(404, "Not Found");
    server.post("/v2/health/live", "").await.is_error(405, "Method Not Allowed");
    let huge = server.get("/v2/models/none/versions/99999999999999999999").await;
    assert_eq!(huge.status, 400);
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_on_request() {
    let server = TestServer::open(&[("floats", &floats())], ControlMode::Explicit, Options::default()).await;
    assert_eq!(server.post("/v2/repository/index", "").await.text(), "[{\"name\":\"floats\"}]");
    let loaded = server.post("/v2/repository/models/floats/load", "").await;
    assert_eq!((loaded.status, loaded.text()), (200, ""));
    let index = server.post("/v2/repository/index", "{\"ready\":true}").await;
    assert_eq!(index.text(), "[{\"name\":\"floats\",\"version\":\"1\",\"state\":\"READY\"}]");
    let config = json!({"backend": "identity", "max_batch_size": 2,
        "input": [{"name": "INPUT0", "data_type": "TYPE_INT8", "dims": ["1"]}],
        "output": [{"name": "OUTPUT0", "data_type": "TYPE_INT8", "dims": ["1"]}]});
    let body = json!({"parameters": {"config": config.to_string()}}).to_string();
    let lines = "QUJD\r\n".repeat(100);
    let with_file = json!({"parameters": {"config": config.to_string(), "file:1/extra": lines}}).to_string();
    assert_eq!(server.post("/v2/repository/models/floats/load", &with_file).await.status, 200);
    let reloaded = server.post("/v2/repository/models/floats/load", &body).await;
    assert_eq!((reloaded.status, reloaded.text()), (200, ""));
    assert_eq!(server.get("/v2/models/floats").await.json()["inputs"][0]["datatype"], "INT8");
    assert_eq!(server.post("/v2/repository/models/floats/unload", "{}").await.status, 200);
    let state = || async { server.post("/v2/repository/index", "{}").await.json()[0]["state"].clone() };
    while state().await == "UNLOADING" {}
    let index = server.post("/v2/repository/index", "{}").await;
    let expect = "[{\"name\":\"floats\",\"version\":\"1\",\"state\":\"UNAVAILABLE\",\"reason\":\"unloaded\"}]";
    assert_eq!(index.text(), expect);
    let named = server.post("/v2/repository/mine/models/floats/load", "").await;
    named.is_error(501, "'repository_name' specification is not supported");
    let broken = server.post("/v2/repository/index", "{\"ready\":\"yes\"}").await;
    broken.is_error(400, "Invalid value for 'ready': expected a boolean");
    let unknown = server.post("/v2/repository/models/none/load", "").await;
    unknown.is_error(500, "failed to load 'none', failed to poll from model repository");
}

#[tokio::test]
async fn load_is_refused_unless_control_is_explicit() {
    let server = TestServer::with(&[("floats", &floats())]).await;
    let answer = server.post("/v2/repository/models/floats/load", "").await;
    answer.is_error(503, "explicit model load / unload is not allowed if polling is enabled");
}

#[tokio::test]
async fn unsupported_endpoints_name_the_reason() {
    let server = TestServer::with(&[("floats", &floats())]).await;
    for kind in ["system", "cuda"] {
        let status = server.get(&format!("/v2/{kind}sharedmemory/status")).await;
        assert_eq!((status.status, status.text()), (200, "[]"));
        let region = server.get(&format!("/v2/{kind}sharedmemory/region/r/status")).await;
        region.is_error(404, &format!("Unable to find {kind} shared memory region: 'r'"));
        let disabled = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.";
        server.post(&format!("/v2/{kind}sharedmemory/region/r/register"), "{}").await.is_error(501, disabled);
        server.post(&format!("/v2/{kind}sharedmemory/unregister"), "").await.is_error(501, disabled);
    }
}

#[tokio::test]
async fn trace_settings_are_those_of_the_server_until_a_model_has_its_own() {
    let server = TestServer::with(&[("floats", &floats())]).await;
    let (all, one) = ("/v2/trace/setting", "/v2/models/floats/trace/setting");
    let shown = |level: &str, rate: u32| {
        format!(r#"{{"trace_level":["{level}"],"trace_rate":"{rate}","trace_count":"-1","log_frequency":"0"}}"#)
    };
    for path in [all, one] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.text()), (200, &*shown("OFF", 1000)));
    }
    let change = r#"{"trace_level":["TIMESTAMPS"],"trace_rate":"5"}"#;
    assert_eq!(server.post(one, change).await.text(), shown("TIMESTAMPS", 5));
    assert_eq!(server.get(all).await.text(), shown("OFF", 1000));
    assert_eq!(server.post(all, r#"{"trace_rate":"7"}"#).await.text(), shown("OFF", 7));
    assert_eq!(server.post(one, r#"{"trace_rate":null}"#).await.text(), shown("TIMESTAMPS", 7));
    server.post(all, "junk").await.is_error(500, "failed to parse the request JSON buffer: Invalid value. at 0");
    let text = "Unable to parse 'trace_rate', got: x";
    server.post(one, r#"{"trace_rate":"x"}"#).await.is_error(400, text);
    let text = "Attempting to set invalid trace setting :sample rate must be non-zero";
    server.post(one, r#"{"trace_rate":"0"}"#).await.is_error(400, text);
    assert_eq!(server.get(one).await.text(), shown("TIMESTAMPS", 7));
    assert_eq!(server.get("/v2/models/nothing/trace/setting").await.status, 404);
}

#[tokio::test]
async fn log_settings_are_shown_and_changed() {
    let server = TestServer::with(&[("floats", &floats())]).await;
    let shown = |is_info: bool, format: &str| {
        format!(
            r#"{{"log_file":"","log_info":{is_info},"log_warning":true,"log_error":true,"log_verbose_level":0,"log_format":"{format}"}}"#
        )
    };
    assert_eq!(server.get("/v2/logging").await.text(), shown(true, "default"));
    let change = r#"{"log_info":false,"log_format":"ISO8601"}"#;
    assert_eq!(server.post("/v2/logging", change).await.text(), shown(false, "ISO8601"));
    let text = "invalid argument for --log_format, got: x";
    server.post("/v2/logging", r#"{"log_info":true,"log_format":"x"}"#).await.is_error(503, text);
    assert_eq!(server.get("/v2/logging").await.text(), shown(false, "ISO8601"), "a change is made as a whole or not");
}

#[tokio::test]
async fn restricted_apis_require_their_header() {
    let restriction = Restriction {
        groups: vec![ApiGroup::Metadata, ApiGroup::Inference],
        header: "admin-key".into(),
        value: "abc".into(),
    };
    let options = Options { restrictions: vec![restriction], ..Options::default() };
    let server = TestServer::open(&[("floats", &floats())], ControlMode::None, options).await;
    assert_eq!(server.get("/v2/health/live").await.status, 200);
    let refused = "This API is restricted, expecting header 'admin-key'";
    server.get("/v2").await.is_error(403, refused);
    server.post("/v2/models/floats/generate", "{}").await.is_error(403, refused);
    let answer = server.client().await.send("GET", "/v2", &[("Admin-Key", "abc")], b"").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn the_metrics_page_has_a_port_of_its_own() {
    let server = TestServer::with(&[("floats", &floats())]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let budget = Arc::new(ByteBudget::new(1000));
    let _held = budget.reserve(10).unwrap();
    let engine = server.engine.clone();
    let served = tokio::spawn(server_http::serve_metrics(listener, engine, budget, None, async { _ = stopped.await }));
    let mut server = server;
    server.address = address;
    let page = server.get("/metrics").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/plain; charset=utf-8")));
    assert!(page.text().contains("nv_inference_request_success{model=\"floats\",version=\"1\"} 0"), "{}", page.text());
    assert!(page.text().contains("\ntritonserver_inflight_request_bytes 10\n"), "{}", page.text());
    let other = server.get("/other").await;
    assert_eq!((other.status, other.text()), (200, ""));
    server.post("/metrics", "").await.is_error(405, "Method Not Allowed");
    stop.send(()).unwrap();
    served.await.unwrap();
}

#[tokio::test]
async fn a_prompt_becomes_a_flat_answer_or_a_stream_of_them() {
    let config = "input [ { name: \"INPUT0\" data_type: TYPE_STRING dims: [ 1 ] },
                          { name: \"INPUT1\" data_type: TYPE_INT32 dims: [ -1 ] } ]
                  output [ { name: \"OUTPUT0\" data_type: TYPE_STRING dims: [ 1 ] },
                           { name: \"OUTPUT1\" data_type: TYPE_INT32 dims: [ -1 ] } ]";
    let server = TestServer::with(&[("words", config)]).await;
    let body = r#"{"id":"1","INPUT0":"hello","INPUT1":[1,2],"parameters":{"temperature":0.5}}"#;
    let mut client = server.client().await;
    let answer = client.post("/v2/models/words/generate", body).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let flat = answer.json();
    assert_eq!((&flat["OUTPUT0"], &flat["OUTPUT1"]), (&json!("hello"), &json!([1, 2])));
    assert_eq!((&flat["model_name"], &flat["model_version"], &flat["id"]), (&json!("words"), &json!("1"), &json!("1")));
    let answer = client.post("/v2/models/words/generate_stream", body).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    let event = answer.text().strip_prefix("data: ").and_then(|text| text.strip_suffix("\n\n")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(event).unwrap(), flat);
    let missing = client.post("/v2/models/words/generate_stream", "{\"INPUT0\":\"x\"}").await;
    assert_eq!((missing.status, missing.header("content-type")), (400, Some("application/json")));
    assert!(missing.text().contains("expected 2 inputs but got 1 inputs for model 'words'"), "{}", missing.text());
    let broken = client.post("/v2/models/words/generate", "{\"INPUT0\":1}").await;
    let expect = "Unable to parse JSON bytes array: attempt to access JSON non-string as string";
    broken.is_error(500, expect);
    let encoded = client.send("POST", "/v2/models/words/generate", &[("Content-Encoding", "gzip")], b"{}").await;
    encoded.is_error(400, "Unsupported content-encoding, only 'identity' is supported.");
}
