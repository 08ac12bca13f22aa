//! Frames of the client that have neither headers nor data: settings, windows, pings, resets. Pure.
//!
//! Source: RFC 9113, sections 6.3 to 6.9.

use tokio::time::Instant;

use super::{Event, Leaving, Protocol, TOO_MANY_PINGS, send::GOODBYE};
use crate::{
    error::{Code, ConnectionError},
    frames::{self, Head, Settings},
    streams::Closed,
};

impl Protocol {
    /// Checks a priority; this server has none.
    pub(super) fn take_priority(
        &mut self,
        head: Head,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        self.conduct.idle_frame()?;
        let (dependency, rest) = frames::priority(payload)?;
        if head.stream == 0 || dependency == head.stream {
            return Err(ConnectionError::protocol("a priority without a stream, or one that depends on itself"));
        }
        if !rest.is_empty() {
            return Err(ConnectionError::new(Code::FrameSizeError, "a priority is too long"));
        }
        Ok(None)
    }

    pub(super) fn take_reset(
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

    pub(super) fn take_settings(
        &mut self,
        head: Head,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
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

    pub(super) fn take_ping(
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

    pub(super) fn take_window_update(
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
    pub(super) fn take_goaway(
        &mut self,
        head: Head,
        payload: &[u8],
    ) -> Result<Option<Event<'static>>, ConnectionError> {
        if head.stream != 0 {
            return Err(ConnectionError::protocol("a client leaves a stream instead of the connection"));
        }
        if payload.len() < 8 {
            return Err(ConnectionError::new(Code::FrameSizeError, "a frame GOAWAY is too short"));
        }
        self.conduct.idle_frame()?;
        self.is_client_leaving = true;
        Ok(None)
    }
}
