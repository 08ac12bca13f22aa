//! One end of a socket pair that keeps the borders of messages, and the segments that messages on it speak of. Beside the socket there may
//! be rings in shared memory: then every message has its place in them, and is on the socket if it carries a descriptor or has no room.

use std::{
    collections::HashMap,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use server_core::error::{Error, Result};
use server_shm::{Segment, SegmentPool};

use super::{
    marshal::{self, Value, Writer},
    memory::Outputs,
    ring::{DOORBELL, Next, Put},
    rings::Rings,
    spin::Spin,
    wire::{MESSAGE_MAX, kind},
};

/// Why a message did not come or go.
#[derive(Debug)]
pub(super) enum Broken {
    /// The other end is gone.
    Closed,
    /// It says what cannot be understood, or the system refuses.
    Failed(Error),
}

/// How often it is looked whether a ring without room for anything has some again.
const FULL_PAUSE: Duration = Duration::from_micros(200);

/// The server's end of a channel.
pub(super) struct Channel {
    socket: OwnedFd,
    pool: Arc<SegmentPool>,
    /// Segments of the server that the worker has heard of here.
    shown: HashMap<u64, Weak<Segment>>,
    buffer: Box<[u8]>,
    /// Once both ends use them.
    rings: Option<Rings>,
    /// A message of the socket that came before its turn.
    early: Option<Vec<u8>>,
    spin: Spin,
    /// Whether both ends may look for a message for a moment before they sleep.
    may_spin: bool,
    /// A message that was too large, until the worker has answered.
    spilled: Option<Bytes>,
    /// How long the worker may take to answer, and what is wrong if it takes longer.
    limit: Option<(Duration, Error)>,
}

/// A connected pair: the server's end, and the worker's.
///
/// Errors: the system has no more descriptors.
pub(super) fn pair(pool: &Arc<SegmentPool>) -> Result<(Channel, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| Error::internal(format!("cannot make a channel to a Python worker: {error}")))?;
    Ok((Channel::new(ours, pool.clone()), theirs))
}

impl Channel {
    /// A channel over that socket.
    pub(super) fn new(socket: OwnedFd, pool: Arc<SegmentPool>) -> Self {
        let buffer = vec![0; MESSAGE_MAX].into_boxed_slice();
        Self {
            socket,
            pool,
            shown: HashMap::new(),
            buffer,
            rings: None,
            early: None,
            spin: Spin::default(),
            may_spin: false,
            spilled: None,
            limit: None,
        }
    }

    /// A further channel of the same worker, as [`pair`] makes it.
    ///
    /// Errors: the system has no more descriptors.
    pub(super) fn pair(&self) -> Result<(Self, OwnedFd)> {
        pair(&self.pool)
    }

    /// Messages go through those rings from here on, in both directions.
    pub(super) fn use_rings(&mut self, rings: Rings) {
        self.rings = Some(rings);
    }

    /// Says whether both ends may look for the next message for a moment before they sleep.
    pub(super) fn set_may_spin(&mut self, may_spin: bool) -> Result<()> {
        if let Some(rings) = self.rings.as_ref().filter(|_| self.may_spin != may_spin) {
            rings.set_worker_may_spin(may_spin)?;
        }
        self.may_spin = may_spin;
        Ok(())
    }

    /// Sends one message, and a descriptor that belongs to it as the next.
    pub(super) fn send_with_descriptor(&mut self, message: &[u8], descriptor: BorrowedFd<'_>) -> Result<(), Broken> {
        self.send_on_socket(message)?;
        self.send_descriptor(descriptor)
    }

    /// Sets how long a message may take to come or to go from here on, and what is wrong if it takes longer.
    ///
    /// Errors: the system's.
    pub(super) fn set_limit(&mut self, limit: Option<(Duration, Error)>) -> Result<()> {
        let is_other = limit.as_ref().map(|limit| limit.0) != self.limit.as_ref().map(|limit| limit.0);
        if is_other {
            let duration = limit.as_ref().map(|limit| limit.0);
            for direction in [Timeout::Recv, Timeout::Send] {
                set_socket_timeout(&self.socket, direction, duration).map_err(|errno| {
                    Error::internal(format!("cannot set a time limit on a channel to a Python worker: {errno}"))
                })?;
            }
        }
        self.limit = limit;
        Ok(())
    }

    /// Sends one message; the worker hears before of segments that it speaks of.
    pub(super) fn send(&mut self, message: &[u8], segments: &[Arc<Segment>]) -> Result<(), Broken> {
        for segment in segments {
            self.show(segment)?;
        }
        if message.len() <= MESSAGE_MAX {
            return self.send_plain(message);
        }
        let mut writable = self.pool.take(message.len()).map_err(Broken::Failed)?;
        writable[..message.len()].copy_from_slice(message);
        let segment = writable.segment().clone();
        self.spilled = Some(writable.freeze(message.len()));
        self.show(&segment)?;
        let mut place = Writer::default();
        place.tuple(4);
        [kind::IN_SEGMENT, segment.id(), 0, message.len() as u64].into_iter().for_each(|number| place.uint(number));
        self.send_plain(&place.into_bytes())
    }

    /// The next message. Blocks until it is there.
    pub(super) fn receive<'a>(&'a mut self, outputs: &Outputs) -> Result<Message<'a>, Broken> {
        let message = self.receive_with(RecvFlags::empty(), outputs)?;
        message.ok_or_else(|| Broken::Failed(not_understood("no message")))
    }

    /// Whether a message is there within that time, and the other end too.
    pub(super) fn is_readable_within(&mut self, time: Duration) -> bool {
        if self.rings.is_none() {
            return self.is_socket_readable_within(time);
        }
        let since = Instant::now();
        self.is_here_soon(since) || self.is_here_before(since + time)
    }

    /// Looks for the next message for a moment, if that is expected to be enough.
    fn is_here_soon(&mut self, since: Instant) -> bool {
        let Self { spin, rings, may_spin, .. } = self;
        let now = || u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let is_there = || rings.as_ref().is_some_and(|rings| matches!(rings.next(), Ok(Some(Next::Here(_)))));
        *may_spin && spin.finds(now, is_there)
    }

    fn is_here_before(&mut self, until: Instant) -> bool {
        loop {
            match self.is_next_here(true) {
                Ok(false) => {}
                is_here => return is_here.is_ok(),
            }
            let left = until.saturating_duration_since(Instant::now());
            let is_readable = !left.is_zero() && self.is_socket_readable_within(left);
            if !is_readable || !matches!(self.read_ahead(RecvFlags::DONTWAIT), Ok(Read::Something)) {
                return false;
            }
        }
    }

    /// Sleeps until so many messages are there, one at least; for that time at most, or while none is there.
    pub(super) fn wait_for(&mut self, messages: u32, time: Duration) -> Result<(), Broken> {
        let Some(rings) = &self.rings else {
            thread::sleep(time); // nobody can tell how many there are
            return Ok(());
        };
        if rings.may_sleep(messages.max(1)).map_err(Broken::Failed)? {
            if self.is_socket_readable_within(time) {
                self.read_ahead(RecvFlags::DONTWAIT)?; // that the worker is gone is seen when its next message is waited for
            } else {
                rings.wake().map_err(Broken::Failed)?;
            }
        }
        Ok(())
    }

    fn is_socket_readable_within(&self, time: Duration) -> bool {
        let time = Timespec::try_from(time).ok();
        let mut descriptors = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut descriptors, time.as_ref()).is_ok() && descriptors[0].revents() == PollFlags::IN
    }

    /// The next message, if it is there already.
    pub(super) fn try_receive<'a>(&'a mut self, outputs: &Outputs) -> Result<Option<Message<'a>>, Broken> {
        self.receive_with(RecvFlags::DONTWAIT, outputs)
    }

    fn receive_with<'a>(&'a mut self, flags: RecvFlags, outputs: &Outputs) -> Result<Option<Message<'a>>, Broken> {
        loop {
            let length =
                if self.rings.is_some() { self.receive_in_order(flags)? } else { self.receive_on_socket(flags)? };
            let Some(length) = length else { return Ok(None) };
            if length == 0 {
                return Err(Broken::Closed);
            }
            let Some(head) = Head::of(&self.buffer[..length])? else {
                self.spilled = None;
                return Ok(Some(Message::Plain(&self.buffer[..length])));
            };
            match head {
                Head::Segment { id, length } => {
                    let descriptor = self.receive_descriptor()?;
                    outputs.add(id, Segment::open(descriptor, length).map_err(Broken::Failed)?);
                }
                Head::Forget { id } => outputs.forget(id),
                Head::InSegment { id, offset, length: size, end } => {
                    self.spilled = None;
                    let bytes = outputs.message(id).and_then(|in_use| in_use.view(offset, size));
                    let bytes = bytes.map_err(Broken::Failed)?;
                    // It is read as a message, and the worker could change it meanwhile: so it is copied first.
                    return Ok(Some(Message::Spilled(bytes.to_vec(), &self.buffer[end..length])));
                }
            }
        }
    }

    /// For waiting until something comes.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn show(&mut self, segment: &Arc<Segment>) -> Result<(), Broken> {
        if self.shown.contains_key(&segment.id()) {
            return Ok(());
        }
        let gone: Vec<u64> =
            self.shown.iter().filter(|(_, shown)| shown.strong_count() == 0).map(|(id, _)| *id).collect();
        for id in gone {
            self.shown.remove(&id);
            self.send_plain(&numbers(&[kind::FORGET, id]))?;
        }
        self.send_on_socket(&numbers(&[kind::SEGMENT, segment.id(), segment.len() as u64]))?;
        self.send_descriptor(segment.fd())?;
        self.shown.insert(segment.id(), Arc::downgrade(segment));
        Ok(())
    }

    /// Sends a message by the quickest way there is.
    fn send_plain(&mut self, message: &[u8]) -> Result<(), Broken> {
        let Some(rings) = &mut self.rings else { return self.send_on_socket_alone(message) };
        match rings.put(message).map_err(Broken::Failed)? {
            Put::Done => Ok(()),
            Put::DoneAndWake => self.ring_doorbell(),
            Put::Full => self.send_on_socket(message),
        }
    }

    /// Wakes the worker. If the socket is full, there is enough on it to do that.
    fn ring_doorbell(&self) -> Result<(), Broken> {
        match rustix::net::send(&self.socket, DOORBELL, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(broken(error)),
        }
    }

    /// Sends a message on the socket, in its turn.
    fn send_on_socket(&mut self, message: &[u8]) -> Result<(), Broken> {
        let until = self.limit.as_ref().map(|(limit, _)| Instant::now() + *limit);
        while let Some(rings) = &mut self.rings
            && !rings.put_elsewhere().map_err(Broken::Failed)?
        {
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(self.too_late());
            }
            if self.closes_within(FULL_PAUSE) {
                return Err(Broken::Closed); // else the worker has much to read before
            }
        }
        self.send_on_socket_alone(message)
    }

    fn closes_within(&self, time: Duration) -> bool {
        let time = Timespec::try_from(time).ok();
        let mut descriptors = [PollFd::new(&self.socket, PollFlags::empty())];
        poll(&mut descriptors, time.as_ref()).is_ok() && !descriptors[0].revents().is_empty()
    }

    fn send_on_socket_alone(&self, message: &[u8]) -> Result<(), Broken> {
        loop {
            match rustix::net::send(&self.socket, message, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()), // such a socket takes a message whole or not at all
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(self.too_late()),
                Err(error) => return Err(broken(error)),
            }
        }
    }

    fn too_late(&self) -> Broken {
        let error = self.limit.as_ref().map(|(_, error)| error.clone());
        Broken::Failed(error.unwrap_or_else(|| not_understood("it did not come in time")))
    }

    fn receive_on_socket(&mut self, flags: RecvFlags) -> Result<Option<usize>, Broken> {
        loop {
            match rustix::net::recv(&self.socket, &mut *self.buffer, flags) {
                Ok((_, length)) => return Ok(Some(length)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if flags.contains(RecvFlags::DONTWAIT) => return Ok(None),
                Err(Errno::AGAIN) => return Err(self.too_late()),
                Err(error) => return Err(broken(error)),
            }
        }
    }

    /// The next message in the order of the rings, in the buffer.
    fn receive_in_order(&mut self, flags: RecvFlags) -> Result<Option<usize>, Broken> {
        let waits = !flags.contains(RecvFlags::DONTWAIT);
        let mut is_closed = false;
        loop {
            if self.is_next_here(waits && !is_closed)? {
                return self.take_next().map(Some);
            }
            if is_closed {
                return Ok(Some(0)); // after all that the worker has said before it ended
            }
            match self.next()? {
                None if !waits => return Ok(None),
                Some(Next::Here(_)) => continue, // it came meanwhile
                _ => {}
            }
            is_closed = matches!(self.read_ahead(RecvFlags::empty())?, Read::Closed);
        }
    }

    fn next(&self) -> Result<Option<Next>, Broken> {
        self.rings.as_ref().map_or(Ok(None), Rings::next).map_err(Broken::Failed)
    }

    /// Whether the next message is here, in the ring or before its turn. If there is none and the caller is about to sleep, the
    /// worker will wake it.
    fn is_next_here(&self, is_about_to_sleep: bool) -> Result<bool, Broken> {
        loop {
            match self.next()? {
                Some(Next::Here(_)) => return Ok(true),
                Some(Next::Elsewhere) => return Ok(self.early.is_some()),
                None if !is_about_to_sleep => return Ok(false),
                None => {}
            }
            let Some(rings) = &self.rings else { return Ok(false) };
            if rings.may_sleep(1).map_err(Broken::Failed)? {
                return Ok(false);
            }
        }
    }

    /// Takes the next message, which is here, into the buffer.
    fn take_next(&mut self) -> Result<usize, Broken> {
        let next = self.next()?;
        let early = self.early.take_if(|_| next == Some(Next::Elsewhere)).unwrap_or_default();
        let Some(rings) = &mut self.rings else { return Ok(0) };
        let length = match next {
            Some(Next::Here(length)) => length,
            _ => 0,
        };
        rings.take(&mut self.buffer[..length]).map_err(Broken::Failed)?;
        if length > 0 {
            return Ok(length);
        }
        self.buffer[..early.len()].copy_from_slice(&early);
        Ok(early.len())
    }

    /// Reads one message of the socket, which is kept until its turn comes; doorbells have none.
    fn read_ahead(&mut self, flags: RecvFlags) -> Result<Read, Broken> {
        let received = self.receive_on_socket(flags);
        if let Some(rings) = &self.rings {
            rings.wake().map_err(Broken::Failed)?;
        }
        match received? {
            None => Ok(Read::Nothing),
            Some(0) => Ok(Read::Closed),
            Some(length) if self.buffer[..length] == *DOORBELL => Ok(Read::Something),
            Some(_) if self.early.is_some() => Err(Broken::Failed(not_understood("it came out of turn"))),
            Some(length) => {
                self.early = Some(self.buffer[..length].to_vec());
                Ok(Read::Something)
            }
        }
    }

    fn send_descriptor(&self, descriptor: BorrowedFd<'_>) -> Result<(), Broken> {
        let descriptors = [descriptor];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(broken(error)),
            }
        }
    }

    /// The descriptor that comes as a message of its own.
    pub(super) fn receive_descriptor(&mut self) -> Result<OwnedFd, Broken> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(broken(error)),
            }
        }
        let mut descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptor = descriptors.next().and_then(|mut descriptors| descriptors.next());
        descriptor
            .ok_or_else(|| Broken::Failed(Error::internal("a Python worker announced memory and did not pass it")))
    }
}

/// What came of reading the socket beside rings.
enum Read {
    Something,
    Nothing,
    Closed,
}

/// A message of the worker.
pub(super) enum Message<'a> {
    /// As it came.
    Plain(&'a [u8]),
    /// One that came through a segment, and what was appended to the message that said so.
    Spilled(Vec<u8>, &'a [u8]),
}

impl Message<'_> {
    /// The message, and what was appended to it, if anything.
    ///
    /// Errors: it cannot be understood.
    pub(super) fn read(&self) -> Result<(Value<'_>, &[u8])> {
        let (message, appended) = match self {
            Self::Plain(bytes) => marshal::read(bytes).map_err(not_understood)?,
            Self::Spilled(bytes, appended) => (marshal::read(bytes).map_err(not_understood)?.0, *appended),
        };
        Ok((message, appended))
    }
}

/// The worker's message cannot be read.
pub(super) fn not_understood(what: &'static str) -> Error {
    Error::internal(format!("the message of a Python worker cannot be read: {what}"))
}

/// Messages that concern the channel itself. Told by their first bytes: a short tuple that begins with their kind.
enum Head {
    Segment {
        id: u64,
        length: usize,
    },
    Forget {
        id: u64,
    },
    /// It ends there in its message.
    InSegment {
        id: u64,
        offset: usize,
        length: usize,
        end: usize,
    },
}

impl Head {
    fn of(bytes: &[u8]) -> Result<Option<Self>, Broken> {
        // Version 2 writes a tuple as '(' and a count of four bytes, then the kind as 'i' and four bytes.
        let (Some(b'('), Some(b'i'), Some(&number)) = (bytes.first(), bytes.get(5), bytes.get(6)) else {
            return Ok(None);
        };
        if !(kind::SEGMENT..=kind::IN_SEGMENT).contains(&u64::from(number)) {
            return Ok(None);
        }
        let (value, rest) = marshal::read(bytes).map_err(|what| Broken::Failed(not_understood(what)))?;
        let numbers: Option<Vec<u64>> = value.items().iter().map(Value::number).collect();
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        match numbers.as_deref() {
            Some([kind::SEGMENT, id, length]) => Ok(Some(Self::Segment { id: *id, length: size(*length) })),
            Some([kind::FORGET, id]) => Ok(Some(Self::Forget { id: *id })),
            Some([kind::IN_SEGMENT, id, offset, length]) => {
                let end = bytes.len() - rest.len();
                Ok(Some(Self::InSegment { id: *id, offset: size(*offset), length: size(*length), end }))
            }
            _ => Ok(None),
        }
    }
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.tuple(numbers.len());
    numbers.iter().for_each(|number| writer.uint(*number));
    writer.into_bytes()
}

fn broken(error: Errno) -> Broken {
    match error {
        Errno::PIPE | Errno::CONNRESET => Broken::Closed,
        _ => Broken::Failed(Error::internal(format!("the channel to a Python worker failed: {error}"))),
    }
}
