//! A connection without its socket: bytes of the client become events, and what calls send becomes frames. Keeps to the
//! rules of the protocol and to limits; knows nothing of calls but their streams. Pure: time is an argument.
//!
//! Source: RFC 9113.

use http::HeaderMap;
use tokio::time::Instant;

use crate::{
    error::{Code, ConnectionError},
    flow::{ReceiveWindow, SendWindow},
    frames::{self, Head, Settings},
    hpack::{Decoder, Encoder, Field, HpackError},
    limits::Conduct,
    pings::{PingPolicy, Pings},
    request::{Request, RequestBuilder},
    send_queue::SendQueue,
    streams::{Closed, Stream, Streams},
};

/// Bytes of a header block, and frames that it may come in. The list that it becomes has a limit of its own.
const MAX_BLOCK: usize = 256 << 10;
const MAX_BLOCK_FRAMES: u32 = 64;
/// Bytes of the payload of other frames that are not data.
const MAX_CONTROL: usize = 16 << 10;
/// The table of fields that the client may keep for its headers. Units: bytes.
const TABLE_SIZE: usize = 4096;
/// Largest frame of data that is sent, so that calls have their turn. Units: bytes.
const MAX_SENT_FRAME: usize = 256 << 10;
/// Answer to a call whose headers are too large. Source: RFC 6585, section 5.
const HEADERS_TOO_LARGE: u16 = 431;

/// What pings of this server carry, by which their answers are known.
const KEEPALIVE: [u8; 8] = *b"keepaliv";
const GOODBYE: [u8; 8] = *b"goodbye!";

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
    /// Bytes of the body of a call. They count as received until [`Protocol::free`] is told that they are gone.
    Data { key: usize, bytes: &'a [u8], has_ended: bool },
    /// A call is over: the client has reset it or broken the rules.
    Reset { key: usize },
    /// More may be sent than before.
    WindowsOpened,
}

/// Where in the bytes of the client this is.
#[derive(Debug)]
enum Reading {
    /// In the preface, of which so many bytes have come.
    Preface(usize),
    /// In the head or, but for data, in the payload of a frame.
    Frame,
    /// In a frame of data.
    Data(Data),
    /// In a frame that is ignored, of which so many bytes are left.
    Ignored(usize),
}

#[derive(Debug, Clone, Copy)]
struct Data {
    /// The call it is for; `None` if that is over.
    key: Option<usize>,
    /// Bytes that are left, without padding.
    left: usize,
    padding: usize,
    /// Whether the length of the padding is still to come.
    expects_padding: bool,
    ends_stream: bool,
}

/// A header block whose end is still to come.
#[derive(Debug)]
struct Block {
    stream: u32,
    ends_stream: bool,
    depends_on_itself: bool,
    bytes: Vec<u8>,
    frames: u32,
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

    /// What is to be sent.
    pub(crate) fn queue(&mut self) -> &mut SendQueue {
        &mut self.queue
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

    // === what the client sends ===

    /// Keeps memory for so many calls only. Does nothing while there are any.
    pub(crate) fn shrink(&mut self, kept: usize) {
        self.streams.shrink(kept);
    }

    /// The calls that were opened so far have been looked at.
    pub(crate) fn begin_batch(&mut self) {
        self.batch += 1;
    }

    /// Reads on in what the client has sent, up to the next event. `None` when all of it was read.
    ///
    /// Errors: the connection has to end.
    pub(crate) fn receive<'a>(
        &mut self,
        input: &mut &'a [u8],
        now: Instant,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        loop {
            match &mut self.reading {
                Reading::Preface(matched) => {
                    let part = input.len().min(frames::PREFACE.len() - *matched);
                    if input[..part] != frames::PREFACE[*matched..*matched + part] {
                        return Err(ConnectionError::protocol("the client does not begin as HTTP/2 does"));
                    }
                    *matched += part;
                    *input = &input[part..];
                    if *matched < frames::PREFACE.len() {
                        return Ok(None);
                    }
                    self.reading = Reading::Frame;
                }
                Reading::Frame => match self.read_frame(input, now)? {
                    Progress::Event(event) => return Ok(Some(event)),
                    Progress::Next => {}
                    Progress::NeedsMore => return Ok(None),
                },
                Reading::Data(data) => {
                    let data = *data;
                    if let Some(event) = self.read_data(data, input, now)? {
                        return Ok(Some(event));
                    }
                    if matches!(self.reading, Reading::Data(_)) {
                        return Ok(None);
                    }
                }
                Reading::Ignored(left) => {
                    let part = input.len().min(*left);
                    *left -= part;
                    *input = &input[part..];
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.reading = Reading::Frame;
                }
            }
        }
    }

    /// The call whose data comes next, and how many bytes in a row, if it is within a frame of data: they may be read to
    /// where they belong, and [`Protocol::received`] told.
    pub(crate) fn direct(&self) -> Option<(usize, usize)> {
        match self.reading {
            Reading::Data(Data { key: Some(key), left, expects_padding: false, .. }) if left > 0 => Some((key, left)),
            _ => None,
        }
    }

    /// So many bytes of [`Protocol::direct`] were read. What else the call has to hear: whether its body has ended, or that it
    /// is over.
    ///
    /// Errors: the connection has to end.
    pub(crate) fn received(&mut self, bytes: usize, now: Instant) -> Result<Option<Event<'static>>, ConnectionError> {
        let Reading::Data(mut data) = self.reading else { return Ok(None) };
        data.left -= bytes.min(data.left);
        self.conduct.progress();
        let Some(key) = data.key else { return Ok(None) };
        if self.is_longer_than_declared(key, bytes) {
            self.after_data(data);
            return self.stream_error(key, Code::ProtocolError, now).map(Some);
        }
        let has_ended = data.left == 0 && data.ends_stream;
        self.after_data(data);
        if !has_ended {
            return Ok(None);
        }
        self.end_receiving(key, now).map(|event| event.or(Some(Event::Data { key, bytes: &[], has_ended })))
    }

    fn read_frame<'a>(&mut self, input: &mut &'a [u8], now: Instant) -> Result<Progress<'a>, ConnectionError> {
        // the usual case: all of a frame is there
        if self.partial.is_empty()
            && let Some((bytes, rest)) = input.split_first_chunk::<{ frames::HEAD }>()
        {
            let head = Head::from_bytes(*bytes);
            if let Begun::Apart(event) = self.begin_frame(head, now)? {
                *input = rest;
                return Ok(event.map_or(Progress::Next, Progress::Event));
            }
            if let Some((payload, rest)) = rest.split_at_checked(head.length as usize) {
                *input = rest;
                return self.take_frame(head, payload, now);
            }
        }
        let known = self.partial.first_chunk::<{ frames::HEAD }>().map(|bytes| Head::from_bytes(*bytes));
        let wanted = frames::HEAD + known.map_or(0, |head| head.length as usize);
        let part = input.len().min(wanted - self.partial.len());
        self.partial.extend_from_slice(&input[..part]);
        *input = &input[part..];
        if self.partial.len() < wanted {
            return Ok(Progress::NeedsMore);
        }
        let Some(head) = known else {
            let bytes = self.partial.first_chunk::<{ frames::HEAD }>().copied().unwrap_or_default();
            let head = Head::from_bytes(bytes);
            if let Begun::Apart(event) = self.begin_frame(head, now)? {
                self.partial.clear();
                return Ok(event.map_or(Progress::Next, Progress::Event));
            }
            if head.length > 0 {
                return Ok(Progress::Next);
            }
            self.partial.clear();
            return self.take_frame(head, &[], now);
        };
        let frame = std::mem::take(&mut self.partial);
        self.take_frame(head, &frame[frames::HEAD..], now)
    }

    /// Checks the head of a frame.
    fn begin_frame(&mut self, head: Head, now: Instant) -> Result<Begun, ConnectionError> {
        let Head { length, kind, flags: _, stream } = head;
        if length > self.limits.max_frame {
            return Err(ConnectionError::new(Code::FrameSizeError, "a frame is larger than allowed"));
        }
        if !self.is_handshake_received && (kind != frames::SETTINGS || head.has(frames::ACK)) {
            return Err(ConnectionError::protocol("the first frame has no settings"));
        }
        self.is_handshake_received = true;
        if let Some(block) = &self.block
            && (kind, stream) != (frames::CONTINUATION, block.stream)
        {
            return Err(ConnectionError::protocol("a header block is interrupted"));
        }
        let length = length as usize;
        let most = match kind {
            frames::DATA => return self.begin_data(head, now).map(Begun::Apart),
            frames::HEADERS | frames::CONTINUATION => MAX_BLOCK,
            frames::PRIORITY..=frames::WINDOW_UPDATE => MAX_CONTROL,
            _ => {
                self.conduct.idle_frame()?;
                self.reading = Reading::Ignored(length);
                return Ok(Begun::Apart(None));
            }
        };
        if length > most {
            return Err(ConnectionError::calm("a frame without data is too long"));
        }
        Ok(Begun::Whole)
    }

    fn begin_data(&mut self, head: Head, now: Instant) -> Result<Option<Event<'static>>, ConnectionError> {
        let Head { length, stream, .. } = head;
        if stream == 0 {
            return Err(ConnectionError::protocol("data without a stream"));
        }
        if !self.receive_window.take(length) {
            return Err(ConnectionError::new(Code::FlowControlError, "more data than the connection's window allows"));
        }
        let mut data = Data {
            key: self.streams.find(stream),
            left: length as usize,
            padding: 0,
            expects_padding: head.has(frames::PADDED),
            ends_stream: head.has(frames::END_STREAM),
        };
        if data.expects_padding && length == 0 {
            return Err(ConnectionError::new(Code::FrameSizeError, "a padded frame has no length of its padding"));
        }
        if length == 0 && !data.ends_stream {
            self.conduct.idle_frame()?;
        }
        let fault = match data.key.and_then(|key| self.streams.get_mut(key)) {
            Some(open) if !open.is_receiving => Some(Code::StreamClosed),
            Some(open) => (!open.receive_window.take(length)).then_some(Code::FlowControlError),
            None => {
                self.frame_of_closed(stream, now)?;
                if data.ends_stream {
                    self.streams.closed_by_client(stream, Closed::Ended);
                }
                None
            }
        };
        let fault = data.key.zip(fault);
        data.key = data.key.filter(|_| fault.is_none());
        self.reading = Reading::Data(data);
        fault.map(|(key, code)| self.stream_error(key, code, now)).transpose()
    }

    fn read_data<'a>(
        &mut self,
        mut data: Data,
        input: &mut &'a [u8],
        now: Instant,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        if data.expects_padding {
            let Some((&padding, rest)) = input.split_first() else { return Ok(None) };
            *input = rest;
            let Some(left) = (data.left - 1).checked_sub(usize::from(padding)) else {
                return Err(ConnectionError::protocol("a frame has more padding than payload"));
            };
            data = Data { left, padding: usize::from(padding), expects_padding: false, ..data };
            self.free(data.key, 1 + usize::from(padding));
        }
        let part = input.len().min(data.left);
        let (bytes, rest) = input.split_at(part);
        *input = rest;
        data.left -= part;
        let Some(key) = data.key else {
            self.free(None, part);
            self.after_data(data);
            return Ok(None);
        };
        if part > 0 {
            self.conduct.progress();
            if self.is_longer_than_declared(key, part) {
                self.free(None, part);
                self.after_data(data);
                return self.stream_error(key, Code::ProtocolError, now).map(Some);
            }
        }
        let has_ended = data.left == 0 && data.ends_stream;
        self.after_data(data);
        if has_ended && let Some(event) = self.end_receiving(key, now)? {
            self.free(None, part);
            return Ok(Some(event));
        }
        Ok((part > 0 || has_ended).then_some(Event::Data { key, bytes, has_ended }))
    }

    fn after_data(&mut self, data: Data) {
        self.reading = match data {
            Data { left: 0, padding: 0, .. } => Reading::Frame,
            Data { left: 0, padding, .. } => Reading::Ignored(padding),
            data => Reading::Data(data),
        };
    }

    /// Counts bytes of a body whose length is known.
    fn is_longer_than_declared(&mut self, key: usize, bytes: usize) -> bool {
        let Some(left) = self.streams.get_mut(key).and_then(|stream| stream.length_left.as_mut()) else { return false };
        let after = left.checked_sub(bytes as u64);
        *left = after.unwrap_or(0);
        after.is_none()
    }

    /// The client has ended its side of a call. The event, if that is a fault.
    fn end_receiving(&mut self, key: usize, now: Instant) -> Result<Option<Event<'static>>, ConnectionError> {
        let Some(stream) = self.streams.get_mut(key) else { return Ok(None) };
        stream.is_receiving = false;
        match stream.length_left {
            None | Some(0) => Ok(None),
            Some(_) => self.stream_error(key, Code::ProtocolError, now).map(Some),
        }
    }

    fn take_frame<'a>(&mut self, head: Head, payload: &[u8], now: Instant) -> Result<Progress<'a>, ConnectionError> {
        let event = match head.kind {
            frames::HEADERS => self.take_headers(head, payload, now)?,
            frames::CONTINUATION => self.take_continuation(head, payload, now)?,
            frames::PRIORITY => {
                self.conduct.idle_frame()?;
                let (dependency, rest) = frames::priority(payload)?;
                if head.stream == 0 || dependency == head.stream {
                    return Err(ConnectionError::protocol(
                        "a priority without a stream, or one that depends on itself",
                    ));
                }
                if !rest.is_empty() {
                    return Err(ConnectionError::new(Code::FrameSizeError, "a priority is too long"));
                }
                None
            }
            frames::RST_STREAM => self.take_reset(head, payload, now)?,
            frames::SETTINGS => self.take_settings(head, payload)?,
            frames::PING => self.take_ping(head, payload, now)?,
            frames::GOAWAY => {
                if head.stream != 0 {
                    return Err(ConnectionError::protocol("a client leaves a stream instead of the connection"));
                }
                if payload.len() < 8 {
                    return Err(ConnectionError::new(Code::FrameSizeError, "a frame GOAWAY is too short"));
                }
                self.conduct.idle_frame()?;
                self.is_client_leaving = true;
                None
            }
            frames::WINDOW_UPDATE => self.take_window_update(head, payload, now)?,
            // frames::PUSH_PROMISE, and no other
            _ => return Err(ConnectionError::protocol("a client must not push")),
        };
        Ok(event.map_or(Progress::Next, Progress::Event))
    }

    fn take_headers(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let stream = head.stream;
        if stream.is_multiple_of(2) {
            return Err(ConnectionError::protocol("a client has opened a stream of the server"));
        }
        let mut fragment = frames::unpadded(head, payload)?;
        let mut depends_on_itself = false;
        if head.has(frames::HAS_PRIORITY) {
            let (dependency, rest) = frames::priority(fragment)?;
            fragment = rest;
            depends_on_itself = dependency == stream;
        }
        let ends_stream = head.has(frames::END_STREAM);
        if head.has(frames::END_HEADERS) {
            return self.take_block(stream, ends_stream, depends_on_itself, fragment, now);
        }
        self.block = Some(Block { stream, ends_stream, depends_on_itself, bytes: fragment.to_vec(), frames: 1 });
        Ok(None)
    }

    fn take_continuation(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let Some(mut block) = self.block.take() else {
            return Err(ConnectionError::protocol("a header block goes on that has not begun"));
        };
        block.frames += 1;
        if block.frames > MAX_BLOCK_FRAMES {
            return Err(ConnectionError::calm("too_many_continuations"));
        }
        if block.bytes.len() + payload.len() > MAX_BLOCK {
            return Err(ConnectionError::calm("a header block is too long"));
        }
        block.bytes.extend_from_slice(payload);
        if !head.has(frames::END_HEADERS) {
            self.block = Some(block);
            return Ok(None);
        }
        self.take_block(block.stream, block.ends_stream, block.depends_on_itself, &block.bytes, now)
    }

    /// Takes a header block that is complete. Whatever becomes of it, it is decoded: later ones refer to it.
    fn take_block(
        &mut self,
        id: u32,
        ends_stream: bool,
        is_faulty: bool,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        if let Some(key) = self.streams.find(id) {
            return self.take_trailers(key, ends_stream, is_faulty, bytes, now);
        }
        let mut builder = RequestBuilder::new();
        let decoded = self.decode(bytes, |field| builder.take(field))?;
        if id <= self.last_stream {
            match self.streams.closed(id) {
                Closed::Ended => {
                    return Err(ConnectionError::new(Code::StreamClosed, "headers behind the end of a stream"));
                }
                Closed::ByServer if !ends_stream => {
                    self.conduct.reset(now)?;
                    self.put_reset(id, Code::ProtocolError);
                }
                Closed::ByServer => self.streams.closed_by_client(id, Closed::Ended),
                _ => self.frame_of_closed(id, now)?,
            }
            return Ok(None);
        }
        self.last_stream = id;
        if self.leaving == Leaving::Closing {
            self.streams.remember(id, Closed::ByServer);
            return Ok(None);
        }
        if self.streams.len() >= self.limits.max_calls as usize {
            self.conduct.idle_frame()?;
            self.refuse(id, Code::RefusedStream);
            return Ok(None);
        }
        match decoded {
            Decoded::All if !is_faulty => {}
            Decoded::TooLarge => {
                self.conduct.reset(now)?;
                let key = self.open(id, !ends_stream, None);
                self.respond(key, HEADERS_TOO_LARGE, &HeaderMap::new(), true);
                return Ok(None);
            }
            _ => {
                self.conduct.reset(now)?;
                self.refuse(id, Code::ProtocolError);
                return Ok(None);
            }
        }
        let request = builder.finish().filter(|(_, length)| !ends_stream || length.is_none_or(|length| length == 0));
        let Some((request, length)) = request else {
            self.conduct.reset(now)?;
            self.refuse(id, Code::ProtocolError);
            return Ok(None);
        };
        self.conduct.progress();
        let key = self.open(id, !ends_stream, length);
        Ok(Some(Event::Called { key, request, has_ended: ends_stream }))
    }

    fn open(&mut self, id: u32, is_receiving: bool, length: Option<u64>) -> usize {
        self.streams.insert(Stream {
            id,
            receive_window: ReceiveWindow::new(self.limits.stream_window),
            send_window: SendWindow::new(self.initial_window),
            is_receiving,
            length_left: length,
            batch: self.batch,
        })
    }

    /// Refuses a call that was not opened.
    fn refuse(&mut self, id: u32, code: Code) {
        self.put_reset(id, code);
        self.streams.remember(id, Closed::ByServer);
    }

    fn take_trailers(
        &mut self,
        key: usize,
        ends_stream: bool,
        mut is_faulty: bool,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let decoded = self.decode(bytes, |field| is_faulty |= !matches!(field, Field::Header(..)))?;
        if self.streams.get(key).is_some_and(|stream| !stream.is_receiving) {
            return self.stream_error(key, Code::StreamClosed, now).map(Some);
        }
        if is_faulty || !ends_stream || matches!(decoded, Decoded::Malformed) {
            return self.stream_error(key, Code::ProtocolError, now).map(Some);
        }
        let fault = self.end_receiving(key, now)?;
        Ok(fault.or(Some(Event::Data { key, bytes: &[], has_ended: true })))
    }

    fn decode(&mut self, bytes: &[u8], take: impl FnMut(Field)) -> Result<Decoded, ConnectionError> {
        match self.decoder.decode(bytes, self.limits.max_header_list as usize, take) {
            Ok(()) => Ok(Decoded::All),
            Err(HpackError::Malformed) => Ok(Decoded::Malformed),
            Err(HpackError::TooLarge) => Ok(Decoded::TooLarge),
            Err(HpackError::Compression(_)) => {
                Err(ConnectionError::new(Code::CompressionError, "a header block cannot be read"))
            }
        }
    }

    fn take_reset(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        frames::number(payload)?;
        self.conduct.idle_frame()?;
        let Some(key) = self.find(head.stream)? else {
            self.streams.closed_by_client(head.stream, Closed::ByClient);
            return Ok(None);
        };
        let stream = self.remove(key, Closed::ByClient);
        if stream.is_some_and(|stream| stream.batch == self.batch) {
            self.conduct.reset(now)?; // before anybody has looked at it
        }
        Ok(Some(Event::Reset { key }))
    }

    fn take_settings(&mut self, head: Head, payload: &[u8]) -> Result<Option<Event<'static>>, ConnectionError> {
        if head.stream != 0 {
            return Err(ConnectionError::protocol("settings of a stream"));
        }
        self.conduct.idle_frame()?;
        if head.has(frames::ACK) {
            if !payload.is_empty() {
                return Err(ConnectionError::new(Code::FrameSizeError, "the answer to settings is not empty"));
            }
            return Ok(None);
        }
        let settings = Settings::read(payload)?;
        if let Some(size) = settings.header_table_size {
            self.encoder.set_max_table_size(size as usize);
        }
        if let Some(size) = settings.max_frame_size {
            self.max_frame = size as usize;
        }
        if let Some(size) = settings.initial_window_size {
            let by = i64::from(size) - i64::from(self.initial_window);
            self.initial_window = size;
            if !self.streams.iter_mut().all(|stream| stream.send_window.change(by)) {
                return Err(ConnectionError::new(Code::FlowControlError, "a window becomes too large"));
            }
        }
        frames::put(self.queue.buffer(), frames::SETTINGS, frames::ACK, 0, &[]);
        Ok(Some(Event::WindowsOpened))
    }

    fn take_ping(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        if head.stream != 0 {
            return Err(ConnectionError::protocol("a ping of a stream"));
        }
        let Ok(payload) = <[u8; 8]>::try_from(payload) else {
            return Err(ConnectionError::new(Code::FrameSizeError, "a ping has not 8 bytes"));
        };
        if head.has(frames::ACK) {
            self.conduct.idle_frame()?;
            if payload == GOODBYE && self.leaving == Leaving::Asked {
                self.close();
            }
            return Ok(None);
        }
        frames::put(self.queue.buffer(), frames::PING, frames::ACK, 0, &payload);
        if std::mem::take(&mut self.has_sent_for_calls) {
            self.pings.forget();
        }
        if self.pings.is_too_many(now, !self.streams.is_empty()) {
            return Err(TOO_MANY_PINGS);
        }
        Ok(None)
    }

    fn take_window_update(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let by = frames::number(payload)? & frames::MAX_WINDOW;
        self.conduct.idle_frame()?;
        if head.stream == 0 {
            if by == 0 {
                return Err(ConnectionError::protocol("a window is opened by nothing"));
            }
            if !self.send_window.change(i64::from(by)) {
                return Err(ConnectionError::new(Code::FlowControlError, "the connection's window becomes too large"));
            }
            return Ok(Some(Event::WindowsOpened));
        }
        let Some(key) = self.find(head.stream)? else {
            if by == 0 {
                self.conduct.reset(now)?;
                self.put_reset(head.stream, Code::ProtocolError);
            }
            return Ok(None);
        };
        if by == 0 {
            return self.stream_error(key, Code::ProtocolError, now).map(Some);
        }
        if self.streams.get_mut(key).is_some_and(|stream| !stream.send_window.change(i64::from(by))) {
            return self.stream_error(key, Code::FlowControlError, now).map(Some);
        }
        Ok(Some(Event::WindowsOpened))
    }

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

    // === what the server sends ===

    /// Bytes of a call, or of one that is over, are gone from memory: the client may send as many again.
    pub(crate) fn free(&mut self, key: Option<usize>, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.receive_window.free(bytes);
        if let Some(by) = self.receive_window.update() {
            frames::put(self.queue.buffer(), frames::WINDOW_UPDATE, 0, 0, &by.to_be_bytes());
        }
        let Some(stream) = key.and_then(|key| self.streams.get_mut(key)).filter(|stream| stream.is_receiving) else {
            return;
        };
        stream.receive_window.free(bytes);
        if let Some(by) = stream.receive_window.update() {
            self.has_sent_for_calls = true;
            frames::put(self.queue.buffer(), frames::WINDOW_UPDATE, 0, stream.id, &by.to_be_bytes());
        }
    }

    /// Begins the response of a call, which is complete if it `ends`.
    pub(crate) fn respond(&mut self, key: usize, status: u16, headers: &HeaderMap, ends: bool) {
        self.put_headers(key, Some(status), headers, ends);
    }

    /// Ends the response of a call.
    pub(crate) fn end(&mut self, key: usize, trailers: &HeaderMap) {
        self.put_headers(key, None, trailers, true);
    }

    fn put_headers(&mut self, key: usize, status: Option<u16>, headers: &HeaderMap, ends: bool) {
        let Some(id) = self.streams.get(key).map(|stream| stream.id) else { return };
        let ends_stream = if ends { frames::END_STREAM } else { 0 };
        let buffer = self.queue.buffer();
        let at = buffer.len();
        buffer.extend_from_slice(&[0; frames::HEAD]);
        if let Some(status) = status {
            self.encoder.status(status, buffer);
        }
        for (name, value) in headers {
            self.encoder.field(name, value, buffer);
        }
        let length = buffer.len() - at - frames::HEAD;
        let head = |kind: u8, flags: u8, length: usize| {
            Head { length: u32::try_from(length).unwrap_or(u32::MAX), kind, flags, stream: id }.to_bytes()
        };
        if length <= self.max_frame {
            let head = head(frames::HEADERS, frames::END_HEADERS | ends_stream, length);
            buffer[at..at + frames::HEAD].copy_from_slice(&head);
        } else {
            let block = buffer.split_off(at + frames::HEAD);
            buffer.truncate(at);
            let last = block.len().div_ceil(self.max_frame) - 1;
            for (number, fragment) in block.chunks(self.max_frame).enumerate() {
                let (kind, first) =
                    if number == 0 { (frames::HEADERS, ends_stream) } else { (frames::CONTINUATION, 0) };
                let end = if number == last { frames::END_HEADERS } else { 0 };
                buffer.extend_from_slice(&head(kind, first | end, fragment.len()));
                buffer.extend_from_slice(fragment);
            }
        }
        self.sent_for_call();
        if ends {
            self.close_stream(key);
        }
    }

    /// How many bytes of data may be sent for a call now.
    pub(crate) fn window(&self, key: usize) -> usize {
        let stream = self.streams.get(key).map_or(0, |stream| stream.send_window.left());
        stream.min(self.send_window.left())
    }

    /// The same in one frame.
    pub(crate) fn sendable(&self, key: usize) -> usize {
        self.window(key).min(self.max_frame).min(MAX_SENT_FRAME)
    }

    /// Sends a frame of data, of which there are `length` bytes, no more than [`Protocol::sendable`] says. `pieces` puts them.
    pub(crate) fn send_data(&mut self, key: usize, length: usize, ends: bool, pieces: impl FnOnce(&mut SendQueue)) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.send_window.take(length);
        self.send_window.take(length);
        let flags = if ends { frames::END_STREAM } else { 0 };
        let head = Head { length: length as u32, kind: frames::DATA, flags, stream: stream.id };
        self.queue.buffer().extend_from_slice(&head.to_bytes());
        pieces(&mut self.queue);
        self.sent_for_call();
        if ends {
            self.close_stream(key);
        }
    }

    fn sent_for_call(&mut self) {
        self.has_sent_for_calls = true;
        self.conduct.progress();
    }

    /// A response is sent. What the client still sends for it is of no use. Source: RFC 9113, section 8.1.
    fn close_stream(&mut self, key: usize) {
        let Some(stream) = self.streams.get(key) else { return };
        let (id, is_receiving) = (stream.id, stream.is_receiving);
        if is_receiving {
            self.put_reset(id, Code::NoError);
        }
        self.remove(key, if is_receiving { Closed::ByServer } else { Closed::Ended });
    }

    /// Closes a stream. What is left of a frame that is being read for it is ignored.
    fn remove(&mut self, key: usize, closed: Closed) -> Option<Stream> {
        if let Reading::Data(data) = &mut self.reading {
            data.key = data.key.filter(|other| *other != key);
        }
        self.streams.remove(key, closed)
    }

    /// Ends a call before its response is complete.
    pub(crate) fn reset(&mut self, key: usize, code: Code) {
        if let Some(stream) = self.remove(key, Closed::ByServer) {
            self.put_reset(stream.id, code);
        }
    }

    fn put_reset(&mut self, id: u32, code: Code) {
        frames::put(self.queue.buffer(), frames::RST_STREAM, 0, id, &(code as u32).to_be_bytes());
    }

    /// Asks whether the client is there.
    pub(crate) fn ping(&mut self) {
        frames::put(self.queue.buffer(), frames::PING, 0, 0, &KEEPALIVE);
    }

    /// Asks the client to begin no further calls. It may have begun some before it hears of that, so calls are served until
    /// it has answered a ping. Source: RFC 9113, section 6.8.
    pub(crate) fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Asked;
            frames::put_goaway(self.queue.buffer(), frames::MAX_STREAM, Code::NoError, "");
            frames::put(self.queue.buffer(), frames::PING, 0, 0, &GOODBYE);
        }
    }

    /// Whether the client was asked to leave and has not answered.
    pub(crate) fn is_asking(&self) -> bool {
        self.leaving == Leaving::Asked
    }

    /// Serves no further calls than those that have begun.
    pub(crate) fn close(&mut self) {
        self.leaving = Leaving::Closing;
        self.last_served = self.last_stream;
        frames::put_goaway(self.queue.buffer(), self.last_served, Code::NoError, "");
    }

    /// Tells the client why the connection ends.
    pub(crate) fn fail(&mut self, error: ConnectionError) {
        let last_stream = self.last_stream.min(self.last_served);
        frames::put_goaway(self.queue.buffer(), last_stream, error.code, error.text);
    }
}

/// The client pings more often than it may. Clients of gRPC read the text, and ping half as often from then on.
pub(crate) const TOO_MANY_PINGS: ConnectionError = ConnectionError::calm("too_many_pings");

/// How the payload of a frame is read that has begun.
enum Begun {
    /// As a whole.
    Whole,
    /// As it comes, after this.
    Apart(Option<Event<'static>>),
}

enum Progress<'a> {
    Event(Event<'a>),
    /// There may be more in what was read.
    Next,
    NeedsMore,
}

enum Decoded {
    All,
    Malformed,
    TooLarge,
}

#[cfg(test)]
mod tests;
