//! One reply slot per request: the backend's end sends any number of responses and finishes once, the caller's end
//! receives them. A responder dropped unfinished answers with an internal error; a caller that leaves closes the slot.
//!
//! A slot holds a bounded number of bytes: a backend that is faster than its reader waits, or hears that the slot is
//! full. Nothing here knows a runtime: either end is polled, and woken by the other.

mod slot;
mod sync;
#[cfg(all(test, not(model_check)))]
mod tests;

use std::{
    any::Any,
    task::{Context, Poll, Waker},
};

pub(crate) use self::slot::BYTES_BEFORE_TURN;
pub use self::slot::Reply;
use self::{
    slot::{End, Slot, State, reply_bytes},
    sync::{Arc, Mutex},
};
use crate::{
    error::{Error, Result},
    record::ComputeTimes,
};

/// Bytes of unread responses a slot holds before it is full, unless it was made with another limit.
pub const DEFAULT_SLOT_BYTES: usize = 256 << 10;

/// Why a reply was not taken.
#[derive(Debug)]
pub enum NotSent {
    /// The caller has not read what was sent before; the reply comes back.
    Full(Box<Reply>),
    /// The caller left.
    Abandoned,
}

/// Makes both ends of a slot that holds [`DEFAULT_SLOT_BYTES`].
pub fn reply_slot() -> (Responder, Replies) {
    reply_slot_of(DEFAULT_SLOT_BYTES)
}

/// Makes both ends of a slot that is full when the replies in it have `limit` bytes. One reply always fits.
pub fn reply_slot_of(limit: usize) -> (Responder, Replies) {
    let slot = Arc::new(Mutex::new(State::new(limit)));
    (Responder { slot: Some(slot.clone()), times: ComputeTimes::default() }, Replies { slot, is_finished: false })
}

// === the backend's end ===

/// The backend's end.
pub struct Responder {
    /// Taken by the one end this request gets.
    slot: Option<Slot>,
    times: ComputeTimes,
}

impl Responder {
    /// Sends one reply of several; the request goes on.
    ///
    /// Errors: the slot is full or its reader has left.
    pub fn send(&mut self, reply: Reply) -> Result<(), NotSent> {
        let Some(slot) = &self.slot else { return Err(NotSent::Abandoned) };
        let mut state = slot.lock();
        if state.is_abandoned {
            return Err(NotSent::Abandoned);
        }
        if !state.has_room(reply_bytes(&reply)) {
            return Err(NotSent::Full(Box::new(reply)));
        }
        let reader = state.push(reply);
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Keeps the reader from what is sent until its turn comes, which whoever keeps the order says.
    pub fn await_turn(&mut self) -> Option<Turn> {
        let slot = self.slot.as_ref()?;
        slot.lock().awaits_turn = true;
        Some(Turn { slot: slot.clone() })
    }

    /// Whether the reader is kept from what is sent, for its turn has not come.
    pub fn awaits_turn(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.lock().awaits_turn)
    }

    /// Lets more replies wait to be read: so many bytes, and so many replies, or fewer where the reader allows fewer. `permit` is
    /// kept as long as there is the slot.
    pub fn widen(&mut self, limit: usize, most: usize, permit: Box<dyn Any + Send>) {
        if let Some(slot) = &self.slot {
            slot.lock().widen(limit, most, permit);
        }
    }

    /// Ready once a reply fits or its reader has left. Before, the waker is woken when one of the two comes.
    pub fn poll_room(&mut self, reply: &Reply, context: &mut Context<'_>) -> Poll<()> {
        let Some(slot) = &self.slot else { return Poll::Ready(()) };
        let bytes = reply_bytes(reply);
        let mut state = slot.lock();
        if state.is_abandoned || state.has_room(bytes) {
            return Poll::Ready(());
        }
        state.watch(Some(bytes), context.waker());
        Poll::Pending
    }

    /// Ready once the caller has left. Before, the waker is woken when it does.
    pub fn poll_abandoned(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(slot) = &self.slot else { return Poll::Ready(()) };
        let mut state = slot.lock();
        if state.is_abandoned {
            return Poll::Ready(());
        }
        state.watch(None, context.waker());
        Poll::Pending
    }

    /// The request's execution took so long; its caller may ask once it has ended.
    pub fn took(&mut self, times: ComputeTimes) {
        self.times = times;
    }

    /// Sends the last reply, or the only one: it always fits, for nothing follows it.
    pub fn finish(mut self, reply: Reply) {
        self.end(Some(reply));
    }

    /// Ends without a further reply: the empty final of a decoupled model.
    pub fn finish_empty(mut self) {
        self.end(None);
    }

    /// Whether the caller has left, so that work for it may be skipped.
    pub fn is_abandoned(&self) -> bool {
        self.slot.as_ref().is_none_or(|slot| slot.lock().is_abandoned)
    }

    fn end(&mut self, reply: Option<Reply>) {
        if let Some(slot) = self.slot.take() {
            let mut state = slot.lock();
            let reader = state.finish(reply, self.times);
            let kept = state.take_kept();
            drop(state);
            drop(kept);
            reader.into_iter().for_each(Waker::wake);
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

/// The turn of a request whose replies wait for those of requests ahead of it.
pub struct Turn {
    slot: Slot,
}

impl Turn {
    /// The turn has come: the caller may read.
    pub fn has_come(self) {
        let reader = self.slot.lock().turn_has_come();
        reader.into_iter().for_each(Waker::wake);
    }
}

// === the caller's end ===

/// The caller's end. Dropping it cancels the request.
pub struct Replies {
    slot: Slot,
    is_finished: bool,
}

impl Replies {
    /// Keeps something until the request has ended, whether its replies are read or not, and lets go of it then.
    pub fn keep(&self, kept: Box<dyn Any + Send>) {
        let has_ended = self.slot.lock().keep(kept);
        drop(has_ended);
    }

    /// How long the request's execution took, once it has ended; nothing if it never ran.
    pub fn times(&self) -> ComputeTimes {
        self.slot.lock().times
    }

    /// The next reply; `None` after the last one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Reply>> {
        if self.is_finished {
            return Poll::Ready(None);
        }
        let mut state = self.slot.lock();
        if let Some((reply, is_last)) = state.pop() {
            let sender = state.sender_with_room();
            drop(state);
            self.is_finished = is_last;
            sender.into_iter().for_each(Waker::wake);
            return Poll::Ready(Some(reply));
        }
        if state.end != End::Open && !state.awaits_turn {
            drop(state);
            self.is_finished = true;
            return Poll::Ready(None);
        }
        state.await_reply(context.waker());
        Poll::Pending
    }

    /// Has no more than so many replies wait to be read, whatever their bytes; one always may.
    pub fn limit_unread(&self, most: usize) {
        self.slot.lock().limit_unread(most);
    }

    /// Whether nothing more comes. After a reply that tells a last word from one that is followed by the end alone: only
    /// then is it true at once.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        let mut state = self.slot.lock();
        let (unread, sender) = state.abandon();
        drop(state);
        drop(unread);
        sender.into_iter().for_each(Waker::wake);
    }
}
