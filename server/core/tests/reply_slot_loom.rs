//! Both ends of a reply slot on threads of their own, in every order in which they can meet: nothing is lost, nobody sleeps
//! for ever, and nothing stays. Run by `e2e/loom`; without `cfg(model_check)` there is nothing here.
#![cfg(model_check)]
#![allow(clippy::unwrap_used)]

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use loom::{future::block_on, model::Builder, thread};
use server_core::{
    error::Code,
    request::Parameter,
    responder::{NotSent, Replies, Reply, Responder, reply_slot_of},
    response::Outputs,
};

/// Room for one reply: a second one has to wait.
const ONE: usize = 1;
/// Room for all.
const MANY: usize = 1 << 20;

/// Every order with at most so many changes of thread that no end asked for.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(model);
}

fn numbered(number: i64) -> Reply {
    Ok(Outputs { parameters: vec![("number".into(), Parameter::Int(number))].into(), ..Outputs::default() })
}

fn number(reply: Reply) -> i64 {
    match reply.unwrap().parameters[0].1 {
        Parameter::Int(number) => number,
        _ => panic!("not a number"),
    }
}

fn next(replies: &mut Replies) -> Option<Reply> {
    block_on(poll_fn(|context| replies.poll_next(context)))
}

/// Sends, waiting for room as long as there is a reader.
fn send(responder: &mut Responder, number: i64) -> bool {
    let mut reply = numbered(number);
    loop {
        match responder.send(reply) {
            Ok(()) => return true,
            Err(NotSent::Abandoned) => return false,
            Err(NotSent::Full(back)) => reply = *back,
        }
        block_on(poll_fn(|context| responder.poll_room(&reply, context)));
    }
}

#[test]
fn the_only_reply_wakes_whoever_waits_for_it() {
    check(|| {
        let (responder, mut replies) = reply_slot_of(MANY);
        let sender = thread::spawn(move || responder.finish(numbered(7)));
        assert_eq!(next(&mut replies).map(number), Some(7));
        assert!(replies.is_finished() && next(&mut replies).is_none());
        sender.join().unwrap();
    });
}

#[test]
fn replies_that_fit_arrive_in_order_and_the_end_is_told_from_a_last_word() {
    for has_last_word in [false, true] {
        check(move || {
            let (mut responder, mut replies) = reply_slot_of(MANY);
            let sender = thread::spawn(move || {
                assert!(send(&mut responder, 0));
                if has_last_word { responder.finish(numbered(1)) } else { responder.finish_empty() }
            });
            assert_eq!(next(&mut replies).map(number), Some(0));
            assert!(!replies.is_finished(), "more may come, or the end alone");
            assert_eq!(next(&mut replies).map(number), has_last_word.then_some(1));
            assert!(replies.is_finished());
            sender.join().unwrap();
        });
    }
}

#[test]
fn a_sender_without_room_and_a_reader_without_replies_wake_each_other() {
    check(|| {
        let (mut responder, mut replies) = reply_slot_of(ONE);
        let sender = thread::spawn(move || {
            assert!(send(&mut responder, 0) && send(&mut responder, 1));
            responder.finish_empty();
        });
        assert_eq!(next(&mut replies).map(number), Some(0));
        assert_eq!(next(&mut replies).map(number), Some(1));
        assert!(next(&mut replies).is_none());
        sender.join().unwrap();
    });
}

#[test]
fn a_reader_that_leaves_frees_a_sender_that_waits_for_room() {
    check(|| {
        let (mut responder, mut replies) = reply_slot_of(ONE);
        let sender = thread::spawn(move || {
            let mut sent = 0;
            while sent < 3 && send(&mut responder, sent) {
                sent += 1;
            }
            assert!(sent < 3, "nobody reads the second one: there is room for two at most");
            assert!(responder.is_abandoned());
        });
        let first = replies.poll_next(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(first, Poll::Pending | Poll::Ready(Some(Ok(_)))));
        drop(replies);
        sender.join().unwrap();
    });
}

#[test]
fn a_reader_that_leaves_wakes_who_watches_for_it() {
    check(|| {
        let (mut responder, replies) = reply_slot_of(MANY);
        let watcher = thread::spawn(move || {
            block_on(poll_fn(|context| responder.poll_abandoned(context)));
            assert!(matches!(responder.send(numbered(0)), Err(NotSent::Abandoned)));
        });
        drop(replies);
        watcher.join().unwrap();
    });
}

#[test]
fn a_responder_that_is_dropped_answers_whenever_the_reader_comes() {
    check(|| {
        let (responder, mut replies) = reply_slot_of(MANY);
        let sender = thread::spawn(move || drop(responder));
        let Some(Err(error)) = next(&mut replies) else { panic!("a request was not answered") };
        assert_eq!(error.code, Code::Internal);
        assert!(next(&mut replies).is_none());
        sender.join().unwrap();
    });
}
