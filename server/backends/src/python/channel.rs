//! One end of a socket pair that keeps the borders of messages, and the segments that messages on it speak of.

use std::{
    collections::HashMap,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak},
    time::Duration,
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

/// The server's end of a channel.
pub(super) struct Channel {
    socket: OwnedFd,
    pool: Arc<SegmentPool>,
    /// Segments of the server that the worker has heard of here.
    shown: HashMap<u64, Weak<Segment>>,
    buffer: Box<[u8]>,
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
        Self { socket, pool, shown: HashMap::new(), buffer, spilled: None, limit: None }
    }

    /// A further channel of the same worker, as [`pair`] makes it.
    ///
    /// Errors: the system has no more descriptors.
    pub(super) fn pair(&self) -> Result<(Self, OwnedFd)> {
        pair(&self.pool)
    }

    /// Sends one message, and a descriptor that belongs to it as the next.
    pub(super) fn send_with_descriptor(&self, message: &[u8], descriptor: BorrowedFd<'_>) -> Result<(), Broken> {
        self.send_plain(message)?;
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
    pub(super) fn is_readable_within(&self, time: Duration) -> bool {
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
            let Some(length) = self.receive_plain(flags)? else { return Ok(None) };
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
        self.send_plain(&numbers(&[kind::SEGMENT, segment.id(), segment.len() as u64]))?;
        self.send_descriptor(segment.fd())?;
        self.shown.insert(segment.id(), Arc::downgrade(segment));
        Ok(())
    }

    fn send_plain(&self, message: &[u8]) -> Result<(), Broken> {
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

    fn receive_plain(&mut self, flags: RecvFlags) -> Result<Option<usize>, Broken> {
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
