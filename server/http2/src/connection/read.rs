//! Reading: what comes is read to a buffer that the connections of a thread share, or, where a call has offered memory for
//! it, to where it belongs.

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Instant,
};

use super::{
    Connection, Failure,
    frames_ahead::{Accepted, FramesAhead, MOST_FRAMES},
};
use crate::{
    body::{Body, Destination},
    frames::HEAD,
    protocol::Event,
    request::Request,
};

/// Bytes read in a row. Then the calls of the connection have their turn: what they take over is in the processor's cache
/// still, and other connections do not wait for a large tensor.
const READ_IN_A_ROW: usize = 256 << 10;
/// So many bytes of one call are read to where they belong; fewer are read together with what follows them.
const DIRECT: usize = 16 << 10;
/// Copied bytes that wait to be sent before nothing more is read, which would have to be answered.
const MAX_UNSENT: usize = 256 << 10;

thread_local! {
    /// What is read comes here first, whatever connection it is of.
    static READ_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Where what comes next is read to.
enum Place {
    /// The buffer, at most so many bytes of whatever comes.
    Buffer(usize),
    /// The body of a call, at most so many bytes of the frame that has begun.
    Body(usize, usize),
    /// The body of a call, with frames that are expected.
    BodyOfFrames(usize, FramesAhead),
}

/// What reading has come to.
pub(super) enum Read {
    /// Nothing more is there.
    All,
    /// There may be more, but others have their turn first.
    Much,
    /// There may be more, but too much waits to be sent.
    Held,
    /// The client has ended its side.
    End,
}

impl<D, A, B, F> Connection<D, A, B, F>
where
    D: Destination,
    A: Future<Output = Response<B>>,
    B: http_body::Body<Data = Bytes, Error = Infallible> + Unpin,
    F: FnMut(Request, Body<D>) -> A,
{
    /// Reads what is there, as much as may be read in a row.
    ///
    /// Errors: the connection has to end.
    pub(super) fn read(&mut self, context: &mut Context<'_>) -> Result<Read, Failure> {
        let mut left = READ_IN_A_ROW;
        while left > 0 {
            if self.is_held() {
                return Ok(Read::Held);
            }
            let read = match self.place(left) {
                Place::Buffer(limit) => self.read_some(context, limit)?,
                Place::Body(key, limit) => self.read_direct(context, key, limit)?,
                Place::BodyOfFrames(key, ahead) => self.read_frames(context, key, ahead)?,
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
    pub(super) fn is_held(&mut self) -> bool {
        self.protocol.queue().copied_bytes() >= MAX_UNSENT
    }

    /// Where what comes next is read to, with at most so many bytes if it has to be sorted afterwards.
    fn place(&self, limit: usize) -> Place {
        let place = || {
            let coming = self.protocol.direct()?;
            let inbox = self.calls.inbox(coming.key)?;
            if !self.stream.is_encrypted()
                && let Some(ahead) = FramesAhead::new(coming, inbox.initialized_room(), READ_IN_A_ROW)
                && ahead.body() >= DIRECT
            {
                return Some(Place::BodyOfFrames(coming.key, ahead));
            }
            let limit = coming.left.min(inbox.room());
            (limit >= DIRECT).then_some(Place::Body(coming.key, limit))
        };
        place().unwrap_or(Place::Buffer(limit))
    }

    fn read_direct(&mut self, context: &mut Context<'_>, key: usize, limit: usize) -> Result<Poll<usize>, Failure> {
        let Some(inbox) = self.calls.inbox(key) else { return Ok(Poll::Pending) };
        let Poll::Ready(count) = inbox.poll_read(&mut self.stream, context, limit)? else {
            return Ok(Poll::Pending);
        };
        if count == 0 {
            return Ok(Poll::Ready(0));
        }
        self.reads += 1;
        let is_full = inbox.room() == 0;
        self.protocol.free(Some(key), count);
        match self.protocol.received(count, Instant::now())? {
            Some(event) => self.handle(event),
            None if is_full => self.calls.poll_call(key, &mut self.protocol),
            None => {}
        }
        Ok(Poll::Ready(count))
    }

    /// Reads the frames of a body that are expected, each to where it belongs.
    fn read_frames(
        &mut self,
        context: &mut Context<'_>,
        key: usize,
        ahead: FramesAhead,
    ) -> Result<Poll<usize>, Failure> {
        let Self { stream, protocol, calls, .. } = self;
        let Some(inbox) = calls.inbox(key) else { return Ok(Poll::Pending) };
        let mut heads = [[0; HEAD]; MOST_FRAMES];
        let mut read = Poll::Pending;
        let mut outcome = Ok(Accepted::default());
        let mut others = Vec::new();
        inbox.write(ahead.body(), |room| {
            read = stream.poll_read_vectored(context, ahead.slices(room, &mut heads).as_mut());
            let Poll::Ready(Ok(count)) = read else { return 0 };
            outcome = ahead.accept(protocol, key, count, &heads, Instant::now());
            let Ok(accepted) = &outcome else { return 0 };
            others = ahead.others(accepted, count, room, &heads);
            accepted.body
        });
        let Poll::Ready(count) = read? else { return Ok(Poll::Pending) };
        let accepted = outcome?;
        let is_full = inbox.room() == 0;
        self.reads += u64::from(count > 0);
        match accepted.event {
            Some(event) => self.handle(event),
            None if is_full => self.calls.poll_call(key, &mut self.protocol),
            None => {}
        }
        self.take(&others)?;
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
        let (calls, protocol) = (&mut self.calls, &mut self.protocol);
        match event {
            Event::Called { key, request, has_ended } => {
                calls.begin(key, has_ended, |body| (self.answer)(request, body));
            }
            Event::TooLarge { key } => {
                protocol.respond(key, self.too_large.status().as_u16(), self.too_large.headers(), true)
            }
            Event::Data { key, bytes, has_ended } => calls.put(key, bytes, has_ended, protocol),
            Event::Reset { key } => calls.finish(key, protocol),
            Event::WindowsOpened => self.may_send = true,
        }
    }
}
