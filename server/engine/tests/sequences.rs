//! Sequences through the whole engine, on the backends that add up what their sequences send.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use harness::{Harness, id, until};
use server_core::{
    error::{Code, Error},
    rate_limit::Amounts,
    request::{CorrelationId, InferRequest, Sequence},
    response::InferResponse,
};
use server_engine::{Engine, Inference, LoadParameters, Options};

const CONTROLS: &str = "
    control_input { name: 'START' control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }
    control_input { name: 'READY' control { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } }
    control_input { name: 'CORRID' control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }";

/// A model of sums with that configuration of its sequences, and more of its own.
fn model(harness: &Harness, strategy: &str, more: &str) {
    let backend = if strategy.contains("oldest") { "dyna_sequence" } else { "sequence" };
    let instances = if more.contains("instance_group") { "" } else { "instance_group { kind: KIND_CPU }" };
    let config = format!(
        "backend: '{backend}' max_batch_size: 4 {instances} {more}
         input {{ name: 'INPUT' data_type: TYPE_INT32 dims: 1 }} output {{ name: 'OUTPUT' data_type: TYPE_INT32 dims: 1 }}
         sequence_batching {{ {strategy} {CONTROLS} }}"
    );
    harness.write("m/config.pbtxt", &config);
    harness.write("m/1/.keep", "");
}

async fn load(harness: &Harness) -> Arc<Engine> {
    let engine = harness.explicit();
    engine.load("m", LoadParameters::default()).await.unwrap();
    engine
}

/// Request of sequence `id`, with `S` and `E` among `flags` for the first and the last one.
fn asked(value: i32, id: u64, flags: &str) -> InferRequest {
    let id = CorrelationId::Number(id);
    let sequence = Sequence { id, is_start: flags.contains('S'), is_end: flags.contains('E') };
    InferRequest { sequence: Some(sequence), ..harness::ask_number(value) }
}

fn send(engine: &Engine, request: InferRequest) -> Result<Inference, Error> {
    harness::send(engine, request)
}

fn sum(response: &InferResponse) -> i32 {
    i32::from_le_bytes(response.outputs[0].data.as_host().unwrap().try_into().unwrap())
}

async fn run(engine: &Engine, request: InferRequest) -> Result<i32, Error> {
    Ok(sum(&send(engine, request)?.response().await?))
}

const STRATEGIES: [&str; 2] = ["direct { }", "oldest { max_candidate_sequences: 4 }"];

#[tokio::test(flavor = "multi_thread")]
async fn sequences_that_run_beside_each_other_do_not_mix() {
    for strategy in STRATEGIES {
        for instances in [1, 3] {
            let harness = Harness::new();
            model(&harness, strategy, &format!("instance_group {{ count: {instances} kind: KIND_CPU }}"));
            let engine = load(&harness).await;
            let sequences: Vec<_> = (1..=20)
                .map(|id| {
                    let engine = engine.clone();
                    tokio::spawn(async move {
                        let mut expect = 0;
                        for step in 0..30 {
                            let value = id as i32 * 100 + step;
                            expect += value;
                            let flags = ["S", "", "E"][usize::from(step > 0) + usize::from(step == 29)];
                            assert_eq!(run(&engine, asked(value, id, flags)).await.unwrap(), expect, "{strategy}");
                        }
                    })
                })
                .collect();
            for sequence in sequences {
                sequence.await.unwrap();
            }
            let counted = engine.statistics(None).unwrap().remove(0);
            assert_eq!((counted.success.count, counted.inference_count, counted.pending), (600, 600, 0));
            assert!(counted.execution_count <= 600, "rows without requests are none");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_sequence_run_in_the_order_they_were_sent() {
    for strategy in STRATEGIES {
        let harness = Harness::new();
        model(&harness, strategy, "parameters { key: 'execute_delay_ms' value { string_value: '1' } }");
        let engine = load(&harness).await;
        let sent: Vec<_> =
            (1..=20).map(|step| send(&engine, asked(step, 7, if step == 1 { "S" } else { "" })).unwrap()).collect();
        let mut expect = 0;
        for (step, inference) in sent.into_iter().enumerate() {
            expect += step as i32 + 1;
            assert_eq!(sum(&inference.response().await.unwrap()), expect);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_sequence_takes_is_refused_and_counted_nowhere() {
    let harness = Harness::new();
    model(&harness, "direct { }", "");
    let engine = load(&harness).await;
    let refused = |request| async {
        let error = run(&engine, request).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        error.message.into_owned()
    };
    let no_identity = "inference request to model 'm' must specify a non-zero or non-empty correlation ID";
    assert_eq!(refused(asked(1, 0, "S")).await, no_identity);
    assert_eq!(refused(InferRequest { sequence: None, ..asked(1, 1, "") }).await, no_identity);
    assert_eq!(
        refused(asked(1, 9, "")).await,
        "inference request for sequence 9 to model 'm' must specify the START flag on the first request of the sequence"
    );
    let text = Sequence { id: CorrelationId::Text("nine".into()), is_start: true, is_end: false };
    assert_eq!(
        refused(InferRequest { sequence: Some(text), ..asked(1, 9, "") }).await,
        "[request id: <id_unknown>] sequence batching control 'CORRID' data-type is 'BYTES', but model 'm' expects \
         'UINT64'"
    );
    let counted = engine.statistics(None).unwrap().remove(0);
    assert_eq!((counted.success.count, counted.fail.count), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_waits_for_a_slot_hears_of_its_timeout_while_it_waits() {
    let harness = Harness::new();
    model(&harness, "direct { } max_sequence_idle_microseconds: 60000000", "");
    let engine = load(&harness).await;
    for id in 1..=4 {
        run(&engine, asked(1, id, "S")).await.unwrap();
    }
    let hasty = InferRequest { timeout: Some(Duration::from_millis(30)), ..asked(1, 5, "S") };
    let others = send(&engine, asked(2, 6, "SE")).unwrap();
    let (first, second) = (send(&engine, hasty).unwrap(), send(&engine, asked(1, 5, "")).unwrap());
    assert_eq!(engine.statistics(None).unwrap()[0].pending, 3, "the backlog waits too");
    for inference in [first, second] {
        let error = inference.response().await.unwrap_err();
        assert_eq!(
            (error.code, &*error.message),
            (Code::Unavailable, "timeout of the corresponding sequence has been expired")
        );
    }
    assert_eq!(engine.statistics(None).unwrap()[0].failures.rejected, 2);
    run(&engine, asked(1, 4, "E")).await.unwrap();
    assert_eq!(sum(&others.response().await.unwrap()), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_frees_a_slot_for_whoever_waits_without_any_request() {
    for strategy in STRATEGIES {
        let harness = Harness::new();
        model(&harness, &format!("{strategy} max_sequence_idle_microseconds: 50000"), "");
        let engine = load(&harness).await;
        for id in 1..=4 {
            run(&engine, asked(1, id, "S")).await.unwrap();
        }
        assert_eq!(run(&engine, asked(5, 5, "S")).await.unwrap(), 5);
        let error = run(&engine, asked(1, 1, "")).await.unwrap_err();
        assert!(error.message.contains("must specify the START flag"), "{}", error.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_when_a_model_is_unloaded_is_answered() {
    for strategy in STRATEGIES {
        let harness = Harness::new();
        let slow = "parameters { key: 'execute_delay_ms' value { string_value: '5' } }";
        model(&harness, &format!("{strategy} max_sequence_idle_microseconds: 600000000"), slow);
        let engine = load(&harness).await;
        let sent: Vec<_> = (1..=12).map(|id| send(&engine, asked(id as i32, id, "S")).unwrap()).collect();
        engine.unload("m", false).await.unwrap();
        for (index, inference) in sent.into_iter().enumerate() {
            assert_eq!(sum(&inference.response().await.unwrap()), index as i32 + 1, "{strategy}");
        }
        until(|| engine.model(id("m")).is_err()).await;
        engine.load("m", LoadParameters::default()).await.unwrap();
        let error = run(&engine, asked(1, 1, "")).await.unwrap_err();
        assert!(error.message.contains("must specify the START flag"), "a load forgets: {}", error.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_survive_that_their_model_gets_other_instances() {
    for strategy in STRATEGIES {
        let harness = Harness::new();
        let idle = format!("{strategy} max_sequence_idle_microseconds: 600000000");
        model(&harness, &idle, "instance_group { name: 'a' count: 2 kind: KIND_CPU }");
        let engine = load(&harness).await;
        for id in 1..=4 {
            run(&engine, asked(1, id, "S")).await.unwrap();
        }
        for count in [1, 3] {
            model(&harness, &idle, &format!("instance_group {{ name: 'a' count: {count} kind: KIND_CPU }}"));
            let load = engine.load("m", LoadParameters::default());
            tokio::time::timeout(Duration::from_secs(30), load).await.expect("it waits for no sequence").unwrap();
            for id in 1..=4 {
                run(&engine, asked(1, id, "")).await.unwrap();
            }
        }
        for id in 1..=4 {
            assert_eq!(run(&engine, asked(1, id, "E")).await.unwrap(), 4, "{strategy}");
        }
        engine.unload("m", false).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_does_not_end_its_sequence() {
    for strategy in STRATEGIES {
        let harness = Harness::new();
        let needs_r = "instance_group { kind: KIND_CPU rate_limiter { resources { name: 'R' count: 1 } } }";
        model(&harness, strategy, needs_r);
        harness.scripted("holder", "gated", needs_r, &[1]);
        let options = Options { rate_limit: Some(Amounts::default()), ..Options::default() };
        let (engine, probe) = harness.with_script_and(options);
        for name in ["m", "holder"] {
            engine.load(name, LoadParameters::default()).await.unwrap();
        }
        probe.close_gate();
        let holder = send(&engine, harness::ask("holder", &[0.0])).unwrap();
        until(|| probe.waiting.load(Ordering::SeqCst) == 1).await; // it has R, and nothing of the sequence runs
        let first = send(&engine, asked(1, 7, "S")).unwrap();
        drop(send(&engine, asked(100, 7, "")).unwrap());
        let last = send(&engine, asked(2, 7, "E")).unwrap();
        probe.open_gate();
        assert!(holder.response().await.is_ok());
        assert_eq!(sum(&first.response().await.unwrap()), 1);
        assert_eq!(sum(&last.response().await.unwrap()), 3, "{strategy}");
        until(|| engine.statistics(Some(id("m"))).unwrap()[0].failures.canceled == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initial_state_that_cannot_be_read_fails_the_load() {
    let harness = Harness::new();
    let state = "state { input_name: 'SI' output_name: 'SO' data_type: TYPE_INT32 dims: 1
                 initial_state: { name: 'i' data_type: TYPE_INT32 dims: 1 data_file: 'absent' } }";
    model(&harness, &format!("direct {{ }} {state}"), "");
    let error = harness.explicit().load("m", LoadParameters::default()).await.unwrap_err();
    assert!(error.message.contains("failed to open text file for read "), "{}", error.message);
    assert!(error.message.contains("m/initial_state/absent: No such file or directory"), "{}", error.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_leave_while_their_sequences_wait_leave_nothing_behind() {
    for strategy in STRATEGIES {
        let harness = Harness::new();
        model(&harness, &format!("{strategy} max_sequence_idle_microseconds: 600000000"), "");
        let engine = load(&harness).await;
        for id in 1..=4 {
            run(&engine, asked(1, id, "S")).await.unwrap();
        }
        let waiting: Vec<_> = (5..=50).map(|id| send(&engine, asked(1, id, "S")).unwrap()).collect();
        let others = send(&engine, asked(1, 5, "")).unwrap();
        let next = send(&engine, asked(3, 60, "SE")).unwrap();
        drop(waiting);
        let error = others.response().await.unwrap_err(); // no slot has become free meanwhile
        assert_eq!((error.code, engine.statistics(None).unwrap()[0].pending), (Code::Cancelled, 1));
        until(|| engine.statistics(None).unwrap()[0].failures.canceled == 47).await;
        let error = run(&engine, asked(1, 5, "")).await.unwrap_err();
        assert!(error.message.contains("must specify the START flag"), "{}", error.message);
        run(&engine, asked(1, 1, "E")).await.unwrap();
        assert_eq!(sum(&next.response().await.unwrap()), 3, "{strategy}");
    }
}
