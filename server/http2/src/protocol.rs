//! A connection without its socket: bytes of the client become events, and what calls send becomes frames. Keeps to the
//! rules of the protocol and to limits; knows nothing of calls but their streams. Pure: time is an argument.
//!
//! `frame` reads the client's bytes and hands each frame on: to `headers`, `data`, or `control`. `send` makes frames.
//!
//! Source: RFC 9113.

mod control;
mod data;
mod frame;
mod headers;
mod send;

use tokio::time::Instant;

pub(crate) use self::data::Coming;
use self::{frame::Reading, headers::Block};
use crate::{
    error::{Code, ConnectionError},
    flow::{ReceiveWindow, SendWindow},
    frames,
    hpack::{Decoder, Encoder},
    limits::Conduct,
    pings::{PingPolicy, Pings},
    request::Request,
    send_queue::SendQueue,
    streams::{Closed, Stream, Streams},
};

/// The table of fields that the client may keep for its headers. Units: bytes.
const TABLE_SIZE: usize = 4096;

/// The client pings more often than it may. Clients of gRPC read the text, and ping half as often from then on.
pub(crate) const TOO_MANY_PINGS: ConnectionError = ConnectionError::calm("too_many_pings");

/// What a client may do on one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// What it may send for a call, and for all together, that is not read yet. Units: bytes.
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
    /// Largest payload of a frame. Units: bytes.
    pub(crate) max_frame: u32,
    /// Calls that may be open.
    pub(crate) max_calls: u32,
    /// Largest list of headers, as HTTP/2 counts it. Units: bytes.
    pub(crate) max_header_list: u32,
    pub(crate) pings: PingPolicy,
}

/// What the client has done.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// It calls. `has_ended` if there is no body.
    Called { key: usize, request: Request, has_ended: bool },
    /// It calls with too many headers. That is to be answered at once.
    TooLarge { key: usize },
    /// Bytes of the body of a call. They count as received until [`Protocol::free`] is told that they are gone.
    Data { key: usize, bytes: &'a [u8], has_ended: bool },
    /// A call is over: the client has reset it or broken the rules.
    Reset { key: usize },
    /// More may be sent than before.
    WindowsOpened,
}

impl Event<'_> {
    /// The same without bytes of a body, for when there are none.
    pub(crate) fn without_bytes(self) -> Event<'static> {
        match self {
            Self::Called { key, request, has_ended } => Event::Called { key, request, has_ended },
            Self::Data { key, bytes, has_ended } => {
                debug_assert!(bytes.is_empty());
                Event::Data { key, bytes: &[], has_ended }
            }
            Self::TooLarge { key } => Event::TooLarge { key },
            Self::Reset { key } => Event::Reset { key },
            Self::WindowsOpened => Event::WindowsOpened,
        }
    }
}

/// How far the connection is with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// The client was asked to begin no further calls; those it began before it heard of that are served.
    Asked,
    /// Calls that begin from here on are ignored.
    Closing,
}

/// One connection.
pub(crate) struct Protocol {
    limits: Limits,
    reading: Reading,
    /// The part of a frame that has come.
    partial: Vec<u8>,
    block: Option<Block>,
    decoder: Decoder,
    encoder: Encoder,
    streams: Streams,
    /// The last stream that the client has opened.
    last_stream: u32,
    /// The last stream that is served.
    last_served: u32,
    receive_window: ReceiveWindow,
    send_window: SendWindow,
    /// What the client has set.
    initial_window: u32,
    max_frame: usize,
    conduct: Conduct,
    pings: Pings,
    has_sent_for_calls: bool,
    leaving: Leaving,
    is_client_leaving: bool,
    is_handshake_received: bool,
    batch: u64,
    queue: SendQueue,
}

impl Protocol {
    /// A connection on which nothing was received. What is sent first is queued.
    pub(crate) fn new(limits: Limits) -> Self {
        let mut queue = SendQueue::default();
        let connection_window = limits.connection_window.max(frames::DEFAULT_WINDOW);
        frames::put_settings(
            queue.buffer(),
            &[
                (frames::MAX_CONCURRENT_STREAMS, limits.max_calls),
                (frames::INITIAL_WINDOW_SIZE, limits.stream_window),
                (frames::MAX_FRAME_SIZE, limits.max_frame),
                (frames::MAX_HEADER_LIST_SIZE, limits.max_header_list),
            ],
        );
        let more = connection_window - frames::DEFAULT_WINDOW;
        if more > 0 {
            frames::put(queue.buffer(), frames::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
        Self {
            limits,
            reading: Reading::Preface(0),
            partial: Vec::new(),
            block: None,
            decoder: Decoder::new(TABLE_SIZE),
            encoder: Encoder::new(),
            streams: Streams::default(),
            last_stream: 0,
            last_served: frames::MAX_STREAM,
            receive_window: ReceiveWindow::new(connection_window),
            send_window: SendWindow::new(frames::DEFAULT_WINDOW),
            initial_window: frames::DEFAULT_WINDOW,
            max_frame: frames::DEFAULT_MAX_FRAME as usize,
            conduct: Conduct::default(),
            pings: Pings::new(limits.pings),
            has_sent_for_calls: false,
            leaving: Leaving::No,
            is_client_leaving: false,
            is_handshake_received: false,
            batch: 0,
            queue,
        }
    }

    /// Calls that are open.
    pub(crate) fn calls(&self) -> usize {
        self.streams.len()
    }

    /// Whether the preface has come and the head of the first frame, which every client sends unasked.
    pub(crate) fn is_handshake_received(&self) -> bool {
        self.is_handshake_received
    }

    /// Whether nothing is left to be done but to send what is queued.
    pub(crate) fn is_done(&self) -> bool {
        self.streams.is_empty() && (self.is_client_leaving || self.leaving == Leaving::Closing)
    }

    /// Keeps memory for so many calls only. Does nothing while there are any.
    pub(crate) fn shrink(&mut self, kept: usize) {
        self.streams.shrink(kept);
    }

    /// The calls that were opened so far have been looked at.
    pub(crate) fn begin_batch(&mut self) {
        self.batch += 1;
    }

    // === streams ===

    /// The key of a stream that a frame belongs to which any stream may have that was opened.
    fn find(&mut self, id: u32) -> Result<Option<usize>, ConnectionError> {
        if id == 0 || id > self.last_stream {
            return Err(ConnectionError::protocol("a frame of a stream that was not opened"));
        }
        Ok(self.streams.find(id))
    }

    /// Data or headers have come for a stream that is not open.
    fn frame_of_closed(&mut self, id: u32, now: Instant) -> Result<(), ConnectionError> {
        if id > self.last_stream {
            return Err(ConnectionError::protocol("a frame of a stream that was not opened"));
        }
        match self.streams.closed(id) {
            Closed::ByServer | Closed::Forgotten => self.conduct.idle_frame(),
            Closed::Ended | Closed::ByClient => {
                self.conduct.reset(now)?;
                self.put_reset(id, Code::StreamClosed);
                Ok(())
            }
            Closed::Skipped => Err(ConnectionError::protocol("a stream is opened after later ones")),
        }
    }

    /// Ends a call for what its client has done.
    fn stream_error(&mut self, key: usize, code: Code, now: Instant) -> Result<Event<'static>, ConnectionError> {
        self.reset(key, code);
        self.conduct.reset(now)?;
        Ok(Event::Reset { key })
    }

    /// Closes a stream. What is left of a frame that is being read for it is ignored.
    fn remove(&mut self, key: usize, closed: Closed) -> Option<Stream> {
        if let Reading::Data(data) = &mut self.reading {
            data.key = data.key.filter(|other| *other != key);
        }
        self.streams.remove(key, closed)
    }
}

#[cfg(test)]
mod tests;
