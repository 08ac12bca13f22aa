//! Frames of data, as they come. Pure.
//!
//! Source: RFC 9113, sections 6.1 and 8.1.1.

use tokio::time::Instant;

use super::{Event, Protocol, frame::Reading};
use crate::{
    error::{Code, ConnectionError},
    frames::{self, Head},
    streams::Closed,
};

#[derive(Debug, Clone, Copy)]
pub(super) struct Data {
    /// The call it is for; `None` if that is over.
    pub(super) key: Option<usize>,
    /// Bytes of its payload.
    pub(super) length: usize,
    /// Bytes that are left, without padding.
    pub(super) left: usize,
    pub(super) padding: usize,
    /// Whether the length of the padding is still to come.
    pub(super) expects_padding: bool,
    pub(super) ends_stream: bool,
}

/// Data that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coming {
    /// The call that it is of.
    pub(crate) key: usize,
    /// Bytes of it in a row.
    pub(crate) left: usize,
    /// Bytes of the payload of the frame that it is in.
    pub(crate) frame: usize,
    /// Whether that is the last frame of the call.
    pub(crate) is_last: bool,
}

impl Protocol {
    /// The data that comes next, if it is within a frame: it may be read to where it belongs, and [`Protocol::received`] told.
    pub(crate) fn direct(&self) -> Option<Coming> {
        match self.reading {
            Reading::Data(Data { key: Some(key), left, expects_padding: false, length, ends_stream, .. })
                if left > 0 =>
            {
                Some(Coming { key, left, frame: length, is_last: ends_stream })
            }
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

    pub(super) fn begin_data(&mut self, head: Head, now: Instant) -> Result<Option<Event<'static>>, ConnectionError> {
        let Head { length, stream, .. } = head;
        if stream == 0 {
            return Err(ConnectionError::protocol("data without a stream"));
        }
        if !self.receive_window.take(length) {
            return Err(ConnectionError::new(Code::FlowControlError, "more data than the connection's window allows"));
        }
        let mut data = Data {
            key: self.streams.find(stream),
            length: length as usize,
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

    pub(super) fn read_data<'a>(
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

    /// Whether bytes that calls do not read hold so much of the connection's window that other calls may soon have to wait.
    pub(crate) fn is_window_scarce(&self) -> bool {
        self.receive_window.is_scarce()
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
    pub(super) fn end_receiving(
        &mut self,
        key: usize,
        now: Instant,
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        let Some(stream) = self.streams.get_mut(key) else { return Ok(None) };
        stream.is_receiving = false;
        match stream.length_left {
            None | Some(0) => Ok(None),
            Some(_) => self.stream_error(key, Code::ProtocolError, now).map(Some),
        }
    }

    /// Bytes of a call, or of one that is over, are gone from memory: the client may send as many again.
    pub(crate) fn free(&mut self, key: Option<usize>, bytes: usize) {
        self.free_connection(bytes);
        if let Some(key) = key {
            self.free_call(key, bytes);
        }
    }

    /// The same for the window of the connection alone.
    pub(crate) fn free_connection(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.receive_window.free(u32::try_from(bytes).unwrap_or(u32::MAX));
        if let Some(by) = self.receive_window.update() {
            frames::put(self.queue.buffer(), frames::WINDOW_UPDATE, 0, 0, &by.to_be_bytes());
        }
    }

    /// The same for the window of the call alone.
    pub(crate) fn free_call(&mut self, key: usize, bytes: usize) {
        let Some(stream) = self.streams.get_mut(key).filter(|stream| stream.is_receiving && bytes > 0) else { return };
        stream.receive_window.free(u32::try_from(bytes).unwrap_or(u32::MAX));
        if let Some(by) = stream.receive_window.update() {
            self.has_sent_for_calls = true;
            frames::put(self.queue.buffer(), frames::WINDOW_UPDATE, 0, stream.id, &by.to_be_bytes());
        }
    }
}
