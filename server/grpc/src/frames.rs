//! The frames in a stream of HTTP/2, followed without keeping them: a few nanoseconds for each, whatever its length.
//!
//! The library that speaks HTTP/2 here answers pings by itself and tells nobody, so that who wants to count them has to
//! read along.

/// Kinds of frames. Source: RFC 9113, section 6.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
/// A kind that nobody knows: such frames are ignored.
pub(crate) const UNKNOWN: u8 = 0xbe;

/// The flag of a ping that answers another.
pub(crate) const ACK: u8 = 1;

/// Bytes before the payload of a frame.
pub(crate) const HEAD: usize = 9;
/// Bytes that a client sends before its first frame.
pub(crate) const PREFACE: u32 = 24;

/// What stands before the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of the payload.
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// The call it belongs to; 0 for the connection.
    pub(crate) stream: u32,
}

impl Head {
    /// As it is sent.
    pub(crate) fn to_bytes(self) -> [u8; HEAD] {
        let ([_, a, b, c], [d, e, f, g]) = (self.length.to_be_bytes(), self.stream.to_be_bytes());
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    fn from_bytes([a, b, c, kind, flags, d, e, f, g]: [u8; HEAD]) -> Self {
        let stream = u32::from_be_bytes([d, e, f, g]) & (u32::MAX >> 1);
        Self { length: u32::from_be_bytes([0, a, b, c]), kind, flags, stream }
    }
}

/// Where in a frame the bytes end that were followed so far.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// Bytes of the payload, or before the first frame, that are still to come.
    rest: u32,
    /// The part of the next head that has come.
    head: [u8; HEAD],
    head_length: usize,
}

impl Frames {
    /// Frames that begin after so many other bytes.
    pub(crate) fn after(other: u32) -> Self {
        Self { rest: other, ..Self::default() }
    }

    /// Follows these bytes. `visit` gets each head that ends in them, and where in them its payload begins.
    pub(crate) fn follow(&mut self, bytes: &[u8], mut visit: impl FnMut(Head, usize)) {
        let mut at = 0;
        loop {
            let payload = (self.rest as usize).min(bytes.len() - at);
            self.rest -= payload as u32;
            at += payload;
            if at == bytes.len() {
                return;
            }
            let part = (HEAD - self.head_length).min(bytes.len() - at);
            self.head[self.head_length..self.head_length + part].copy_from_slice(&bytes[at..at + part]);
            self.head_length += part;
            at += part;
            if self.head_length < HEAD {
                return;
            }
            self.head_length = 0;
            let head = Head::from_bytes(self.head);
            self.rest = head.length;
            visit(head, at);
        }
    }

    /// Whether a frame of one's own may be put in here.
    pub(crate) fn is_between(&self) -> bool {
        self.rest == 0 && self.head_length == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let head = Head { length: payload.len() as u32, kind, flags, stream };
        [&head.to_bytes(), payload].concat()
    }

    #[test]
    fn heads_are_found_however_the_bytes_are_cut() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        assert_eq!(preface.len(), PREFACE as usize);
        let frames = [
            frame(4, 0, 0, b""),
            frame(HEADERS, 4, 1, &[7; 70_000]),
            frame(PING, 0, 0, b"12345678"),
            frame(DATA, 1, 0x7fff_ffff, b"x"),
        ];
        let bytes = [preface, frames.concat()].concat();
        let expected = [(4, 0, 0, 0), (HEADERS, 4, 1, 70_000), (PING, 0, 0, 8), (DATA, 1, 0x7fff_ffff, 1)];
        for size in [1, 2, 8, 9, 10, 17, 24, 33, 1000, bytes.len()] {
            let mut following = Frames::after(PREFACE);
            let mut found = Vec::new();
            let mut passed = 0;
            for chunk in bytes.chunks(size) {
                following.follow(chunk, |head, at| {
                    found.push((head.kind, head.flags, head.stream, head.length));
                    assert_eq!(bytes[passed + at - HEAD..passed + at], head.to_bytes());
                });
                passed += chunk.len();
                assert_eq!(following.is_between(), [24, 33, 70_042, 70_059, 70_069].contains(&passed), "{passed}");
            }
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn the_reserved_bit_is_no_part_of_the_number() {
        let head = Head::from_bytes([0, 0, 0, HEADERS, 0, 0x80, 0, 0, 5]);
        assert_eq!(head.stream, 5);
    }
}
