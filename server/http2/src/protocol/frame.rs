//! Frame after frame: from the bytes of the client to what each kind of frame asks for. Pure.
//!
//! Source: RFC 9113, sections 3.4 and 4.

use tokio::time::Instant;

use super::{Event, Protocol, data::Data, headers::MAX_BLOCK};
use crate::{
    error::{Code, ConnectionError},
    frames::{self, Head},
};

/// Bytes of the payload of frames that have neither headers nor data.
pub(super) const MAX_CONTROL: usize = 16 << 10;

/// Where in the bytes of the client this is.
#[derive(Debug)]
pub(super) enum Reading {
    /// In the preface, of which so many bytes have come.
    Preface(usize),
    /// In the head or, but for data, in the payload of a frame.
    Frame,
    /// In a frame of data.
    Data(Data),
    /// In a frame that is ignored, of which so many bytes are left.
    Ignored(usize),
}

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

impl Protocol {
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

    fn take_frame<'a>(&mut self, head: Head, payload: &[u8], now: Instant) -> Result<Progress<'a>, ConnectionError> {
        let event = match head.kind {
            frames::HEADERS => self.take_headers(head, payload, now)?,
            frames::CONTINUATION => self.take_continuation(head, payload, now)?,
            frames::PRIORITY => self.take_priority(head, payload)?,
            frames::RST_STREAM => self.take_reset(head, payload, now)?,
            frames::SETTINGS => self.take_settings(head, payload)?,
            frames::PING => self.take_ping(head, payload, now)?,
            frames::GOAWAY => self.take_goaway(head, payload)?,
            frames::WINDOW_UPDATE => self.take_window_update(head, payload, now)?,
            // frames::PUSH_PROMISE, and no other
            _ => return Err(ConnectionError::protocol("a client must not push")),
        };
        Ok(event.map_or(Progress::Next, Progress::Event))
    }
}
