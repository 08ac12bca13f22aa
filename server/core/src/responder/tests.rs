//! Both ends of a slot, one thing at a time; `tests/reply_slot_loom.rs` has them meet in every order.

use std::{
    sync::{
        Arc as StdArc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Wake,
};

use super::{slot::RESPONSE_OVERHEAD, *};
use crate::{error::Code, response::Outputs};

fn poll(replies: &mut Replies) -> Poll<Option<Reply>> {
    replies.poll_next(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn what_is_kept_is_let_go_of_when_the_request_ends_read_or_not() {
    let held = std::sync::Arc::new(());
    let (mut responder, replies) = reply_slot();
    replies.keep(Box::new(held.clone()));
    responder.send(Ok(Outputs::default())).unwrap();
    assert_eq!(std::sync::Arc::strong_count(&held), 2);
    responder.finish_empty();
    assert_eq!(std::sync::Arc::strong_count(&held), 1);
    replies.keep(Box::new(held.clone()));
    assert_eq!(std::sync::Arc::strong_count(&held), 1, "it has ended already");
    let (responder, replies) = reply_slot();
    replies.keep(Box::new(held.clone()));
    drop(replies);
    assert_eq!(std::sync::Arc::strong_count(&held), 2, "it still runs");
    drop(responder);
    assert_eq!(std::sync::Arc::strong_count(&held), 1);
}

#[test]
fn one_reply_then_the_end() {
    let (responder, mut replies) = reply_slot();
    assert!(poll(&mut replies).is_pending());
    responder.finish(Ok(Outputs::default()));
    assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
    assert!(matches!(poll(&mut replies), Poll::Ready(None)));
}

#[test]
fn before_its_turn_a_reader_finds_nothing_and_the_turn_wakes_it() {
    let (mut responder, mut replies) = reply_slot_of(1);
    assert!(!responder.awaits_turn());
    let turn = responder.await_turn().unwrap();
    assert!(responder.awaits_turn());
    for _ in 0..2 {
        responder.send(Ok(Outputs::default())).unwrap(); // more than the slot's own limit
    }
    let woken = StdArc::new(Count::default());
    let waker = Waker::from(woken.clone());
    assert!(replies.poll_next(&mut Context::from_waker(&waker)).is_pending());
    responder.finish_empty();
    assert!(poll(&mut replies).is_pending());
    assert!(replies.poll_next(&mut Context::from_waker(&waker)).is_pending());
    turn.has_come();
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
    assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
    assert!(matches!(poll(&mut replies), Poll::Ready(None)));
}

#[test]
fn several_replies_keep_their_order() {
    let (mut responder, mut replies) = reply_slot();
    for index in 0..3 {
        let parameters = vec![("index".into(), crate::request::Parameter::Int(index))].into();
        responder.send(Ok(Outputs { parameters, ..Outputs::default() })).unwrap();
    }
    responder.finish_empty();
    for index in 0..3 {
        let Poll::Ready(Some(Ok(outputs))) = poll(&mut replies) else { panic!("reply {index} is missing") };
        assert_eq!(outputs.parameters[0].1, crate::request::Parameter::Int(index));
    }
    assert!(matches!(poll(&mut replies), Poll::Ready(None)));
}

#[test]
fn a_dropped_responder_is_an_internal_error() {
    let (responder, mut replies) = reply_slot();
    drop(responder);
    let Poll::Ready(Some(Err(error))) = poll(&mut replies) else { panic!("expected an error") };
    assert_eq!(error.code, Code::Internal);
    assert!(matches!(poll(&mut replies), Poll::Ready(None)));
}

#[test]
fn a_caller_that_left_is_seen() {
    let (responder, replies) = reply_slot();
    assert!(!responder.is_abandoned());
    drop(replies);
    assert!(responder.is_abandoned());
    responder.finish(Ok(Outputs::default()));
}

fn bytes(count: usize) -> Outputs {
    let (name, data_type) = ("OUTPUT0".into(), crate::tensor::DataType::Uint8);
    let tensor = crate::tensor::Tensor {
        name,
        data_type,
        shape: crate::tensor::Shape::from_slice(&[count as i64]),
        data: vec![0; count].into(),
    };
    Outputs { tensors: [tensor].into_iter().collect(), ..Outputs::default() }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: StdArc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Count {
    fn taken(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

fn fits(responder: &mut Responder, count: usize, waker: &Waker) -> bool {
    responder.poll_room(&Ok(bytes(count)), &mut Context::from_waker(waker)).is_ready()
}

#[test]
fn a_slot_may_be_widened_as_long_as_it_is_there() {
    let permit = StdArc::new(());
    let (mut responder, mut replies) = reply_slot_of(RESPONSE_OVERHEAD);
    responder.send(Ok(Outputs::default())).unwrap();
    assert!(responder.send(Ok(Outputs::default())).is_err(), "it is full");
    responder.widen(4 * RESPONSE_OVERHEAD, 3, Box::new(permit.clone()));
    let sent = (0..).take_while(|_| responder.send(Ok(Outputs::default())).is_ok()).count();
    assert_eq!(sent, 2, "three replies, though four would fit");
    assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
    responder.send(Ok(Outputs::default())).expect("one was read");
    responder.finish_empty();
    assert_eq!(StdArc::strong_count(&permit), 2, "there is something to read");
    drop(replies);
    assert_eq!(StdArc::strong_count(&permit), 1);
}

#[test]
fn a_full_slot_gives_the_response_back_until_its_reader_made_room() {
    let (mut responder, mut replies) = reply_slot_of(2000);
    responder.send(Ok(bytes(5000))).expect("one response always fits");
    let Err(NotSent::Full(back)) = responder.send(Ok(bytes(1))) else { panic!("the slot is full") };
    assert_eq!(back.unwrap().tensors[0].data.len(), 1);
    assert!(!fits(&mut responder, 1, Waker::noop()));
    assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
    assert!(fits(&mut responder, 1, Waker::noop()));
    let sent = (0..).take_while(|_| responder.send(Ok(Outputs::default())).is_ok()).count();
    assert_eq!(sent, 2000 / RESPONSE_OVERHEAD, "responses without tensors are bounded too");
    assert!(matches!(responder.send(Err(Error::internal("no"))), Err(NotSent::Full(_))), "and so are errors");
    responder.finish(Ok(Outputs::default())); // the last one is always taken: nothing follows it
    assert_eq!((0..).take_while(|_| matches!(poll(&mut replies), Poll::Ready(Some(_)))).count(), sent + 1);
}

#[test]
fn whoever_waits_for_room_is_woken_when_half_of_it_is_free_or_the_reader_leaves() {
    let count = StdArc::new(Count::default());
    let waker = Waker::from(count.clone());
    let (mut responder, mut replies) = reply_slot_of(4 * (RESPONSE_OVERHEAD + 100));
    while responder.send(Ok(bytes(100))).is_ok() {}
    assert!(!fits(&mut responder, 100, &waker));
    assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
    assert_eq!(count.taken(), 0, "it would be woken for every response");
    assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
    assert_eq!(count.taken(), 1);
    assert!(fits(&mut responder, 100, &waker));
    assert!(!fits(&mut responder, 4000, &waker));
    for wakes in [0, 1] {
        assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
        assert_eq!(count.taken(), wakes, "what is larger than the slot waits until it is empty");
    }
    while responder.send(Ok(bytes(100))).is_ok() {}
    assert!(!fits(&mut responder, 100, &waker));
    drop(replies);
    assert_eq!(count.taken(), 1);
    assert!(fits(&mut responder, 100, &waker), "there is nothing to wait for any more");
}

#[test]
fn a_number_of_unread_replies_is_a_limit_like_their_bytes() {
    let count = StdArc::new(Count::default());
    let waker = Waker::from(count.clone());
    for (limit, most) in [(0, 1), (1, 1), (4, 4)] {
        let (mut responder, mut replies) = reply_slot();
        replies.limit_unread(limit);
        let sent = (0..).take_while(|_| responder.send(Ok(bytes(1))).is_ok()).count();
        assert_eq!(sent, most);
        assert!(!fits(&mut responder, 1, &waker));
        for read in 1..=most {
            assert_eq!(count.taken(), 0, "{read} of {most}");
            assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
            if most - read <= most / 2 {
                break;
            }
        }
        assert_eq!(count.taken(), 1);
        assert!(fits(&mut responder, 1, &waker));
    }
}

#[test]
fn a_caller_that_leaves_wakes_who_watches_for_it() {
    let count = StdArc::new(Count::default());
    let waker = Waker::from(count.clone());
    let (mut responder, mut replies) = reply_slot();
    assert!(responder.poll_abandoned(&mut Context::from_waker(&waker)).is_pending());
    responder.send(Ok(bytes(1))).unwrap();
    assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
    assert_eq!(count.taken(), 0);
    drop(replies);
    assert_eq!(count.taken(), 1);
    assert!(responder.poll_abandoned(&mut Context::from_waker(&waker)).is_ready());
}

#[test]
fn a_reader_is_woken_once_for_all_that_was_sent_before_it_came_back() {
    let count = StdArc::new(Count::default());
    let waker = Waker::from(count.clone());
    let (mut responder, mut replies) = reply_slot();
    assert!(replies.poll_next(&mut Context::from_waker(&waker)).is_pending());
    for _ in 0..100 {
        responder.send(Ok(bytes(1))).unwrap();
    }
    responder.finish_empty();
    assert_eq!(count.taken(), 1);
    assert_eq!((0..).take_while(|_| matches!(poll(&mut replies), Poll::Ready(Some(_)))).count(), 100);
}

#[test]
fn a_last_word_is_told_from_an_end_without_one() {
    for has_last_word in [true, false] {
        let (mut responder, mut replies) = reply_slot();
        responder.send(Ok(bytes(1))).unwrap();
        if has_last_word {
            responder.finish(Err(Error::internal("no")));
        } else {
            responder.send(Err(Error::internal("no"))).unwrap();
            responder.finish_empty();
        }
        assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
        assert!(!replies.is_finished());
        assert!(matches!(poll(&mut replies), Poll::Ready(Some(Err(_)))));
        assert_eq!(replies.is_finished(), has_last_word);
        assert!(matches!(poll(&mut replies), Poll::Ready(None)));
        assert!(replies.is_finished());
    }
}
