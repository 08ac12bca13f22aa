//! Through the contract: as many responses as the value says, counted as the configuration says.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use server_core::{
    backend::Instance,
    batch::Batch,
    completion::ResponseOutcome::{self, Cancelled, Empty, Fail, Success},
    error::{Code, Error},
    request::InferRequest,
    responder::DEFAULT_SLOT_BYTES,
    stats::FailureReason,
    tensor::DataType,
};

use crate::{
    testing::{bytes, output, request, tensor},
    testing_over_time::{Counted, Ledger, load, queued, send},
};

const CONFIG: &str = "name: 'm' model_transaction_policy { decoupled: true }
    input { name: 'IN' data_type: TYPE_INT32 dims: 1 } output { name: 'OUT' data_type: TYPE_INT32 dims: 1 }";

fn instance(parameters: &[(&str, &str)]) -> Box<dyn Instance> {
    let parameter =
        |(key, value): &(&str, &str)| format!("parameters {{ key: '{key}' value {{ string_value: '{value}' }} }}");
    let parameters: String = parameters.iter().map(parameter).collect();
    load(&super::backend(Default::default()), &format!("{CONFIG} {parameters}")).unwrap()
}

fn ask(value: i32, shape: &[i64]) -> InferRequest {
    let content = vec![value.to_le_bytes(); shape.iter().product::<i64>() as usize].concat();
    request([tensor("IN", DataType::Int32, shape, content)])
}

fn outcomes(counted: &Counted) -> Vec<(u32, ResponseOutcome)> {
    counted.responses.iter().map(|(index, outcome, _)| (*index, *outcome)).collect()
}

#[test]
fn the_value_comes_as_often_as_it_says_and_the_end_alone() {
    let (mut instance, ledger) = (instance(&[]), Arc::new(Ledger::default()));
    for (value, shape) in [(3, [1].as_slice()), (2, &[1, 1]), (0, &[1]), (-5, &[1])] {
        let mut caller = send(&mut *instance, &ledger, ask(value, shape), DEFAULT_SLOT_BYTES);
        for _ in 0..value {
            let outputs = caller.next().unwrap().unwrap();
            assert_eq!(output(&outputs, "OUT").shape.as_slice(), shape);
            assert_eq!(bytes(output(&outputs, "OUT")), value.to_le_bytes());
            assert!(!caller.is_finished());
        }
        assert!(caller.next().is_none());
        let counted = ledger.after(1);
        assert_eq!(counted.ends, [Ok(())]);
        assert_eq!(outcomes(&counted), (0..value).map(|index| (index as u32, Success)).collect::<Vec<_>>());
    }
}

#[test]
fn the_last_responses_fail_and_the_very_last_are_empty() {
    let (mut instance, ledger) =
        (instance(&[("CUSTOM_FAIL_COUNT", "2"), ("CUSTOM_EMPTY_COUNT", "1")]), Arc::new(Ledger::default()));
    let mut caller = send(&mut *instance, &ledger, ask(4, &[1]), DEFAULT_SLOT_BYTES);
    assert!(caller.next().unwrap().is_ok());
    for _ in 0..2 {
        assert_eq!(caller.next().unwrap().unwrap_err(), Error::new(Code::Unknown, "simulated failure"));
        assert!(!caller.is_finished(), "an error of one response does not end the request");
    }
    assert!(caller.next().is_none());
    let counted = ledger.after(1);
    assert_eq!(outcomes(&counted), [(0, Success), (1, Fail), (2, Fail), (3, Empty)]);
    assert_eq!(counted.ends, [Ok(())]);
}

#[test]
fn each_part_of_a_response_takes_its_time() {
    let delays = [("CUSTOM_INFER_DELAY_NS", "20000000"), ("CUSTOM_OUTPUT_DELAY_NS", "10000000")];
    let (mut instance, ledger) = (instance(&delays), Arc::new(Ledger::default()));
    let mut caller = send(&mut *instance, &ledger, ask(2, &[1]), DEFAULT_SLOT_BYTES);
    assert!((0..2).all(|_| caller.next().unwrap().is_ok()) && caller.next().is_none());
    for (_, _, marks) in ledger.after(1).responses {
        assert!(marks.output_start - marks.start >= Duration::from_millis(20));
        assert!(marks.end - marks.output_start >= Duration::from_millis(10));
    }
}

#[test]
fn the_response_after_the_one_at_work_is_counted_as_cancelled_with_the_time_to_clean_up() {
    let delays = [("CUSTOM_INFER_DELAY_NS", "20000000"), ("CUSTOM_CANCEL_DELAY_NS", "15000000")];
    let (mut instance, ledger) = (instance(&delays), Arc::new(Ledger::default()));
    let mut caller = send(&mut *instance, &ledger, ask(1000, &[1]), DEFAULT_SLOT_BYTES);
    assert!(caller.next().unwrap().is_ok());
    drop(caller);
    let counted = ledger.after(1);
    assert_eq!(counted.ends, [Err(FailureReason::Canceled)]);
    let (last, before) = counted.responses.split_last().unwrap();
    assert!(before.iter().all(|(_, outcome, _)| *outcome == Success) && before.len() < 100);
    assert_eq!((last.0 as usize, last.1), (before.len(), Cancelled));
    assert!(last.2.end - last.2.start >= Duration::from_millis(15));
}

#[test]
fn requests_of_a_batch_are_answered_each_by_itself() {
    let (mut instance, ledger) = (instance(&[]), Arc::new(Ledger::default()));
    let (pending, callers): (Vec<_>, Vec<_>) =
        [1, 3, 2].into_iter().map(|value| queued(&ledger, ask(value, &[1, 1]), DEFAULT_SLOT_BYTES)).unzip();
    instance.execute(Batch::new(pending, Instant::now()));
    for (mut caller, value) in callers.into_iter().zip([1, 3, 2]) {
        assert_eq!((0..).take_while(|_| caller.next().is_some()).count(), value);
    }
    assert_eq!(ledger.after(3).executions, 1);
}

#[test]
fn more_than_one_row_is_an_error() {
    let (mut instance, ledger) = (instance(&[]), Arc::new(Ledger::default()));
    let mut caller = send(&mut *instance, &ledger, ask(1, &[2, 1]), DEFAULT_SLOT_BYTES);
    assert_eq!(caller.next().unwrap().unwrap_err(), Error::invalid_argument("unexpected shape for IN input"));
}

#[test]
fn a_parameter_that_is_no_number_counts_as_none() {
    let (mut instance, ledger) = (instance(&[("CUSTOM_FAIL_COUNT", "two")]), Arc::new(Ledger::default()));
    let mut caller = send(&mut *instance, &ledger, ask(2, &[1]), DEFAULT_SLOT_BYTES);
    assert!((0..2).all(|_| caller.next().unwrap().is_ok()));
}

#[test]
fn another_signature_is_refused() {
    for (from, to, message) in [
        ("output {", "input { name: 'X' data_type: TYPE_INT32 dims: 1 } output {", "expected 1 input, got 2"),
        ("'IN'", "'X'", "expected first input tensor name to be IN, got X"),
        ("'OUT'", "'Y'", "expected first output tensor name to be OUT, got Y"),
        ("TYPE_INT32 dims: 1 } output", "TYPE_INT32 dims: 2 } output", "expected IN shape to be [1], got [2]"),
        (
            "TYPE_INT32 dims: 1 } output",
            "TYPE_INT64 dims: 1 } output",
            "expected IN datatype to be INT32, got TYPE_INT64",
        ),
    ] {
        let error = load(&super::backend(Default::default()), &CONFIG.replace(from, to)).err().unwrap();
        assert_eq!(error, Error::invalid_argument(message));
    }
}
