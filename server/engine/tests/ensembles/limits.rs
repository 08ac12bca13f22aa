//! Limits of the requests in flight at a step, and requests that wait for a place or a moment.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_requests_in_flight_holds_over_all_requests_of_a_step() {
    let harness = Harness::new();
    harness.scripted("source", "many 20", DECOUPLED, &[1]);
    harness.scripted("slow", "gated", "max_batch_size: 8 instance_group { count: 8 }", &[1]);
    harness.ensemble("e", &[("source", "IN", "one"), ("slow", "one", "OUT")], &["OUT"], "limit 2");
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    probe.close_gate();
    let asked: Vec<_> =
        (0..3).map(|_| tokio::spawn(responses(send(&engine, ask_ensemble("e", &[1.0])).unwrap()))).collect();
    until(|| probe.waiting.load(Ordering::SeqCst) >= 2).await;
    // Two have places; each request may have one more, once it has waited. There are 60 to run.
    let in_flight = probe.waiting.load(Ordering::SeqCst) + counts(&engine, "slow").pending as usize;
    assert!(in_flight <= 2 + 3, "{in_flight}");
    probe.open_gate();
    for asked in asked {
        let responses = asked.await.unwrap();
        assert_eq!(responses.iter().filter(|response| response.is_ok()).count(), 20);
    }
    assert_eq!(counts(&engine, "slow").success.count, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_stops_reading_keeps_nobody_from_the_limited_steps() {
    let harness = Harness::new();
    harness.scripted("slow", "gated", "", &[1]);
    harness.ensemble("e", &[("slow", "IN", "OUT")], &["OUT"], "limit 1");
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    probe.close_gate();
    let unread = send(&engine, ask_ensemble("e", &[1.0])).unwrap(); // its step has begun
    let other = tokio::spawn(send(&engine, ask_ensemble("e", &[2.0])).unwrap().response());
    until(|| probe.waiting.load(Ordering::SeqCst) == 1).await;
    probe.open_gate();
    let limit = Duration::from_secs(20);
    assert!(tokio::time::timeout(limit, other).await.expect("the permit is given back").unwrap().is_ok());
    assert!(unread.response().await.is_ok());
}

/// Less than it takes a model of the harness to give up a response that nobody reads.
const SOON: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_keeps_nobody_from_the_limited_steps() {
    let harness = Harness::new();
    let two = "instance_group { count: 2 }";
    harness.scripted("source", "many 2000", &format!("{DECOUPLED} {two}"), &[1]); // more than a reply slot holds
    harness.model("a", "", &[1]);
    harness.ensemble("e", &[("source", "IN", "one"), ("a", "one", "OUT")], &["OUT"], "limit 1");
    let (engine, _) = harness.with_script();
    ready(&engine, "e").await;
    let mut unread = send(&engine, ask_ensemble("e", &[1.0])).unwrap();
    assert!(poll_fn(|context| unread.poll_next(context)).await.unwrap().is_ok());
    let other = responses(send(&engine, ask_ensemble("e", &[2.0])).unwrap());
    assert_eq!(tokio::time::timeout(SOON, other).await.expect("others are served").len(), 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_request_of_a_limited_step_does_not_hold_up_others_until_its_end() {
    let harness = Harness::new();
    harness.scripted("long", "gated", "instance_group { count: 3 }", &[1]);
    harness.ensemble("e", &[("long", "IN", "OUT")], &["OUT"], "limit 1");
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    probe.close_gate();
    let asked: Vec<_> =
        (0..3).map(|_| tokio::spawn(send(&engine, ask_ensemble("e", &[1.0])).unwrap().response())).collect();
    until(|| probe.waiting.load(Ordering::SeqCst) == 3).await; // while none has ended
    probe.open_gate();
    for asked in asked {
        assert!(asked.await.unwrap().is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_ensemble_that_another_uses_twice_does_not_wait_for_itself() {
    let harness = Harness::new();
    harness.scripted("source", "many 3", &format!("{DECOUPLED} instance_group {{ count: 2 }}"), &[1]);
    harness.scripted("a", "crowd", "", &[1]);
    for limit in 1..3 {
        let inner = format!("inner{limit}");
        harness.ensemble(&inner, &[("source", "IN", "one"), ("a", "one", "OUT")], &["OUT"], &format!("limit {limit}"));
        let step = |from: &str, to: &str| {
            format!(
                "step {{ model_name: '{inner}' model_version: -1 input_map {{ key: 'IN' value: '{from}' }} \
                 output_map {{ key: 'OUT' value: '{to}' }} }}"
            )
        };
        let config = format!(
            "platform: 'ensemble' max_batch_size: 8 input {{ name: 'IN' data_type: TYPE_FP32 dims: [ -1 ] }} \
             output {{ name: 'OUT' data_type: TYPE_FP32 dims: [ -1 ] }} ensemble_scheduling {{ \
             max_inflight_requests: {limit} {} {} }}",
            step("IN", "mid"),
            step("mid", "OUT")
        );
        harness.write(&format!("outer{limit}/config.pbtxt"), &config);
    }
    let (engine, _) = harness.with_script();
    assert_eq!(engine.start().await.unwrap(), Startup::AllReady);
    for outer in ["outer1", "outer2"] {
        load(&engine, outer).await.unwrap();
        let asked: Vec<_> =
            (0..4).map(|_| tokio::spawn(responses(send(&engine, ask_ensemble(outer, &[1.0])).unwrap()))).collect();
        for asked in asked {
            let responses = tokio::time::timeout(Duration::from_secs(30), asked).await.expect("nobody hangs").unwrap();
            assert_eq!(responses, vec![Ok(format!("{outer} 1: OUT FP32 [1,1]")); 9]);
        }
    }
    assert!(engine.shutdown(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_its_turn_goes_on_without_being_read() {
    let harness = Harness::new();
    harness.model("a", "", &[1]);
    harness.scripted("b", "gated", "max_batch_size: 1 instance_group { count: 2 }", &[1]);
    harness.ensemble("e", &[("a", "IN", "one"), ("b", "one", "OUT")], &["OUT"], "max_batch_size: 1");
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    probe.close_gate();
    let mut all: Vec<_> = (0..2).map(|_| send(&engine, ask_ensemble("e", &[1.0])).unwrap()).collect();
    assert!(all.iter().all(Inference::is_polled_on));
    until(|| counts(&engine, "a").success.count == 2).await; // the first step does not wait to be polled
    for inference in &mut all {
        poll_fn(|context| {
            inference.poll_ahead(context);
            std::task::Poll::Ready(())
        })
        .await;
    }
    until(|| probe.waiting.load(Ordering::SeqCst) == 2).await;
    probe.open_gate();
    for inference in all {
        assert_eq!(text(&inference.response().await.unwrap()), "e 1: OUT FP32 [1,1]");
    }
}

/// A model's own thread knows no runtime: what waits for a moment must find one all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_asks_hears_in_time_what_waits_for_a_moment() {
    let harness = Harness::new();
    let one = "max_batch_size: 1 dynamic_batching { default_queue_policy { allow_timeout_override: true \
               default_timeout_microseconds: 20000000 } } instance_group { count: 1 }";
    harness.scripted("slow", "gated", one, &[1]);
    let config = "platform: 'ensemble' max_batch_size: 1 input { name: 'INPUT0' data_type: TYPE_FP32 dims: [ -1 ] } \
                  output { name: 'OUTPUT0' data_type: TYPE_FP32 dims: [ -1 ] } ensemble_scheduling { \
                  max_inflight_requests: 2 \
                  step { model_name: 'slow' model_version: -1 input_map { key: 'INPUT0' value: 'INPUT0' } \
                         output_map { key: 'OUTPUT0' value: 'OUTPUT0' } } }";
    harness.write("e/config.pbtxt", config);
    harness.scripted("asking", "ask e", "instance_group { count: 3 }", &[1]);
    let (engine, probe) = harness.with_script();
    ready(&engine, "e").await;
    load(&engine, "asking").await.unwrap();
    probe.close_gate();
    let ask = |timeout| {
        let mut request = ask("asking", &[1.0]);
        request.timeout = timeout;
        tokio::spawn(send(&engine, request).unwrap().response())
    };
    let first = ask(None);
    until(|| probe.waiting.load(Ordering::SeqCst) == 1).await;
    let late = ask(Some(Duration::from_millis(50)));
    until(|| counts(&engine, "slow").pending == 1).await;
    let third = ask(None); // waits for one of the two permits
    let error = late.await.unwrap().unwrap_err();
    assert_eq!(error, Error::unavailable("in ensemble 'e', Request timeout expired"));
    probe.open_gate();
    for asked in [first, third] {
        assert_eq!(text(&asked.await.unwrap().unwrap()), "asking 1: OUTPUT0 FP32 [1,1]");
    }
}
