//! Frames as they lie on the wire: heads, and the payloads of all kinds but data, checked. Pure.
//!
//! Source: RFC 9113, sections 4 and 6.

use crate::error::{Code, ConnectionError};

/// What a client sends before its first frame.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes before the payload of a frame.
pub(crate) const HEAD: usize = 9;
/// The payload that every peer takes, and the window that every connection and stream begins with. Units: bytes.
pub(crate) const DEFAULT_MAX_FRAME: u32 = 16_384;
pub(crate) const DEFAULT_WINDOW: u32 = 65_535;
/// The largest window there can be. Units: bytes.
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;
/// The largest number of a stream.
pub(crate) const MAX_STREAM: u32 = (1 << 31) - 1;

/// Kinds of frames.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
#[cfg(test)]
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags.
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const HAS_PRIORITY: u8 = 0x20;

/// Settings.
pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const ENABLE_PUSH: u16 = 2;
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const MAX_FRAME_SIZE: u16 = 5;
pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;

/// What stands before the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of the payload.
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// The stream it belongs to; 0 for the connection.
    pub(crate) stream: u32,
}

impl Head {
    /// As it is sent.
    pub(crate) fn to_bytes(self) -> [u8; HEAD] {
        let ([_, a, b, c], [d, e, f, g]) = (self.length.to_be_bytes(), self.stream.to_be_bytes());
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    /// As it came: the reserved bit is no part of the number of the stream.
    pub(crate) fn from_bytes([a, b, c, kind, flags, d, e, f, g]: [u8; HEAD]) -> Self {
        let stream = u32::from_be_bytes([d, e, f, g]) & MAX_STREAM;
        Self { length: u32::from_be_bytes([0, a, b, c]), kind, flags, stream }
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What a peer wants to be kept to; what is not given stays as it was.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) header_table_size: Option<u32>,
    pub(crate) initial_window_size: Option<u32>,
    pub(crate) max_frame_size: Option<u32>,
}

impl Settings {
    /// The settings of a client, of which nobody needs those that are not kept here.
    ///
    /// Errors: a length that is no multiple of a setting's, or a value that is not allowed.
    pub(crate) fn read(payload: &[u8]) -> Result<Self, ConnectionError> {
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(ConnectionError::new(Code::FrameSizeError, "settings have a length that is no multiple of 6"));
        }
        let mut read = Self::default();
        for &[a, b, c, d, e, f] in settings {
            let value = u32::from_be_bytes([c, d, e, f]);
            match u16::from_be_bytes([a, b]) {
                HEADER_TABLE_SIZE => read.header_table_size = Some(value),
                ENABLE_PUSH if value > 1 => {
                    return Err(ConnectionError::protocol("the setting ENABLE_PUSH is neither 0 nor 1"));
                }
                INITIAL_WINDOW_SIZE if value > MAX_WINDOW => {
                    return Err(ConnectionError::new(Code::FlowControlError, "the initial window is too large"));
                }
                INITIAL_WINDOW_SIZE => read.initial_window_size = Some(value),
                MAX_FRAME_SIZE if !(DEFAULT_MAX_FRAME..1 << 24).contains(&value) => {
                    return Err(ConnectionError::protocol("the largest frame is out of range"));
                }
                MAX_FRAME_SIZE => read.max_frame_size = Some(value),
                _ => {}
            }
        }
        Ok(read)
    }
}

/// The part of a payload between its padding and, where `has_priority`, the words about priorities.
///
/// Errors: it is too short for what its flags say, or more padding than payload.
pub(crate) fn unpadded(head: Head, payload: &[u8]) -> Result<&[u8], ConnectionError> {
    let mut rest = payload;
    if head.has(PADDED) {
        let Some((&padding, after)) = rest.split_first() else {
            return Err(ConnectionError::new(Code::FrameSizeError, "a padded frame has no length of its padding"));
        };
        let Some(length) = after.len().checked_sub(usize::from(padding)) else {
            return Err(ConnectionError::protocol("a frame has more padding than payload"));
        };
        rest = &after[..length];
    }
    Ok(rest)
}

/// The stream that a frame is said to depend on, and the bytes behind that.
///
/// Errors: too few bytes.
pub(crate) fn priority(payload: &[u8]) -> Result<(u32, &[u8]), ConnectionError> {
    match payload {
        [a, b, c, d, _weight, rest @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]) & MAX_STREAM, rest)),
        _ => Err(ConnectionError::new(Code::FrameSizeError, "a frame is too short for a priority")),
    }
}

/// A payload of four bytes.
///
/// Errors: it has another length.
pub(crate) fn number(payload: &[u8]) -> Result<u32, ConnectionError> {
    match payload {
        &[a, b, c, d] => Ok(u32::from_be_bytes([a, b, c, d])),
        _ => Err(ConnectionError::new(Code::FrameSizeError, "a frame of 4 bytes has another length")),
    }
}

/// Adds a frame that has a payload of few bytes.
pub(crate) fn put(into: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    into.extend_from_slice(&Head { length, kind, flags, stream }.to_bytes());
    into.extend_from_slice(payload);
}

/// Adds settings.
pub(crate) fn put_settings(into: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let length = 6 * settings.len() as u32;
    into.extend_from_slice(&Head { length, kind: SETTINGS, flags: 0, stream: 0 }.to_bytes());
    for (name, value) in settings {
        into.extend_from_slice(&name.to_be_bytes());
        into.extend_from_slice(&value.to_be_bytes());
    }
}

/// Adds that the peer has to leave, and up to which stream it was heard.
pub(crate) fn put_goaway(into: &mut Vec<u8>, last_stream: u32, code: Code, text: &str) {
    let payload = [&last_stream.to_be_bytes()[..], &(code as u32).to_be_bytes(), text.as_bytes()].concat();
    put(into, GOAWAY, 0, 0, &payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_were_written() {
        for head in [
            Head { length: 0, kind: DATA, flags: END_STREAM, stream: 1 },
            Head { length: 0xff_ffff, kind: 0xff, flags: 0xff, stream: MAX_STREAM },
        ] {
            assert_eq!(Head::from_bytes(head.to_bytes()), head);
        }
        assert_eq!(Head::from_bytes([0, 0, 0, HEADERS, 0, 0x80, 0, 0, 5]).stream, 5);
    }

    #[track_caller]
    fn check_settings(name: u16, value: u32, expected: Result<Settings, Code>) {
        let mut frame = Vec::new();
        put_settings(&mut frame, &[(name, value)]);
        assert_eq!(Settings::read(&frame[HEAD..]).map_err(|error| error.code), expected, "{name}: {value}");
    }

    #[test]
    fn settings_have_limits() {
        let none = Settings::default();
        check_settings(HEADER_TABLE_SIZE, u32::MAX, Ok(Settings { header_table_size: Some(u32::MAX), ..none }));
        check_settings(INITIAL_WINDOW_SIZE, MAX_WINDOW, Ok(Settings { initial_window_size: Some(MAX_WINDOW), ..none }));
        check_settings(INITIAL_WINDOW_SIZE, MAX_WINDOW + 1, Err(Code::FlowControlError));
        check_settings(MAX_FRAME_SIZE, 16_384, Ok(Settings { max_frame_size: Some(16_384), ..none }));
        check_settings(MAX_FRAME_SIZE, 0xff_ffff, Ok(Settings { max_frame_size: Some(0xff_ffff), ..none }));
        check_settings(MAX_FRAME_SIZE, 16_383, Err(Code::ProtocolError));
        check_settings(MAX_FRAME_SIZE, 0x100_0000, Err(Code::ProtocolError));
        check_settings(ENABLE_PUSH, 1, Ok(none));
        check_settings(ENABLE_PUSH, 2, Err(Code::ProtocolError));
        check_settings(0xbeef, 7, Ok(none));
        assert_eq!(Settings::read(&[0; 7]).unwrap_err().code, Code::FrameSizeError);
        assert_eq!(Settings::read(&[]), Ok(none));
    }

    #[test]
    fn padding_is_cut_off() {
        let padded = Head { length: 0, kind: HEADERS, flags: PADDED, stream: 1 };
        assert_eq!(unpadded(padded, &[2, 7, 8, 0, 0]).unwrap(), [7, 8]);
        assert_eq!(unpadded(padded, &[2, 0, 0]).unwrap(), [0; 0]);
        assert_eq!(unpadded(padded, &[3, 0, 0]).unwrap_err().code, Code::ProtocolError);
        assert_eq!(unpadded(padded, &[]).unwrap_err().code, Code::FrameSizeError);
        assert_eq!(unpadded(Head { flags: 0, ..padded }, &[2, 7]).unwrap(), [2, 7]);
    }

    #[test]
    fn short_payloads_are_noticed() {
        assert_eq!(priority(&[0x80, 0, 0, 3, 9, 1, 2]), Ok((3, &[1, 2][..])));
        assert!(priority(&[0; 4]).is_err());
        assert_eq!(number(&[0, 0, 1, 0]), Ok(256));
        assert!(number(&[0; 3]).is_err() && number(&[0; 5]).is_err());
    }
}
