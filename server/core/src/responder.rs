//! One reply slot per request: the backend's end sends any number of responses and finishes once, the caller's end
//! receives them. A responder dropped unfinished answers with an internal error; a caller that leaves closes the slot.
//!
//! Nothing here knows a runtime: the caller's end is polled, the backend's end wakes it.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use crate::{
    error::{Error, Result},
    response::Outputs,
};

/// One thing the caller's end receives.
pub type Reply = Result<Outputs>;

#[derive(Default)]
struct State {
    /// The common case is one reply: it never touches `more`.
    first: Option<Reply>,
    more: VecDeque<Reply>,
    is_finished: bool,
    is_abandoned: bool,
    waker: Option<Waker>,
}

impl State {
    fn push(&mut self, reply: Reply) {
        if self.first.is_none() && self.more.is_empty() {
            self.first = Some(reply);
        } else {
            self.more.push_back(reply);
        }
    }

    fn pop(&mut self) -> Option<Reply> {
        self.first.take().or_else(|| self.more.pop_front())
    }
}

/// Makes both ends of a slot.
pub fn reply_slot() -> (Responder, Replies) {
    let slot = Arc::new(Mutex::new(State::default()));
    (Responder { slot: Some(slot.clone()) }, Replies { slot })
}

/// The backend's end.
pub struct Responder {
    /// Taken by the one end this request gets.
    slot: Option<Arc<Mutex<State>>>,
}

impl Responder {
    /// Sends one response of several; the request goes on.
    pub fn send(&mut self, outputs: Outputs) {
        if let Some(slot) = &self.slot {
            deliver(slot, Some(Ok(outputs)), false);
        }
    }

    /// Sends the last response, or the only one.
    pub fn finish(mut self, reply: Reply) {
        self.end(Some(reply));
    }

    /// Ends without a further response: the empty final of a decoupled model.
    pub fn finish_empty(mut self) {
        self.end(None);
    }

    /// Whether the caller has left, so that work for it may be skipped.
    pub fn is_abandoned(&self) -> bool {
        self.slot.as_ref().is_none_or(|slot| slot.lock().is_abandoned)
    }

    fn end(&mut self, reply: Option<Reply>) {
        if let Some(slot) = self.slot.take() {
            deliver(&slot, reply, true);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.end(Some(Err(Error::internal("the request was dropped without a response"))));
    }
}

fn deliver(slot: &Mutex<State>, reply: Option<Reply>, is_last: bool) {
    let mut state = slot.lock();
    if state.is_abandoned {
        return;
    }
    if let Some(reply) = reply {
        state.push(reply);
    }
    state.is_finished |= is_last;
    let waker = state.waker.take();
    drop(state); // wake outside the lock: the woken task takes it at once
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The caller's end. Dropping it cancels the request.
pub struct Replies {
    slot: Arc<Mutex<State>>,
}

impl Replies {
    /// The next reply; `None` after the last one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Reply>> {
        let mut state = self.slot.lock();
        if let Some(reply) = state.pop() {
            return Poll::Ready(Some(reply));
        }
        if state.is_finished {
            return Poll::Ready(None);
        }
        match &state.waker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => state.waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        let mut state = self.slot.lock();
        state.is_abandoned = true;
        state.waker = None;
        state.first = None;
        state.more.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn poll(replies: &mut Replies) -> Poll<Option<Reply>> {
        replies.poll_next(&mut Context::from_waker(Waker::noop()))
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
    fn several_replies_keep_their_order() {
        let (mut responder, mut replies) = reply_slot();
        for index in 0..3 {
            let parameters = vec![("index".into(), crate::request::Parameter::Int(index))];
            responder.send(Outputs { parameters, ..Outputs::default() });
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
}
