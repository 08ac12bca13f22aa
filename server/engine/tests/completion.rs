//! The end of requests: late, often, by panic, from other threads, and what waits for it.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::Poll,
    thread,
    time::Duration,
};

use harness::{Harness, ask, send, text, until};
use server_core::{backend::Host, error::Code, request::VersionChoice};
use server_engine::{Engine, LoadParameters, Options, VersionState};

async fn load(engine: &Arc<Engine>, name: &str) {
    engine.load(name, LoadParameters::default()).await.unwrap();
}

fn state(engine: &Engine, name: &str) -> Option<VersionState> {
    engine.index(false).unwrap().into_iter().find(|line| line.name == name).and_then(|line| line.state)
}

#[tokio::test(flavor = "multi_thread")]
async fn some_requests_of_a_batch_end_now_and_others_later() {
    let harness = Harness::new();
    let batching = "dynamic_batching { preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 60000000 }";
    harness.scripted("m", "late", batching, &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine, "m").await;
    probe.close_gate();
    let mut requests: Vec<_> = (0..3).map(|row| send(&engine, ask("m", &[row as f32])).unwrap()).collect();
    let first = requests.remove(0).response().await.unwrap();
    assert_eq!(first.outputs[0].data.as_host().unwrap(), 0f32.to_le_bytes());
    let counted = engine.statistics(None).unwrap().remove(0);
    assert_eq!((counted.success.count, counted.execution_count), (1, 1), "one has ended, of one execution");
    probe.open_gate();
    for (row, request) in (1..).zip(requests) {
        let response = request.response().await.unwrap();
        assert_eq!(response.outputs[0].data.as_host().unwrap(), (row as f32).to_le_bytes());
    }
    let counted = engine.statistics(None).unwrap().remove(0);
    assert_eq!((counted.success.count, counted.inference_count, counted.execution_count), (3, 3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_instance_goes_while_a_request_is_held_elsewhere() {
    for stops in [false, true] {
        let harness = Harness::new();
        harness.scripted("m", "late", "", &[1]);
        let (engine, probe) = harness.with_script();
        engine.start().await.unwrap();
        load(&engine, "m").await;
        probe.close_gate();
        let held = send(&engine, ask("m", &[1.0])).unwrap();
        until(|| probe.held.load(Ordering::SeqCst) == 1).await;
        let shutdown = if stops {
            let engine = engine.clone();
            tokio::spawn(async move { engine.shutdown(Duration::from_secs(60)).await })
        } else {
            engine.unload("m", false).await.unwrap();
            assert_eq!(state(&engine, "m"), Some(VersionState::Unloading));
            tokio::spawn(async { true })
        };
        assert_eq!(probe.instances.load(Ordering::SeqCst), 1, "it is needed until the request has ended");
        probe.open_gate();
        assert!(held.response().await.is_ok());
        until(|| probe.instances.load(Ordering::SeqCst) == 0).await;
        assert!(!probe.went_too_early.load(Ordering::SeqCst));
        assert!(shutdown.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_panics_or_is_forgotten_is_answered_and_counted() {
    for script in ["panic", "forget"] {
        let harness = Harness::new();
        harness.scripted("m", script, "", &[1]);
        let (engine, _) = harness.with_script();
        load(&engine, "m").await;
        let error = send(&engine, ask("m", &[1.0])).unwrap().response().await.unwrap_err();
        assert_eq!((error.code, &*error.message), (Code::Internal, "the request was dropped without a response"));
        let counted = engine.statistics(None).unwrap().remove(0);
        assert_eq!((counted.success.count, counted.fail.count, counted.failures.backend), (0, 1, 1), "{script}");
        engine.unload("m", false).await.unwrap();
        until(|| state(&engine, "m") == Some(VersionState::Unavailable)).await; // and nothing waits for it
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_of_a_decoupled_model_arrives_and_is_counted_by_its_number() {
    let harness = Harness::new();
    harness.scripted("m", "many 3", "model_transaction_policy { decoupled: true }", &[1]);
    let (engine, _) = harness.with_script();
    load(&engine, "m").await;
    for _ in 0..2 {
        let mut request = send(&engine, ask("m", &[7.0])).unwrap();
        let mut count = 0;
        while let Some(response) = poll_fn(|context| request.poll_next(context)).await {
            assert_eq!(text(&response.unwrap()), "m 1: OUTPUT0 FP32 [1,1]");
            count += 1;
        }
        assert_eq!(count, 3);
    }
    let counted = engine.statistics(None).unwrap().remove(0);
    assert_eq!((counted.success.count, counted.execution_count), (2, 2));
    let by_number: Vec<_> =
        counted.responses.iter().map(|response| (response.success.count, response.empty_response.count)).collect();
    assert_eq!(by_number, [(2, 0), (2, 0), (2, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_put_back_takes_its_turns_and_ends_once() {
    let harness = Harness::new();
    let iterative = "sequence_batching { iterative_sequence: true oldest { max_candidate_sequences: 4 } }";
    harness.scripted("m", "turns 5", iterative, &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine, "m").await;
    let requests: Vec<_> = (0..10).map(|row| send(&engine, ask("m", &[row as f32])).unwrap()).collect();
    engine.unload("m", false).await.unwrap(); // what is inside goes on, also what comes back
    for request in requests {
        assert!(request.response().await.is_ok());
    }
    until(|| probe.instances.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_iterative_gets_no_request_again() {
    let harness = Harness::new();
    harness.scripted("m", "turns 5", "dynamic_batching { }", &[1]);
    let (engine, _probe) = harness.with_script();
    load(&engine, "m").await;
    let error = send(&engine, ask("m", &[1.0])).unwrap().response().await.unwrap_err();
    let text = "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is not configured to \
                handle such a flag.";
    assert_eq!((error.code, &*error.message), (Code::Internal, text));
    assert_eq!(engine.statistics(None).unwrap()[0].failures.backend, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_asks_another_also_while_the_server_stops() {
    let harness = Harness::new();
    harness.scripted("caller", "ask gated", "", &[1]);
    harness.scripted("gated", "gated", "", &[1]);
    harness.scripted("lost", "ask nobody", "", &[1]);
    let (engine, probe) = harness.with_script();
    for name in ["caller", "gated", "lost"] {
        load(&engine, name).await;
    }
    let error = send(&engine, ask("lost", &[1.0])).unwrap().response().await.unwrap_err();
    assert_eq!(&*error.message, "Request for unknown model: 'nobody' is not found");
    probe.close_gate();
    // The second one of the two cannot have asked yet when the server stops: one instance runs the caller.
    let requests: Vec<_> = (0..2).map(|row| send(&engine, ask("caller", &[row as f32])).unwrap()).collect();
    until(|| probe.threads.lock().len() >= 3).await;
    let stopping = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.shutdown(Duration::from_secs(60)).await })
    };
    until(|| engine.is_live().is_err()).await;
    probe.open_gate();
    for (row, request) in requests.into_iter().enumerate() {
        let response = request.response().await.unwrap();
        assert_eq!(response.outputs[0].data.as_host().unwrap(), (row as f32).to_le_bytes());
    }
    assert!(stopping.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_slow_instance_lets_only_a_bounded_number_of_responses_wait_for_it() {
    let harness = Harness::new();
    let config =
        "max_batch_size: 1 dynamic_batching { preserve_ordering: true default_queue_policy { max_queue_size: 4 } }
        instance_group { count: 2 kind: KIND_CPU }";
    harness.scripted("m", "gated_first", config, &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine, "m").await;
    probe.close_gate();
    // Until the first instance waits at the gate, the other one answers.
    let mut inside = Vec::new();
    let mut accepted_since = 0;
    let mut refusals = 0;
    let refused = loop {
        let is_caught = probe.waiting.load(Ordering::SeqCst) == 1;
        match send(&engine, ask("m", &[inside.len() as f32])) {
            Ok(request) => {
                inside.push(request);
                accepted_since += usize::from(is_caught);
                refusals = 0;
            }
            Err(error) => {
                refusals += usize::from(is_caught);
                if refusals == 500 {
                    break error; // for good: four finished responses are held, and four requests wait
                }
            }
        }
        assert!(accepted_since < 16, "nothing bounds what waits for the slow instance");
        tokio::task::yield_now().await;
    };
    assert_eq!(engine.statistics(None).unwrap()[0].pending, 4);
    assert!(refused.message.ends_with("Exceeds maximum queue size"), "{refused}");
    probe.open_gate();
    for (row, request) in inside.into_iter().enumerate() {
        let response = request.response().await.unwrap();
        assert_eq!(response.outputs[0].data.as_host().unwrap(), (row as f32).to_le_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_response_of_several_overtakes_those_of_a_request_ahead() {
    responses_keep_the_order_of_requests("many_gated_first 3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_that_are_counted_apart_overtake_none_either() {
    responses_keep_the_order_of_requests("many_unreported_gated_first 3").await;
}

async fn responses_keep_the_order_of_requests(script: &str) {
    let harness = Harness::new();
    let config =
        "max_batch_size: 1 model_transaction_policy { decoupled: true } dynamic_batching { preserve_ordering: true }
        instance_group { count: 2 kind: KIND_CPU }";
    harness.scripted("m", script, config, &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine, "m").await;
    probe.close_gate();
    let mut inside = Vec::new();
    while probe.waiting.load(Ordering::SeqCst) == 0 {
        inside.push(send(&engine, ask("m", &[1.0])).unwrap());
        tokio::task::yield_now().await;
    }
    inside.push(send(&engine, ask("m", &[1.0])).unwrap()); // behind the one at the gate
    let all_but_one = inside.len() as u64 - 1;
    until(|| engine.statistics(None).unwrap()[0].success.count == all_but_one).await;
    let last = inside.last_mut().unwrap();
    let early = poll_fn(|context| Poll::Ready(last.poll_next(context).is_ready())).await;
    assert!(!early, "its three responses are there, and another request is ahead");
    probe.open_gate();
    for mut request in inside {
        let mut count = 0;
        while let Some(response) = poll_fn(|context| request.poll_next(context)).await {
            response.unwrap();
            count += 1;
        }
        assert_eq!(count, 3);
    }
}

#[tokio::test]
async fn that_a_server_is_ready_needs_no_thread_of_the_runtime_where_no_model_is_asked() {
    let harness = Harness::new();
    harness.scripted("m", "", "", &[1]);
    let (engine, _probe) = harness.with_script();
    engine.start().await.unwrap();
    let (sender, answer) = mpsc::channel();
    thread::spawn(move || sender.send(Host::is_server_ready(&*engine)));
    // the only thread of the runtime waits here
    assert_eq!(answer.recv_timeout(Duration::from_secs(10)), Ok(Ok(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_said_by_each_instance_and_can_be_taken_back() {
    let harness = Harness::new();
    harness.scripted("m", "", "instance_group { count: 2 kind: KIND_CPU }", &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine, "m").await;
    let is_ready = || Host::is_model_ready(&*engine, "m", VersionChoice::Latest).unwrap();
    let health = probe.health.lock().clone();
    health[0].set(false);
    assert!(is_ready(), "the other one serves");
    health[1].set(false);
    assert!(!is_ready());
    health[0].set(true);
    assert!(is_ready(), "it has recovered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_says_itself_whether_it_is_ready() {
    let harness = Harness::new();
    harness.scripted("m", "says_ready", "", &[1, 2]);
    let startup_models = vec!["m".to_owned()];
    let (engine, probe) = harness.with_script_and(Options { startup_models, ..Options::default() });
    engine.start().await.unwrap();
    for says_ready in [true, false, true] {
        probe.says_ready.store(says_ready, Ordering::SeqCst);
        assert_eq!(engine.is_model_ready(harness::id("m")).await, Ok(says_ready));
        assert_eq!(engine.is_ready().await, Ok(says_ready));
        let host = engine.clone();
        let asked = tokio::task::spawn_blocking(move || Host::is_model_ready(&*host, "m", VersionChoice::Latest));
        assert_eq!(asked.await.unwrap(), Ok(says_ready));
    }
    probe.health.lock().iter().for_each(|health| health.set(false));
    assert_eq!(engine.is_model_ready(harness::id("m")).await, Ok(false), "its instances count more");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_says_what_is_wrong_with_instances() {
    let harness = Harness::new();
    harness.scripted("m", "", "instance_group { count: 2 kind: KIND_CPU }", &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine, "m").await;
    let line = || {
        let line = engine.index(false).unwrap().remove(0);
        (line.state, line.reason)
    };
    let health = probe.health.lock().clone();
    assert_eq!(line(), (Some(VersionState::Ready), String::new()));
    health[0].set(false);
    health[0].set_reason(Some("the worker died 5 times in a row".into()));
    let (state, reason) = line();
    assert_eq!(state, Some(VersionState::Ready), "the other one serves");
    assert!(reason.starts_with("m_0_") && reason.ends_with(": the worker died 5 times in a row"), "{reason}");
    health[1].set(false);
    assert_eq!(line(), (Some(VersionState::Unavailable), reason));
    assert_eq!(engine.index(true).unwrap(), []);
    health[0].set_reason(None);
    assert_eq!(line(), (Some(VersionState::Unavailable), "no instance of it can serve".into()));
    health[0].set(true);
    assert_eq!(line(), (Some(VersionState::Ready), String::new()));
}

#[tokio::test] // one thread: whatever runs on it runs inline
async fn a_quick_instance_runs_on_its_callers_thread_only_if_it_says_that_it_may() {
    let harness = Harness::new();
    harness.scripted("may", "any_thread", "", &[1]);
    harness.scripted("may_not", "", "", &[1]);
    let (engine, probe) = harness.with_script();
    for (name, runs_inline) in [("may", true), ("may_not", false)] {
        load(&engine, name).await;
        let here = std::thread::current().id();
        let mut runs_here = false;
        for number in 0..if runs_inline { 100_000 } else { 100 } {
            let row = vec![0.5; 40 - number % 40]; // open shapes as well: none of these is larger than the first
            assert!(send(&engine, ask(name, &row)).unwrap().response().await.is_ok());
            runs_here = probe.threads.lock().contains(&here);
            if runs_here {
                break;
            }
        }
        assert_eq!(runs_here, runs_inline, "{name}");
        let threads = std::mem::take(&mut *probe.threads.lock());
        assert_ne!(threads[0], here, "nothing is known of a new model");
    }
}

#[tokio::test]
async fn a_request_that_races_an_unload_is_served_or_told_that_the_model_is_gone() {
    let harness = Harness::new();
    harness.model("m", "", &[1]);
    let engine = harness.explicit();
    load(&engine, "m").await;
    let found = engine.model(harness::id("m")).unwrap();
    engine.unload("m", false).await.unwrap();
    assert!(send(&engine, ask("m", &[1.0])).is_err(), "the model is not found any more");
    assert!(engine.infer(&found, ask("m", &[1.0])).unwrap().response().await.is_ok(), "it was found in time");
    // Whoever found it and does not come for long is not waited for.
    until(|| state(&engine, "m") == Some(VersionState::Unavailable)).await;
    let error = engine.infer(&found, ask("m", &[1.0])).err().unwrap();
    let expected = "Request for unknown model: 'm' has no available versions";
    assert_eq!((error.code, &*error.message), (Code::NotFound, expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn instances_grow_and_retire_while_they_serve_and_no_request_is_lost() {
    let harness = Harness::new();
    let with = |count: u32| format!("dynamic_batching {{ }} instance_group {{ count: {count} kind: KIND_CPU }}");
    harness.scripted("m", "", &with(1), &[1]);
    let (engine, probe) = harness.with_script();
    load(&engine, "m").await;
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (engine, is_over) = (engine.clone(), is_over.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    send(&engine, ask("m", &[1.0])).unwrap().response().await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    for count in [3, 1, 2, 4, 1].into_iter().cycle().take(25) {
        harness.scripted("m", "", &with(count), &[]);
        load(&engine, "m").await;
        until(|| probe.instances.load(Ordering::SeqCst) == count as usize).await;
        assert_eq!(engine.config(harness::id("m")).unwrap().instance_group[0].count, count as i32);
    }
    is_over.store(true, Ordering::Relaxed);
    let mut sent = 0;
    for caller in callers {
        sent += caller.await.unwrap();
    }
    assert_eq!(engine.statistics(None).unwrap()[0].success.count, sent, "the model was never opened again");
    assert_eq!(probe.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_found_a_model_before_its_unload_is_answered_whatever_runs_inline() {
    let harness = Harness::new();
    harness.scripted("m", "any_thread", "instance_group { count: 2 kind: KIND_CPU } dynamic_batching { }", &[1]);
    let (engine, probe) = harness.with_script();
    for _ in 0..10 {
        load(&engine, "m").await;
        let is_unloaded = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let (engine, is_unloaded) = (engine.clone(), is_unloaded.clone());
                let found = engine.model(harness::id("m")).unwrap();
                tokio::spawn(async move {
                    let mut after = 0;
                    while after < 50 {
                        after += u32::from(is_unloaded.load(Ordering::Relaxed));
                        let Ok(request) = engine.infer(&found, ask("m", &[1.0])) else { return };
                        let answer = tokio::time::timeout(Duration::from_secs(30), request.response()).await;
                        assert!(answer.expect("nothing is forgotten in the queue").is_ok());
                    }
                })
            })
            .collect();
        until(|| probe.inline_runs() > 0).await;
        engine.unload("m", false).await.unwrap();
        is_unloaded.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await.unwrap();
        }
        until(|| probe.instances.load(Ordering::SeqCst) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_was_unloaded_has_no_statistics_whatever_version_is_asked_for() {
    let harness = Harness::new();
    harness.scripted("m", "echo", "", &[1]);
    let (engine, _probe) = harness.with_script();
    load(&engine, "m").await;
    let count = |version| {
        let asked = server_core::interface::ModelId { name: "m", version };
        engine.statistics(Some(asked)).map_err(|error| error.message.into_owned()).map(|counted| counted.len())
    };
    let versions = [VersionChoice::Latest, VersionChoice::Exact(1), VersionChoice::Exact(2)];
    let other_version = Err("requested model version is not available for model 'm'".to_owned());
    assert_eq!(versions.map(count), [Ok(1), Ok(1), other_version]);
    engine.unload("m", false).await.unwrap();
    assert_eq!(versions.map(count), [(); 3].map(|()| Err("requested model 'm' is not available".to_owned())));
}
