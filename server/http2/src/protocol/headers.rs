//! Header blocks: what opens a call, and what ends its body. Pure.
//!
//! Source: RFC 9113, sections 4.3, 5.1 and 8.1.

use tokio::time::Instant;

use super::{Event, Leaving, Protocol};
use crate::{
    error::{Code, ConnectionError},
    flow::{ReceiveWindow, SendWindow},
    frames::{self, Head},
    hpack::{Field, HpackError},
    request::RequestBuilder,
    streams::{Closed, Stream},
};

/// Bytes of a header block, and frames that it may come in. The list that it becomes has a limit of its own.
pub(super) const MAX_BLOCK: usize = 256 << 10;
const MAX_BLOCK_FRAMES: u32 = 64;

/// A header block whose end is still to come.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) ends_stream: bool,
    pub(super) depends_on_itself: bool,
    pub(super) bytes: Vec<u8>,
    pub(super) frames: u32,
}

enum Decoded {
    All,
    Malformed,
    TooLarge,
}

impl Protocol {
    pub(super) fn take_headers(
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

    pub(super) fn take_continuation(
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
                return Ok(Some(Event::TooLarge { key: self.open(id, !ends_stream, None) }));
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
}
