//! The calls of a connection: each is polled when it was woken, and what it has to send is queued as far as the client and
//! the queue take it. Knows no socket.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Response};

use crate::{
    body::{Body, Destination, Inbox},
    error::Code,
    protocol::Protocol,
    send_queue::SendQueue,
    unread::{Unread, UnreadBudget},
    wakes::{CallWaker, Wakes},
};

/// After so many bytes of a body its call is asked at once where the next ones belong.
const ASKED: usize = 8 << 10;
/// Bytes that wait to be sent, copied ones and others, before calls are asked for no more.
const MAX_COPIED: usize = 112 << 10;
const MAX_LARGE: usize = 1 << 20;
/// Bytes of one call that are asked for before they are sent.
const GATHERED: usize = 64 << 10;
/// Calls whose memory a connection without calls keeps for the next ones.
const KEPT_CALLS: usize = 8;

/// The calls of a connection, by the keys of their streams.
pub(super) struct Calls<D, A, B> {
    calls: Vec<Call<D, A, B>>,
    /// Calls without a response.
    in_flight: usize,
    wakes: Arc<Wakes>,
    /// Empty; only its memory is used.
    woken: Vec<usize>,
    /// Calls that have something to send that cannot be sent now.
    waiting: VecDeque<usize>,
    /// Whether a call was answered since that was asked last.
    has_answered: bool,
    unread: Arc<UnreadBudget>,
}

/// The memory of a call, which is used again by later ones.
struct Call<D, A, B> {
    is_open: bool,
    /// `None` once it is answered.
    answer: Pin<Box<Option<A>>>,
    /// The head of its response until that is sent.
    head: Option<(u16, HeaderMap)>,
    body: Option<B>,
    /// What its body has given that is not sent.
    pieces: VecDeque<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    /// Whether the body has given everything.
    is_complete: bool,
    is_waiting: bool,
    inbox: Inbox<D>,
    /// Bytes in it that hold nothing of the connection's window.
    unread: Unread,
    call_waker: Arc<CallWaker>,
    waker: Waker,
}

impl<D: Destination, A, B> Call<D, A, B> {
    fn new(key: usize, wakes: &Arc<Wakes>, unread: &Arc<UnreadBudget>) -> Self {
        let call_waker = CallWaker::new(key, wakes);
        Self {
            is_open: false,
            answer: Box::pin(None),
            head: None,
            body: None,
            pieces: VecDeque::new(),
            bytes: 0,
            trailers: None,
            is_complete: false,
            is_waiting: false,
            inbox: Inbox::new(),
            unread: Unread::new(unread),
            waker: call_waker.clone().into(),
            call_waker,
        }
    }

    /// Drops all that belongs to the call; how many bytes of its body still hold a part of the connection's window.
    fn clear(&mut self) -> usize {
        self.is_open = false;
        // what a panic leaves may panic when it is dropped
        let _ = guarded(|| {
            self.answer.as_mut().set(None);
            self.body = None;
        });
        self.head = None;
        self.pieces.clear();
        self.bytes = 0;
        self.trailers = None;
        self.is_complete = false;
        let bytes = self.inbox.clear();
        self.unread.remove(bytes)
    }
}

impl<D: Destination, A, B> Calls<D, A, B> {
    pub(super) fn new(unread: &Arc<UnreadBudget>) -> Self {
        Self {
            calls: Vec::new(),
            in_flight: 0,
            wakes: Arc::default(),
            woken: Vec::new(),
            waiting: VecDeque::new(),
            has_answered: false,
            unread: unread.clone(),
        }
    }

    /// What wakes the task of the connection when a call is woken.
    pub(super) fn wakes(&self) -> &Wakes {
        &self.wakes
    }

    /// Whether calls wait for their answers.
    pub(super) fn has_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether a call was answered since this was asked last.
    pub(super) fn take_has_answered(&mut self) -> bool {
        mem::take(&mut self.has_answered)
    }

    /// The body of a call.
    pub(super) fn inbox(&self, key: usize) -> Option<&Inbox<D>> {
        self.calls.get(key).map(|call| &call.inbox)
    }

    /// Begins a call, which is polled when the calls have their turn.
    pub(super) fn begin(&mut self, key: usize, has_ended: bool, answer: impl FnOnce(Body<D>) -> A) {
        while self.calls.len() <= key {
            self.calls.push(Call::new(self.calls.len(), &self.wakes, &self.unread));
        }
        let call = &mut self.calls[key];
        call.is_open = true;
        let body = call.inbox.begin(has_ended);
        call.answer.as_mut().set(Some(answer(body)));
        call.waker.wake_by_ref();
        self.in_flight += 1;
    }

    /// A call is over.
    pub(super) fn finish(&mut self, key: usize, protocol: &mut Protocol) {
        let Some(call) = self.calls.get_mut(key).filter(|call| call.is_open) else { return };
        self.in_flight -= usize::from(call.answer.is_some());
        let held = call.clear();
        protocol.free_connection(held);
    }

    /// All calls are over: the connection ends.
    pub(super) fn cancel_all(&mut self) {
        self.calls.iter_mut().filter(|call| call.is_open).for_each(|call| _ = call.clear());
    }

    /// Keeps little memory while there are no calls.
    pub(super) fn shrink(&mut self, protocol: &mut Protocol) {
        if self.calls.len() > KEPT_CALLS && protocol.calls() == 0 {
            self.calls.truncate(KEPT_CALLS);
            protocol.shrink(KEPT_CALLS);
        }
    }

    /// The client may send for what a call has read.
    fn take_freed(&mut self, key: usize, protocol: &mut Protocol) {
        if let Some(call) = self.calls.get_mut(key).filter(|call| call.is_open) {
            let freed = call.inbox.take_freed();
            protocol.free_connection(call.unread.remove(freed));
            protocol.free_call(key, freed);
        }
    }

    /// Has other calls not wait for those that do not read: what these hold of the connection's window is given back, as far as
    /// the budget for that allows.
    pub(super) fn free_window(&mut self, protocol: &mut Protocol) {
        for call in self.calls.iter_mut().filter(|call| call.is_open) {
            let held = call.inbox.waiting().saturating_sub(call.unread.bytes());
            if held > 0 && call.unread.add(held) {
                protocol.free_connection(held);
            }
        }
    }

    /// A call waits until it can send.
    fn wait(&mut self, key: usize) {
        if !mem::replace(&mut self.calls[key].is_waiting, true) {
            self.waiting.push_back(key);
        }
    }

    /// A call has panicked: it ends, and no other.
    fn fail(&mut self, key: usize, protocol: &mut Protocol) {
        protocol.reset(key, Code::InternalError);
        self.finish(key, protocol);
    }
}

impl<D, A, B> Calls<D, A, B>
where
    D: Destination,
    A: Future<Output = Response<B>>,
    B: http_body::Body<Data = Bytes, Error = Infallible> + Unpin,
{
    /// Bytes of the body of a call have come.
    pub(super) fn put(&mut self, key: usize, bytes: &[u8], has_ended: bool, protocol: &mut Protocol) {
        let Some(call) = self.calls.get_mut(key).filter(|call| call.is_open) else {
            return protocol.free(None, bytes.len());
        };
        let put = call.inbox.put(bytes, has_ended);
        protocol.free(Some(key), put.gone);
        if put.is_awaited && bytes.len() >= ASKED {
            self.poll_call(key, protocol);
        }
    }

    /// Polls the calls that were woken.
    pub(super) fn poll_woken(&mut self, protocol: &mut Protocol) {
        let mut woken = mem::take(&mut self.woken);
        self.wakes.take(&mut woken);
        for key in woken.drain(..) {
            self.poll_call(key, protocol);
        }
        self.woken = woken;
        protocol.begin_batch();
    }

    /// Polls a call if it was woken.
    pub(super) fn poll_call(&mut self, key: usize, protocol: &mut Protocol) {
        let Some(call) = self.calls.get_mut(key).filter(|call| call.call_waker.take()) else { return };
        if !call.is_open {
            return;
        }
        let Call { answer, waker, .. } = call;
        if let Some(future) = answer.as_mut().as_pin_mut() {
            match guarded(|| future.poll(&mut Context::from_waker(waker))) {
                Ok(Poll::Pending) => return self.take_freed(key, protocol),
                Ok(Poll::Ready(response)) => {
                    let (head, body) = response.into_parts();
                    call.head = Some((head.status.as_u16(), head.headers));
                    call.body = Some(body);
                    let _ = guarded(|| call.answer.as_mut().set(None));
                    self.in_flight -= 1;
                    self.has_answered = true;
                }
                Err(Panicked) => return self.fail(key, protocol),
            }
        }
        self.send_for(key, protocol);
        self.take_freed(key, protocol);
    }

    /// Queues what waits to be sent, as far as there is room.
    pub(super) fn send_waiting(&mut self, protocol: &mut Protocol) {
        for _ in 0..self.waiting.len() {
            if !has_room(protocol.queue()) {
                break;
            }
            let Some(key) = self.waiting.pop_front() else { break };
            if let Some(call) = self.calls.get_mut(key) {
                call.is_waiting = false;
                self.send_for(key, protocol);
                self.take_freed(key, protocol);
            }
        }
    }

    /// Queues what a call has to send, as far as the client and the queue take it.
    fn send_for(&mut self, key: usize, protocol: &mut Protocol) {
        let Some(call) = self.calls.get_mut(key).filter(|call| call.is_open) else { return };
        let Some(body) = &mut call.body else { return };
        if !has_room(protocol.queue()) {
            return self.wait(key);
        }
        if let Some((status, headers)) = call.head.take() {
            let ends = body.is_end_stream();
            protocol.respond(key, status, &headers, ends);
            if ends {
                return self.finish(key, protocol);
            }
        }
        loop {
            let window = protocol.window(key);
            let mut waits_for_body = false;
            while !call.is_complete && (call.bytes == 0 || call.bytes < window.min(GATHERED)) {
                let polled = guarded(|| Pin::new(&mut *body).poll_frame(&mut Context::from_waker(&call.waker)));
                match polled {
                    Err(Panicked) => return self.fail(key, protocol),
                    Ok(Poll::Pending) => {
                        waits_for_body = true;
                        break;
                    }
                    Ok(Poll::Ready(None)) => call.is_complete = true,
                    Ok(Poll::Ready(Some(Err(never)))) => match never {},
                    Ok(Poll::Ready(Some(Ok(frame)))) => match frame.into_data() {
                        Ok(data) if data.is_empty() => {}
                        Ok(data) => {
                            call.bytes += data.len();
                            call.pieces.push_back(data);
                        }
                        Err(frame) => {
                            call.trailers = frame.into_trailers().ok();
                            call.is_complete = true;
                        }
                    },
                }
            }
            let ends_with_data = call.is_complete && call.trailers.is_none();
            while call.bytes > 0 {
                let length = protocol.sendable(key).min(call.bytes);
                if length == 0 || !has_room(protocol.queue()) {
                    return self.wait(key);
                }
                call.bytes -= length;
                let ends = ends_with_data && call.bytes == 0;
                let pieces = &mut call.pieces;
                protocol.send_data(key, length, ends, |queue| move_bytes(pieces, length, queue));
                if ends {
                    return self.finish(key, protocol);
                }
            }
            if call.is_complete {
                match call.trailers.take() {
                    Some(trailers) => protocol.end(key, &trailers),
                    None => protocol.send_data(key, 0, true, |_| ()),
                }
                return self.finish(key, protocol);
            }
            if waits_for_body {
                return;
            }
        }
    }
}

/// Whether calls may queue more.
pub(super) fn has_room(queue: &SendQueue) -> bool {
    queue.copied_bytes() < MAX_COPIED && queue.large_bytes() < MAX_LARGE
}

/// Moves so many bytes of these pieces to the queue.
fn move_bytes(pieces: &mut VecDeque<Bytes>, mut length: usize, queue: &mut SendQueue) {
    while length > 0 {
        let Some(piece) = pieces.front_mut() else { return };
        let part = piece.len().min(length);
        length -= part;
        if part < piece.len() {
            queue.add(piece.split_to(part));
        } else if let Some(piece) = pieces.pop_front() {
            queue.add(piece);
        }
    }
}

/// A call has panicked; the message was written by the hook for panics.
struct Panicked;

/// Runs a part of a call. What it leaves behind when it panics is dropped and not looked at.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| Panicked)
}
