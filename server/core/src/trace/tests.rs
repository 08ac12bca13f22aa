use std::time::Duration;

use super::{
    settings::{Update, Values},
    *,
};
use crate::{buffer::Buffer, error::Error, tensor::DataType};

#[derive(Default)]
struct Seen {
    finished: Mutex<Vec<Finished>>,
    retired: Mutex<Vec<u64>>,
}

impl TraceSink for Seen {
    fn finished(&self, trace: Finished) {
        self.finished.lock().push(trace);
    }

    fn retired(&self, stream: u64) {
        self.retired.lock().push(stream);
    }
}

fn tracer(mode: Mode, values: Values) -> (Tracer, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let fixed = vec![("trace_mode".into(), "triton".to_owned())];
    (Tracer::new(mode, values, fixed, Arc::new(Ids::new([7; 32])), seen.clone()), seen)
}

const ON: Values = Values { has_times: true, has_tensors: false, rate: 1, count: -1, log_frequency: 0 };

fn caller() -> Option<Remote> {
    Remote::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", [b"a=\"1\"".as_slice()])
}

fn sampled(tracer: &Tracer, model: &str, requests: usize) -> Vec<bool> {
    (0..requests).map(|_| tracer.sample(model, || None).is_some()).collect()
}

#[test]
fn one_of_so_many_requests_is_traced_until_the_count_is_used() {
    let (tracer, _) = tracer(Mode::Triton, Values { rate: 2, count: 2, ..ON });
    assert_eq!(sampled(&tracer, "m", 7), [false, true, false, true, false, false, false]);
    let count = tracer.settings(None).into_iter().find(|(name, _)| name == "trace_count").unwrap();
    assert_eq!(count.1, ["0"]);
}

#[test]
fn nothing_is_traced_while_it_is_off() {
    let (tracer, seen) = tracer(Mode::Triton, Values::default());
    assert!(!tracer.is_on());
    assert_eq!(sampled(&tracer, "m", 2), [false; 2]);
    assert!(seen.finished.lock().is_empty());
}

#[test]
fn a_model_has_its_own_setting_until_all_of_it_is_cleared() {
    let (tracer, seen) = tracer(Mode::Triton, Values::default());
    let on = Update { levels: Some(Some((true, false))), rate: Some(Some(1)), ..Update::default() };
    tracer.update(Some("m"), &on).unwrap();
    assert!(tracer.is_on());
    assert_eq!((sampled(&tracer, "m", 1), sampled(&tracer, "n", 1)), (vec![true], vec![false]));
    // what it has no value of its own for is the server's
    tracer.update(None, &Update { count: Some(Some(1)), ..Update::default() }).unwrap();
    assert_eq!(sampled(&tracer, "m", 2), [true, false]);
    tracer.update(Some("m"), &Update { levels: Some(None), rate: Some(None), ..Update::default() }).unwrap();
    assert!(!tracer.is_on());
    assert_eq!(sampled(&tracer, "m", 1), [false]);
    seen.finished.lock().clear();
    seen.retired.lock().sort_unstable();
    assert_eq!(*seen.retired.lock(), [0, 1, 3], "each setting ends when it is changed and its last trace is over");
}

#[test]
fn a_setting_that_would_trace_and_cannot_is_refused() {
    let seen = Arc::new(Seen::default());
    let of = |mode, file: &str| {
        let fixed = vec![("trace_file".into(), file.to_owned())];
        Tracer::new(mode, Values::default(), fixed, Arc::new(Ids::new([7; 32])), seen.clone())
    };
    let on = Update { levels: Some(Some((true, false))), ..Update::default() };
    let no_rate = Update { rate: Some(Some(0)), ..Update::default() };
    let no_count = Update { count: Some(Some(0)), ..Update::default() };
    for model in [None, Some("m")] {
        let (with_file, without) = (of(Mode::Triton, "/t"), of(Mode::Triton, ""));
        let refuses = |tracer: &Tracer, update: Update, reason: &str| {
            let before = tracer.settings(model);
            let error = tracer.update(model, &update).unwrap_err();
            assert_eq!(error, Error::invalid_argument(format!("Attempting to set invalid trace setting :{reason}")));
            assert_eq!((tracer.settings(model), tracer.is_on()), (before, false));
        };
        refuses(&with_file, Update { levels: on.levels, ..no_rate }, "sample rate must be non-zero");
        refuses(&with_file, Update { levels: on.levels, ..no_count }, "");
        refuses(&without, on, "trace file name is not given");
        // what is off may be anything
        assert_eq!((without.update(model, &no_rate), without.update(model, &no_count)), (Ok(()), Ok(())));
    }
    assert_eq!(of(Mode::OpenTelemetry, "").update(None, &on), Ok(()));
    let with_file = of(Mode::Triton, "/t");
    // a model that traces, and takes its rate from the server
    assert_eq!(with_file.update(Some("m"), &on), Ok(()));
    assert!(with_file.update(None, &no_rate).is_err());
    assert_eq!(with_file.update(Some("m"), &Update { levels: Some(None), ..Update::default() }), Ok(()));
    assert_eq!(with_file.update(None, &no_rate), Ok(()));
}

#[test]
fn a_count_that_no_change_has_set_begins_anew_with_every_change() {
    let (tracer, _) = tracer(Mode::Triton, Values { count: 2, ..ON });
    let change = |count| tracer.update(None, &Update { rate: Some(Some(1)), count, ..Update::default() }).unwrap();
    assert_eq!(sampled(&tracer, "m", 3), [true, true, false]);
    change(None);
    assert_eq!(sampled(&tracer, "m", 3), [true, true, false]);
    change(Some(Some(3)));
    assert_eq!(sampled(&tracer, "m", 2), [true, true]);
    change(None);
    assert_eq!(sampled(&tracer, "m", 2), [true, false], "one is left of its own");
    change(Some(None));
    assert_eq!(sampled(&tracer, "m", 3), [true, true, false]);
}

#[test]
fn a_request_of_a_trace_is_traced_whatever_the_rate() {
    let (tracer, seen) = tracer(Mode::OpenTelemetry, Values { rate: 0, ..ON });
    assert_eq!(sampled(&tracer, "m", 1), [false]);
    let trace = tracer.sample("m", caller).unwrap();
    assert_eq!(trace.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    let context: serde_json::Value = serde_json::from_str(&trace.context().unwrap()).unwrap();
    let parent = context["traceparent"].as_str().unwrap();
    assert!(parent.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && !parent.contains("b7ad6b7169203331"));
    assert_eq!(context["tracestate"], "a=\"1\"");
    drop(trace);
    let finished = seen.finished.lock().pop().unwrap();
    assert_eq!(finished.remote.unwrap().span.to_string(), "b7ad6b7169203331");
    assert!(tracer.sample("m", || Remote::parse(b"junk", [])).is_none());
    // Triton's own files know no callers
    assert!(super::tests::tracer(Mode::Triton, Values { rate: 0, ..ON }).0.sample("m", caller).is_none());
}

#[test]
fn a_request_of_a_trace_counts_as_every_other() {
    let (tracer, _) = tracer(Mode::OpenTelemetry, Values { rate: 2, count: 1, ..ON });
    let of_trace = || tracer.sample("m", caller).is_some();
    assert_eq!(sampled(&tracer, "m", 1), [false]);
    assert!(of_trace(), "the second, and the one of the count");
    assert_eq!(sampled(&tracer, "m", 2), [false; 2]);
    assert!(of_trace(), "whatever is left");
}

#[test]
fn parts_write_one_record_which_ends_with_the_last() {
    let (tracer, seen) = tracer(Mode::Triton, ON);
    let trace = tracer.sample("e", || None).unwrap();
    let now = Instant::now();
    trace.request_reached(Activity::HttpRecvStart, now);
    trace.begin(&"e".into(), 1, "id", now);
    let step = trace.child();
    assert_eq!((trace.id(), trace.parent_id(), step.id(), step.parent_id()), (1, 0, 2, 1));
    drop(trace);
    step.request_reached(Activity::HttpSendEnd, now);
    assert!(seen.finished.lock().is_empty());
    drop(step);
    let finished = seen.finished.lock().pop().unwrap();
    let names = finished.events.iter().map(|event| match event {
        Event::Model { id, model, .. } => format!("{id} {model}"),
        Event::Time { id, activity, .. } => format!("{id} {}", activity.name()),
        Event::Tensor { .. } => unreachable!("the level has no tensors"),
    });
    assert_eq!(names.collect::<Vec<_>>(), ["1 HTTP_RECV_START", "1 e", "1 REQUEST_START", "1 HTTP_SEND_END"]);
}

#[test]
fn what_is_kept_of_a_request_is_bounded() {
    let (tracer, seen) = tracer(Mode::Triton, Values { has_tensors: true, ..ON });
    let trace = tracer.sample("m", || None).unwrap();
    let tensor = |length: usize| Tensor {
        name: "IN".into(),
        data_type: DataType::Uint8,
        shape: [i64::try_from(length).unwrap()].into_iter().collect(),
        data: Buffer::from(Bytes::from(vec![1; length])),
    };
    trace.inputs(&[tensor(MAX_TENSOR_BYTES), tensor(1)]);
    for _ in 0..2 * MAX_EVENTS {
        trace.reached(Activity::GrpcSendStart, Instant::now());
    }
    drop(trace);
    let finished = seen.finished.lock().pop().unwrap();
    assert_eq!((finished.events.len(), finished.tensor_bytes), (MAX_EVENTS, MAX_TENSOR_BYTES));
}

#[test]
fn many_responses_do_not_hide_how_a_request_ended() {
    let (tracer, seen) = tracer(Mode::Triton, ON);
    let trace = tracer.sample("m", || None).unwrap();
    for _ in 0..MAX_EVENTS {
        trace.request_reached(Activity::InferResponseComplete, Instant::now());
    }
    trace.reached(Activity::RequestEnd, Instant::now());
    drop(trace);
    let finished = seen.finished.lock().pop().unwrap();
    assert!(matches!(finished.events.last(), Some(Event::Time { activity: Activity::RequestEnd, .. })));
}

#[test]
fn moments_are_numbers_of_another_clock() {
    let epoch = Epoch { at: Instant::now(), reading: Duration::from_secs(10) };
    assert_eq!(epoch.nanos(epoch.at + Duration::from_nanos(5)), 10_000_000_005);
    assert_eq!(epoch.nanos(epoch.at - Duration::from_secs(1)), 9_000_000_000);
}
