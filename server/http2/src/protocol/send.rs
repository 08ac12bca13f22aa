//! What the server sends: responses, resets, pings, and the word to leave. Pure.
//!
//! Source: RFC 9113, sections 5.2, 6.8 and 8.1.

use http::HeaderMap;

use super::{Leaving, Protocol};
use crate::{
    error::{Code, ConnectionError},
    frames::{self, Head},
    send_queue::SendQueue,
    streams::Closed,
};

/// Largest frame of data that is sent, so that calls have their turn. Units: bytes.
const MAX_SENT_FRAME: usize = 256 << 10;

/// What pings of this server carry, by which their answers are known.
const KEEPALIVE: [u8; 8] = *b"keepaliv";
pub(super) const GOODBYE: [u8; 8] = *b"goodbye!";

impl Protocol {
    /// What is to be sent.
    pub(crate) fn queue(&mut self) -> &mut SendQueue {
        &mut self.queue
    }

    // === calls ===

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

    /// Ends a call before its response is complete.
    pub(crate) fn reset(&mut self, key: usize, code: Code) {
        if let Some(stream) = self.remove(key, Closed::ByServer) {
            self.put_reset(stream.id, code);
        }
    }

    pub(super) fn put_reset(&mut self, id: u32, code: Code) {
        frames::put(self.queue.buffer(), frames::RST_STREAM, 0, id, &(code as u32).to_be_bytes());
    }

    // === the connection ===

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
