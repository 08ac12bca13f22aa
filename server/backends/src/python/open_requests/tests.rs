//! What becomes of requests that a worker answers over time, whatever it says and whoever leaves.

use std::sync::Arc;

use server_core::{
    batch::Batch, completion::ResponseOutcome, error::Code, responder::DEFAULT_SLOT_BYTES, response::Outputs,
    stats::FailureReason,
};

use super::{table::AFTER_CALLER, *};
use crate::{
    testing::{floats, request},
    testing_over_time::{Caller, Ledger, queued},
};

struct Case {
    requests: OpenRequests,
    ledger: Arc<Ledger>,
}

impl Case {
    fn new() -> Self {
        Self { requests: OpenRequests::new().unwrap(), ledger: Arc::default() }
    }

    /// Puts one request into a slot.
    fn open(&self, is_decoupled: bool, slot_bytes: usize) -> (Placed, Caller) {
        let (pending, caller) = queued(&self.ledger, request([]), slot_bytes);
        let (pending, execution) = Batch::new(vec![pending], Instant::now()).into_pending();
        let placed = self.requests.reserve(1).unwrap();
        self.requests.put(&placed, pending, is_decoupled, execution.start(), Instant::now());
        (placed, caller)
    }

    fn say(&self, placed: &Placed, words: impl IntoIterator<Item = Word>) {
        words.into_iter().for_each(|word| self.requests.said(placed.slots[0], word, Instant::now()));
    }

    /// The byte of the slot on the status page.
    fn status(&self, placed: &Placed) -> u8 {
        let page = self.requests.status_page();
        page.atomic_u8(placed.slots[0] as usize).unwrap().load(std::sync::atomic::Ordering::Acquire)
    }

    fn attend(&self) {
        self.requests.attend(Instant::now());
    }

    fn free_slots(&self) -> usize {
        let table = self.requests.table.lock();
        assert!(table.timed.is_empty());
        table.free.len() + SLOTS - table.slots.len()
    }
}

fn response(value: f32) -> Word {
    Word::Response(Ok(outputs(value)), false)
}

fn outputs(value: f32) -> Outputs {
    Outputs { tensors: [floats("OUT", &[1], &[value])].into_iter().collect(), ..Outputs::default() }
}

fn values(caller: &mut Caller) -> Vec<Result<f32, Code>> {
    let value = |outputs: Outputs| crate::testing::values(&outputs.tensors[0])[0];
    std::iter::from_fn(|| caller.next()).map(|reply| reply.map(value).map_err(|error| error.code)).collect()
}

#[test]
fn responses_are_counted_and_come_in_order() {
    let case = Case::new();
    let (placed, mut caller) = case.open(true, DEFAULT_SLOT_BYTES);
    let error = Word::Response(Err(Error::not_found("no")), false);
    case.say(&placed, [response(1.0), error, response(2.0), Word::Ended]);
    assert_eq!(values(&mut caller), [Ok(1.0), Err(Code::NotFound), Ok(2.0)]);
    let counted = case.ledger.after(1);
    let outcomes: Vec<_> = counted.responses.iter().map(|(index, outcome, _)| (*index, *outcome)).collect();
    assert_eq!(outcomes, [(0, ResponseOutcome::Success), (1, ResponseOutcome::Fail), (2, ResponseOutcome::Success)]);
    assert_eq!(counted.ends, [Ok(())]);
    assert_eq!(case.free_slots(), SLOTS);
}

#[test]
fn an_error_that_is_sent_last_fails_its_response_and_not_its_request() {
    for (is_decoupled, is_last) in [(true, true), (false, true), (false, false)] {
        let case = Case::new();
        let (placed, mut caller) = case.open(is_decoupled, DEFAULT_SLOT_BYTES);
        let error = Word::Response(Err(Error::not_found("no")), is_last);
        case.say(&placed, std::iter::once(error).chain((!is_last).then_some(Word::Ended)));
        assert_eq!(values(&mut caller), [Err(Code::NotFound)]);
        let counted = case.ledger.after(1);
        assert_eq!(
            counted.responses.iter().map(|(_, outcome, _)| *outcome).collect::<Vec<_>>(),
            [ResponseOutcome::Fail]
        );
        assert_eq!(counted.ends, [Ok(())]);
    }
}

#[test]
fn the_response_of_a_model_that_answers_once_waits_for_its_end() {
    let case = Case::new();
    let (placed, mut caller) = case.open(false, DEFAULT_SLOT_BYTES);
    case.say(&placed, [response(1.0)]);
    assert_eq!(case.ledger.released(), 0);
    case.say(&placed, [Word::Ended]);
    assert_eq!(values(&mut caller), [Ok(1.0)]);
    let (placed, mut caller) = case.open(false, DEFAULT_SLOT_BYTES);
    case.say(&placed, [response(2.0), Word::Dropped]);
    assert_eq!(values(&mut caller), [Ok(2.0)]);
    let (placed, mut caller) = case.open(false, DEFAULT_SLOT_BYTES);
    case.say(&placed, [Word::Dropped]);
    assert_eq!(values(&mut caller), [Err(Code::Internal)]);
}

#[test]
fn what_a_reader_has_no_room_for_is_kept_in_order() {
    let case = Case::new();
    let (placed, mut caller) = case.open(true, 1);
    case.say(&placed, [response(1.0)]);
    assert_eq!(case.status(&placed), 0);
    case.say(&placed, [response(2.0)]);
    assert_eq!(case.status(&placed), 2);
    case.say(&placed, [response(3.0), Word::Ended]);
    for value in [1.0, 2.0] {
        let reply = caller.next().unwrap().unwrap();
        assert_eq!(crate::testing::values(&reply.tensors[0]), [value]);
        assert_eq!(case.status(&placed), 2);
        case.attend();
    }
    assert_eq!(case.status(&placed), 0);
    assert_eq!(values(&mut caller), [Ok(3.0)]);
    assert_eq!(case.ledger.after(1).ends, [Ok(())]);
    assert_eq!(case.free_slots(), SLOTS);
}

#[test]
fn a_caller_that_leaves_is_noticed_and_counted() {
    for (is_behind, last) in [(false, Word::Ended), (true, Word::Ended), (false, response(9.0)), (true, Word::Dropped)]
    {
        let case = Case::new();
        let (placed, caller) = case.open(true, 1);
        case.say(&placed, [response(1.0)]);
        if is_behind {
            case.say(&placed, [response(2.0)]);
        }
        drop(caller);
        case.attend();
        assert_eq!(case.status(&placed), 1);
        let is_over = last.is_last();
        case.say(&placed, [last]);
        assert_eq!(case.ledger.after(1).ends, [Err(FailureReason::Canceled)]);
        if !is_over {
            assert_eq!(case.free_slots(), SLOTS - 1, "the worker has not said its last word");
            case.say(&placed, [Word::Ended]);
        }
        assert_eq!(case.free_slots(), SLOTS);
    }
}

#[test]
fn a_request_without_caller_is_over_in_time_though_its_model_keeps_it() {
    let case = Case::new();
    let (placed, caller) = case.open(true, DEFAULT_SLOT_BYTES);
    case.say(&placed, [response(1.0)]);
    drop(caller);
    case.attend();
    case.requests.attend(Instant::now() + 2 * AFTER_CALLER);
    assert_eq!(case.ledger.released(), 0, "its batch runs yet");
    assert_eq!(case.requests.patience(Instant::now()), None);
    assert!(case.requests.take(&placed, |_| false).is_empty());
    case.attend();
    let patience = case.requests.patience(Instant::now()).expect("it is a matter of time");
    case.requests.attend(Instant::now() + patience / 2);
    assert_eq!(case.ledger.released(), 0);
    case.requests.attend(Instant::now() + AFTER_CALLER);
    assert_eq!(case.ledger.after(1).ends, [Err(FailureReason::Canceled)]);
    assert_eq!(case.free_slots(), SLOTS - 1);
    case.say(&placed, [response(2.0), Word::Ended]);
    assert_eq!(case.free_slots(), SLOTS);
}

#[test]
fn a_reader_that_stays_behind_ends_its_request() {
    let case = Case::new();
    let (placed, mut caller) = case.open(true, 1);
    case.say(&placed, [response(1.0), response(2.0), response(3.0)]);
    let now = Instant::now();
    let patience = case.requests.patience(now).unwrap();
    case.requests.attend(now + patience / 2);
    assert_eq!((case.status(&placed), case.ledger.released()), (2, 0));
    case.requests.attend(now + patience + Duration::from_secs(1));
    assert_eq!(case.status(&placed), 1, "the model need not go on");
    assert_eq!(values(&mut caller), [Ok(1.0), Err(Code::Unavailable)]);
    assert_eq!(case.free_slots(), SLOTS - 1);
    case.say(&placed, [response(4.0), Word::Ended]);
    assert_eq!(case.free_slots(), SLOTS);
}

#[test]
fn a_request_may_have_another_turn_after_its_responses() {
    let case = Case::new();
    let (placed, mut caller) = case.open(true, 1);
    case.say(&placed, [response(1.0), response(2.0), Word::Rescheduled]);
    assert!(case.ledger.rescheduled().is_none());
    assert!(caller.next().unwrap().is_ok());
    case.attend();
    let pending = case.ledger.rescheduled().unwrap();
    assert_eq!(case.free_slots(), SLOTS);
    let placed = case.requests.reserve(1).unwrap();
    case.requests.put(&placed, vec![pending], true, Instant::now(), Instant::now());
    case.say(&placed, [Word::Response(Ok(outputs(3.0)), true)]);
    assert_eq!(values(&mut caller), [Ok(2.0), Ok(3.0)]);
}

#[test]
fn a_batch_takes_back_its_own_requests_only() {
    let case = Case::new();
    let (first, mut caller) = case.open(true, DEFAULT_SLOT_BYTES);
    case.say(&first, [Word::Ended]);
    let (second, _caller) = case.open(true, DEFAULT_SLOT_BYTES);
    assert_eq!(first.slots, second.slots);
    assert!(case.requests.take(&first, |_| true)[0].is_none());
    assert!(case.requests.take(&second, |_| true)[0].is_some());
    assert_eq!(values(&mut caller), []);
}

#[test]
fn who_reserves_waits_for_free_slots_or_for_the_end_of_the_worker() {
    let case = Case::new();
    let all = case.requests.reserve(SLOTS).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| case.requests.reserve(2));
        let (head, rest) = all.slots.split_at(1);
        case.requests.give_back(&Placed { slots: head.to_vec(), batch: all.batch });
        assert!(!waiting.is_finished());
        case.requests.give_back(&Placed { slots: rest[..1].to_vec(), batch: all.batch });
        assert_eq!(waiting.join().unwrap().unwrap().slots.len(), 2);
        let waiting = scope.spawn(|| case.requests.reserve(1));
        case.requests.lost(&Error::internal("gone"));
        assert_eq!(waiting.join().unwrap().err().unwrap().message, "gone");
    });
    assert!(case.requests.reserve(1).is_err());
}

#[test]
fn requests_of_a_lost_worker_end() {
    let case = Case::new();
    let (placed, mut caller) = case.open(true, DEFAULT_SLOT_BYTES);
    case.say(&placed, [response(1.0)]);
    case.requests.lost(&Error::internal("gone"));
    assert_eq!(values(&mut caller), [Ok(1.0), Err(Code::Internal)]);
    case.say(&placed, [response(2.0), Word::Ended]); // too late
    assert_eq!(case.ledger.after(1).ends, [Err(FailureReason::Backend)]);
}
