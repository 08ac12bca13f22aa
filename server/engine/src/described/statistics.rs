//! Counters of models as JSON, in the members of Triton's statistics extension.

use serde::{Serialize, Serializer};
use server_core::{
    error::{Error, Result},
    stats::{BatchSnapshot, Durations, ModelSnapshot, ResponseSnapshot},
};

#[derive(Serialize)]
struct Statistics {
    model_stats: Vec<Model>,
}

#[derive(Serialize)]
struct Model {
    name: String,
    version: String,
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: Inference,
    /// Of decoupled models, by position of the response, from 0.
    #[serde(serialize_with = "numbered")]
    response_stats: Vec<Response>,
    batch_stats: Vec<Batch>,
    /// Of backends that report it.
    memory_usage: [(); 0],
}

#[derive(Serialize)]
struct Inference {
    success: Event,
    fail: Event,
    queue: Event,
    compute_input: Event,
    compute_infer: Event,
    compute_output: Event,
    cache_hit: Event,
    cache_miss: Event,
}

#[derive(Serialize)]
struct Response {
    compute_infer: Event,
    compute_output: Event,
    success: Event,
    fail: Event,
    empty_response: Event,
    cancel: Event,
}

#[derive(Serialize)]
struct Batch {
    batch_size: u64,
    compute_input: Event,
    compute_infer: Event,
    compute_output: Event,
}

#[derive(Serialize)]
struct Event {
    count: u64,
    ns: u64,
}

/// The counters of those versions.
pub(super) fn text(snapshots: Vec<ModelSnapshot>) -> Result<String> {
    let model_stats = snapshots.into_iter().map(Model::from).collect();
    serde_json::to_string(&Statistics { model_stats })
        .map_err(|error| Error::internal(format!("the statistics have no JSON form: {error}")))
}

fn numbered<S: Serializer>(responses: &[Response], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(responses.iter().enumerate())
}

impl From<ModelSnapshot> for Model {
    fn from(snapshot: ModelSnapshot) -> Self {
        Self {
            name: snapshot.name,
            version: snapshot.version.to_string(),
            last_inference: snapshot.last_inference_ms,
            inference_count: snapshot.inference_count,
            execution_count: snapshot.execution_count,
            inference_stats: Inference {
                success: snapshot.success.into(),
                fail: snapshot.fail.into(),
                queue: snapshot.queue.into(),
                compute_input: snapshot.compute_input.into(),
                compute_infer: snapshot.compute_infer.into(),
                compute_output: snapshot.compute_output.into(),
                cache_hit: snapshot.cache_hit.into(),
                cache_miss: snapshot.cache_miss.into(),
            },
            response_stats: snapshot.responses.into_iter().map(Response::from).collect(),
            batch_stats: snapshot.batches.into_iter().map(Batch::from).collect(),
            memory_usage: [],
        }
    }
}

impl From<ResponseSnapshot> for Response {
    fn from(snapshot: ResponseSnapshot) -> Self {
        Self {
            compute_infer: snapshot.compute_infer.into(),
            compute_output: snapshot.compute_output.into(),
            success: snapshot.success.into(),
            fail: snapshot.fail.into(),
            empty_response: snapshot.empty_response.into(),
            cancel: snapshot.cancel.into(),
        }
    }
}

impl From<BatchSnapshot> for Batch {
    fn from(snapshot: BatchSnapshot) -> Self {
        Self {
            batch_size: snapshot.batch_size,
            compute_input: snapshot.compute_input.into(),
            compute_infer: snapshot.compute_infer.into(),
            compute_output: snapshot.compute_output.into(),
        }
    }
}

impl From<Durations> for Event {
    fn from(durations: Durations) -> Self {
        Self { count: durations.count, ns: durations.ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_in_tritons_order() {
        let durations = |count| Durations { count, ns: count * 10 };
        let batch = BatchSnapshot { batch_size: 4, compute_infer: durations(2), ..BatchSnapshot::default() };
        let snapshot = ModelSnapshot {
            name: "m".into(),
            version: 2,
            last_inference_ms: 99,
            inference_count: 8,
            execution_count: 2,
            success: durations(1),
            batches: vec![batch],
            responses: vec![
                ResponseSnapshot { success: durations(3), ..ResponseSnapshot::default() },
                ResponseSnapshot { empty_response: durations(4), ..ResponseSnapshot::default() },
            ],
            ..ModelSnapshot::default()
        };
        let text = text(vec![snapshot]).unwrap();
        let zero = "{\"count\":0,\"ns\":0}";
        assert_eq!(
            text,
            format!(
                "{{\"model_stats\":[{{\"name\":\"m\",\"version\":\"2\",\"last_inference\":99,\"inference_count\":8,\
                 \"execution_count\":2,\"inference_stats\":{{\"success\":{{\"count\":1,\"ns\":10}},\"fail\":{zero},\
                 \"queue\":{zero},\"compute_input\":{zero},\"compute_infer\":{zero},\"compute_output\":{zero},\
                 \"cache_hit\":{zero},\"cache_miss\":{zero}}},\"response_stats\":{{\
                 \"0\":{{\"compute_infer\":{zero},\"compute_output\":{zero},\"success\":{{\"count\":3,\"ns\":30}},\
                 \"fail\":{zero},\"empty_response\":{zero},\"cancel\":{zero}}},\
                 \"1\":{{\"compute_infer\":{zero},\"compute_output\":{zero},\"success\":{zero},\"fail\":{zero},\
                 \"empty_response\":{{\"count\":4,\"ns\":40}},\"cancel\":{zero}}}}},\"batch_stats\":[\
                 {{\"batch_size\":4,\"compute_input\":{zero},\"compute_infer\":{{\"count\":2,\"ns\":20}},\
                 \"compute_output\":{zero}}}],\"memory_usage\":[]}}]}}"
            )
        );
    }
}
