//! What the two ends of a reply slot share, and what each does to it under its lock. Wakers are handed out, to be woken
//! without the lock: who is woken takes it at once.

use std::{any::Any, collections::VecDeque, task::Waker};

use super::sync::{Arc, Mutex};
use crate::{error::Result, record::ComputeTimes, response::Outputs};

/// What a response counts in a slot beside its tensors, bytes: about what it takes in memory, so that responses without
/// tensors are bounded too.
pub(super) const RESPONSE_OVERHEAD: usize = 512;

/// Bytes that a slot holds at least while its reader may not read: a backend that answers several requests in turns must get to
/// the one ahead.
pub(crate) const BYTES_BEFORE_TURN: usize = 16 << 20;

/// One thing the caller's end receives.
pub type Reply = Result<Outputs>;

/// A slot, as both ends hold it.
pub(super) type Slot = Arc<Mutex<State>>;

/// How a request has ended, as far as its slot knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It goes on.
    Open,
    /// The last reply that was pushed is its last word.
    WithReply,
    /// It ended without a further word.
    Silent,
}

/// What the backend's end waits for.
struct Watch {
    /// Bytes that must fit; `None` waits only for the caller to leave.
    bytes: Option<usize>,
    waker: Waker,
}

/// The content of a slot.
pub(super) struct State {
    /// The common case is one reply: it never touches `more`.
    first: Option<Reply>,
    more: VecDeque<Reply>,
    /// Bytes of the replies that wait to be read.
    bytes: usize,
    limit: usize,
    /// Most replies that wait to be read.
    most: usize,
    pub(super) end: End,
    /// How long the request's execution took, once it has ended.
    pub(super) times: ComputeTimes,
    pub(super) is_abandoned: bool,
    /// Its turn has not come: the reader finds nothing, whatever is there.
    pub(super) awaits_turn: bool,
    /// Let go of when the request has ended.
    kept: Option<Box<dyn Any + Send>>,
    /// What allows the slot to be wider than it was made, let go of with the slot.
    permit: Option<Box<dyn Any + Send>>,
    watch: Option<Watch>,
    reader: Option<Waker>,
}

impl State {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            first: None,
            more: VecDeque::new(),
            bytes: 0,
            limit,
            most: usize::MAX,
            end: End::Open,
            times: ComputeTimes::default(),
            is_abandoned: false,
            awaits_turn: false,
            kept: None,
            permit: None,
            watch: None,
            reader: None,
        }
    }

    // === the backend's end ===

    /// An empty slot has room for anything.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let (limit, most) =
            if self.awaits_turn { (self.limit.max(BYTES_BEFORE_TURN), usize::MAX) } else { (self.limit, self.most) };
        self.bytes == 0 || (self.bytes.saturating_add(bytes) <= limit && self.len() < most)
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    /// Adds a reply. Returns whom to wake: nobody while the reader has not come back for those before.
    pub(super) fn push(&mut self, reply: Reply) -> Option<Waker> {
        self.bytes += reply_bytes(&reply);
        if self.first.is_none() && self.more.is_empty() {
            self.first = Some(reply);
        } else {
            self.more.push_back(reply);
        }
        self.reader_to_wake()
    }

    /// Has room for so many bytes and so many replies, but for no more replies than the reader allows.
    pub(super) fn widen(&mut self, limit: usize, most: usize, permit: Box<dyn Any + Send>) {
        self.limit = self.limit.max(limit);
        self.most = self.most.min(most);
        self.permit = Some(permit);
    }

    /// Ends the request, with a last word or without one. Returns whom to wake.
    pub(super) fn finish(&mut self, reply: Option<Reply>, times: ComputeTimes) -> Option<Waker> {
        (self.watch, self.times) = (None, times);
        if self.is_abandoned {
            return None;
        }
        self.end = if reply.is_some() { End::WithReply } else { End::Silent };
        match reply {
            Some(reply) => self.push(reply),
            None => self.reader_to_wake(),
        }
    }

    fn reader_to_wake(&mut self) -> Option<Waker> {
        if self.awaits_turn { None } else { self.reader.take() }
    }

    /// Lets the reader read. Returns whom to wake.
    pub(super) fn turn_has_come(&mut self) -> Option<Waker> {
        self.awaits_turn = false;
        let has_something = self.first.is_some() || self.end != End::Open;
        has_something.then(|| self.reader.take()).flatten()
    }

    /// What was kept until now, to be dropped without the lock.
    pub(super) fn take_kept(&mut self) -> Option<Box<dyn Any + Send>> {
        self.kept.take()
    }

    /// Has `waker` woken once so many bytes fit, or the caller has left. One is remembered, the last.
    pub(super) fn watch(&mut self, bytes: Option<usize>, waker: &Waker) {
        match &mut self.watch {
            Some(watch) if watch.waker.will_wake(waker) => watch.bytes = bytes,
            watch => *watch = Some(Watch { bytes, waker: waker.clone() }),
        }
    }

    // === the caller's end ===

    /// Has no more than so many replies wait to be read; one always may.
    pub(super) fn limit_unread(&mut self, most: usize) {
        self.most = most.max(1);
    }

    /// Keeps something until the request has ended; it comes back if it has.
    pub(super) fn keep(&mut self, kept: Box<dyn Any + Send>) -> Option<Box<dyn Any + Send>> {
        if self.end != End::Open {
            return Some(kept);
        }
        self.kept.replace(kept)
    }

    /// Takes the next reply, and whether it is the last word of the request.
    pub(super) fn pop(&mut self) -> Option<(Reply, bool)> {
        if self.awaits_turn {
            return None;
        }
        let reply = self.first.take().or_else(|| self.more.pop_front())?;
        self.bytes -= reply_bytes(&reply);
        if self.more.is_empty() && self.more.capacity() > KEPT_CAPACITY {
            self.more = VecDeque::new(); // a reader that was behind has caught up
        }
        Some((reply, self.end == End::WithReply && self.more.is_empty()))
    }

    /// The sender to wake after a reply was taken. One that waits for room is woken when half of the slot is free, not for
    /// every reply: the two would take turns.
    pub(super) fn sender_with_room(&mut self) -> Option<Waker> {
        let bytes = self.watch.as_ref()?.bytes?;
        let is_half_free = self.bytes <= self.limit / 2 && self.len() <= self.most / 2;
        let is_time = is_half_free && self.has_room(bytes);
        is_time.then(|| self.watch.take()).flatten().map(|watch| watch.waker)
    }

    /// Has `waker` woken by the next reply.
    pub(super) fn await_reply(&mut self, waker: &Waker) {
        match &self.reader {
            Some(reader) if reader.will_wake(waker) => {}
            _ => self.reader = Some(waker.clone()),
        }
    }

    /// Closes the slot for good. Returns what nobody will read, to be dropped without the lock, and whom to wake.
    pub(super) fn abandon(&mut self) -> (Unread, Option<Waker>) {
        self.is_abandoned = true;
        self.bytes = 0;
        self.reader = None;
        let unread = (self.first.take(), std::mem::take(&mut self.more));
        (unread, self.watch.take().map(|watch| watch.waker))
    }
}

/// Places for replies that a slot keeps when it is empty.
const KEPT_CAPACITY: usize = 64;

/// Replies that nobody reads: their tensors may take a while to free.
pub(super) type Unread = (Option<Reply>, VecDeque<Reply>);

/// What a reply counts in a slot, bytes.
pub(super) fn reply_bytes(reply: &Reply) -> usize {
    reply.as_ref().map_or(0, tensor_bytes) + RESPONSE_OVERHEAD
}

fn tensor_bytes(outputs: &Outputs) -> usize {
    outputs.tensors.iter().map(|tensor| tensor.data.len()).sum()
}
