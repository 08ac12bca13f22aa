//! Iterative models through the whole engine: one request is a sequence that its model runs again and again.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{sync::Arc, time::Duration};

use harness::{Harness, until};
use server_engine::{Engine, Inference, LoadParameters};

const STRATEGIES: [&str; 2] = ["direct { }", "oldest { max_candidate_sequences: 4 }"];
const DEADLINE: Duration = Duration::from_secs(30);

/// A model that counts down, with four slots.
async fn load(harness: &Harness, strategy: &str) -> Arc<Engine> {
    let config = format!(
        "backend: 'iterative_sequence' max_batch_size: 4 instance_group {{ kind: KIND_CPU }}
         model_transaction_policy {{ decoupled: true }}
         input {{ name: 'INPUT' data_type: TYPE_INT32 dims: 1 }} output {{ name: 'OUTPUT' data_type: TYPE_INT32 dims: 1 }}
         sequence_batching {{ {strategy} iterative_sequence: true }}"
    );
    harness.write("m/config.pbtxt", &config);
    harness.write("m/1/.keep", "");
    let engine = harness.explicit();
    engine.load("m", LoadParameters::default()).await.unwrap();
    engine
}

/// Asks for so many responses.
fn ask(engine: &Engine, count: i32) -> Inference {
    harness::send(engine, harness::ask_number(count)).unwrap()
}

async fn count(inference: &mut Inference) -> usize {
    let mut count = 0;
    let all = async {
        while let Some(response) = std::future::poll_fn(|context| inference.poll_next(context)).await {
            response.unwrap();
            count += 1;
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("its responses come");
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_are_behind_hold_up_nobody_else() {
    for strategy in STRATEGIES {
        let harness = Harness::new();
        let engine = load(&harness, strategy).await;
        let slow: Vec<Inference> = (0..3).map(|_| ask(&engine, i32::MAX)).collect();
        // By far more turns than the others need to be behind: their slots hold a few thousand responses.
        for _ in 0..3 {
            assert_eq!(count(&mut ask(&engine, 10_000)).await, 10_000, "{strategy}");
        }
        drop(slow);
        until(|| engine.statistics(None).unwrap()[0].failures.canceled == 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_turn_is_counted_as_an_inference_and_the_request_once_in_time() {
    for strategy in STRATEGIES {
        let harness = Harness::new();
        let engine = load(&harness, strategy).await;
        assert_eq!(count(&mut ask(&engine, 3)).await, 3);
        assert_eq!(count(&mut ask(&engine, 2)).await, 2);
        until(|| engine.statistics(None).unwrap()[0].execution_count == 5).await; // counted behind the last answer
        let counted = engine.statistics(None).unwrap().remove(0);
        let counts = [counted.inference_count, counted.success.count, counted.fail.count];
        assert_eq!(counts, [5, 5, 0], "{strategy}");
        assert_eq!([counted.queue.count, counted.compute_infer.count], [5, 5], "{strategy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_begun_takes_its_turns_to_the_end_when_the_model_is_unloaded() {
    for strategy in STRATEGIES {
        let harness = Harness::new();
        let engine = load(&harness, strategy).await;
        let mut begun: Vec<Inference> = (0..6).map(|_| ask(&engine, 5_000)).collect(); // two wait for slots
        engine.unload("m", false).await.unwrap();
        for inference in &mut begun {
            assert_eq!(count(inference).await, 5_000, "{strategy}");
        }
        until(|| engine.model(harness::id("m")).is_err()).await;
    }
}
