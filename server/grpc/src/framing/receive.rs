//! Receives the messages of one call. Memory grows with the bytes that arrive, never by the declared length alone. A message that
//! comes in pieces is received where it belongs: while it is waited for, its memory is offered to the connection.

mod memory;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use server_core::{
    byte_budget::{ByteBudget, Reservation},
    input_memory::{InputPlacement, ReceiveBuffer},
};
use server_engine::BlockingPool;
use server_http2::{Body, Reset};
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;

pub(crate) use self::memory::Memory;
use super::{
    PREFIX,
    compression::{Encoding, Inflate, Inflated},
};
use crate::error::status;

/// How long a client may pause within a message, or before it half-closes a unary call; up to twice that.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// A message is inflated on the event loop up to this size, about a millisecond of work, and beyond on the blocking pool.
const MAX_INLINE: usize = 256 << 10;
/// Least memory allocated for a message that comes in pieces, if it is as long.
const FIRST_CAPACITY: usize = 4 << 10;
/// Memory allocated, and reserved, is at most so many times what has arrived. Much, for then a message is refused by its
/// first frame or received whole: if each grew by what it receives, many at once would refuse each other half-way, for ever.
const CAPACITY_FACTOR: usize = 64;

/// Limits of the messages received.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Longest message, compressed or not.
    pub(crate) max_bytes: usize,
    /// Shared by all requests in flight.
    pub(crate) budget: Arc<ByteBudget>,
}

/// The body of a request of a client.
pub(crate) type RequestBody = Body<Memory>;

/// Where the bytes of messages come from.
pub(crate) trait Source {
    /// The bytes that come next; `None` after the last.
    ///
    /// Errors: the call was reset.
    fn poll_data(&mut self, context: &Context<'_>) -> Poll<Option<Result<Bytes, Reset>>>;

    /// Offers memory that has room for so many bytes of those that come next. It is returned if they come otherwise.
    fn offer(&mut self, _context: &Context<'_>, memory: Memory, _room: usize) -> Option<Memory> {
        Some(memory)
    }

    /// What was offered, with the bytes that have come.
    fn take_back(&mut self) -> Option<Memory> {
        None
    }

    /// Whether nothing more comes.
    fn is_at_end(&self) -> bool;
}

impl Source for RequestBody {
    fn poll_data(&mut self, context: &Context<'_>) -> Poll<Option<Result<Bytes, Reset>>> {
        Body::poll_data(self, context)
    }

    fn offer(&mut self, context: &Context<'_>, memory: Memory, room: usize) -> Option<Memory> {
        Body::offer(self, context, memory, room)
    }

    fn take_back(&mut self) -> Option<Memory> {
        Body::take_back(self)
    }

    fn is_at_end(&self) -> bool {
        Body::is_at_end(self)
    }
}

/// Says by the beginning of a message where it is to be received; `None` if it does not matter.
pub(crate) type FindPlacement = Arc<dyn Fn(&[u8]) -> Option<InputPlacement> + Send + Sync>;

/// Bytes, and the part of the budget they hold.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Bytes,
    pub(super) reservation: Reservation,
}

impl Held {
    /// Bytes that give their part of the budget back when the last slice of them is dropped.
    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The messages of one call, uncompressed.
pub(crate) struct Messages<B> {
    body: B,
    encoding: Option<Encoding>,
    limits: Limits,
    pool: BlockingPool,
    /// Asked once for each long message.
    find_placement: Option<FindPlacement>,
    /// What has arrived and was not read yet.
    unread: Bytes,
    state: State,
    /// Whether only the end of the body is left to come.
    expects_end: bool,
    stall: Stall,
}

enum State {
    /// The prefix of the next message, as far as it has come.
    Prefix {
        bytes: [u8; PREFIX],
        filled: usize,
    },
    Partial(Partial),
    Inflating(Pin<Box<dyn Future<Output = Result<Bytes, Status>> + Send>>),
}

impl State {
    const START: Self = Self::Prefix { bytes: [0; PREFIX], filled: 0 };
}

impl<B: Source> Messages<B> {
    /// The messages of a body whose call has that encoding.
    pub(crate) fn new(body: B, encoding: Option<Encoding>, limits: Limits, pool: BlockingPool) -> Self {
        Self {
            body,
            encoding,
            limits,
            pool,
            find_placement: None,
            unread: Bytes::new(),
            state: State::START,
            expects_end: false,
            stall: Stall::default(),
        }
    }

    /// Receives long messages where `find` says.
    #[must_use]
    pub(crate) fn placed_by(self, find: FindPlacement) -> Self {
        Self { find_placement: Some(find), ..self }
    }

    /// The message of a unary call.
    ///
    /// Errors: as [`Messages::poll_next`], and `Unimplemented` if there is none or more than one.
    pub(crate) async fn only(&mut self) -> Result<Bytes, Status> {
        let message = poll_fn(|context| self.poll_next(context)).await;
        let message = message.unwrap_or_else(|| Err(cardinality("none came")))?;
        self.expects_end = true;
        while self.unread.is_empty() && !self.body.is_at_end() {
            let Some(data) = poll_fn(|context| self.poll_data(context)).await else { break };
            self.unread = data?;
        }
        if self.unread.is_empty() { Ok(message) } else { Err(cardinality("more bytes follow it")) }
    }

    /// The next message; `None` after the last one. After an error nothing more is to be asked.
    ///
    /// Errors: a message that is too large (`ResourceExhausted`), has no place in the budget (`Unavailable`), is
    /// malformed (`Internal`), or stops coming (`DeadlineExceeded`); a call that was reset (`Cancelled`).
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        self.take_back();
        loop {
            if let State::Inflating(inflating) = &mut self.state {
                let message = ready!(inflating.as_mut().poll(context));
                self.state = State::START;
                return Poll::Ready(Some(message));
            }
            match self.take_message().transpose() {
                Some(Ok((message, is_compressed))) if is_compressed => match self.inflate(message).transpose() {
                    Some(message) => return Poll::Ready(Some(message)),
                    None => continue,
                },
                Some(Ok((message, _))) => return Poll::Ready(Some(Ok(message.into_bytes()))),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => {}
            }
            match ready!(self.poll_data(context)) {
                Some(Ok(data)) => self.unread = data,
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None if self.is_between_messages() => return Poll::Ready(None),
                None => return Poll::Ready(Some(Err(Status::internal("the request ends within a message")))),
            }
        }
    }

    /// A message that is complete, and whether it is compressed.
    fn take_message(&mut self) -> Result<Option<(Held, bool)>, Status> {
        loop {
            match &mut self.state {
                State::Prefix { bytes, filled } => {
                    let count = self.unread.len().min(PREFIX - *filled);
                    self.unread.copy_to_slice(&mut bytes[*filled..*filled + count]);
                    *filled += count;
                    if *filled < PREFIX {
                        return Ok(None);
                    }
                    let (is_compressed, length) = read_prefix(*bytes, self.encoding, self.limits.max_bytes)?;
                    if self.unread.len() >= length {
                        // All of it came in one frame: no copy.
                        let reservation = self.limits.budget.reserve(length).map_err(status)?;
                        let bytes = self.unread.split_to(length);
                        self.state = State::START;
                        return Ok(Some((Held { bytes, reservation }, is_compressed)));
                    }
                    if self.limits.budget.limit().is_some_and(|limit| length > limit) {
                        // It can never have a place: refused before its bytes come.
                        self.limits.budget.reserve(length).map_err(status)?;
                    }
                    let reservation = self.limits.budget.reserve(0).map_err(status)?;
                    // one that is compressed is inflated to somewhere else
                    let find_placement = self.find_placement.clone().filter(|_| !is_compressed);
                    let data = ReceiveBuffer::default();
                    self.state = State::Partial(Partial {
                        is_compressed,
                        length,
                        data,
                        reservation,
                        find_placement,
                        received_before: 0,
                    });
                }
                State::Partial(partial) => {
                    partial.take(&mut self.unread)?;
                    if partial.data.len() < partial.length {
                        return Ok(None);
                    }
                    let State::Partial(Partial { is_compressed, data, reservation, .. }) =
                        std::mem::replace(&mut self.state, State::START)
                    else {
                        return Ok(None);
                    };
                    return Ok(Some((Held { bytes: data.freeze(), reservation }, is_compressed)));
                }
                State::Inflating(_) => return Ok(None),
            }
        }
    }

    /// Inflates a message; `None` if that goes on elsewhere.
    fn inflate(&mut self, compressed: Held) -> Result<Option<Bytes>, Status> {
        let Some(encoding) = self.encoding else { return Ok(None) };
        match Inflate::new(encoding, compressed, self.limits.max_bytes).up_to(MAX_INLINE)? {
            Inflated::Complete(message) => Ok(Some(message)),
            Inflated::Partial(inflate) => {
                let pool = self.pool.clone();
                self.state =
                    State::Inflating(Box::pin(
                        async move { pool.run(move || inflate.finish()).await.map_err(status)? },
                    ));
                Ok(None)
            }
        }
    }

    fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Prefix { filled: 0, .. })
    }

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        match self.body.poll_data(context) {
            Poll::Ready(Some(Ok(data))) => {
                self.stall.received = self.stall.received.saturating_add(data.len());
                Poll::Ready(Some(Ok(data)))
            }
            Poll::Ready(Some(Err(Reset))) => Poll::Ready(Some(Err(Status::cancelled("the client has reset the call")))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if self.expects_end || !self.is_between_messages() => {
                let held = match &self.state {
                    State::Partial(partial) => partial.data.len(),
                    State::Prefix { .. } | State::Inflating(_) => 0,
                };
                if self.stall.poll(held, context).is_ready() {
                    return Poll::Ready(Some(Err(stalled())));
                }
                self.offer(context);
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Offers the memory of the message that is waited for, as far as there is room in it.
    fn offer(&mut self, context: &Context<'_>) {
        let State::Partial(partial) = &mut self.state else { return };
        let memory = Memory(std::mem::take(&mut partial.data));
        let room = partial.room(memory.0.len());
        if let Some(memory) = self.body.offer(context, memory, room) {
            partial.data = memory.0;
        }
    }

    /// Takes back what was offered.
    fn take_back(&mut self) {
        if let State::Partial(partial) = &mut self.state
            && let Some(memory) = self.body.take_back()
        {
            let came = memory.0.len() - partial.received_before;
            self.stall.received = self.stall.received.saturating_add(came);
            partial.data = memory.0;
        }
    }
}

/// A message that comes in pieces.
struct Partial {
    is_compressed: bool,
    length: usize,
    data: ReceiveBuffer,
    reservation: Reservation,
    /// Not asked yet.
    find_placement: Option<FindPlacement>,
    /// Bytes that were there when the memory was offered last.
    received_before: usize,
}

impl Partial {
    /// How many bytes may come before this is to be looked at again, after so many: until the memory is full, or until it is
    /// time to ask where they belong.
    fn room(&mut self, received: usize) -> usize {
        self.received_before = received;
        let asked = self.find_placement.as_ref().and_then(|_| InputPlacement::due(self.length));
        let until = asked.filter(|asked| *asked > received).unwrap_or(self.length);
        until.min(self.reservation.bytes()).saturating_sub(received)
    }

    /// Takes what belongs to this message.
    fn take(&mut self, unread: &mut Bytes) -> Result<(), Status> {
        let piece = unread.split_to(unread.len().min(self.length - self.data.len()));
        let received = self.data.len() + piece.len();
        let is_due = InputPlacement::is_due(received, self.length);
        if is_due && self.data.is_empty() {
            // a long first piece says where it belongs, and is copied there only
            let placement = self.find_placement.take().and_then(|find| find(&piece));
            self.place(placement)?;
        }
        let reserved = self.reservation.bytes();
        if received > reserved || (received == reserved && (1..self.length).contains(&received)) {
            self.grow_to(capacity(received, self.length))?;
        }
        self.data.extend_from_slice(&piece);
        if is_due && let Some(find) = self.find_placement.take() {
            self.place(find(self.data.on_heap()))?;
        }
        Ok(())
    }

    /// Moves what is there to where the message is to be received, if that matters.
    fn place(&mut self, placement: Option<InputPlacement>) -> Result<(), Status> {
        let Some(placement) = placement else { return Ok(()) };
        self.reservation.grow_to(self.length).map_err(status)?;
        self.data.place(&placement, self.length);
        self.grow_to(self.length)
    }

    /// Makes room for so many bytes in all, in the budget and in memory.
    fn grow_to(&mut self, capacity: usize) -> Result<(), Status> {
        self.reservation.grow_to(capacity).map_err(status)?;
        let more = capacity - self.data.len();
        self.data.try_reserve_exact(more).map_err(|_| out_of_memory(self.length))
    }
}

/// Bytes to allocate for a message of which `received` bytes are there.
fn capacity(received: usize, length: usize) -> usize {
    received.saturating_mul(CAPACITY_FACTOR).max(FIRST_CAPACITY).min(length)
}

/// Whether the message that follows is compressed, and its length.
fn read_prefix(prefix: [u8; PREFIX], encoding: Option<Encoding>, max_bytes: usize) -> Result<(bool, usize), Status> {
    let [flag, length @ ..] = prefix;
    let is_compressed = match flag {
        0 => false,
        1 if encoding.is_some() => true,
        1 => return Err(Status::internal("a message is marked as compressed, but the call has no grpc-encoding")),
        other => return Err(Status::internal(format!("a message has the flag {other}, expected 0 or 1"))),
    };
    let length = u32::from_be_bytes(length) as usize;
    if length > max_bytes { Err(received_too_large(length, max_bytes)) } else { Ok((is_compressed, length)) }
}

/// From here on a message must grow by a part of what is held of it while the timer runs, so that few calls cannot keep the
/// memory of all by sending a byte now and then; below, any byte will do.
const LARGE: usize = 1 << 20;
const LEAST_GROWTH: usize = 16;

/// Watches that bytes keep coming. One timer serves a whole call.
#[derive(Default)]
struct Stall {
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes that have come since the timer was set.
    received: usize,
}

impl Stall {
    /// Completes when too few have come for too long; `held` is what is there of the message.
    fn poll(&mut self, held: usize, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| {
            self.received = 0;
            Box::pin(sleep(STALL_TIMEOUT))
        });
        let least = if held < LARGE { 1 } else { held / LEAST_GROWTH };
        loop {
            ready!(timer.as_mut().poll(context));
            if std::mem::take(&mut self.received) < least {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + STALL_TIMEOUT);
        }
    }
}

/// The words of gRPC's own library.
pub(super) fn received_too_large(length: usize, max_bytes: usize) -> Status {
    Status::resource_exhausted(format!("Received message larger than max ({length} vs. {max_bytes})"))
}

#[cold]
fn cardinality(found: &str) -> Status {
    Status::unimplemented(format!("a unary call has one request message, but {found}"))
}

#[cold]
fn stalled() -> Status {
    let seconds = STALL_TIMEOUT.as_secs();
    Status::deadline_exceeded(format!("the request message stopped coming for {seconds} seconds"))
}

#[cold]
fn out_of_memory(length: usize) -> Status {
    Status::resource_exhausted(format!("no memory for a request message of {length} bytes"))
}

#[cfg(test)]
mod tests;
