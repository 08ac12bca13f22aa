//! Statistics of models, as the statistics extension defines them.

use server_core::{
    error::Result,
    interface::ModelId,
    request::VersionChoice,
    stats::{BatchSnapshot, Durations, ModelSnapshot, ResponseSnapshot},
};
use server_engine::Engine;
use server_proto::inference::{
    InferBatchStatistics, InferResponseStatistics, InferStatistics, ModelStatistics, ModelStatisticsRequest,
    ModelStatisticsResponse, StatisticDuration,
};

/// Counters of every ready version, of one model's, or of one version.
pub(crate) fn model_statistics(engine: &Engine, request: &ModelStatisticsRequest) -> Result<ModelStatisticsResponse> {
    let version = VersionChoice::parse(&request.version)?;
    let model = (!request.name.is_empty()).then_some(ModelId { name: &request.name, version });
    let model_stats = engine.statistics(model)?.into_iter().map(statistics).collect();
    Ok(ModelStatisticsResponse { model_stats })
}

fn statistics(snapshot: ModelSnapshot) -> ModelStatistics {
    ModelStatistics {
        name: snapshot.name,
        version: snapshot.version.to_string(),
        last_inference: snapshot.last_inference_ms,
        inference_count: snapshot.inference_count,
        execution_count: snapshot.execution_count,
        inference_stats: Some(InferStatistics {
            success: duration(snapshot.success),
            fail: duration(snapshot.fail),
            queue: duration(snapshot.queue),
            compute_input: duration(snapshot.compute_input),
            compute_infer: duration(snapshot.compute_infer),
            compute_output: duration(snapshot.compute_output),
            cache_hit: duration(snapshot.cache_hit),
            cache_miss: duration(snapshot.cache_miss),
        }),
        batch_stats: snapshot.batches.iter().map(batch_statistics).collect(),
        response_stats: (0..).zip(&snapshot.responses).map(response_statistics).collect(),
        ..Default::default()
    }
}

fn batch_statistics(batch: &BatchSnapshot) -> InferBatchStatistics {
    InferBatchStatistics {
        batch_size: batch.batch_size,
        compute_input: duration(batch.compute_input),
        compute_infer: duration(batch.compute_infer),
        compute_output: duration(batch.compute_output),
    }
}

/// The entry of one response: its position, from 0.
fn response_statistics((number, response): (u32, &ResponseSnapshot)) -> (String, InferResponseStatistics) {
    let statistics = InferResponseStatistics {
        compute_infer: duration(response.compute_infer),
        compute_output: duration(response.compute_output),
        success: duration(response.success),
        fail: duration(response.fail),
        empty_response: duration(response.empty_response),
        cancel: duration(response.cancel),
    };
    (number.to_string(), statistics)
}

fn duration(durations: Durations) -> Option<StatisticDuration> {
    Some(StatisticDuration { count: durations.count, ns: durations.ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_arrives_in_its_field() {
        let durations = |count: u64| Durations { count, ns: count * 100 };
        let on_wire = |count: u64| Some(StatisticDuration { count, ns: count * 100 });
        let snapshot = ModelSnapshot {
            name: "m".into(),
            version: 3,
            last_inference_ms: 1,
            inference_count: 2,
            execution_count: 3,
            success: durations(4),
            fail: durations(5),
            queue: durations(6),
            compute_input: durations(7),
            compute_infer: durations(8),
            compute_output: durations(9),
            cache_hit: durations(10),
            cache_miss: durations(11),
            batches: vec![BatchSnapshot {
                batch_size: 12,
                compute_input: durations(13),
                compute_infer: durations(14),
                compute_output: durations(15),
            }],
            responses: vec![ResponseSnapshot {
                compute_infer: durations(16),
                compute_output: durations(17),
                success: durations(18),
                fail: durations(19),
                empty_response: durations(20),
                cancel: durations(21),
            }],
            ..Default::default()
        };
        let expected = ModelStatistics {
            name: "m".into(),
            version: "3".into(),
            last_inference: 1,
            inference_count: 2,
            execution_count: 3,
            inference_stats: Some(InferStatistics {
                success: on_wire(4),
                fail: on_wire(5),
                queue: on_wire(6),
                compute_input: on_wire(7),
                compute_infer: on_wire(8),
                compute_output: on_wire(9),
                cache_hit: on_wire(10),
                cache_miss: on_wire(11),
            }),
            batch_stats: vec![InferBatchStatistics {
                batch_size: 12,
                compute_input: on_wire(13),
                compute_infer: on_wire(14),
                compute_output: on_wire(15),
            }],
            response_stats: [(
                "0".to_owned(),
                InferResponseStatistics {
                    compute_infer: on_wire(16),
                    compute_output: on_wire(17),
                    success: on_wire(18),
                    fail: on_wire(19),
                    empty_response: on_wire(20),
                    cancel: on_wire(21),
                },
            )]
            .into(),
            ..Default::default()
        };
        assert_eq!(statistics(snapshot), expected);
    }
}
