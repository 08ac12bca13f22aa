//! One connection from its first byte to its last: reads, polls its calls, and sends what one poll produced with one system
//! call. One task does all of it, and the calls of a connection are polled by it, each when it was woken.
//!
//! All of what waits is bounded: what calls have to send is asked for while the client reads, and nothing is read from a
//! client that does not read its answers.

mod calls;
mod frames_ahead;
mod read;

use std::{
    convert::Infallible,
    future::Future,
    io::{self, IoSlice},
    mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use server_tls::Stream;
use tokio::{
    io::AsyncWrite,
    task::yield_now,
    time::{Instant, Sleep, sleep_until},
};
use tracing::debug;

use self::{
    calls::{Calls, has_room},
    read::Read,
};
use crate::{
    Config,
    body::{Body, Destination},
    error::ConnectionError,
    protocol::{Protocol, TOO_MANY_PINGS},
    request::Request,
    send_queue::MOST_SLICES,
    watch::{Due, Seen, Watch},
};

/// Bytes sent in a row, to a client that reads as fast as that, before other connections have their turn.
const SENT_IN_A_ROW: usize = 1 << 20;
/// Times that calls are polled in a row, before other connections have their turn.
const MOST_ROUNDS: usize = 4;

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
    calls: Calls<D, A, B>,
    too_large: Arc<Response<()>>,
    /// Whether calls that wait may be able to send now.
    may_send: bool,
    watch: Watch,
    timer: Pin<Box<Sleep>>,
    is_timer_set: bool,
    reads: u64,
    total_sent: u64,
    sent_in_a_row: usize,
    is_blocked: bool,
    needs_flush: bool,
    has_yielded: bool,
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
            calls: Calls::new(&config.unread),
            too_large: config.too_large.clone(),
            may_send: false,
            timer: Box::pin(sleep_until(watch.next())),
            watch,
            is_timer_set: false,
            reads: 0,
            total_sent: 0,
            sent_in_a_row: 0,
            is_blocked: false,
            needs_flush: false,
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
        self.calls.wakes().begin(context.waker());
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
        self.calls.cancel_all();
        Poll::Ready(ended)
    }

    fn poll_on(&mut self, context: &mut Context<'_>) -> Poll<Result<End, Failure>> {
        if let Some(reason) = self.look(context) {
            debug!("connection closed: {reason}");
            return Poll::Ready(Ok(End::Broken));
        }
        for _ in 0..MOST_ROUNDS {
            let read = self.read(context)?;
            self.calls.poll_woken(&mut self.protocol);
            if self.protocol.is_window_scarce() {
                self.calls.free_window(&mut self.protocol);
            }
            // A batch wakes many calls, one after the other, and this after the first of them. So when a call was answered
            // while others are in flight, the tasks and threads that are ready have their turn once before anything is sent:
            // that saves most of the system calls, which are most of the work. A lone call does not wait.
            if self.calls.take_has_answered()
                && self.calls.has_in_flight()
                && !mem::replace(&mut self.has_yielded, true)
            {
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
            self.calls.shrink(&mut self.protocol);
            if matches!(read, Read::Held) && !self.is_held() {
                continue; // nothing but reading says when there is more
            }
            if self.calls.wakes().end() {
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

    // === what is sent ===

    /// Sends what is queued, and what calls have to send.
    fn send(&mut self, context: &mut Context<'_>) -> io::Result<Sent> {
        loop {
            if mem::take(&mut self.may_send) {
                self.calls.send_waiting(&mut self.protocol);
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
