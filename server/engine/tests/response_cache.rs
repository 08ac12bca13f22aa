//! The response cache in the server's own memory, with real folders: who is answered from it, what is counted, and what is
//! never served.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use harness::{Harness, ask, ask_ensemble, id, scripted::Probe, send};
use server_core::{
    buffer::Buffer,
    byte_budget::ByteBudget,
    error::Error,
    request::{InferRequest, Parameter, RequestedOutput},
    response::InferResponse,
    stats::ModelSnapshot,
};
use server_engine::{BlockingPool, CacheConfig, Engine, LoadParameters, Options, ResponseCache};
use smallvec::smallvec;

const CACHED: &str = "response_cache { enable: true }";

async fn cache(size: usize) -> Option<ResponseCache> {
    let config = CacheConfig { name: "local".into(), settings: vec![("size".into(), size.to_string())] };
    Some(ResponseCache::open(&config, BlockingPool::default(), Arc::new(ByteBudget::new(0))).await.unwrap())
}

/// An engine with the scripted backend and a cache of 64 MiB.
async fn engine(harness: &Harness) -> (Arc<Engine>, Arc<Probe>) {
    harness.with_script_and(Options { response_cache: cache(64 << 20).await, ..Options::default() })
}

async fn load(engine: &Arc<Engine>, names: &[&str]) {
    for name in names {
        engine.load(name, LoadParameters::default()).await.unwrap();
    }
}

async fn answer(engine: &Engine, request: InferRequest) -> Result<InferResponse, Error> {
    send(engine, request)?.response().await
}

/// The bytes of the only output.
async fn bytes(engine: &Engine, request: InferRequest) -> Vec<u8> {
    answer(engine, request).await.unwrap().outputs[0].data.as_host().unwrap().to_vec()
}

fn counts(engine: &Engine, name: &str) -> ModelSnapshot {
    engine.statistics(Some(id(name))).unwrap().remove(0)
}

/// Hits, misses, executions, rows, successes.
fn told(engine: &Engine, name: &str) -> (u64, u64, u64, u64, u64) {
    let counts = counts(engine, name);
    let (hits, misses) = (counts.cache_hit.count, counts.cache_miss.count);
    (hits, misses, counts.execution_count, counts.inference_count, counts.success.count)
}

#[tokio::test]
async fn what_was_asked_before_is_answered_without_the_model_and_counted() {
    let harness = Harness::new();
    harness.scripted("m", "", CACHED, &[1]);
    harness.scripted("plain", "", "", &[1]);
    let (engine, _) = engine(&harness).await;
    load(&engine, &["m", "plain"]).await;
    let first = bytes(&engine, ask("m", &[1.0, 2.0])).await;
    assert_eq!(told(&engine, "m"), (0, 1, 1, 1, 1));
    let inferred_at = counts(&engine, "m").last_inference_ms;
    harness::until(|| SystemTime::now() > SystemTime::UNIX_EPOCH + Duration::from_millis(inferred_at + 1)).await;
    let request = InferRequest {
        id: "second".into(),
        parameters: vec![("any".into(), Parameter::Bool(true))],
        outputs: smallvec![RequestedOutput { name: "OUTPUT0".into(), classification: 1, window: None }],
        ..ask("m", &[1.0, 2.0])
    };
    let response = answer(&engine, request).await.unwrap();
    assert_eq!((&*response.id, response.model_version), ("second", 1));
    assert_eq!(response.outputs[0].data.as_host().unwrap(), first);
    assert_eq!(told(&engine, "m"), (1, 1, 1, 1, 2));
    assert_eq!(counts(&engine, "m").last_inference_ms, inferred_at, "it is no inference");
    assert_ne!(bytes(&engine, ask("m", &[2.0, 1.0])).await, first);
    assert_eq!(told(&engine, "m"), (1, 2, 2, 2, 3));
    let counts = counts(&engine, "m");
    assert_eq!((counts.queue.count, counts.compute_infer.count, counts.fail.count), (3, 2, 0));
    assert!(counts.cache_hit.ns > 0 && counts.cache_miss.ns > 0 && counts.last_inference_ms > 0);
    for _ in 0..2 {
        bytes(&engine, ask("plain", &[1.0, 2.0])).await;
    }
    assert_eq!(told(&engine, "plain"), (0, 0, 2, 2, 2), "it does not ask for the cache");
    let page = engine.metrics().text();
    for line in [
        "nv_cache_num_hits_per_model{model=\"m\",version=\"1\"} 1",
        "nv_cache_num_misses_per_model{model=\"m\",version=\"1\"} 2",
        "nv_inference_request_success{model=\"m\",version=\"1\"} 3",
        "nv_inference_count{model=\"m\",version=\"1\"} 2",
        "nv_cache_num_entries 2",
        "nv_cache_num_lookups 3",
    ] {
        assert!(page.lines().any(|it| it == line), "{line}\n{page}");
    }
    assert!(!page.contains("nv_cache_num_hits_per_model{model=\"plain\""));
}

#[tokio::test]
async fn a_server_without_a_cache_runs_models_that_ask_for_one() {
    let harness = Harness::new();
    harness.scripted("m", "", CACHED, &[1]);
    let (engine, _) = harness.with_script();
    load(&engine, &["m"]).await;
    for _ in 0..2 {
        bytes(&engine, ask("m", &[1.0])).await;
    }
    assert_eq!(told(&engine, "m"), (0, 0, 2, 2, 2));
    assert!(engine.metrics().text().contains("nv_cache_num_hits_per_model{model=\"m\",version=\"1\"} 0"));
    assert!(!engine.metrics().text().contains("nv_cache_num_entries"));
}

#[tokio::test]
async fn an_error_is_not_kept() {
    let harness = Harness::new();
    harness.scripted("m", "forget", CACHED, &[1]);
    let (engine, _) = engine(&harness).await;
    load(&engine, &["m"]).await;
    for count in 1..=2 {
        answer(&engine, ask("m", &[1.0])).await.unwrap_err();
        let counts = counts(&engine, "m");
        assert_eq!((counts.fail.count, counts.cache_hit.count, counts.cache_miss.count), (count, 0, 0));
    }
}

#[tokio::test]
async fn large_tensors_are_hashed_and_copied_beside_the_event_loop() {
    let harness = Harness::new();
    harness.scripted("m", "", CACHED, &[1]);
    let (engine, _) = engine(&harness).await;
    load(&engine, &["m"]).await;
    let row: Vec<f32> = (0..1_000_000_u32).map(|value| value as f32).collect();
    let mut inference = send(&engine, ask("m", &row)).unwrap();
    assert!(inference.is_polled_on());
    poll_fn(|context| {
        assert!(inference.poll_next(context).is_pending(), "it goes on elsewhere");
        Poll::Ready(())
    })
    .await;
    drop(inference); // its caller left: nothing of it remains
    assert_eq!(told(&engine, "m"), (0, 0, 0, 0, 0));
    let first = bytes(&engine, ask("m", &row)).await;
    assert_eq!(bytes(&engine, ask("m", &row)).await, first);
    assert_eq!(told(&engine, "m"), (1, 1, 1, 1, 2));
    let mut other = row.clone();
    other[999_999] = 0.5;
    assert_ne!(bytes(&engine, ask("m", &other)).await, first);
    assert_eq!(told(&engine, "m"), (1, 2, 2, 2, 3));
}

#[tokio::test]
async fn a_version_that_was_loaded_anew_has_no_entries() {
    let harness = Harness::new();
    harness.scripted("m", "", CACHED, &[1, 2]);
    let (engine, _) = engine(&harness).await;
    load(&engine, &["m"]).await;
    bytes(&engine, ask("m", &[1.0])).await;
    bytes(&engine, ask("m", &[1.0])).await;
    assert_eq!(told(&engine, "m"), (1, 1, 1, 1, 2));
    // a change that concerns only labels, groups or versions leaves what serves as it is
    harness.scripted("m", "", &format!("{CACHED} instance_group {{ count: 2 kind: KIND_CPU }}"), &[1, 2]);
    load(&engine, &["m"]).await;
    bytes(&engine, ask("m", &[1.0])).await;
    assert_eq!(told(&engine, "m"), (2, 1, 1, 1, 3));
    harness.write("m/2/weights", "other");
    load(&engine, &["m"]).await;
    bytes(&engine, ask("m", &[1.0])).await;
    assert_eq!(told(&engine, "m"), (0, 1, 1, 1, 1), "its statistics begin anew as well");
    engine.unload("m", false).await.unwrap();
    load(&engine, &["m"]).await;
    bytes(&engine, ask("m", &[1.0])).await;
    assert_eq!(told(&engine, "m"), (0, 1, 1, 1, 1));
}

#[tokio::test]
async fn an_ensemble_is_answered_as_a_whole_or_step_by_step() {
    let harness = Harness::new();
    harness.scripted("step", "", CACHED, &[1]);
    harness.scripted("other", "", "", &[1]);
    harness.ensemble("steps", &[("step", "IN", "MID"), ("other", "MID", "OUT")], &["OUT"], "");
    harness.ensemble("whole", &[("other", "IN", "MID"), ("other", "MID", "OUT")], &["OUT"], CACHED);
    let (engine, _) = engine(&harness).await;
    load(&engine, &["steps", "whole"]).await;
    let first = bytes(&engine, ask_ensemble("steps", &[1.0])).await;
    assert_eq!(bytes(&engine, ask_ensemble("steps", &[1.0])).await, first);
    assert_eq!(told(&engine, "steps"), (0, 0, 2, 2, 2));
    assert_eq!(told(&engine, "step"), (1, 1, 1, 1, 2));
    assert_eq!(told(&engine, "other"), (0, 0, 2, 2, 2));
    assert_eq!(bytes(&engine, ask_ensemble("whole", &[1.0])).await, first);
    assert_eq!(bytes(&engine, ask_ensemble("whole", &[1.0])).await, first);
    assert_eq!(told(&engine, "whole"), (1, 1, 1, 1, 2));
    assert_eq!(told(&engine, "other").2, 4);
    // a part that is loaded anew may answer otherwise
    harness.write("other/1/weights", "other");
    load(&engine, &["other"]).await;
    bytes(&engine, ask_ensemble("whole", &[1.0])).await;
    assert_eq!(told(&engine, "whole"), (1, 2, 2, 2, 3));
    bytes(&engine, ask_ensemble("whole", &[1.0])).await;
    assert_eq!(told(&engine, "whole"), (2, 2, 2, 2, 4));
    // as part of another, it is looked for like any model
    harness.ensemble("outer", &[], &[], "");
    let step = "step { model_name: 'whole' model_version: -1 input_map { key: 'IN' value: 'IN' } \
                output_map { key: 'OUT' value: 'OUT' } }";
    harness.write(
        "outer/config.pbtxt",
        &format!(
            "platform: 'ensemble' max_batch_size: 8 {CACHED} input {{ name: 'IN' data_type: TYPE_FP32 dims: [ -1 ] }}
             output {{ name: 'OUT' data_type: TYPE_FP32 dims: [ -1 ] }} ensemble_scheduling {{ {step} }}"
        ),
    );
    load(&engine, &["outer"]).await;
    for hits in 0..2 {
        bytes(&engine, ask_ensemble("outer", &[1.0])).await;
        assert_eq!(told(&engine, "outer").0, hits);
        assert_eq!(told(&engine, "whole").0, 3, "asked once");
    }
    harness.write("other/1/weights", "another");
    load(&engine, &["other"]).await;
    bytes(&engine, ask_ensemble("outer", &[1.0])).await;
    assert_eq!(told(&engine, "outer").1, 2, "what lies two ensembles below counts too");
}

#[tokio::test]
async fn an_ensemble_of_a_model_that_is_split_between_versions_is_not_kept_whole() {
    let harness = Harness::new();
    let split = "version_policy { all { } } parameters { key: 'version_weights' value { string_value: '1:50,2:50' } }";
    harness.scripted("step", "", &format!("{CACHED} {split}"), &[1, 2]);
    harness.ensemble("whole", &[("step", "IN", "OUT")], &["OUT"], CACHED);
    let (engine, _) = engine(&harness).await;
    load(&engine, &["whole"]).await;
    for _ in 0..10 {
        bytes(&engine, ask_ensemble("whole", &[1.0])).await;
    }
    assert_eq!(told(&engine, "whole"), (0, 0, 10, 10, 10));
    let steps = engine.statistics(Some(id("step"))).unwrap();
    let each: Vec<_> = steps.iter().map(|step| (step.success.count, step.cache_hit.count)).collect();
    assert_eq!(each, [(5, 4), (5, 4)], "each version has entries of its own");
}

#[tokio::test]
async fn an_ensemble_that_is_decoupled_by_a_step_is_refused() {
    let harness = Harness::new();
    harness.scripted("step", "many 2", "model_transaction_policy { decoupled: true }", &[1]);
    harness.ensemble("whole", &[("step", "IN", "OUT")], &["OUT"], CACHED);
    let (engine, _) = engine(&harness).await;
    let error = engine.load("whole", LoadParameters::default()).await.unwrap_err();
    let expect = "Response Cache does not currently support model whole with 'decoupled' transaction policy. Please \
                  disable the response cache.";
    assert!(error.message.contains(expect), "{error}");
}

#[tokio::test]
async fn responses_beyond_the_size_of_the_cache_push_out_the_oldest() {
    let harness = Harness::new();
    harness.scripted("m", "", CACHED, &[1]);
    let (engine, _) = harness.with_script_and(Options { response_cache: cache(100_000).await, ..Options::default() });
    load(&engine, &["m"]).await;
    let row = |value: usize| vec![value as f32; 1000];
    for value in 0..100 {
        bytes(&engine, ask("m", &row(value))).await;
    }
    bytes(&engine, ask("m", &row(99))).await;
    bytes(&engine, ask("m", &row(0))).await;
    assert_eq!(told(&engine, "m"), (1, 101, 101, 101, 102));
    let page = engine.metrics().text();
    let value = |name: &str| -> f64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    };
    assert!((0.8..=1.0).contains(&value("nv_cache_util")), "{}", value("nv_cache_util"));
    assert!((20.0..25.0).contains(&value("nv_cache_num_entries")));
    assert_eq!(value("nv_cache_num_entries") + value("nv_cache_num_evictions"), 101.0);
    // larger than all of it: answered, and not kept
    for _ in 0..2 {
        bytes(&engine, ask("m", &[1.0; 30_000])).await;
    }
    assert_eq!(told(&engine, "m"), (1, 103, 103, 103, 104));
}

#[tokio::test]
async fn what_is_kept_keeps_no_memory_of_the_request() {
    let harness = Harness::new();
    harness.model("m", CACHED, &[1]);
    let engine = harness.engine(Options { response_cache: cache(1 << 20).await, ..Options::default() });
    engine.start().await.unwrap();
    let body = bytes::Bytes::from(vec![0; 1 << 16]);
    let mut request = ask("m", &[0.0]);
    request.inputs[0].data = body.slice(0..4).into();
    drop(answer(&engine, request).await.unwrap());
    harness::until(|| body.is_unique()).await;
    assert_eq!(bytes(&engine, ask("m", &[0.0])).await, [0; 4]);
    assert_eq!(told(&engine, "m").0, 1);
}

#[tokio::test]
async fn memory_that_a_client_can_change_is_read_once() {
    let harness = Harness::new();
    harness.scripted("m", "echo_request", CACHED, &[1]);
    harness.scripted("plain", "echo_request", "", &[1]);
    let (engine, probe) = engine(&harness).await;
    load(&engine, &["m", "plain"]).await;
    for model in ["plain", "m", "m"] {
        let mut request = ask(model, &[1.0]);
        request.inputs[0].data = Buffer::of_client(bytes::Bytes::from(1.0_f32.to_le_bytes().to_vec()));
        answer(&engine, request).await.unwrap();
    }
    let seen: Vec<bool> = probe.requests.lock().iter().map(|request| request.inputs[0].data.is_of_client()).collect();
    assert_eq!(seen, [true, false], "the model that is cached got what was looked for");
    bytes(&engine, ask("m", &[1.0])).await;
    assert_eq!(told(&engine, "m"), (2, 1, 1, 1, 3), "where a tensor came from makes no difference");
}
