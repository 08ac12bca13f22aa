//! The engine with the identity backend and real folders: models come, serve, are replaced and leave.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use harness::{Harness, ask, scripted::Probe, send, text};
use server_core::{
    backend::Host,
    custom_metrics::MetricKind,
    error::Code,
    interface::ModelId,
    request::{InferRequest, VersionChoice},
};
use server_engine::{ControlMode, Engine, LoadParameters, Options, Startup, VersionState};

#[tokio::test]
async fn a_model_serves_and_is_counted_before_its_caller_knows() {
    let harness = Harness::new();
    harness.model("m", "", &[1]);
    let engine = harness.engine(Options::default());
    assert!(engine.is_live().unwrap());
    assert!(!engine.is_ready().await.unwrap(), "nothing is loaded yet");
    let early = send(&engine, ask("m", &[1.0])).err().unwrap();
    assert_eq!((early.code, &*early.message), (Code::Unavailable, "Server not ready"), "not yet is not unknown");
    assert_eq!(engine.start().await.unwrap(), Startup::AllReady);
    assert!(engine.is_ready().await.unwrap());
    for count in 1..=3 {
        let response = send(&engine, ask("m", &[1.0, 2.0])).unwrap().response().await.unwrap();
        assert_eq!(text(&response), "m 1: OUTPUT0 FP32 [1,2]");
        let snapshot = engine.statistics(Some(harness::id("m"))).unwrap().remove(0);
        assert_eq!((snapshot.success.count, snapshot.execution_count, snapshot.pending), (count, count, 0));
    }
}

#[tokio::test]
async fn a_broken_model_does_not_disturb_its_neighbour() {
    let harness = Harness::new();
    harness.model("good", "", &[1]);
    harness.model("broken", "max_batch_size: -1", &[1]);
    harness.write("garbled/config.pbtxt", "name: [[[");
    harness.write("garbled/1/.keep", "");
    let engine = harness.engine(Options::default());
    assert_eq!(engine.start().await.unwrap(), Startup::SomeFailed);
    assert!(!engine.is_ready().await.unwrap(), "a model of the start-up set is missing");
    assert!(send(&engine, ask("good", &[1.0])).unwrap().response().await.is_ok());
    let index = engine.index(false).unwrap();
    let reasons: Vec<_> = index.iter().map(|line| (line.name.as_str(), line.state, line.reason.is_empty())).collect();
    assert_eq!(
        reasons,
        [
            ("broken", Some(VersionState::Unavailable), false),
            ("garbled", Some(VersionState::Unavailable), false),
            ("good", Some(VersionState::Ready), true),
        ]
    );
    assert_eq!(engine.index(true).unwrap().len(), 1);
}

#[tokio::test]
async fn the_runtime_of_a_model_is_that_of_its_backend() {
    let harness = Harness::new();
    harness.model("m", "runtime: \"libtriton_identity.so\"", &[1]);
    harness.model("other", "runtime: \"libtriton_other.so\"", &[1]);
    let engine = harness.explicit();
    engine.start().await.unwrap();
    engine.load("m", LoadParameters::default()).await.unwrap();
    let error = engine.load("other", LoadParameters::default()).await.unwrap_err().message;
    let text = "Invalid argument: unable to find backend library 'libtriton_other.so' for model 'other', searched: '";
    assert!(error.contains(text), "{error}");
    let cure =
        "The backend 'identity' of this server is 'libtriton_identity.so': set 'runtime' to that, or leave it out.";
    assert!(error.contains(cure), "{error}");
}

#[tokio::test]
async fn files_that_cannot_be_read_are_named() {
    let harness = Harness::new();
    harness.write("m/config.pbtxt", "max_batch_size: 1\nno_such_field: 2");
    harness.write("m/1/.keep", "");
    let labelled = "backend: 'identity' output { name: 'OUTPUT0' data_type: TYPE_FP32 dims: 1 label_filename: 'none' }
        input { name: 'INPUT0' data_type: TYPE_FP32 dims: 1 }";
    harness.write("labelled/config.pbtxt", labelled);
    harness.write("labelled/1/.keep", "");
    let engine = harness.explicit();
    engine.start().await.unwrap();
    engine.load("m", LoadParameters::default()).await.unwrap_err();
    let reason = engine.index(false).unwrap().into_iter().find(|line| line.name == "m").unwrap().reason;
    assert!(reason.starts_with("failed to read text proto from "), "{reason}");
    assert!(reason.contains("m/config.pbtxt: line 2, column 1: field 'no_such_field' not found"), "{reason}");
    let error = engine.load("labelled", LoadParameters::default()).await.unwrap_err().message;
    assert!(error.contains("Internal: failed to open text file for read "), "{error}");
    assert!(error.contains("labelled/none: No such file or directory;"), "{error}");
}

#[tokio::test]
async fn lookups_fail_in_four_ways() {
    let harness = Harness::new();
    harness.model("m", "", &[1]);
    let engine = harness.explicit();
    engine.start().await.unwrap();
    let sentence = |name: &str, version| engine.config(ModelId { name, version }).unwrap_err();
    let unknown = sentence("x", VersionChoice::Latest);
    assert_eq!((unknown.code, &*unknown.message), (Code::NotFound, "Request for unknown model: 'x' is not found"));
    engine.load("m", LoadParameters::default()).await.unwrap();
    let version = sentence("m", VersionChoice::Exact(7));
    assert_eq!(&*version.message, "Request for unknown model: 'm' version 7 is not found");
    engine.unload("m", false).await.unwrap();
    let none = sentence("m", VersionChoice::Latest);
    assert_eq!(&*none.message, "Request for unknown model: 'm' has no available versions");
    let gone = sentence("m", VersionChoice::Exact(1));
    assert_eq!(
        (gone.code, &*gone.message),
        (Code::Unavailable, "Request for unknown model: 'm' version 1 is not at ready state")
    );
}

#[tokio::test]
async fn versions_follow_their_policy_and_the_newer_replaces_the_older() {
    let harness = Harness::new();
    harness.model("latest", "", &[1, 2, 10]);
    harness.model("all", "version_policy { all {} }", &[1, 2]);
    harness.model("specific", "version_policy { specific { versions: [1] } }", &[1, 2]);
    let engine = harness.explicit();
    for name in ["latest", "all", "specific"] {
        engine.load(name, LoadParameters::default()).await.unwrap();
    }
    let versions = |name: &str| engine.metadata(harness::id(name)).unwrap().versions;
    assert_eq!(versions("latest"), [10]);
    assert_eq!(versions("all"), [1, 2]);
    assert_eq!(versions("specific"), [1]);
    harness.write("latest/11/.keep", "");
    engine.load("latest", LoadParameters::default()).await.unwrap();
    assert_eq!(versions("latest"), [11]);
}

#[tokio::test]
async fn a_bad_new_configuration_leaves_the_old_one_serving_and_says_why() {
    let harness = Harness::new();
    harness.model("m", "", &[1]);
    let engine = harness.explicit();
    engine.load("m", LoadParameters::default()).await.unwrap();
    harness.model("m", "dynamic_batching { preferred_batch_size: [ 99 ] }", &[1]);
    let error = engine.load("m", LoadParameters::default()).await.unwrap_err();
    assert_eq!(&*error.message, "failed to load 'm', failed to poll from model repository");
    assert!(send(&engine, ask("m", &[1.0])).unwrap().response().await.is_ok());
    let line = engine.index(false).unwrap().remove(0);
    assert_eq!(line.state, Some(VersionState::Ready));
    assert!(line.reason.contains("preferred size"), "{}", line.reason);
    harness.model("m", "", &[1]);
    engine.load("m", LoadParameters::default()).await.unwrap();
    assert_eq!(engine.index(false).unwrap().remove(0).reason, "");
}

#[tokio::test]
async fn a_load_may_bring_its_own_configuration_and_files() {
    let harness = Harness::new();
    harness.model("m", "", &[1]);
    let engine = harness.explicit();
    let config = harness::config_json("m", 2);
    let parameters =
        LoadParameters { config: Some(config.clone()), files: vec![("3/weights".into(), b"x".to_vec().into())] };
    engine.load("m", parameters).await.unwrap();
    assert_eq!(engine.metadata(harness::id("m")).unwrap().versions, [3]);
    assert_eq!(engine.config(harness::id("m")).unwrap().max_batch_size, 2);
    engine.load("m", LoadParameters::default()).await.unwrap();
    assert_eq!(engine.metadata(harness::id("m")).unwrap().versions, [1], "a plain load reads the folder again");
}

#[tokio::test]
async fn what_is_wrong_with_an_override_is_in_the_answer_behind_the_words_of_triton() {
    let harness = Harness::new();
    harness.model("m", "", &[1]);
    let engine = harness.explicit();
    let config = || Some(harness::config_json("m", 2));
    let file = |name: &str| vec![(name.to_owned(), Vec::new().into())];
    let long = "A".repeat(256);
    for (config, files, reason) in [
        (config(), file("../x"), "must stay within model directory"),
        (config(), file(&long), "File name too long"),
        (None, file("1/x"), "'config' must be specified"),
        (Some("{".to_owned()), Vec::new(), "Invalid config override"),
    ] {
        let error = engine.load("m", LoadParameters { config, files }).await.unwrap_err();
        assert_eq!(error.code, Code::Internal, "{error}");
        assert!(error.message.starts_with("failed to load 'm', failed to poll from model repository: "), "{error}");
        assert!(error.message.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn nothing_is_controlled_outside_explicit_mode() {
    let harness = Harness::new();
    harness.model("m", "", &[1]);
    let engine = harness.engine(Options { control_mode: ControlMode::None, ..Options::default() });
    let error = engine.load("m", LoadParameters::default()).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
}

#[tokio::test]
async fn metrics_that_models_define_stand_on_the_page_while_they_are_held() {
    let engine = Harness::new().explicit();
    let of_model = {
        let family = engine.custom_metrics().family(MetricKind::Counter, "tokens_total", "Tokens").unwrap();
        family.metric([("model".to_owned(), "m".to_owned())].into(), None).unwrap()
    };
    of_model.increment(2.0).unwrap();
    let expect = "# HELP tokens_total Tokens\n# TYPE tokens_total counter\ntokens_total{model=\"m\"} 2\n";
    assert!(engine.metrics().text().ends_with(expect));
    drop(of_model);
    assert!(!engine.metrics().text().contains("tokens_total"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_share_batches_and_none_is_lost() {
    let harness = Harness::new();
    let config = "dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 2000 }
        parameters { key: \"execute_delay_ms\" value { string_value: \"2\" } }";
    harness.model("m", config, &[1]);
    let engine = harness.engine(Options::default());
    engine.start().await.unwrap();
    let requests = (0..64).map(|number| send(&engine, ask("m", &[number as f32])).unwrap().response());
    for (number, response) in futures(requests).await.into_iter().enumerate() {
        let response = response.unwrap();
        let bytes = response.outputs[0].data.as_host().unwrap();
        assert_eq!(bytes, (number as f32).to_le_bytes(), "each caller gets its own row");
    }
    let snapshot = engine.statistics(None).unwrap().remove(0);
    assert_eq!((snapshot.success.count, snapshot.inference_count), (64, 64));
    assert!(snapshot.execution_count < 64, "{} executions", snapshot.execution_count);
    assert!(snapshot.batches.iter().all(|batch| batch.batch_size <= 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quick_model_runs_inline_and_every_caller_gets_its_own_answer() {
    let harness = Harness::new();
    harness.scripted("m", "any_thread", "instance_group { count: 2 kind: KIND_CPU }", &[1]);
    let (engine, probe) = harness.with_script();
    engine.load("m", LoadParameters::default()).await.unwrap();
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let engine = engine.clone();
            tokio::spawn(async move {
                for number in 0..500 {
                    let value = (caller * 1000 + number) as f32;
                    let response = send(&engine, ask("m", &[value])).unwrap().response().await.unwrap();
                    assert_eq!(response.outputs[0].data.as_host().unwrap(), value.to_le_bytes());
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(probe.inline_runs() > 0, "callers ran some of them");
    let snapshot = engine.statistics(None).unwrap().remove(0);
    assert_eq!((snapshot.success.count, snapshot.pending), (4000, 0));
    assert!(engine.shutdown(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn unloading_and_stopping_finish_what_is_inside() {
    let harness = Harness::new();
    harness.model("m", "parameters { key: \"execute_delay_ms\" value { string_value: \"20\" } }", &[1]);
    let engine = harness.explicit();
    engine.load("m", LoadParameters::default()).await.unwrap();
    let inside: Vec<_> = (0..6).map(|_| send(&engine, ask("m", &[1.0])).unwrap().response()).collect();
    engine.unload("m", false).await.unwrap();
    assert!(send(&engine, ask("m", &[1.0])).is_err());
    for response in inside {
        assert!(response.await.is_ok());
    }
    engine.load("m", LoadParameters::default()).await.unwrap();
    let inside: Vec<_> = (0..6).map(|_| send(&engine, ask("m", &[1.0])).unwrap().response()).collect();
    assert!(engine.shutdown(Duration::from_secs(10)).await);
    assert_eq!(engine.is_ready().await.unwrap_err().message, "Server exiting");
    for response in inside {
        assert!(response.await.is_ok());
    }
}

/// An engine with `m`, which executes nothing before the gate is opened and in whose queue two requests may wait.
async fn gated_with_room_for_two(harness: &Harness) -> (Arc<Engine>, Arc<Probe>) {
    let config =
        "dynamic_batching { default_queue_policy { max_queue_size: 2 } } instance_group { count: 1 kind: KIND_CPU }";
    harness.scripted("m", "gated", config, &[1]);
    let (engine, probe) = harness.with_script();
    engine.load("m", LoadParameters::default()).await.unwrap();
    probe.close_gate();
    (engine, probe)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_a_caller_that_left_is_skipped() {
    let harness = Harness::new();
    let (engine, probe) = gated_with_room_for_two(&harness).await;
    let first = send(&engine, ask("m", &[1.0])).unwrap();
    harness::until(|| probe.waiting.load(Ordering::SeqCst) == 1).await; // it runs
    let second = send(&engine, ask("m", &[2.0])).unwrap();
    let third = send(&engine, ask("m", &[3.0])).unwrap();
    let refused = send(&engine, ask("m", &[4.0])).err().unwrap();
    assert_eq!(
        (refused.code, &*refused.message),
        (Code::Unavailable, "[request id: <id_unknown>] Exceeds maximum queue size")
    );
    drop(third);
    probe.open_gate();
    assert!(first.response().await.is_ok());
    assert!(second.response().await.is_ok());
    let snapshot = engine.statistics(None).unwrap().remove(0);
    assert_eq!((snapshot.success.count, snapshot.failures.rejected, snapshot.failures.canceled), (2, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_outlasts_what_comes_later_and_fails() {
    let harness = Harness::new();
    harness.model("m", "", &[1]);
    harness.model("n", "", &[1]);
    let startup_models = vec!["m".into(), "n".into()];
    let engine = harness.engine(Options { control_mode: ControlMode::Explicit, startup_models, ..Options::default() });
    engine.start().await.unwrap();
    // A new version with a configuration that does not hold.
    harness.model("m", "dynamic_batching { preferred_batch_size: [ 99 ] }", &[2]);
    assert!(engine.load("m", LoadParameters::default()).await.is_err());
    assert!(engine.is_ready().await.unwrap(), "version 1 serves as before");
    // One that cannot even be read.
    harness.write("n/config.pbtxt", "max_batch_size {");
    assert!(engine.load("n", LoadParameters::default()).await.is_err());
    assert!(engine.is_ready().await.unwrap());
    assert_eq!(text(&send(&engine, ask("m", &[1.0])).unwrap().response().await.unwrap()), "m 1: OUTPUT0 FP32 [1,1]");
    // What was taken out on purpose is not waited for, and what fails after that is somebody else's concern.
    engine.unload("n", false).await.unwrap();
    assert!(engine.load("n", LoadParameters::default()).await.is_err());
    assert!(engine.is_ready().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_in_no_repository_is_not_remembered() {
    let harness = Harness::new();
    harness.model("m", "", &[1]);
    let engine = harness.explicit();
    engine.start().await.unwrap();
    let error = engine.load("nobody", LoadParameters::default()).await.unwrap_err();
    assert_eq!(&*error.message, "failed to load 'nobody', failed to poll from model repository");
    let error = engine.metadata(harness::id("nobody")).unwrap_err();
    assert_eq!(&*error.message, "Request for unknown model: 'nobody' is not found");
    assert_eq!(engine.index(false).unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_given_with_a_load_are_there_for_every_version_and_every_try() {
    let harness = Harness::new();
    let engine = harness.engine(Options { control_mode: ControlMode::Explicit, load_retries: 1, ..Options::default() });
    let config = harness::config_json("m", 8).replacen('{', r#"{"version_policy": {"all": {}},"#, 1);
    let labelled = config.replacen(r#""dims": [-1]}]}"#, r#""dims": [-1], "label_filename": "labels.txt"}]}"#, 1);
    let files =
        ["1/.keep", "2/.keep", "labels.txt"].map(|name| (name.to_owned(), bytes::Bytes::from_static(b"one\ntwo\n")));
    let good = LoadParameters { config: Some(labelled.clone()), files: files.to_vec() };
    engine.load("m", good).await.unwrap();
    assert_eq!(engine.metadata(harness::id("m")).unwrap().versions, [1, 2]);
    // The second try fails for the reason of the first, and not because its files are gone.
    let bad = labelled.replacen(r#""dims": [-1]"#, r#""dims": [0]"#, 1);
    let error = engine.load("m", LoadParameters { config: Some(bad), files: files.to_vec() }).await.unwrap_err();
    assert_eq!(error.message.matches("dimension must be integer >= 1").count(), 2, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waited_too_long_is_told_while_all_instances_are_busy() {
    let harness = Harness::new();
    let config = "dynamic_batching { default_queue_policy {
            allow_timeout_override: true default_timeout_microseconds: 60000000
        } }
        instance_group { count: 1 kind: KIND_CPU }
        parameters { key: \"execute_delay_ms\" value { string_value: \"2000\" } }";
    harness.model("m", config, &[1]);
    let engine = harness.engine(Options::default());
    engine.start().await.unwrap();
    let running = send(&engine, ask("m", &[1.0])).unwrap();
    harness::until(|| engine.statistics(None).unwrap()[0].pending == 0).await; // it runs now
    let impatient = InferRequest { timeout: Some(Duration::from_millis(1)), ..ask("m", &[2.0]) };
    let error = send(&engine, impatient).unwrap().response().await.unwrap_err();
    assert_eq!((error.code, &*error.message), (Code::Unavailable, "Request timeout expired"));
    let snapshot = engine.statistics(None).unwrap().remove(0);
    assert_eq!((snapshot.success.count, snapshot.failures.rejected, snapshot.pending), (0, 1, 0));
    assert!(running.response().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_asks_for_more_batches_gets_what_waits() {
    let harness = Harness::new();
    harness.scripted("m", "several", "max_batch_size: 1 instance_group { count: 1 kind: KIND_CPU }", &[1]);
    let (engine, probe) = harness.with_script();
    engine.load("m", LoadParameters::default()).await.unwrap();
    probe.close_gate();
    let first = send(&engine, ask("m", &[0.0])).unwrap();
    harness::until(|| probe.waiting.load(Ordering::SeqCst) == 1).await; // the others wait behind it
    let others: Vec<_> = (1u8..10).map(|value| send(&engine, ask("m", &[value.into()])).unwrap()).collect();
    probe.open_gate();
    assert!(first.response().await.is_ok());
    for other in others {
        assert!(other.response().await.is_ok());
    }
    harness::until(|| probe.at_once.lock().iter().sum::<usize>() == 10).await;
    assert_eq!(*probe.at_once.lock(), [4, 4, 2]);
    let snapshot = engine.statistics(None).unwrap().remove(0);
    assert_eq!((snapshot.success.count, snapshot.execution_count), (10, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inline_run_that_takes_long_is_finished_elsewhere_and_its_instance_gets_nothing_meanwhile() {
    let harness = Harness::new();
    harness.scripted("m", "slow_at_times", "max_batch_size: 1 instance_group { count: 1 kind: KIND_CPU }", &[1]);
    let (engine, probe) = harness.with_script();
    engine.load("m", LoadParameters::default()).await.unwrap();
    while probe.inline_runs() == 0 {
        assert!(send(&engine, ask("m", &[0.0])).unwrap().response().await.is_ok()); // it learns that the model is quick
    }
    probe.close_gate();
    let runs = probe.inline_runs();
    let (mut others, mut executed) = (Vec::new(), probe.threads.lock().len());
    while probe.inline_runs() == runs {
        others.push(send(&engine, ask("m", &[1.0])).unwrap()); // does not block
        harness::until(|| probe.threads.lock().len() > executed).await;
        executed += 1;
    }
    harness::until(|| probe.waiting.load(Ordering::SeqCst) == 1).await;
    others.extend((0..3).map(|_| send(&engine, ask("m", &[2.0])).unwrap()));
    assert_eq!((probe.threads.lock().len(), engine.statistics(None).unwrap()[0].pending), (executed, 3));
    probe.open_gate();
    for other in others {
        assert!(other.response().await.is_ok());
    }
    engine.unload("m", false).await.unwrap();
    harness::until(|| probe.instances.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_left_makes_room_in_a_full_queue() {
    let harness = Harness::new();
    let (engine, probe) = gated_with_room_for_two(&harness).await;
    let running = send(&engine, ask("m", &[1.0])).unwrap();
    harness::until(|| probe.waiting.load(Ordering::SeqCst) == 1).await; // it runs
    drop(send(&engine, ask("m", &[2.0])).unwrap());
    let second = send(&engine, ask("m", &[3.0])).unwrap();
    let third = send(&engine, ask("m", &[4.0])).unwrap();
    assert!(send(&engine, ask("m", &[5.0])).is_err(), "two wait now that stay");
    probe.open_gate();
    for inside in [running, second, third] {
        assert!(inside.response().await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_whose_callers_left_do_not_wait_for_an_instance() {
    let harness = Harness::new();
    let config = "dynamic_batching { } instance_group { count: 1 kind: KIND_CPU }";
    harness.scripted("m", config, "", &[1]);
    harness.write("m/1/gated", "");
    let (engine, probe) = harness.with_script();
    engine.load("m", LoadParameters::default()).await.unwrap();
    probe.close_gate();
    let running = send(&engine, ask("m", &[1.0])).unwrap();
    harness::until(|| engine.statistics(None).unwrap()[0].pending == 0).await; // it runs now
    let stays = send(&engine, ask("m", &[2.0])).unwrap();
    let leave: Vec<_> = (0..100).map(|_| send(&engine, ask("m", &[3.0])).unwrap()).collect();
    drop(leave);
    harness::until(|| {
        let snapshot = engine.statistics(None).unwrap().remove(0);
        (snapshot.pending, snapshot.failures.canceled) == (1, 100) // the instance is busy all the while
    })
    .await;
    probe.open_gate();
    for inside in [running, stays] {
        assert!(inside.response().await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_for_company_that_will_not_come() {
    let harness = Harness::new();
    let config = "dynamic_batching { max_queue_delay_microseconds: 600000000 }
        instance_group { count: 2 kind: KIND_CPU }";
    harness.model("m", config, &[1]);
    let engine = harness.explicit();
    engine.load("m", LoadParameters::default()).await.unwrap();
    let waiting = send(&engine, ask("m", &[1.0])).unwrap();
    engine.unload("m", false).await.unwrap();
    assert!(waiting.response().await.is_ok());
    harness::until(|| engine.index(false).unwrap()[0].state == Some(VersionState::Unavailable)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quick_model_is_replaced_during_inline_runs_and_no_request_is_lost() {
    let harness = Harness::new();
    harness.scripted("m", "any_thread", "", &[1]);
    let (engine, probe) = harness.with_script();
    engine.load("m", LoadParameters::default()).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (engine, is_over) = (engine.clone(), is_over.clone());
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    send(&engine, ask("m", &[1.0])).unwrap().response().await.unwrap();
                }
            })
        })
        .collect();
    for number in 0..100 {
        harness.write("m/1/weights", &"x".repeat(number)); // another file: the version is opened again
        engine.load("m", LoadParameters::default()).await.unwrap();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let opened = probe.opened.load(Ordering::SeqCst);
    assert_eq!(opened, 101);
    assert!(probe.inline_runs() > 0, "callers ran some of them");
}

async fn futures<F: Future + Send>(requests: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F::Output: Send,
{
    let requests: Vec<_> = requests.collect();
    let mut done = Vec::with_capacity(requests.len());
    for request in requests {
        done.push(request.await);
    }
    done
}
