//! One reply slot per request: the backend's end sends any number of responses and finishes once, the caller's end
//! receives them. A responder dropped unfinished answers with an internal error; a caller that leaves closes the slot.
//!
//! A slot holds a bounded number of bytes: a backend that is faster than its reader waits, or hears that the slot is
//! full. Nothing here knows a runtime: the caller's end is polled, the backend's end wakes it.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::{
    error::{Error, Result},
    response::Outputs,
};

/// One thing the caller's end receives.
pub type Reply = Result<Outputs>;

/// Bytes of responses a slot holds before it is full, unless it was made with another limit.
pub const DEFAULT_SLOT_BYTES: usize = 64 << 20;

/// What a response without tensors counts in a slot, bytes: empty responses are bounded too.
const RESPONSE_OVERHEAD: usize = 256;

/// Why a response was not taken.
#[derive(Debug)]
pub enum NotSent {
    /// The caller has not read what was sent before; the response comes back.
    Full(Box<Outputs>),
    /// The caller left.
    Abandoned,
}

struct State {
    /// The common case is one reply: it never touches `more`.
    first: Option<Reply>,
    more: VecDeque<Reply>,
    /// Bytes of the responses that wait to be read.
    bytes: usize,
    limit: usize,
    is_finished: bool,
    is_abandoned: bool,
    /// Somebody waits in [`Responder::wait_for_room`].
    is_awaited: bool,
    waker: Option<Waker>,
}

impl State {
    fn push(&mut self, reply: Reply) {
        self.bytes += size(&reply);
        if self.first.is_none() && self.more.is_empty() {
            self.first = Some(reply);
        } else {
            self.more.push_back(reply);
        }
    }

    fn pop(&mut self) -> Option<Reply> {
        let reply = self.first.take().or_else(|| self.more.pop_front())?;
        self.bytes -= size(&reply);
        Some(reply)
    }

    /// An empty slot has room for anything.
    fn has_room(&self, bytes: usize) -> bool {
        self.bytes == 0 || self.bytes.saturating_add(bytes) <= self.limit
    }
}

fn size(reply: &Reply) -> usize {
    reply.as_ref().map_or(RESPONSE_OVERHEAD, response_bytes)
}

/// What a response counts in a slot, bytes.
fn response_bytes(outputs: &Outputs) -> usize {
    outputs.tensors.iter().map(|tensor| tensor.data.len()).sum::<usize>() + RESPONSE_OVERHEAD
}

struct Slot {
    state: Mutex<State>,
    room: Condvar,
}

/// Makes both ends of a slot that holds [`DEFAULT_SLOT_BYTES`].
pub fn reply_slot() -> (Responder, Replies) {
    reply_slot_of(DEFAULT_SLOT_BYTES)
}

/// Makes both ends of a slot that is full when the responses in it have `limit` bytes. One response always fits.
pub fn reply_slot_of(limit: usize) -> (Responder, Replies) {
    let state = State {
        first: None,
        more: VecDeque::new(),
        bytes: 0,
        limit,
        is_finished: false,
        is_abandoned: false,
        is_awaited: false,
        waker: None,
    };
    let slot = Arc::new(Slot { state: Mutex::new(state), room: Condvar::new() });
    (Responder { slot: Some(slot.clone()) }, Replies { slot })
}

/// The backend's end.
pub struct Responder {
    /// Taken by the one end this request gets.
    slot: Option<Arc<Slot>>,
}

impl Responder {
    /// Sends one response of several; the request goes on.
    ///
    /// Errors: the slot is full or its reader has left.
    pub fn send(&mut self, outputs: Outputs) -> Result<(), NotSent> {
        let Some(slot) = &self.slot else { return Err(NotSent::Abandoned) };
        let state = slot.state.lock();
        if state.is_abandoned {
            return Err(NotSent::Abandoned);
        }
        if !state.has_room(response_bytes(&outputs)) {
            return Err(NotSent::Full(Box::new(outputs)));
        }
        deliver(state, Some(Ok(outputs)), false);
        Ok(())
    }

    /// Blocks until a response fits, its reader has left, or `patience` is over. `false` if there is no room then.
    pub fn wait_for_room(&self, outputs: &Outputs, patience: Duration) -> bool {
        let Some(slot) = &self.slot else { return true };
        let bytes = response_bytes(outputs);
        let mut state = slot.state.lock();
        let is_full = |state: &mut State| {
            state.is_awaited = !state.is_abandoned && !state.has_room(bytes);
            state.is_awaited
        };
        !slot.room.wait_while_for(&mut state, is_full, patience).timed_out() || !is_full(&mut state)
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
        self.slot.as_ref().is_none_or(|slot| slot.state.lock().is_abandoned)
    }

    fn end(&mut self, reply: Option<Reply>) {
        if let Some(slot) = self.slot.take() {
            deliver(slot.state.lock(), reply, true);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.end(Some(Err(unanswered())));
    }
}

/// What the caller of a request reads that was dropped without a response.
pub(crate) fn unanswered() -> Error {
    Error::internal("the request was dropped without a response")
}

fn deliver(mut state: parking_lot::MutexGuard<'_, State>, reply: Option<Reply>, is_last: bool) {
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
    slot: Arc<Slot>,
}

impl Replies {
    /// The next reply; `None` after the last one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Reply>> {
        let mut state = self.slot.state.lock();
        if let Some(reply) = state.pop() {
            let is_awaited = std::mem::take(&mut state.is_awaited);
            drop(state);
            if is_awaited {
                self.slot.room.notify_all();
            }
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
        let mut state = self.slot.state.lock();
        state.is_abandoned = true;
        let unread = (state.waker.take(), state.first.take(), std::mem::take(&mut state.more));
        state.bytes = 0;
        let is_awaited = std::mem::take(&mut state.is_awaited);
        drop(state);
        drop(unread); // outside the lock: tensors may take a while to free
        if is_awaited {
            self.slot.room.notify_all();
        }
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
            let parameters = vec![("index".into(), crate::request::Parameter::Int(index))].into();
            responder.send(Outputs { parameters, ..Outputs::default() }).unwrap();
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

    #[test]
    fn a_full_slot_gives_the_response_back_until_its_reader_made_room() {
        let (mut responder, mut replies) = reply_slot_of(1000);
        responder.send(bytes(5000)).expect("one response always fits");
        assert!(matches!(responder.send(bytes(1)), Err(NotSent::Full(outputs)) if outputs.tensors[0].data.len() == 1));
        assert!(!responder.wait_for_room(&bytes(1), Duration::ZERO));
        assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
        assert!(responder.wait_for_room(&bytes(1), Duration::ZERO));
        let sent = (0..).take_while(|_| responder.send(Outputs::default()).is_ok()).count();
        assert_eq!(sent, 1000 / RESPONSE_OVERHEAD, "responses without tensors are bounded too");
        responder.finish(Ok(Outputs::default())); // the last one is always taken: nothing follows it
        assert_eq!((0..).take_while(|_| matches!(poll(&mut replies), Poll::Ready(Some(_)))).count(), sent + 1);
    }

    #[test]
    fn whoever_waits_for_room_goes_on_when_the_reader_reads_or_leaves() {
        for reads in [true, false] {
            let (mut responder, mut replies) = reply_slot_of(1000);
            responder.send(bytes(1000)).unwrap();
            let slot = replies.slot.clone();
            let sender = std::thread::spawn(move || {
                assert!(responder.wait_for_room(&bytes(1000), Duration::from_secs(60)));
                responder.send(bytes(1000)).is_ok()
            });
            while !slot.state.lock().is_awaited {
                std::thread::yield_now();
            }
            if reads {
                assert!(matches!(poll(&mut replies), Poll::Ready(Some(Ok(_)))));
            } else {
                drop(replies);
            }
            assert_eq!(sender.join().unwrap(), reads);
        }
    }
}
