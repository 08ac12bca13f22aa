//! Through the contract: one step for each turn. The queue between two turns is the tests of the engine's.

use std::{sync::Arc, time::Instant};

use server_core::{
    backend::Instance, batch::Batch, completion::ResponseOutcome, error::Error, responder::DEFAULT_SLOT_BYTES,
    stats::FailureReason, tensor::DataType,
};

use crate::{
    testing::{bytes, output, request, tensor},
    testing_over_time::{Caller, Ledger, load, queued},
};

const CONFIG: &str = "name: 'm' max_batch_size: 4 model_transaction_policy { decoupled: true }
    sequence_batching { iterative_sequence: true oldest { max_candidate_sequences: 4 } }
    input { name: 'INPUT' data_type: TYPE_INT32 dims: 1 } output { name: 'OUTPUT' data_type: TYPE_INT32 dims: 1 }";

fn instance() -> Box<dyn Instance> {
    load(&super::backend(Default::default()), CONFIG).unwrap()
}

fn ask(value: i32) -> server_core::request::InferRequest {
    request([tensor("INPUT", DataType::Int32, &[1, 1], value.to_le_bytes().to_vec())])
}

/// Sends a request and runs it for as long as it comes back.
fn run(instance: &mut dyn Instance, ledger: &Arc<Ledger>, value: i32, slot_bytes: usize) -> Caller {
    let (pending, caller) = queued(ledger, ask(value), slot_bytes);
    let mut next = Some(pending);
    while let Some(pending) = next.take().or_else(|| ledger.rescheduled()) {
        instance.execute(Batch::new(vec![pending], Instant::now()));
    }
    caller
}

fn next(caller: &mut Caller) -> Option<i32> {
    let outputs = caller.next()?.unwrap();
    let out = output(&outputs, "OUTPUT");
    assert_eq!(out.shape.as_slice(), [1, 1]);
    Some(i32::from_le_bytes(*bytes(out).first_chunk().unwrap()))
}

#[test]
fn each_turn_gives_one_response_and_the_last_ends_the_request() {
    let (mut instance, ledger) = (instance(), Arc::new(Ledger::default()));
    for value in [4, 1, 0, -3] {
        let mut caller = run(&mut *instance, &ledger, value, DEFAULT_SLOT_BYTES);
        for left in (0..value).rev() {
            assert_eq!(next(&mut caller), Some(left));
            assert!(!caller.is_finished());
        }
        assert_eq!(next(&mut caller), None);
        let counted = ledger.after(1);
        assert_eq!((counted.executions, counted.ends), (value.max(1) as usize, vec![Ok(())]));
        assert!(counted.responses.iter().all(|(_, outcome, _)| *outcome == ResponseOutcome::Success));
        assert_eq!(counted.responses.len(), value.max(0) as usize);
    }
}

#[test]
fn a_reader_that_is_behind_holds_up_its_own_request_only() {
    let (mut instance, ledger) = (instance(), Arc::new(Ledger::default()));
    let mut slow = run(&mut *instance, &ledger, 3, 1);
    let gone = run(&mut *instance, &ledger, 3, 1);
    let mut other = run(&mut *instance, &ledger, 2, DEFAULT_SLOT_BYTES);
    assert_eq!((next(&mut other), next(&mut other), next(&mut other)), (Some(1), Some(0), None));
    assert_eq!(ledger.after(1).ends, [Ok(())]);
    drop(gone);
    assert_eq!(ledger.after(1).ends, [Err(FailureReason::Canceled)]);
    assert_eq!((next(&mut slow), next(&mut slow)), (Some(2), Some(1)));
    let again = ledger.wait_for_rescheduled();
    instance.execute(Batch::new(vec![again], Instant::now()));
    assert_eq!((next(&mut slow), next(&mut slow)), (Some(0), None));
}

#[test]
fn a_request_whose_caller_leaves_between_two_turns_is_counted_as_one_that_leaves_during_one() {
    let (mut instance, ledger) = (instance(), Arc::new(Ledger::default()));
    for leaves_in_the_queue in [true, false] {
        let (pending, mut caller) = queued(&ledger, ask(3), DEFAULT_SLOT_BYTES);
        instance.execute(Batch::new(vec![pending], Instant::now()));
        assert_eq!(next(&mut caller), Some(2));
        drop(caller);
        let waiting = ledger.wait_for_rescheduled();
        if leaves_in_the_queue {
            waiting.completion.reject(FailureReason::Canceled, Error::cancelled(""));
        } else {
            instance.execute(Batch::new(vec![waiting], Instant::now()));
        }
        let counted = ledger.after(1);
        assert_eq!(counted.ends, [Err(FailureReason::Canceled)]);
        assert_eq!(counted.responses.last().map(|last| last.1), Some(ResponseOutcome::Cancelled));
    }
}

#[test]
fn another_signature_is_refused() {
    for (from, to, message) in [
        ("iterative_sequence: true", "", "model 'm' must use sequence batching with iterative_sequence: true"),
        ("decoupled: true", "", "model 'm' must use the decoupled transaction policy"),
        ("'INPUT'", "'IN'", "expected first input tensor name to be INPUT, got IN"),
        (
            "TYPE_INT32 dims: 1 } output",
            "TYPE_FP32 dims: 1 } output",
            "expected INPUT datatype to be INT32, got TYPE_FP32",
        ),
    ] {
        let error = load(&super::backend(Default::default()), &CONFIG.replace(from, to)).err().unwrap();
        assert_eq!(error, Error::invalid_argument(message));
    }
}
