//! Through the contract: one response for each value, in time, for whoever still waits.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use server_core::{
    backend::Instance, batch::Batch, completion::ResponseOutcome, error::Error, request::InferRequest,
    responder::DEFAULT_SLOT_BYTES, stats::FailureReason, tensor::DataType,
};

use crate::{
    testing::{bytes, output, request, tensor},
    testing_over_time::{Caller, Ledger, load, queued, send},
};

const CONFIG: &str = "name: 'm' model_transaction_policy { decoupled: true }
    input { name: 'IN' data_type: TYPE_INT32 dims: -1 }
    input { name: 'DELAY' data_type: TYPE_UINT32 dims: -1 }
    input { name: 'WAIT' data_type: TYPE_UINT32 dims: 1 }
    output { name: 'OUT' data_type: TYPE_INT32 dims: 1 }
    output { name: 'IDX' data_type: TYPE_UINT32 dims: 1 }";

const MINUTE: u32 = 60_000;

fn instance() -> Box<dyn Instance> {
    load(&super::backend(Default::default()), CONFIG).unwrap()
}

fn ask(values: &[i32], delays: &[u32], wait: u32) -> InferRequest {
    let words =
        |name: &str, data_type, words: Vec<[u8; 4]>| tensor(name, data_type, &[words.len() as i64], words.concat());
    request([
        words("IN", DataType::Int32, values.iter().map(|value| value.to_le_bytes()).collect()),
        words("DELAY", DataType::Uint32, delays.iter().map(|value| value.to_le_bytes()).collect()),
        words("WAIT", DataType::Uint32, vec![wait.to_le_bytes()]),
    ])
}

/// `OUT` and `IDX` of the next response; `None` after the last.
#[track_caller]
fn next(caller: &mut Caller) -> Option<(i32, u32)> {
    let outputs = caller.next()?.unwrap();
    let word = |name| *bytes(output(&outputs, name)).first_chunk().unwrap();
    Some((i32::from_le_bytes(word("OUT")), u32::from_le_bytes(word("IDX"))))
}

#[test]
fn each_value_is_a_response_of_its_own_and_the_end_comes_alone() {
    let (mut instance, ledger) = (instance(), Arc::new(Ledger::default()));
    for count in [3, 0, 200] {
        let values: Vec<i32> = (0..count).map(|value| value - 1).collect();
        let asked = ask(&values, &vec![0; values.len()], 0);
        let mut caller = send(&mut *instance, &ledger, asked, DEFAULT_SLOT_BYTES);
        for (index, value) in values.iter().enumerate() {
            assert_eq!(next(&mut caller), Some((*value, index as u32)));
            assert!(!caller.is_finished(), "the end is not said with the last response");
        }
        assert_eq!(next(&mut caller), None);
        let counted = ledger.after(1);
        assert_eq!((counted.executions, counted.ends), (1, vec![Ok(())]));
        let outcomes = counted.responses.iter().map(|(index, outcome, _)| (*index as usize, *outcome));
        assert!(outcomes.eq((0..values.len()).map(|index| (index, ResponseOutcome::Success))));
    }
}

#[test]
fn responses_come_in_their_time_whenever_the_instance_is_free_again() {
    let (mut instance, ledger) = (instance(), Arc::new(Ledger::default()));
    let sent_at = Instant::now();
    let mut slow = send(&mut *instance, &ledger, ask(&[7, 8], &[30, 30], 0), DEFAULT_SLOT_BYTES);
    let mut quick = send(&mut *instance, &ledger, ask(&[9], &[0], 0), DEFAULT_SLOT_BYTES);
    assert_eq!((next(&mut quick), next(&mut quick)), (Some((9, 0)), None));
    assert_eq!(next(&mut slow), Some((7, 0)));
    assert!(sent_at.elapsed() >= Duration::from_millis(30));
    assert_eq!((next(&mut slow), next(&mut slow)), (Some((8, 1)), None));
    assert!(sent_at.elapsed() >= Duration::from_millis(60));
    let counted = ledger.after(2);
    let slowest = counted.responses.iter().filter(|(_, _, marks)| marks.end - marks.start >= Duration::from_millis(30));
    assert_eq!(slowest.count(), 2);

    let sent_at = Instant::now();
    let mut caller = send(&mut *instance, &ledger, ask(&[1], &[0], 40), DEFAULT_SLOT_BYTES);
    assert!(sent_at.elapsed() >= Duration::from_millis(40), "the instance was free before WAIT had passed");
    assert_eq!(next(&mut caller), Some((1, 0)));
}

#[test]
fn a_cancelled_request_ends_at_once_and_frees_its_instance() {
    let (mut instance, ledger) = (instance(), Arc::new(Ledger::default()));
    for wait in [0, MINUTE] {
        let (pending, mut caller) = queued(&ledger, ask(&[1, 2, 3], &[0, MINUTE, 0], wait), DEFAULT_SLOT_BYTES);
        thread::scope(|scope| {
            scope.spawn(|| instance.execute(Batch::new(vec![pending], Instant::now())));
            assert_eq!(next(&mut caller), Some((1, 0)));
            drop(caller);
            let counted = ledger.after(1);
            assert_eq!(counted.ends, [Err(FailureReason::Canceled)]);
            let outcomes: Vec<_> = counted.responses.iter().map(|(index, outcome, _)| (*index, *outcome)).collect();
            assert_eq!(outcomes, [(0, ResponseOutcome::Success), (1, ResponseOutcome::Cancelled)]);
        }); // and the instance is back
    }
}

#[test]
fn a_reader_that_stops_reading_holds_up_its_own_request_only() {
    let (mut instance, ledger) = (instance(), Arc::new(Ledger::default()));
    let values: Vec<i32> = (0..5000).collect();
    let mut slow = send(&mut *instance, &ledger, ask(&values, &vec![0; 5000], 0), 4096);
    let gone = send(&mut *instance, &ledger, ask(&values, &vec![0; 5000], 0), 4096);
    let mut other = send(&mut *instance, &ledger, ask(&values, &vec![0; 5000], 0), DEFAULT_SLOT_BYTES);
    assert_eq!((0..).take_while(|_| next(&mut other).is_some()).count(), 5000);
    assert_eq!(ledger.after(1).ends, [Ok(())]);
    drop(gone);
    assert_eq!(ledger.after(1).ends, [Err(FailureReason::Canceled)]);
    assert_eq!(ledger.released(), 0, "nobody has read the first one");
    for value in values {
        assert_eq!(next(&mut slow), Some((value, value as u32)));
    }
    assert_eq!(next(&mut slow), None);
    assert_eq!(ledger.after(1).ends, [Ok(())]);
}

#[test]
fn an_instance_goes_after_its_last_request() {
    let (mut instance, ledger) = (instance(), Arc::new(Ledger::default()));
    let mut caller = send(&mut *instance, &ledger, ask(&[5, 6], &[20, 20], 0), DEFAULT_SLOT_BYTES);
    drop(instance);
    assert_eq!(ledger.released(), 1);
    assert_eq!((next(&mut caller), next(&mut caller), next(&mut caller)), (Some((5, 0)), Some((6, 1)), None));
}

#[test]
fn values_and_delays_that_do_not_pair_up_are_an_error() {
    let (mut instance, ledger) = (instance(), Arc::new(Ledger::default()));
    let mut caller = send(&mut *instance, &ledger, ask(&[1, 2], &[0], 0), DEFAULT_SLOT_BYTES);
    let error = Error::invalid_argument("expected IN and DELAY shape to match, got [2] and [1]");
    assert_eq!(caller.next().unwrap().unwrap_err(), error);
    assert!(caller.is_finished());
}

#[test]
fn another_signature_is_refused() {
    for (from, to, message) in [
        ("name: 'm'", "max_batch_size: 1", "repeat backend only supports models with max_batch_size == 0"),
        ("output { name: 'IDX' data_type: TYPE_UINT32 dims: 1 }", "", "expected 2 outputs, got 1"),
        ("'IN'", "'X'", "expected first input tensor name to be IN, got X"),
        ("'IDX'", "'Y'", "expected second output tensor name to be IDX, got Y"),
        (
            "'IN' data_type: TYPE_INT32 dims: -1",
            "'IN' data_type: TYPE_INT32 dims: [ 2, 2 ]",
            "expected IN shape to have one dimension, got [2,2]",
        ),
        (
            "'IN' data_type: TYPE_INT32 dims: -1",
            "'IN' data_type: TYPE_INT32 dims: 4",
            "expected IN and DELAY shape to match, got [4] and [-1]",
        ),
        (
            "'WAIT' data_type: TYPE_UINT32 dims: 1",
            "'WAIT' data_type: TYPE_UINT32 dims: 2",
            "expected WAIT shape to be [1], got [2]",
        ),
        ("'IN' data_type: TYPE_INT32", "'IN' data_type: TYPE_FP32", "expected IN datatype to be INT32, got TYPE_FP32"),
    ] {
        let error = load(&super::backend(Default::default()), &CONFIG.replace(from, to)).err().unwrap();
        assert_eq!(error, Error::invalid_argument(message));
    }
}
