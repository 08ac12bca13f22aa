//! One connection from its first byte to its last: reads, polls its calls, and sends what one poll produced with one system
//! call. One task does all of it, and the calls of a connection are polled by it, each when it was woken.
//!
//! All of what waits is bounded: what calls have to send is asked for while the client reads, and nothing is read from a
//! client that does not read its answers.

use std::{
    cell::Cell,
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    io::{self, IoSlice},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use server_tls::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
    time::{Instant, Sleep, sleep_until},
};
use tracing::debug;

use crate::{
    Config,
    body::{Body, Destination, Inbox},
    error::{Code, ConnectionError},
    protocol::{Event, Protocol, TOO_MANY_PINGS},
    request::Request,
    send_queue::{MOST_SLICES, SendQueue},
    wakes::{CallWaker, Wakes},
    watch::{Due, Seen, Watch},
};

/// Bytes read in a row. Then the calls of the connection have their turn: what they take over is in the processor's cache
/// still, and other connections do not wait for a large tensor.
const READ_IN_A_ROW: usize = 256 << 10;
/// So many bytes of one call are read to where they belong; fewer are read together with what follows them.
const DIRECT: usize = 16 << 10;
/// After so many bytes of a body its call is asked at once where the next ones belong.
const ASKED: usize = 8 << 10;
/// Bytes that wait to be sent, copied ones and others, before calls are asked for no more.
const MAX_COPIED: usize = 112 << 10;
const MAX_LARGE: usize = 1 << 20;
/// Copied bytes that wait to be sent before nothing more is read, which would have to be answered.
const MAX_UNSENT: usize = 256 << 10;
/// Bytes of one call that are asked for before they are sent.
const GATHERED: usize = 64 << 10;
/// Bytes sent in a row, to a client that reads as fast as that, before other connections have their turn.
const SENT_IN_A_ROW: usize = 1 << 20;
/// Times that calls are polled in a row, before other connections have their turn.
const MOST_ROUNDS: usize = 4;
/// Calls whose memory a connection without calls keeps for the next ones.
const KEPT_CALLS: usize = 8;

thread_local! {
    /// What is read comes here first, whatever connection it is of.
    static READ_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nobody reads what would be sent.
    Broken,
    /// What was sent last, answers or the word to leave, is on its way still: [`Connection::poll_close`] sees to it.
    Complete,
}

/// A connection whose calls are answered by `F`, which makes futures `A` that give responses with bodies `B`.
/// Bodies of requests may be received in memory `D`.
pub struct Connection<D, A, B, F> {
    stream: Stream,
    protocol: Protocol,
    answer: F,
    /// By the keys of their streams.
    calls: Vec<Call<D, A, B>>,
    /// Calls without a response.
    in_flight: usize,
    wakes: Arc<Wakes>,
    /// Empty; only its memory is used.
    woken: Vec<usize>,
    /// Calls that have something to send that cannot be sent now.
    waiting: VecDeque<usize>,
    /// Whether they may be able to send now.
    may_send: bool,
    watch: Watch,
    timer: Pin<Box<Sleep>>,
    is_timer_set: bool,
    reads: u64,
    total_sent: u64,
    sent_in_a_row: usize,
    is_blocked: bool,
    needs_flush: bool,
    /// Whether a call was answered since something was sent.
    has_answered: bool,
    has_yielded: bool,
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
    call_waker: Arc<CallWaker>,
    waker: Waker,
}

impl<D: Destination, A, B> Call<D, A, B> {
    fn new(key: usize, wakes: &Arc<Wakes>) -> Self {
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
            waker: call_waker.clone().into(),
            call_waker,
        }
    }

    /// Drops all that belongs to the call; how many bytes of its body are counted as received still.
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
        self.inbox.clear()
    }
}

/// What reading has come to.
enum Read {
    /// Nothing more is there.
    All,
    /// There may be more, but others have their turn first.
    Much,
    /// There may be more, but too much waits to be sent.
    Held,
    /// The client has ended its side.
    End,
}

/// What sending has come to.
enum Sent {
    All,
    /// The socket takes no more now.
    Blocked,
    /// There is more, but others have their turn first.
    Much,
}

/// Why a connection ends.
enum Failure {
    /// The client has broken the rules.
    Client(ConnectionError),
    Io(io::Error),
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl<D, A, B, F> Connection<D, A, B, F>
where
    D: Destination,
    A: Future<Output = Response<B>>,
    B: http_body::Body<Data = Bytes, Error = Infallible> + Unpin,
    F: FnMut(Request, Body<D>) -> A,
{
    /// Serves a connection on which nothing was received.
    pub fn new(stream: Stream, config: &Config, answer: F) -> Self {
        let watch = Watch::new(config.keep_alive, config.handshake_end, Instant::now());
        Self {
            stream,
            protocol: Protocol::new(config.limits()),
            answer,
            calls: Vec::new(),
            in_flight: 0,
            wakes: Arc::default(),
            woken: Vec::new(),
            waiting: VecDeque::new(),
            may_send: false,
            timer: Box::pin(sleep_until(watch.next())),
            watch,
            is_timer_set: false,
            reads: 0,
            total_sent: 0,
            sent_in_a_row: 0,
            is_blocked: false,
            needs_flush: false,
            has_answered: false,
            has_yielded: false,
        }
    }

    /// Asks the client to begin no further calls. The connection ends when those that have begun are answered.
    pub fn leave(&mut self) {
        self.protocol.leave();
        self.watch.leaves(Instant::now());
        self.is_timer_set = false;
    }

    /// Goes on until the connection ends. It is polled by one task only, which spends its time as it likes: the budget that
    /// the runtime gives to tasks would stop calls that are polled late.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        self.wakes.begin(context.waker());
        let ended = match self.poll_on(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(end)) => end,
            Poll::Ready(Err(Failure::Io(error))) => {
                debug!("gRPC connection broke: {error}");
                End::Broken
            }
            Poll::Ready(Err(Failure::Client(error))) => {
                // broken connections are common: scanners send other protocols
                match error {
                    TOO_MANY_PINGS => debug!("connection closed: the client pings too often"),
                    error => debug!("gRPC connection ended: {error}"),
                }
                self.protocol.fail(error);
                End::Complete
            }
        };
        // all calls are cancelled
        self.calls.iter_mut().filter(|call| call.is_open).for_each(|call| _ = call.clear());
        Poll::Ready(ended)
    }

    fn poll_on(&mut self, context: &mut Context<'_>) -> Poll<Result<End, Failure>> {
        if let Some(reason) = self.look(context) {
            debug!("connection closed: {reason}");
            return Poll::Ready(Ok(End::Broken));
        }
        for _ in 0..MOST_ROUNDS {
            let read = self.read(context)?;
            self.poll_woken();
            // A batch wakes many calls, one after the other, and this after the first of them. So when a call was answered
            // while others are in flight, the tasks and threads that are ready have their turn once before anything is sent:
            // that saves most of the system calls, which are most of the work. A lone call does not wait.
            if mem::take(&mut self.has_answered) && self.in_flight > 0 && !mem::replace(&mut self.has_yielded, true) {
                return yield_turn(context).map(|()| Ok(End::Broken));
            }
            self.has_yielded = false;
            let sent = self.send(context)?;
            if matches!(read, Read::End) || (self.protocol.is_done() && self.protocol.queue().is_empty()) {
                return Poll::Ready(Ok(End::Complete));
            }
            if matches!(read, Read::Much) || matches!(sent, Sent::Much) {
                break;
            }
            if self.calls.len() > KEPT_CALLS && self.protocol.calls() == 0 {
                self.calls.truncate(KEPT_CALLS);
                self.protocol.shrink(KEPT_CALLS);
            }
            if matches!(read, Read::Held) && !self.is_held() {
                continue; // nothing but reading says when there is more
            }
            if self.wakes.end() {
                return Poll::Pending;
            }
        }
        yield_turn(context).map(|()| Ok(End::Broken))
    }

    /// Looks at what is waited for, when that is due. Why the connection is to be closed, if it is.
    ///
    /// The timer is polled only when it may be ready: it keeps the waker of the first poll, and a task's waker stays the same.
    fn look(&mut self, context: &mut Context<'_>) -> Option<&'static str> {
        while !self.is_timer_set || self.timer.is_elapsed() {
            let now = Instant::now();
            if now >= self.watch.next() {
                let seen = Seen {
                    reads: self.reads,
                    is_handshake_received: self.protocol.is_handshake_received(),
                    has_calls: self.protocol.calls() > 0,
                    blocked_at: self.blocked_at(),
                    is_leaving: self.protocol.is_asking(),
                };
                match self.watch.look(now, seen) {
                    Due::Nothing => {}
                    Due::Ping => self.protocol.ping(),
                    Due::Close => self.protocol.close(),
                    Due::End(reason) => return Some(reason),
                }
            }
            self.timer.as_mut().reset(self.watch.next());
            self.is_timer_set = self.timer.as_mut().poll(context).is_pending();
        }
        None
    }

    /// How many bytes were sent so far, if more wait for space in the socket: what TLS has taken but the socket has not
    /// waits, too.
    fn blocked_at(&self) -> Option<u64> {
        match self.stream.progress() {
            None => self.is_blocked.then_some(self.total_sent),
            Some(progress) => progress.is_blocked.then_some(progress.sent),
        }
    }

    // === what the client sends ===

    fn read(&mut self, context: &mut Context<'_>) -> Result<Read, Failure> {
        let mut left = READ_IN_A_ROW;
        while left > 0 {
            if self.is_held() {
                return Ok(Read::Held);
            }
            let read = match self.direct() {
                Some((key, limit)) => self.read_direct(context, key, limit)?,
                None => self.read_some(context, left)?,
            };
            match read {
                Poll::Pending => return Ok(Read::All),
                Poll::Ready(0) => return Ok(Read::End),
                Poll::Ready(count) => left = left.saturating_sub(count),
            }
        }
        Ok(Read::Much)
    }

    /// Whether nothing more is read, for it would have to be answered: sending goes on when the client reads, and reading then.
    fn is_held(&mut self) -> bool {
        self.protocol.queue().copied_bytes() >= MAX_UNSENT
    }

    /// The call that has offered memory for what comes next, and how many bytes, if that is worth it.
    fn direct(&self) -> Option<(usize, usize)> {
        let (key, left) = self.protocol.direct()?;
        let limit = left.min(self.calls.get(key)?.inbox.room());
        (limit >= DIRECT).then_some((key, limit))
    }

    fn read_direct(&mut self, context: &mut Context<'_>, key: usize, limit: usize) -> Result<Poll<usize>, Failure> {
        let Some(call) = self.calls.get_mut(key) else { return Ok(Poll::Pending) };
        let Poll::Ready(count) = call.inbox.poll_read(&mut self.stream, context, limit)? else {
            return Ok(Poll::Pending);
        };
        if count == 0 {
            return Ok(Poll::Ready(0));
        }
        self.reads += 1;
        let is_full = call.inbox.room() == 0;
        self.protocol.free(Some(key), count);
        match self.protocol.received(count, Instant::now())? {
            Some(event) => self.handle(event),
            None if is_full => self.poll_call(key),
            None => {}
        }
        Ok(Poll::Ready(count))
    }

    /// Reads up to so many bytes; how many.
    fn read_some(&mut self, context: &mut Context<'_>, limit: usize) -> Result<Poll<usize>, Failure> {
        let mut buffer = READ_BUFFER.take();
        if buffer.is_empty() {
            buffer = vec![0; READ_IN_A_ROW];
        }
        let mut unfilled = ReadBuf::new(&mut buffer[..limit]);
        let read = Pin::new(&mut self.stream).poll_read(context, &mut unfilled);
        let outcome = match read {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Err(error)) => Err(error.into()),
            Poll::Ready(Ok(())) => {
                let bytes = unfilled.filled();
                self.reads += u64::from(!bytes.is_empty());
                self.take(bytes).map(|()| Poll::Ready(bytes.len()))
            }
        };
        READ_BUFFER.set(buffer);
        outcome
    }

    fn take(&mut self, mut input: &[u8]) -> Result<(), Failure> {
        if input.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        while let Some(event) = self.protocol.receive(&mut input, now)? {
            self.handle(event);
        }
        Ok(())
    }

    fn handle(&mut self, event: Event<'_>) {
        match event {
            Event::Called { key, request, has_ended } => {
                while self.calls.len() <= key {
                    self.calls.push(Call::new(self.calls.len(), &self.wakes));
                }
                let call = &mut self.calls[key];
                call.is_open = true;
                let body = call.inbox.begin(has_ended);
                call.answer.as_mut().set(Some((self.answer)(request, body)));
                call.waker.wake_by_ref();
                self.in_flight += 1;
            }
            Event::Data { key, bytes, has_ended } => {
                let Some(call) = self.calls.get_mut(key).filter(|call| call.is_open) else {
                    return self.protocol.free(None, bytes.len());
                };
                let put = call.inbox.put(bytes, has_ended);
                self.protocol.free(Some(key), put.gone);
                if put.is_awaited && bytes.len() >= ASKED {
                    self.poll_call(key);
                }
            }
            Event::Reset { key } => self.finish(key),
            Event::WindowsOpened => self.may_send = true,
        }
    }

    // === calls ===

    fn poll_woken(&mut self) {
        let mut woken = mem::take(&mut self.woken);
        self.wakes.take(&mut woken);
        for key in woken.drain(..) {
            self.poll_call(key);
        }
        self.woken = woken;
        self.protocol.begin_batch();
    }

    /// Polls a call if it was woken.
    fn poll_call(&mut self, key: usize) {
        let Some(call) = self.calls.get_mut(key).filter(|call| call.call_waker.take()) else { return };
        if !call.is_open {
            return;
        }
        let Call { answer, waker, .. } = call;
        if let Some(future) = answer.as_mut().as_pin_mut() {
            match guarded(|| future.poll(&mut Context::from_waker(waker))) {
                Ok(Poll::Pending) => return self.take_freed(key),
                Ok(Poll::Ready(response)) => {
                    let (head, body) = response.into_parts();
                    call.head = Some((head.status.as_u16(), head.headers));
                    call.body = Some(body);
                    let _ = guarded(|| call.answer.as_mut().set(None));
                    self.in_flight -= 1;
                    self.has_answered = true;
                }
                Err(Panicked) => return self.fail(key),
            }
        }
        self.send_for(key);
        self.take_freed(key);
    }

    /// The client may send for what a call has read.
    fn take_freed(&mut self, key: usize) {
        if let Some(call) = self.calls.get(key).filter(|call| call.is_open) {
            self.protocol.free(Some(key), call.inbox.take_freed());
        }
    }

    /// A call has panicked: it ends, and no other.
    fn fail(&mut self, key: usize) {
        self.protocol.reset(key, Code::InternalError);
        self.finish(key);
    }

    /// A call is over.
    fn finish(&mut self, key: usize) {
        let Some(call) = self.calls.get_mut(key).filter(|call| call.is_open) else { return };
        self.in_flight -= usize::from(call.answer.is_some());
        let counted = call.clear();
        self.protocol.free(None, counted);
    }

    /// Queues what a call has to send, as far as the client and the queue take it.
    fn send_for(&mut self, key: usize) {
        let Some(call) = self.calls.get_mut(key).filter(|call| call.is_open) else { return };
        let Some(body) = &mut call.body else { return };
        if !has_room(self.protocol.queue()) {
            return self.wait(key);
        }
        if let Some((status, headers)) = call.head.take() {
            let ends = body.is_end_stream();
            self.protocol.respond(key, status, &headers, ends);
            if ends {
                return self.finish(key);
            }
        }
        loop {
            let window = self.protocol.window(key);
            let mut waits_for_body = false;
            while !call.is_complete && (call.bytes == 0 || call.bytes < window.min(GATHERED)) {
                let polled = guarded(|| Pin::new(&mut *body).poll_frame(&mut Context::from_waker(&call.waker)));
                match polled {
                    Err(Panicked) => return self.fail(key),
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
                let length = self.protocol.sendable(key).min(call.bytes);
                if length == 0 || !has_room(self.protocol.queue()) {
                    return self.wait(key);
                }
                call.bytes -= length;
                let ends = ends_with_data && call.bytes == 0;
                let pieces = &mut call.pieces;
                self.protocol.send_data(key, length, ends, |queue| move_bytes(pieces, length, queue));
                if ends {
                    return self.finish(key);
                }
            }
            if call.is_complete {
                match call.trailers.take() {
                    Some(trailers) => self.protocol.end(key, &trailers),
                    None => self.protocol.send_data(key, 0, true, |_| ()),
                }
                return self.finish(key);
            }
            if waits_for_body {
                return;
            }
        }
    }

    /// A call waits until it can send.
    fn wait(&mut self, key: usize) {
        if !mem::replace(&mut self.calls[key].is_waiting, true) {
            self.waiting.push_back(key);
        }
    }

    // === what is sent ===

    /// Sends what is queued, and what calls have to send.
    fn send(&mut self, context: &mut Context<'_>) -> io::Result<Sent> {
        loop {
            if mem::take(&mut self.may_send) {
                self.send_waiting();
            }
            match self.send_queued(context)? {
                Poll::Pending => return Ok(Sent::Blocked),
                Poll::Ready(()) if self.protocol.queue().is_empty() && !self.may_send => return Ok(Sent::All),
                Poll::Ready(()) => {}
            }
            if self.sent_in_a_row >= SENT_IN_A_ROW {
                self.sent_in_a_row = 0;
                return Ok(Sent::Much);
            }
        }
    }

    fn send_waiting(&mut self) {
        for _ in 0..self.waiting.len() {
            if !has_room(self.protocol.queue()) {
                break;
            }
            let Some(key) = self.waiting.pop_front() else { break };
            if let Some(call) = self.calls.get_mut(key) {
                call.is_waiting = false;
                self.send_for(key);
                self.take_freed(key);
            }
        }
    }

    /// Makes one system call at most, but for TLS.
    fn send_queued(&mut self, context: &mut Context<'_>) -> io::Result<Poll<()>> {
        let had_room = has_room(self.protocol.queue());
        if !self.protocol.queue().is_empty() {
            let mut slices = [IoSlice::new(&[]); MOST_SLICES];
            let count = self.protocol.queue().slices(&mut slices);
            let stream = Pin::new(&mut self.stream);
            let outcome = match &slices[..count] {
                [slice] => stream.poll_write(context, slice),
                slices => stream.poll_write_vectored(context, slices),
            };
            self.is_blocked = outcome.is_pending();
            let Poll::Ready(sent) = outcome? else {
                self.sent_in_a_row = 0;
                return Ok(Poll::Pending);
            };
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.protocol.queue().advance(sent);
            self.total_sent += sent as u64;
            self.sent_in_a_row += sent;
            self.needs_flush = true;
            self.may_send |= !had_room && has_room(self.protocol.queue());
            return Ok(Poll::Ready(()));
        }
        self.sent_in_a_row = 0;
        if self.needs_flush {
            let Poll::Ready(()) = Pin::new(&mut self.stream).poll_flush(context)? else { return Ok(Poll::Pending) };
            self.needs_flush = false;
        }
        Ok(Poll::Ready(()))
    }

    /// Sends what is queued, ends this side, and waits for the client to end its own. For when the connection has ended: a
    /// socket that is closed while the client sends loses what it was sent last.
    ///
    /// Errors: those of the connection.
    pub fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.protocol.queue().is_empty() {
            ready!(self.send_queued(context)?);
        }
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        self.stream.poll_discard(context)
    }
}

/// Has this task polled again after the tasks that are ready. One that woke itself would be polled as late, but have the
/// runtime wake another of its threads to help with it.
fn yield_turn<T>(context: &mut Context<'_>) -> Poll<T> {
    let yielded = pin!(yield_now()).poll(context);
    debug_assert!(yielded.is_pending());
    Poll::Pending
}

fn has_room(queue: &SendQueue) -> bool {
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
