//! Libraries that keep to the headers: what they are given, what comes back, and what is counted.

mod harness;

use std::{fs, sync::mpsc, thread};

use harness::{Counts, config, directory, request, until, values};
use server_core::{
    config::SchedulingChoice,
    request::{Parameter, RequestedOutput},
};

#[test]
fn a_library_is_called_in_order_and_told_of_its_end() {
    let directory = directory(&[("identity", "calls")]);
    let calls = directory.folder.path().join("calls/calls.txt");
    let mut served = directory.load("backend: 'calls'").unwrap();
    assert_eq!((served.config.max_batch_size, served.config.input.len(), served.config.output.len()), (4, 1, 1));
    assert!(matches!(served.config.scheduling_choice, Some(SchedulingChoice::DynamicBatching(_))));
    let [group] = &served.config.instance_group[..] else { panic!("{:?}", served.config.instance_group) };
    assert_eq!((group.count, &*group.name), (2, "m"), "as it prefers, and called as one that nobody prefers");

    let mut asked = request(&[1, 2, 3]);
    asked.parameters = vec![
        ("text".into(), Parameter::String("a".into())),
        ("number".into(), Parameter::Int(-7)),
        ("large".into(), Parameter::Uint(9)),
        ("truth".into(), Parameter::Bool(true)),
        ("half".into(), Parameter::Double(0.5)),
    ];
    let expected = asked.parameters.iter().cloned().map(|(name, value)| match value {
        Parameter::Uint(number) => (name, Parameter::Int(number as i64)), // the interface has signed ones alone
        value => (name, value),
    });
    let expected: Vec<_> = expected.collect();
    let reply = served.ask(asked);
    assert_eq!(values(&reply), [1, 2, 3]);
    assert_eq!(reply.unwrap().parameters.to_vec(), expected);

    let answers = served.run([request(&[4]), request(&[]), request(&[5, 6])]);
    let got: Vec<_> = answers.into_iter().map(|mut answers| values(&answers.next().unwrap())).collect();
    assert_eq!(got, [vec![4], vec![], vec![5, 6]]);
    let unknown = harness::request(&[1]);
    let unknown = server_core::request::InferRequest {
        outputs: [RequestedOutput::values("OUTPUT9")].into_iter().collect(),
        ..unknown
    };
    let error = served.ask(unknown).unwrap_err();
    assert_eq!(error.message, "unexpected inference output 'OUTPUT9' for model 'm'");
    let counted = Counts { executed_rows: vec![1, 3, 1], succeeded: 4, failed: 1, released: 5, ..Counts::default() };
    assert_eq!(served.events.counts(), counted);

    drop((served.instance, served.model));
    drop(directory.libraries);
    let calls = fs::read_to_string(&calls).unwrap();
    let (first, second) = (calls.lines().next(), calls.lines().nth(1).unwrap_or_default());
    assert_eq!(first, Some("Initialize calls"));
    for part in ["BackendConfig {\"cmdline\":{", "\"auto-complete-config\":\"true\"", "\"backend-directory\":\""] {
        assert!(second.contains(part), "{second}");
    }
    let rest: Vec<_> = calls.lines().skip(2).collect();
    let expected = [
        "ModelInitialize m",
        "ModelInstanceInitialize m_0_0",
        "ModelInstanceFinalize m_0_0",
        "ModelFinalize m",
        "Finalize calls",
    ];
    assert_eq!(rest, expected);
}

#[test]
fn a_library_may_answer_late_and_release_later() {
    let directory = directory(&[("late", "late")]);
    let mut served = directory.load(&config("late", "")).unwrap();
    let answers = served.run([request(&[1]), request(&[2, 3])]);
    assert_eq!(served.events.counts().released, 0, "they are the library's");
    let got: Vec<_> = answers.into_iter().map(|mut answers| values(&answers.next().unwrap())).collect();
    assert_eq!(got, [vec![1], vec![2, 3]]);
    until("both are released", || served.events.counts().released == 2);
    // the library reports nothing: counted all the same
    let counted = Counts { executed_rows: vec![2], succeeded: 2, released: 2, ..Counts::default() };
    assert_eq!(served.events.counts(), counted);
}

#[test]
fn a_library_may_answer_many_times_after_it_has_released_the_request() {
    let directory = directory(&[("late", "many")]);
    let mut served = directory.load(&config("many", "model_transaction_policy { decoupled: true }")).unwrap();
    let mut answers = served.run([request(&[100])]).remove(0);
    for expected in 0..100 {
        assert_eq!(values(&answers.next().unwrap()), [expected]);
    }
    assert!(answers.next().is_none());
    until("it is released", || served.events.counts().released == 1);
    let counted = Counts { executed_rows: vec![1], succeeded: 1, responses: 100, released: 1, ..Counts::default() };
    assert_eq!(served.events.counts(), counted);

    let mut none = served.run([request(&[0])]).remove(0);
    assert!(none.next().is_none(), "the final flag alone");
    // whoever leaves is noticed, and the library stops
    let leaving = served.run([request(&[i32::MAX])]).remove(0);
    drop(leaving);
    until("all are released", || served.events.counts().released == 3);
}

const DECOUPLED: &str = "model_transaction_policy { decoupled: true }";

#[test]
fn a_reader_that_is_behind_does_not_hold_the_thread_of_a_library() {
    let directory = directory(&[("burst", "burst")]);
    let mut served = directory.load(&config("burst", DECOUPLED)).unwrap();
    let [mut behind, mut other] = <[_; 2]>::try_from(served.run([request(&[3000]), request(&[2])])).ok().unwrap();
    assert_eq!([values(&other.next().unwrap()), values(&other.next().unwrap())], [[0], [1]], "it came to the second");
    assert!(other.next().is_none());
    for expected in 0..3000 {
        assert_eq!(values(&behind.next().unwrap()), [expected]);
    }
    assert!(behind.next().is_none());
    assert_eq!(served.events.counts().released, 2);
}

#[test]
fn a_library_waits_for_a_reader_that_is_far_behind_until_it_reads_on_or_leaves() {
    let directory = directory(&[("burst", "burst")]);
    let mut served = directory.load(&config("burst", DECOUPLED)).unwrap();
    let (answers, answered) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| served.run_with([request(&[20_000]), request(&[i32::MAX])], |way| answers.send(way).unwrap()));
        let (mut slow, gone) = (answered.recv().unwrap(), answered.recv().unwrap());
        for expected in 0..20_000 {
            assert_eq!(values(&slow.next().unwrap()), [expected]);
        }
        assert!(slow.next().is_none());
        drop(gone); // the thread ends
    });
    assert_eq!(served.events.counts().released, 2);
}
