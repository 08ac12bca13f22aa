//! Traces of requests in the engine: which tensors they keep.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::sync::Arc;

use harness::{Harness, ask, ask_ensemble, send};
use parking_lot::Mutex;
use server_core::{
    byte_budget::ByteBudget,
    request::InferRequest,
    trace::{Event, Finished, Ids, Mode, TraceSink, Tracer, settings::Values},
};
use server_engine::{BlockingPool, CacheConfig, Engine, LoadParameters, Options, ResponseCache};

/// Keeps traces until they are asked for.
#[derive(Default)]
struct Kept(Mutex<Vec<Finished>>);

impl TraceSink for Kept {
    fn finished(&self, trace: Finished) {
        self.0.lock().push(trace);
    }

    fn retired(&self, _stream: u64) {}
}

/// An engine with a response cache.
async fn engine(harness: &Harness) -> Arc<Engine> {
    let cache = CacheConfig { name: "local".into(), settings: vec![("size".into(), "1000000".into())] };
    let cache = ResponseCache::open(&cache, BlockingPool::default(), Arc::new(ByteBudget::new(0))).await.unwrap();
    harness.with_script_and(Options { response_cache: Some(cache), ..Options::default() }).0
}

/// The tensors that the trace of a request keeps: model, point and name.
async fn tensors(engine: &Engine, mut request: InferRequest) -> Vec<String> {
    let kept = Arc::new(Kept::default());
    let values = Values { has_tensors: true, rate: 1, ..Values::default() };
    let tracer = Tracer::new(Mode::Triton, values, Vec::new(), Arc::new(Ids::new([1; 32])), kept.clone());
    request.trace = tracer.sample(&request.model_name, || None);
    send(engine, request).unwrap().response().await.unwrap();
    harness::until(|| !kept.0.lock().is_empty()).await;
    let trace = kept.0.lock().pop().unwrap();
    let model = |part: u64| {
        let named = trace.events.iter().find_map(|event| match event {
            Event::Model { id, model, .. } if *id == part => Some(model.to_string()),
            _ => None,
        });
        named.unwrap()
    };
    let shown = trace.events.iter().filter_map(|event| match event {
        Event::Tensor { id, activity, name, .. } => Some(format!("{} {} {name}", model(*id), activity.name())),
        _ => None,
    });
    shown.collect()
}

#[tokio::test]
async fn the_outputs_of_an_ensemble_are_kept_as_well_as_those_of_its_steps() {
    let harness = Harness::new();
    harness.scripted("a", "", "", &[1]);
    harness.ensemble("e", &[("a", "IN", "OUT")], &["OUT"], "");
    let engine = engine(&harness).await;
    engine.load("e", LoadParameters::default()).await.unwrap();
    let expect = [
        "e TENSOR_QUEUE_INPUT IN",
        "a TENSOR_QUEUE_INPUT INPUT0",
        "a TENSOR_BACKEND_OUTPUT OUTPUT0",
        "e TENSOR_BACKEND_OUTPUT OUT",
    ];
    assert_eq!(tensors(&engine, ask_ensemble("e", &[1.0])).await, expect);
}

#[tokio::test]
async fn the_outputs_of_a_cached_response_are_kept() {
    let harness = Harness::new();
    harness.scripted("m", "", "response_cache { enable: true }", &[1]);
    let engine = engine(&harness).await;
    engine.load("m", LoadParameters::default()).await.unwrap();
    let expect = ["m TENSOR_QUEUE_INPUT INPUT0", "m TENSOR_BACKEND_OUTPUT OUTPUT0"];
    for _ in 0..2 {
        assert_eq!(tensors(&engine, ask("m", &[1.0])).await, expect);
    }
    let counts = engine.statistics(Some(harness::id("m"))).unwrap().remove(0);
    assert_eq!((counts.cache_hit.count, counts.cache_miss.count), (1, 1));
}
